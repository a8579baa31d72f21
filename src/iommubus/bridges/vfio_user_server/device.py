"""What stands behind a server beside its space: a device, whose commands are passed on, one after the other."""

from collections import deque
from collections.abc import Sequence
from errno import ENOTSUP
from typing import Protocol

import anyio
from msgspec import Struct

from ...abi.vfio_user import Opaque
from ...transport.descriptors import close_all
from .answers import Answer


class Done(Struct, frozen=True):
    """What a device answers to a command.

    Attributes:
        data: What the answer carries.
        fds: Descriptors that go with it; they are closed once they were sent.
    """

    data: bytes = b""
    fds: Sequence[int] = ()


class Handler(Protocol):
    """A device: it answers every command but VERSION, DMA_MAP and DMA_UNMAP."""

    async def handle(self, command: int, payload: bytes, fds: Sequence[int]) -> Done | int:
        """Do what a client asks; the next command is given when this has returned.

        Args:
            command: A `Command`, or a number that the specification does not have.
            payload: What came behind the header.
            fds: Descriptors that came with it; they are closed afterwards, so one that is kept is duplicated.

        Returns:
            The answer, or the error number of one that cannot be done.  What this raises ends the bridge.
        """
        ...

    def client_gone(self) -> None:
        """Forget what belongs to the client, its interrupts for instance; the state of the device stays."""
        ...


class Commands:
    """The commands of one client on their way to a device.

    Args:
        handler: The device; `None` if there is none.
    """

    def __init__(self, handler: Handler | None) -> None:
        self._handler = handler
        self._waiting: deque[tuple[int, bytes, Sequence[int], Answer]] = deque()
        self._more = anyio.Event()

    def take(self, command: int, payload: bytes, fds: Sequence[int], answer: Answer) -> bool:
        """Take a command, which is answered later, or refused at once where there is no device.

        Returns:
            Whether the descriptors are this object's now.
        """
        if self._handler is None:
            answer.refuse(ENOTSUP)
            return False
        self._waiting.append((command, payload, fds, answer))
        self._more.set()
        return True

    async def run(self) -> None:
        """Pass commands on, until it is cancelled."""
        while self._handler is not None:
            await self._more.wait()
            self._more = anyio.Event()
            while self._waiting:
                await self._pass_on(self._handler)

    def close(self) -> None:
        """Forget commands that were not passed on, and tell the device that the client is gone."""
        while self._waiting:
            close_all(self._waiting.popleft()[2])
        if self._handler is not None:
            self._handler.client_gone()

    async def _pass_on(self, handler: Handler) -> None:
        command, payload, fds, answer = self._waiting.popleft()
        try:
            done = await handler.handle(command, payload, fds)
        finally:
            close_all(fds)
        if isinstance(done, int):
            answer.refuse(done)
        else:
            answer.give(Opaque(done.data), done.fds)
