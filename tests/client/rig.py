"""A daemon and its clients in one virtual loop, joined by links in memory."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

from iommubus.client.reconnect import Keeper
from iommubus.client.remote import RemoteBus
from iommubus.service.daemon import Daemon
from iommubus.service.session import Session
from iommubus.service.settings.config import Config
from iommubus.transport.credentials import Peer
from iommubus.wire.messages.greeting import Feature
from tests.network import Network
from tests.virtual import VirtualLoop, run

ADDRESS = "unix:/daemon"
LEARNED = 10.0
"""Seconds after which everybody has learned that a link was cut."""

PEER = Peer(pid=1, uid=1000, gids=(1000,))


class Rig:
    """Where a daemon is started, and clients connect to it.

    Attributes:
        loop: The virtual loop; its time is the clock of leases.
        network: What joins them.
        daemon: The daemon that runs, if one does.
        sessions: Its connections, in the order in which they were accepted.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.network = Network(loop, Random(1))  # noqa: S311
        self.daemon: Daemon | None = None
        self.sessions: list[Session] = []
        self.peer = PEER
        self.started = 0  # daemons: each has numbers of its own

    @asynccontextmanager
    async def serve(self, **settings: Any) -> AsyncGenerator[Daemon]:
        """Run a daemon while the block lasts; it is killed at its end, without goodbye."""
        self.started += 1
        chance = Random(self.started)  # noqa: S311
        async with Daemon(Config(**settings), clock=self.loop.time, random=chance, own_uid=1000) as daemon:
            self.daemon = daemon
            self.sessions = []
            self.network.listen(ADDRESS, lambda _: self._accept(daemon))
            try:
                yield daemon
            finally:
                self.network.stop_listening(ADDRESS)
                self.cut()
                self.daemon = None

    @asynccontextmanager
    async def bus_outliving(self) -> AsyncGenerator[tuple[RemoteBus, AsyncExitStack]]:
        """Give the bus of a client, and the stack on which its first daemon runs."""
        async with AsyncExitStack() as first:
            await first.enter_async_context(self.serve())
            async with self.bus() as bus:
                yield bus, first

    def bus(self, name: str = "client", **options: Any) -> RemoteBus:
        """Return the bus of a client."""
        return RemoteBus(self.keeper(name), **options)

    def keeper(self, name: str = "client", features: Feature = Feature.RESUME) -> Keeper:
        """Return what keeps the connection of a client."""
        return Keeper(
            lambda make: self.network.connect(ADDRESS, make),
            ADDRESS,
            name=name,
            features=features,
            clock=self.loop.time,
            random=Random(3),  # noqa: S311
        )

    def cut(self) -> None:
        """Cut every connection."""
        for link in list(self.network.links):
            link.cut_off()

    def _accept(self, daemon: Daemon) -> Session:
        session = daemon.session(self.peer)
        self.sessions.append(session)
        return session


def rigged(case: Callable[[Rig], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a plain test of a coroutine function that is given a rig."""

    async def settled(loop: VirtualLoop) -> None:
        rig = Rig(loop)
        await case(rig)
        rig.cut()
        await asyncio.sleep(LEARNED)

    def test() -> None:
        run(settled)

    test.__name__, test.__doc__ = case.__name__, case.__doc__
    return test
