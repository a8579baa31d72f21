"""The other end of a vfio-user socket, as a test has it: it says what it is told to, and keeps what it hears."""

import json
import os
import socket
import struct
from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import anyio

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE = 1, 2, 3, 4, 9, 10, 11, 12
REPLY, NO_REPLY, ERROR = 0x1, 0x10, 0x20

HEADER: Final = struct.Struct("<HHIII")
PAGE: Final = 0x1000


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so; a test that waits for ever is ended by its timeout."""
    while not true():  # noqa: ASYNC110 - nobody says when
        await anyio.sleep(0.001)


class Heard(NamedTuple):
    """One message: number, command, flags, error, payload, and how many descriptors came with it."""

    number: int
    command: int
    flags: int
    error: int
    payload: bytes
    fds: tuple[int, ...] = ()


def message(number: int, command: int, payload: bytes = b"", flags: int = 0, error: int = 0) -> bytes:
    """Return a message as the specification writes it."""
    return HEADER.pack(number, command, HEADER.size + len(payload), flags, error) + payload


def version(major: int = 0, minor: int = 0, **capabilities: object) -> bytes:
    """Return what VERSION carries."""
    return struct.pack("<HH", major, minor) + json.dumps({"capabilities": capabilities}).encode() + b"\0"


def mapping(address: int, size: int = PAGE, offset: int = 0, flags: int = 3) -> bytes:
    """Return what DMA_MAP carries."""
    return struct.pack("<IIQQQ", 32, flags, offset, address, size)


def unmapping(address: int, size: int = PAGE, flags: int = 0) -> bytes:
    """Return what DMA_UNMAP carries."""
    return struct.pack("<IIQQ", 24, flags, address, size)


@contextmanager
def memfd(pages: int = 16, content: bytes = b"") -> Generator[int]:
    """Give the descriptor of a file in memory."""
    fd = os.memfd_create("guest")
    try:
        os.ftruncate(fd, pages * PAGE)
        os.pwrite(fd, content, 0)
        yield fd
    finally:
        os.close(fd)


class End:
    """One end of a connection.

    Args:
        sock: Its socket, which this object closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.heard: list[Heard] = []
        self._bytes = b""
        self._fds: list[int] = []
        self._number = 100

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and every descriptor that came."""
        for fd in (*self._fds, *(fd for heard in self.heard for fd in heard.fds)):
            os.close(fd)
        self._fds.clear()
        self.heard.clear()
        if self.sock.fileno() >= 0:
            anyio.notify_closing(self.sock)
        self.sock.close()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors with the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        assert self.sock.sendmsg([data], rights) == len(data)

    def say(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> int:
        """Send a command, and return its number."""
        self._number += 1
        self.send(message(self._number, command, payload, flags), fds)
        return self._number

    async def hear(self) -> Heard | None:
        """Return the next message; `None` at the end of the connection."""
        while (whole := self._whole()) is None:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(1 << 16, 1024)
            except BlockingIOError:
                with suppress(anyio.ClosedResourceError):
                    await anyio.wait_readable(self.sock)
                continue
            except OSError:  # reset by the other end, or closed at this one
                return None
            for _, _, rights in ancillary:
                self._fds += array("i", rights)
            if not data:
                return None
            self._bytes += data
        self.heard.append(whole)
        return whole

    async def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Heard:
        """Send a command, and return the answer; whatever else is heard before it is kept in `heard`."""
        number = self.say(command, payload, fds)
        return await self.answer_to(number)

    async def answer_to(self, number: int) -> Heard:
        """Return the answer to a command."""
        while True:
            for heard in self.heard:
                if heard.number == number and heard.flags & REPLY:
                    return heard
            assert await self.hear() is not None, f"the connection ended before the answer to {number}"

    async def nothing_came(self) -> bool:
        """Say whether no whole message is there now, after everybody has had a turn."""
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0):
            return await self.hear() is None
        return True

    async def ended(self) -> bool:
        """Wait for the end of the connection."""
        while await self.hear() is not None:
            pass
        return True

    def _whole(self) -> Heard | None:
        if len(self._bytes) < HEADER.size:
            return None
        number, command, size, flags, error = HEADER.unpack(self._bytes[: HEADER.size])
        if len(self._bytes) < size:
            return None
        payload, self._bytes = self._bytes[HEADER.size : size], self._bytes[size:]
        fds, self._fds = tuple(self._fds), []
        return Heard(number, command, flags, error, payload, fds)


async def connect(path: Path | str) -> End:
    """Connect to a server that listens."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return End(sock)


async def greeted(path: Path | str, **capabilities: Any) -> End:
    """Connect to a server, and agree upon the version."""
    end = await connect(path)
    reply = await end.ask(VERSION, version(**capabilities))
    assert reply.flags == REPLY
    return end


class Listening:
    """A server's listening socket, as a test has it.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.setblocking(False)
        self._sock.bind(str(path))
        self._sock.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        anyio.notify_closing(self._sock)
        self._sock.close()

    async def accept(self) -> End:
        """Return the next connection."""
        await anyio.wait_readable(self._sock)
        return End(self._sock.accept()[0])

    async def greet(self, **capabilities: Any) -> End:
        """Return the next connection, with the version agreed upon."""
        end = await self.accept()
        asked = await end.hear()
        assert asked is not None
        assert asked.command == VERSION
        end.send(message(asked.number, VERSION, version(**capabilities), REPLY))
        return end
