"""Clients that say, message by message, what a test has them say."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config
from iommubus.transport.credentials import Peer
from iommubus.wire.connection import ClientConnection
from iommubus.wire.messages import ClientMessage, DaemonHeard
from iommubus.wire.messages.greeting import Bye, Feature, Hello, Welcome
from iommubus.wire.messages.publishing import Publish
from iommubus.wire.messages.rows import MapRow, Row, UnmapRow
from iommubus.wire.messages.spaces import CreateSpace, SpaceCreated
from tests.wire.packed import packed

Heard = TypeVar("Heard", bound=DaemonHeard)

OWN: Final = Peer(pid=os.getpid(), uid=os.getuid(), gids=(os.getgid(),))
"""Who may do everything."""

STRANGER: Final = Peer(pid=7, uid=4242, gids=(4242,))
"""Who may do what a rule says."""

PAGE: Final = 0x1000
LAST: Final = 2**32 - 1
ALL: Final = Feature.DESCRIPTORS | Feature.RESUME


class Talker:
    """One connection to a daemon, from the client's end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.wire = ClientConnection()
        self.welcome: Welcome | None = None
        self.heard: list[DaemonHeard] = []
        self._requests = 0

    @property
    def request(self) -> int:
        """A number for a new request."""
        self._requests += 1
        return self._requests

    async def say(self, *messages: ClientMessage) -> None:
        """Say all of these at once."""
        await self.write(b"".join(map(self.wire.send, messages)))

    async def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def next(self) -> DaemonHeard:
        """Return the next message; EOFError at the end of the connection."""
        while (message := self.wire.next_message()) is None:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            self.wire.receive_data(data)
        return message

    async def hear(self, kind: type[Heard]) -> Heard:
        """Return the next message, which has to be of this kind."""
        message = await self.next()
        assert isinstance(message, kind), message
        return message

    async def skip_to(self, kind: type[Heard]) -> Heard:
        """Return the next message of this kind, and keep those before it in `heard`."""
        while not isinstance(message := await self.next(), kind):
            self.heard.append(message)
        return message

    async def ended(self) -> Bye | None:
        """Read to the end of the connection, and return the daemon's last words, if there were any."""
        last: DaemonHeard | None = None
        try:
            while True:
                last = await self.next()
        except (EOFError, ConnectionResetError):
            return last if isinstance(last, Bye) else None

    async def greet(self, name: str = "qemu", features: int = ALL) -> Welcome:
        """Say `Hello` and be let in."""
        await self.say(Hello(1, 1, name, optional=int(features)))
        self.welcome = await self.hear(Welcome)
        return self.welcome

    async def space(self, name: str = "vtd0", **options: Any) -> int:
        """Make a space, and return its epoch."""
        request = self.request
        await self.say(creating(request, name, **options))
        created = await self.skip_to(SpaceCreated)
        assert created.request == request
        return created.epoch


def creating(request: int, name: str = "vtd0", **options: Any) -> CreateSpace:
    """Return what makes a table space of 4 GiB."""
    fields: dict[str, Any] = {"granule": PAGE, "last": LAST, "reserved": [], "offers": 7, **options}
    return CreateSpace(request, name, **fields)


def publishing(name: str, epoch: int, number: int, *rows: Row) -> Publish:
    """Return what publishes these rows."""
    return Publish(name, epoch, number, packed(*rows))


def page(at: int, target: int = 0, seq: int = 1) -> MapRow:
    """Return a MAP of one page."""
    return MapRow(seq, at * PAGE, at * PAGE + PAGE - 1, target * PAGE, 3)


def gone(first: int, last: int | None = None, seq: int = 1) -> UnmapRow:
    """Return an UNMAP of pages."""
    end = first if last is None else last
    return UnmapRow(seq, first * PAGE, end * PAGE + PAGE - 1)


@asynccontextmanager
async def talking(daemon: Daemon, peer: Peer = OWN) -> AsyncGenerator[Talker]:
    """Give a connection to a daemon that has not been greeted yet."""
    theirs, ours = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: daemon.session(peer), theirs)
    talker = Talker(ours)
    try:
        yield talker
    finally:
        ours.close()


@asynccontextmanager
async def greeted(daemon: Daemon, peer: Peer = OWN, name: str = "qemu", features: int = ALL) -> AsyncGenerator[Talker]:
    """Give a connection to a daemon that was let in."""
    async with talking(daemon, peer) as talker:
        await talker.greet(name, features)
        yield talker


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], tries: int = 2000) -> None:
    """Let the loop turn until a condition holds."""
    for _ in range(tries):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came about")


def settings(**values: Any) -> Config:
    """Return a configuration."""
    return Config(**values)
