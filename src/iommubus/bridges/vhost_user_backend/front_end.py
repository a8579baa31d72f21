"""One front end, from its first message to the moment at which nobody uses anything of it any more."""

import socket
from contextlib import suppress
from typing import Final

from anyio.lowlevel import checkpoint

from ...abi.vhost_user import Flags, Message, check_descriptors, decode
from ...bridging.barrier import sync_or_fence
from ...bridging.replies import Replies
from ...bridging.telling import Notice
from ...caps import Perm
from ...errors import BusClosed, SpaceClosed
from ...mapping import Mapping
from ...ranges import LAST
from ...transport.descriptors import close_all
from .answers import REFUSED, Answer
from .asking import Asking
from .handling import Handling
from .line import Line, Surroundings

TURN: Final = 64
"""Messages of a front end that are handled in one turn of the loop: some ten milliseconds' work."""


class FrontEnd:
    """One connection.

    Args:
        sock: Its main channel; this object closes it.
        name: What the front end is called.
        around: What it shares with those before and behind it.
    """

    def __init__(self, sock: socket.socket, name: str, around: Surroundings) -> None:
        self._around = around
        self._line = Line(sock, name)
        self._replies = Replies(self._line.put)
        self._asking = Asking(self._line, around)
        self._handling = Handling(self._line, self._asking, around)
        self._passed: set[int] = set()

    async def run(self) -> Exception:
        """Serve it until it leaves or breaks its protocol, and return which."""
        return await self._line.run(self._read)

    async def leave(self) -> None:
        """Take everything away that came from it, and close the connection once nobody uses it any more.

        Not before: a front end whose connection ends lets its guest go on.
        """
        self._asking.end()
        await self._handling.stop()
        with suppress(SpaceClosed):  # the bus was closed, which takes everything away too
            self._around.space.unmap(0, LAST + 1)
        with suppress(BusClosed):
            await sync_or_fence(self._around.space, deadline=self._around.deadline, tell=self._around.tell)
        self._handling.clear()
        self._line.main.close()

    async def translate(self, iova: int, perm: Perm) -> Mapping | None:
        """Ask it where an address leads; `None` if it has no answer to give."""
        return await self._asking.translate(iova, perm)

    # -- inside ----------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            for _ in range(TURN):
                data, fds = await self._line.main.receive()
                try:
                    await self._handle(data, fds)
                finally:
                    close_all(fds)
                self._asking.judge()
            await checkpoint()

    async def _handle(self, data: bytes, fds: list[int]) -> None:
        message = decode(data)
        check_descriptors(message, len(fds))
        if message.flags & Flags.REPLY:
            raise self._line.broke(f"it answers {message.name}, which nobody asked it")
        answer = Answer(message, self._replies, acknowledged=self._handling.acknowledged)
        handler = self._handling.by_request.get(message.request)
        if handler is None:
            self._pass_over(message, answer)
            return
        waiting = handler(message.body, fds, answer)
        if waiting is not None:
            await waiting
        if answer.open:
            answer.status()

    def _pass_over(self, message: Message, answer: Answer) -> None:
        answer.status(REFUSED)
        if message.request not in self._passed:
            self._passed.add(message.request)
            self._around.tell(Notice(f"{self._line.name}: {message.name} is not known here, and was passed over"))
