"""The subscriptions of one client: who is told what, and their handles."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self

from ..bus.abc import Acknowledge
from ..bus.attachment import State
from ..bus.buried import Buried
from ..bus.member import Terms
from ..bus.memory import Backing
from ..bus.soon import Soon
from ..bus.subscription import StreamSubscription
from ..errors import LeaseRunOut, SubscriptionClosed
from ..events import Memory
from ..transport.clock import Clock
from ..wire.failures import to_failure
from ..wire.messages import Message
from ..wire.messages.heard import DeliverHeard
from ..wire.messages.replies import Done, Refused
from ..wire.messages.subscribing import AckWanted, Ended, Fenced, ReplayFailed, RunFence
from .channel import Channel, Handler
from .following import RemoteSeat

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Has something done in a task of the client."""


class RemoteSubscription(StreamSubscription):
    """A subscription at a daemon.

    Args:
        seat: What stands for it here.
        check_thread: Raises if the bus cannot be used, or not by the caller.
        ack: How it acknowledges.
        find: Returns the bytes of a memory.
    """

    def __init__(
        self,
        seat: RemoteSeat,
        check_thread: Callable[[], None],
        ack: Acknowledge,
        find: Callable[[Memory], Backing],
    ) -> None:
        super().__init__(seat, seat.register, check_thread, ack, find)
        self._remote = seat

    async def __aenter__(self) -> Self:
        """Register it, once the daemon can be reached."""
        await super().__aenter__()
        self.name = self._remote.name
        return self

    @property
    def fenced(self) -> bool:
        """Whether what it holds must not be used: it was fenced, or its lease has run out."""
        return super().fenced or self._remote.run_out

    def check_use(self) -> None:
        """Check that what it was given may be used now.

        Raises:
            LeaseRunOut: Its lease has run out, by the clock at this moment; it may be used
                again once all that it was given is dropped, and the daemon is back.
            Fenced, SubscriptionClosed: As `Subscription.check_use`.
        """
        super().check_use()
        if self._remote.run_out:
            raise LeaseRunOut(self.name, self._remote.away)


class Seats:
    """The subscriptions of one client; takes part in the keeping of its connection.

    Args:
        clock: By which leases run.
        soon: Has a callback run by the loop, from any thread.
        run: Has something done in a task of the client.
        knows: Says whether nothing more has to come before the bytes of a memory can be looked at.

    Attributes:
        clock: The same.
        buried: Those whose handles were lost.
    """

    def __init__(self, clock: Clock, soon: Soon, run: Run, knows: Callable[[Memory], bool]) -> None:
        self.clock = clock
        self.buried = Buried(soon)
        self._run = run
        self._knows = knows
        self._channel: Channel | None = None
        self._seats: dict[RemoteSeat, None] = {}
        self._numbers: dict[int, RemoteSeat] = {}  # by the number that each has on this connection

    def subscription(
        self,
        terms: Terms,
        endpoints: tuple[str, ...],
        check_thread: Callable[[], None],
        ack: Acknowledge,
        find: Callable[[Memory], Backing],
    ) -> RemoteSubscription:
        """Return a subscription, which is registered when it is entered.

        Args:
            terms: What it asks for, checked; an empty name is made up by the daemon.
            endpoints: Names of what it subscribes to.
            check_thread: Raises if the bus cannot be used, or not by the caller.
            ack: How it acknowledges.
            find: Returns the bytes of a memory.
        """
        return RemoteSubscription(RemoteSeat(terms, endpoints, self), check_thread, ack, find)

    def speak(self) -> None:
        """Say everything that was acknowledged: a `sync` of this client is about to wait for it."""
        for seat in self._seats:
            seat.speak()

    def known(self, memory: Memory) -> None:
        """Take it that the bytes of a memory can be looked at, or never will be."""
        for seat in self._seats:
            seat.known(memory)

    def sharing(self, endpoint: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the name and the endpoints of each live subscription that needs others beside this one."""
        live = [seat for seat in self._seats if seat.state is State.JOINED]
        return [(seat.name, seat.endpoints) for seat in live if len(seat.endpoints) > 1 and endpoint in seat.endpoints]

    # -- the connection ------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Go on: there is a connection."""
        self._channel = channel
        for seat in list(self._seats):
            seat.attached(channel)

    def lost(self, reason: str) -> None:
        """Take it that the connection is lost."""
        self._channel = None
        self._numbers.clear()
        for seat in list(self._seats):
            seat.lost(reason)

    def ended(self, error: Exception) -> None:
        """Take it that there will be no connection any more."""
        self._channel = None
        self._numbers.clear()
        for seat in list(self._seats):
            seat.end(error)

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What takes what the daemon says of subscriptions."""
        return {kind: self._handler(take) for kind, take in WORDS.items()} | {RunFence: self._take_run_fence}

    # -- for seats -----------------------------------------------------------------

    def enter(self, seat: RemoteSeat) -> None:
        """Tell it of connections from now on."""
        self._seats[seat] = None
        if self._channel is not None:
            seat.attached(self._channel)

    def part(self, seat: RemoteSeat) -> None:
        """Tell it of nothing any more."""
        self._seats.pop(seat, None)
        self._numbers = {number: one for number, one in self._numbers.items() if one is not seat}

    def number(self, seat: RemoteSeat, number: int) -> None:
        """Give it what the daemon says of the subscription ``number``."""
        self._numbers[number] = seat

    def knows(self, memory: Memory) -> bool:
        """Say whether nothing more has to come before the bytes of a memory can be looked at."""
        return self._knows(memory)

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done in a task."""
        self._run(work)

    def later(self, seconds: float, act: Callable[[], object]) -> object:
        """Have something called later."""
        return asyncio.get_running_loop().call_later(seconds, act)

    # -- inside --------------------------------------------------------------------

    def _handler(self, take: Callable[[RemoteSeat, Any], None]) -> Handler:
        def handle(channel: Channel, message: Any) -> None:
            seat = self._numbers.get(message.subscription)
            if seat is not None and channel is self._channel:
                take(seat, message)

        return handle

    def _take_run_fence(self, channel: Channel, message: RunFence) -> None:
        def answer(error: Exception | None) -> None:
            done = Done(message.request) if error is None else Refused(message.request, to_failure(error))
            channel.send(done)

        seat = self._numbers.get(message.subscription)
        if seat is None:
            answer(SubscriptionClosed(f"#{message.subscription}"))
        else:
            seat.run_fence(answer)


WORDS: Final[dict[type[Message], Callable[[RemoteSeat, Any], None]]] = {
    DeliverHeard: lambda seat, message: seat.take_in(message),
    AckWanted: lambda seat, _: seat.want_all(),
    Fenced: lambda seat, message: seat.take_fence(message.reason),
    Ended: lambda seat, _: seat.no_more(),
    ReplayFailed: lambda seat, message: seat.take_failures(message),
}
"""What the daemon says of one subscription, and what takes it."""
