"""The main channel: requests to the back end, and its answers, which carry no number.

The first answer belongs to the first question, so what waits is a FIFO.  A
request is a plain call: it is known then what it comes before and behind.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from ...abi.vhost_user import U64, Body, Empty, Flags, Message, Request, decode, encode
from ...bridging.messages import MessageSocket
from ...errors import PeerBroke, PeerLeft

OWN_REPLY: Final = {
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_VRING_BASE,
    Request.GET_MAX_MEM_SLOTS,
}
"""Requests with an answer of their own; the others are acknowledged with a number."""

Take = Callable[[Message | None], object]
"""Takes an answer, or `None`: there will be none."""


class Ending:
    """How something ends: once, for the first reason that is said.

    Attributes:
        reason: What that was; `None` if it was just through.
    """

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._then: list[Callable[[], object]] = []
        self.reason: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    def say(self, reason: Exception | None) -> None:
        """Take it that it has ended; `None` if it is just through."""
        if not self.over:
            self.reason = reason
            self._over.set()
            for act in self._then:
                act()

    def then(self, act: Callable[[], object]) -> None:
        """Have something done when it has ended."""
        self._then.append(act)

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._over.wait()


class Asking:
    """Requests on one connection.

    Args:
        messages: The connection; no descriptor may come.
        peer: What errors call the back end.
        ending: Told when the connection breaks; nothing is asked afterwards.
    """

    def __init__(self, messages: MessageSocket, peer: str, ending: Ending) -> None:
        self._messages = messages
        self._peer = peer
        self._ending = ending
        self._waiting: deque[tuple[Request, Take]] = deque()
        ending.then(self._lose)

    def ask(self, request: Request, body: Body, take: Take, fds: Sequence[int] = ()) -> None:
        """Ask something; the answer comes later, in the order of the questions.

        Args:
            request: What is asked.
            body: What goes with it.
            take: Is given the answer.
            fds: Descriptors to go with it; they stay the caller's.

        Raises:
            PeerLeft: The connection is broken; `take` is not called.
        """
        flags = Flags(0) if request in OWN_REPLY else Flags.NEED_REPLY
        self._put(Message(request, body, flags), fds)
        self._waiting.append((request, take))

    def tell(self, request: Request, body: Body) -> None:
        """Say something that is not answered; raises as `ask` does."""
        self._put(Message(request, body), ())

    async def number(self, request: Request, body: Body | None = None, fds: Sequence[int] = ()) -> int:
        """Ask something whose answer is a number, and wait for it: 0 is success of what is acknowledged.

        Raises:
            PeerLeft: There will be no answer.
        """
        answers: list[Message | None] = []
        answered = anyio.Event()

        def take(reply: Message | None) -> None:
            answers.append(reply)
            answered.set()

        self.ask(request, Empty() if body is None else body, take, fds)
        await answered.wait()
        reply = answers[0]
        if reply is None:
            raise self.broken()
        return status_of(reply)

    async def read(self) -> None:
        """Take answers as they come, until it is cancelled.

        Raises:
            PeerLeft: The connection broke.
            PeerBroke, AbiError: The back end said what cannot be.
        """
        while True:
            data, _ = await self._messages.receive()
            self._take(decode(data))

    def broken(self) -> PeerLeft:
        """Return what is raised where an answer will not come."""
        return PeerLeft(self._peer, str(self._ending.reason))

    # -- inside ----------------------------------------------------------------

    def _put(self, message: Message, fds: Sequence[int]) -> None:
        if self._ending.over:
            raise self.broken()
        try:
            self._messages.put(encode(message), fds)
        except PeerLeft as left:
            self._ending.say(left)
            raise

    def _take(self, message: Message) -> None:
        if not message.flags & Flags.REPLY:
            raise PeerBroke(self._peer, f"it asked {message.name} where only answers come")
        if not self._waiting:
            raise PeerBroke(self._peer, f"it answered {message.name}, which waits for no answer")
        request, take = self._waiting[0]
        if message.request != request:
            raise PeerBroke(self._peer, f"it answered {message.name} where {request.name} comes first")
        self._waiting.popleft()
        take(message)

    def _lose(self) -> None:
        while self._waiting:
            self._waiting.popleft()[1](None)


def status_of(reply: Message) -> int:
    """Return the number in an answer; what is no number is no success."""
    return reply.body.value if isinstance(reply.body, U64) else 1
