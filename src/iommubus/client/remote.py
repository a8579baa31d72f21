"""The bus of a daemon: the same as an embedded one to those who use it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from fnmatch import fnmatchcase
from logging import getLogger
from operator import index
from os import getpid
from pathlib import Path
from random import Random
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..bus.abc import (
    SYNC_TIMEOUT,
    Acknowledge,
    AddressSpace,
    DemandChanged,
    Endpoint,
    EventBus,
    OnFence,
    Stops,
    Straddling,
    Subscription,
    Translate,
)
from ..bus.abc import Observer
from ..bus.bus import EVERYTHING
from ..bus.logs import Lines
from ..bus.member import Terms
from ..bus.observer import OBSERVER_CAPACITY
from ..bus.publisher import Making
from ..bus.questions import ANSWER_TIMEOUT
from ..bus.reports import BusStatistics, SyncReport
from ..bus.threads import ThreadPublisher
from ..caps import Cap, check_mask
from ..contract import Contract
from ..errors import AddressError, BusClosed, IommubusError, MustShare, UnknownName, WrongLoop
from ..events import Memory
from ..mailbox import CAPACITY
from ..ranges import LAST, IovaRange
from ..shape import Shape
from ..transport.address import Address, TlsAddress, UnixAddress, default_address, parse_address
from ..transport.clock import Clock, boot_clock
from ..transport.tls import Identity
from ..wire.failures import to_failure
from ..wire.messages import Message
from ..wire.messages.greeting import Feature
from ..wire.messages.publishing import Ask, DemandChanged as DemandWords, Published, PublishFailed
from ..wire.messages.replies import Cancel, Done, Refused
from ..wire.messages.spaces import CloseEndpoint, CreateEndpoint
from ..wire.messages.syncing import Sync
from .adding import AddedMemories
from .channel import Channel, Handler
from .directory import Directory
from .link import Link
from .reconnect import Keeper, Rank, connector_to
from .spaces import OwnSpaces, RemoteEndpoint, RemoteSpace, sync_spaces

LOGGER: Final = getLogger("iommubus.client")


def connect(
    address: str | None = None,
    *,
    name: str | None = None,
    identity: Identity | None = None,
    patience: float = 0.0,
) -> "RemoteBus":
    """Return the bus of a daemon; it is connected by ``async with``, and again whenever the connection is lost.

    Args:
        address: Where the daemon is: ``unix:/PATH``, ``tls:HOST:PORT`` or ``tcp:HOST:PORT``; by
            default the socket of the user's own daemon, or the system's.
        name: What the client is called in the daemon's lists and logs; by default its program and process.
        identity: The client's certificate, for TLS.
        patience: Seconds within which a daemon that is not there yet is tried again, at the beginning.

    Raises:
        AddressError: The address cannot be, or needs an identity.
    """
    place: Address = default_address() if address is None else parse_address(address)
    if isinstance(place, TlsAddress) and identity is None:
        raise AddressError(str(place), "over TLS a client shows a certificate; give it an identity")
    features = Feature.RESUME | Feature.DESCRIPTORS if isinstance(place, UnixAddress) else Feature.RESUME
    keeper = Keeper(connector_to(place, identity), str(place), name=default_name() if name is None else name, features=features)
    return RemoteBus(keeper, patience=patience)


def default_name() -> str:
    """Return what a client is called that has no name: its program, and its process."""
    return f"{Path(sys.argv[0]).name or 'python'}[{getpid()}]"


class RemoteBus(EventBus):
    """The bus of a daemon, on an event loop of asyncio.

    Enter it with ``async with``: that connects, and raises if the daemon cannot be
    reached or does not let the client in.  When the connection is lost later, it
    is had again; publishing goes on meanwhile.  It belongs to the thread that entered it.

    Args:
        keeper: Keeps the connection.
        patience: Seconds within which a daemon that is not there yet is tried again, at the beginning.
    """

    def __init__(self, keeper: Keeper, *, patience: float = 0.0) -> None:
        self._keeper = keeper
        self._patience = patience
        self._links: dict[str, Link] = {}
        self._own = OwnSpaces(keeper, self._links)
        self._endpoints: dict[str, RemoteEndpoint] = {}
        self._lines = Lines()
        self._asked: dict[tuple[Channel, int], anyio.CancelScope] = {}
        self._stack = AsyncExitStack()
        self._open = False
        self._tasks: TaskGroup  # these from the moment that it is entered
        self._arrival: anyio.Event
        self._directory: Directory
        self._memories: AddedMemories

    async def __aenter__(self) -> Self:
        check_loop()
        self._arrival = anyio.Event()
        self._directory = Directory(self._keeper, self._own.check_thread, self._lines, self._arrive)
        self._memories = AddedMemories(self._keeper, self._own, self._all_links, self._lend)
        self._keeper.handlers.update(self._handlers() | self._directory.handlers)
        self._keeper.join(Rank.MEMORIES, self._memories)
        self._keeper.join(Rank.SEATS, self._directory)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._own)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_callback(self._leave)
            await self._keeper.begin(self._patience)
            self._tasks.start_soon(self._keeper.keep)
            await self._directory.wait_listed()
            self._stack = stack.pop_all()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._shut()
        finally:
            await self._stack.__aexit__(None, None, None)  # told of the error, it would wrap it into a group

    async def close(self) -> None:
        if self._open:
            self._own.check_thread()
            self._shut()
            for link in self._all_links():
                await link.wait_closed()
        await checkpoint()

    # -- making ----------------------------------------------------------------------------

    async def create_space(
        self,
        name: str,
        *,
        granule: int = 0x1000,
        last: int = LAST,
        reserved: Iterable[IovaRange] = (),
        offers: Cap = Cap.IOTLB,
        straddle: Straddling = "refuse",
        demand_changed: DemandChanged | None = None,
        translate: Translate | None = None,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> RemoteSpace:
        self._check_open()
        await checkpoint()
        self._check_open()
        self._own.check_new(name)
        making = Making(
            name,
            Shape(granule, last, tuple(reserved)),
            offers=check_mask(offers),
            straddle=straddle,
            demand_changed=demand_changed,
            translate=translate,
            answer_timeout=answer_timeout,
        )
        while name in self._links:  # one of this name is being closed, or made
            await self._links[name].wait_settled()
            self._own.check_new(name)
        return await self._make_space(making)

    async def create_endpoint(self, name: str) -> RemoteEndpoint:
        self._check_open()
        await checkpoint()
        self._check_open()
        self._own.check_new(name)
        channel = self._keeper.channel
        if channel is None:
            raise self._keeper.disconnected()
        made: list[RemoteEndpoint] = []

        def take(_: Done) -> None:
            made.append(self._make_endpoint(name, channel))

        def undo(_: Done) -> None:
            channel.ask(lambda number: CloseEndpoint(number, name), lambda _: None)

        await channel.make(lambda number: CreateEndpoint(number, name), take, undo)
        return made[0]

    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        self._check_open()
        await checkpoint()
        self._check_open()
        return await self._memories.add(name, size, fd)

    def remove_memory(self, memory: Memory) -> None:
        self._check_open()
        if self._memories.remove(memory):
            self._tasks.start_soon(self._memories.tell)

    def memory_view(self, memory: Memory) -> memoryview:
        self._check_open()
        return self._own.memory_view(memory)
