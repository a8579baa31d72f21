"""The second connection, on which descriptors of memories travel, and the bytes that came with them.

It is opened as soon as there is a first one, and both are lost together: without
descriptors a consumer could not be handed what leads into a memory.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import anyio

from ..bus.memory import Backing, duplicate
from ..errors import BadMemory, IommubusError, OutOfPlace, UnknownMemory
from ..events import Memory
from ..transport.descriptors import DescriptorChannel, close_all
from ..wire.connection import ClientConnection, State
from ..wire.messages import Message
from ..wire.messages.greeting import Bind, Bound, Bye, Descriptor, Feature
from ..wire.messages.spaces import MemoryRemoved
from ..wire.messages.values import MemoryName
from .channel import Channel, Handler

BIND_TIMEOUT: Final = 10.0
"""Seconds within which a daemon takes the second connection, as for the first."""

Open = Callable[[], Awaitable[socket.socket]]
"""Opens a second connection; raises `OSError` if it cannot."""

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Has something done in a task of the client."""


def open_at(path: str) -> Open:
    """Return what opens connections to a Unix socket."""

    async def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        return sock

    return connect


class LentMemories:
    """What the daemon gave this client of memories, and what is given to the daemon.

    Args:
        open_second: Opens a second connection; `None` where descriptors do not travel.
        run: Has something done in a task of the client.
        own: Returns the bytes of a memory that this client added; raises `UnknownMemory` for others.
        known: Called when nothing more has to come of a memory.
    """

    def __init__(
        self,
        open_second: Open | None,
        run: Run,
        own: Callable[[Memory], Backing],
        known: Callable[[Memory], object],
    ) -> None:
        self._open_second = open_second
        self._run = run
        self._own = own
        self._known = known
        self._channel: Channel | None = None
        self._travelling = False  # whether descriptors do, on this connection
        self._came: dict[Memory, Backing] = {}
        self._removed: set[Memory] = set()  # before their descriptors came
        self._going: deque[tuple[Memory, int]] = deque()
        self._more = anyio.Event()

    # -- for subscriptions ---------------------------------------------------------

    def knows(self, memory: Memory) -> bool:
        """Say whether nothing more has to come before the bytes of a memory can be looked at."""
        return not self._travelling or memory in self._came or self._is_own(memory)

    def find(self, memory: Memory) -> Backing:
        """Return the bytes of a memory.

        Raises:
            UnknownMemory: It was removed, or never added.
        """
        came = self._came.get(memory)
        return self._own(memory) if came is None else came

    # -- for producers ---------------------------------------------------------------

    def lend(self, memory: Memory, file: int) -> None:
        """Give the daemon the descriptor of a memory that it was told of on this connection; it stays the caller's."""
        if self._travelling:
            self._going.append((memory, os.dup(file)))
            self._tell_more()

    # -- the connection ----------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Open the second connection, where descriptors travel."""
        self._channel = channel
        self._travelling = bool(channel.features & Feature.DESCRIPTORS and channel.welcome.token)
        if self._travelling and self._open_second is not None:
            open_second = self._open_second
            self._run(lambda: self._serve(channel, open_second))

    def lost(self, reason: str) -> None:
        """Forget what came: all of it comes again."""
        del reason
        self._channel = None
        self._travelling = False
        for backing in self._came.values():
            backing.close()
        self._came.clear()
        self._removed.clear()
        while self._going:
            os.close(self._going.popleft()[1])
        self._tell_more()

    def ended(self, error: Exception) -> None:
        """Forget everything."""
        self.lost(str(error))

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What takes what the daemon says of memories."""
        return {MemoryRemoved: self._take_removed}

    # -- inside: what arrives ----------------------------------------------------------

    def _take_removed(self, channel: Channel, message: MemoryRemoved) -> None:
        if channel is not self._channel:
            return
        memory = message.memory.memory
        backing = self._came.pop(memory, None)
        if backing is None:
            self._removed.add(memory)
        else:
            backing.close()
        self._known(memory)

    def _take_descriptor(self, name: MemoryName, fds: list[int]) -> None:
        """Keep the bytes of a memory; where there is no descriptor, or a wrong one, there are none."""
        memory = name.memory
        with Closing(fds):
            if memory in self._removed:
                self._removed.discard(memory)
            elif memory not in self._came and not self._is_own(memory):
                self._came[memory] = Backing(memory, checked(memory, fds))
                self._known(memory)

    def _is_own(self, memory: Memory) -> bool:
        try:
            self._own(memory)
        except UnknownMemory:
            return False
        return True

    # -- inside: the second connection ---------------------------------------------------

    async def _serve(self, channel: Channel, open_second: Open) -> None:
        """Carry descriptors until the first connection is lost; when this one is, lose that."""
        try:
            with anyio.fail_after(BIND_TIMEOUT):
                second = await Second.open(open_second, channel.welcome.token)
        except (OSError, IommubusError) as error:
            self._give_up(channel, f"descriptors cannot travel: {error}")
            return
        with second:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._receive, channel, second)
                    await self._send(channel, second)
                    tasks.cancel_scope.cancel()
            except* (OSError, IommubusError) as errors:
                self._give_up(channel, f"the connection for descriptors broke: {errors.exceptions[0]}")

    async def _receive(self, channel: Channel, second: "Second") -> None:
        while True:
            name, fds = await second.receive()
            if channel is not self._channel:
                close_all(fds)
                return
            self._take_descriptor(name, fds)

    async def _send(self, channel: Channel, second: "Second") -> None:
        """Send what is to be given, until the first connection is lost."""
        while channel is self._channel:
            if not self._going:
                await self._more.wait()
                continue
            memory, file = self._going.popleft()
            with Closing([file]):
                await second.send(memory, file)

    def _tell_more(self) -> None:
        more, self._more = self._more, anyio.Event()
        more.set()

    def _give_up(self, channel: Channel, reason: str) -> None:
        if channel is self._channel:
            channel.lose(ConnectionResetError(reason))


class Second:
    """The client's end of a second connection.

    Args:
        sock: The socket; this object closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._channel = DescriptorChannel(sock)
        self._connection = ClientConnection()

    @classmethod
    async def open(cls, open_second: Open, token: bytes) -> "Second":
        """Return one that the daemon has taken.

        Raises:
            OSError, IommubusError: It could not be opened, or the daemon does not take it.
        """
        second = cls(await open_second())
        try:
            await second._bind(token)
        except BaseException:
            second._channel.close()
            raise
        return second

    async def receive(self) -> tuple[MemoryName, list[int]]:
        """Return what memory a descriptor is of, and the descriptor, if one came.

        Raises:
            OSError, IommubusError: The connection broke.
        """
        message, fds = await self._next()
        if not isinstance(message, Descriptor):
            close_all(fds)
            raise OutOfPlace(type(message).__name__, "daemon", State.BOUND.value)
        return message.memory, fds

    async def send(self, memory: Memory, file: int) -> None:
        """Give the daemon the descriptor of a memory.

        Raises:
            OSError, IommubusError: The connection broke.
        """
        await self._channel.send(self._connection.send(Descriptor(MemoryName.of(memory))), [file])

    async def _bind(self, token: bytes) -> None:
        await self._channel.send(self._connection.send(Bind(token)))
        message, fds = await self._next()
        close_all(fds)
        if not isinstance(message, Bound):
            raise OutOfPlace(type(message).__name__, "daemon", State.BINDING.value)

    async def _next(self) -> tuple[Message, list[int]]:
        received = await self._channel.receive()
        if received is None:
            raise ConnectionResetError("the daemon closed it")
        frame, fds = received
        try:
            message = self._read(frame)
        except BaseException:
            close_all(fds)
            raise
        return message, fds

    def _read(self, frame: bytes) -> Message:
        self._connection.receive_data(frame)
        message = self._connection.next_message()
        if message is None or isinstance(message, Bye):
            raise ConnectionResetError("the daemon closed it" if message is None else message.reason)
        return message

    def __enter__(self) -> "Second":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()


class Closing:
    """Closes descriptors at the end of a block.

    Args:
        fds: Those.
    """

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        close_all(self._fds)


def checked(memory: Memory, fds: list[int]) -> int | None:
    """Return a descriptor of its own for a memory, or `None` if none came that could be."""
    with suppress(BadMemory, OSError):
        if fds:
            return duplicate(memory.name, memory.size, fds[0])
    return None
