"""What one subscription says to the daemon on one connection, as long as that is there."""

from collections.abc import Callable
from math import inf
from typing import Protocol

from ..wire.failures import to_failure
from ..wire.messages import ClientMessage, Message
from ..wire.messages.subscribing import Ack, Fail, Leave, Subscribed, Translate, Using
from ..wire.messages.values import clip_text


class Line(Protocol):
    """A connection to the daemon, to who speaks on it.

    Attributes:
        lease_end: When its lease runs out, by the clock of the client.
    """

    lease_end: float

    def send(self, message: ClientMessage) -> object:
        """Say something; on a lost connection it is lost too."""
        ...

    def ask(self, make: Callable[[int], ClientMessage], answered: Callable[[Message | Exception], None]) -> int:
        """Say a request; its answer, or `Disconnected`, is given to a callback."""
        ...

    async def request(self, make: Callable[[int], ClientMessage]) -> Message:
        """Say a request, and wait for its answer."""
        ...


class Registration:
    """One subscription as it is registered on one connection.

    What is acknowledged need not be said at once: it is where somebody waits for it,
    or when so much is not said that the daemon may soon stop sending.

    Args:
        line: The connection.
        answer: What the daemon said when it registered it.

    Attributes:
        line: The same.
        number: Number of the subscription at the daemon.
        acked: Number of the last hand-over that is acknowledged, said or not.
        turn: Number of the hand-over by which the first replay is through, once that is known.
    """

    __slots__ = ("_cost", "_leased", "_room", "_said", "_using", "_wanted", "acked", "line", "number", "turn")

    def __init__(self, line: Line, answer: Subscribed) -> None:
        self.line = line
        self.number = answer.subscription
        self.acked = 0
        self.turn: int | None = None
        self._leased = answer.lease_us is not None
        self._room = answer.window // 2
        self._said = 0
        self._cost = 0  # of what is acknowledged and not said
        self._wanted = 0  # hand-over up to which somebody waits
        self._using = False

    @property
    def lease_end(self) -> float:
        """When what it gave must not be used any more, by the clock of the client."""
        return self.line.lease_end if self._leased else inf

    @property
    def turned(self) -> bool:
        """Whether the first replay is through and acknowledged."""
        return self.turn is not None and self.turn <= self.acked

    # -- acknowledging -----------------------------------------------------------

    def want(self, number: int) -> None:
        """Say at once what is acknowledged, and the rest up to hand-over ``number`` as soon as it is."""
        self._wanted = max(self._wanted, number)
        self._say_if_due()

    def acknowledge(self, number: int, cost: int) -> None:
        """Take it that hand-overs up to ``number`` are out of use.

        Args:
            number: The last one.
            cost: Bytes of those that were not acknowledged before.
        """
        self.acked = number
        self._cost += cost
        self._say_if_due()

    def speak(self) -> None:
        """Say what is acknowledged and was not said."""
        if self.acked > self._said:
            self._said, self._cost = self.acked, 0
            self.line.send(Ack(self.number, self.acked))

    def _say_if_due(self) -> None:
        if self._wanted > self._said or self._cost >= self._room:
            self.speak()

    # -- everything else ---------------------------------------------------------

    def fail(self, number: int, index: int, error: Exception) -> None:
        """Say that an event could not be applied.

        Args:
            number: Number of its hand-over.
            index: Its place in it.
            error: Why.
        """
        self.line.send(Fail(self.number, number, index, to_failure(error)))

    def use(self, count: int) -> None:
        """Say whether anything is in use, where that has changed."""
        if self._using != (count > 0):
            self._using = count > 0
            self.line.send(Using(self.number, count))

    def leave(self, answered: Callable[[Message | Exception], None], *, clean: bool, reason: str = "") -> None:
        """Say that the consumer left.

        Args:
            answered: Takes the answer.
            clean: Whether it promises that everything was dropped.
            reason: Why not, for people.
        """
        self.line.ask(lambda request: Leave(request, self.number, clean, clip_text(reason)), answered)

    async def translate(self, iova: int, perm: int) -> Message:
        """Ask where an address leads.

        Raises:
            Disconnected: The connection was lost before the answer came.
            IommubusError: It leads nowhere, or nobody can say.
        """
        return await self.line.request(lambda request: Translate(request, self.number, iova, int(perm)))
