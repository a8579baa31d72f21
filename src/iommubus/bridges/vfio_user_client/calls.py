"""Commands to a server that wait for their answers: several at a time, each found again by its number.

Source: QEMU ``docs/interop/vfio-user.rst``, "Command Concurrency" and "Header".
"""

from collections.abc import Callable, Sequence
from errno import EIO
from typing import Final

import anyio
from msgspec import Struct

from ...abi.vfio_user import Body, DmaUnmap, Flags, Message, encode
from ...errors import PeerBroke, PeerLeft

WINDOW: Final = 64
"""Commands without an answer: enough to keep both ends busy, and 4 KiB, which any socket takes at once."""

NUMBERS: Final = 1 << 16
"""Numbers of commands: they have 16 bits."""

Put = Callable[[bytes, Sequence[int]], object]
"""Sends a message with descriptors, which stay the caller's."""


class Call(Struct):
    """A command without an answer yet.

    Attributes:
        command: Which.
        body: What it carries.
        done: Told the error number when it is answered, 0 for none.
    """

    command: int
    body: Body
    done: Callable[[int], object]


class Calls:
    """Those of one connection.

    Args:
        put: Sends one.
        peer: What errors call the server.
        window: Most at a time, 1 to 65,535.
    """

    def __init__(self, put: Put, peer: str, window: int = WINDOW) -> None:
        self._put = put
        self._peer = peer
        self._window = window
        self._open: dict[int, Call] = {}
        self._number = 0
        self._lost: PeerLeft | None = None
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, command: int, body: Body, done: Callable[[int], object], fds: Sequence[int] = ()) -> None:
        """Send a command, as soon as there is room for one.

        Args:
            command: Which.
            body: What it carries.
            done: Told the error number when it is answered, 0 for none.
            fds: Descriptors that go with it; they stay the caller's.

        Raises:
            PeerLeft: The connection has ended.
        """
        await self._until(lambda: len(self._open) < self._window)
        self._number = self._next_number()
        self._open[self._number] = Call(command, body, done)
        self._put(encode(Message(self._number, command, body)), fds)

    async def settle(self) -> None:
        """Wait until everything is answered.

        Raises:
            PeerLeft: The connection has ended.
        """
        await self._until(lambda: not self._open)

    def take(self, answer: Message) -> None:
        """Take an answer.

        Raises:
            PeerBroke: To nothing that was asked, or of something else.
        """
        call = self._open.pop(answer.msg_id, None)
        if call is None or call.command != answer.command:
            raise PeerBroke(self._peer, f"it answers {answer.name} {answer.msg_id}, which nobody asked")
        failed = bool(answer.flags & Flags.ERROR)
        if not failed and isinstance(call.body, DmaUnmap) and answer.body != call.body:
            raise PeerBroke(self._peer, f"it was asked for {call.body}, and answers {answer.body}")
        call.done((answer.error or EIO) if failed else 0)
        self._tell()

    def lose(self, reason: PeerLeft) -> None:
        """Take it that no answer will come any more."""
        self._lost = reason
        self._tell()

    # -- inside ----------------------------------------------------------------

    def _next_number(self) -> int:
        """Return the number that was used longest ago, of those that wait for no answer."""
        number = (self._number + 1) % NUMBERS
        while number in self._open:
            number = (number + 1) % NUMBERS
        return number

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._lost is not None:
                raise self._lost
            await self._changed.wait()
        if self._lost is not None:
            raise self._lost

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
