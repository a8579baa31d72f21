"""The bus of a daemon: the same as an embedded one to those who use it."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from fnmatch import fnmatchcase
from logging import getLogger
from operator import index
from os import getpid
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from ..bus.abc import (
    SYNC_TIMEOUT,
    Acknowledge,
    AddressSpace,
    DemandChanged,
    EventBus,
    Observer,
    OnFence,
    Stops,
    Straddling,
    Subscription,
    Translate,
)
from ..bus.bus import EVERYTHING
from ..bus.logs import Lines
from ..bus.member import Terms
from ..bus.observer import OBSERVER_CAPACITY
from ..bus.publisher import Making
from ..bus.questions import ANSWER_TIMEOUT
from ..bus.reports import BusStatistics, SyncReport
from ..bus.soon import soon_in_this_loop
from ..bus.threads import ThreadPublisher
from ..caps import Cap, check_mask
from ..contract import Contract
from ..errors import AddressError, BadCapacity, BusClosed, IommubusError, MustShare, WrongLoop
from ..events import Memory
from ..mailbox import CAPACITY
from ..ranges import LAST, IovaRange
from ..shape import Shape
from ..transport.address import Address, TlsAddress, UnixAddress, default_address, parse_address
from ..transport.tasks import Tasks
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
from .memories import LentMemories, Open, open_at
from .reconnect import Keeper, Rank, connector_to
from .seats import Seats
from .spaces import OwnSpaces, RemoteEndpoint, RemoteSpace, sync_spaces
from .watching import RemoteObserver, Watchers

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
    second = open_at(place.path) if isinstance(place, UnixAddress) else None
    keeper = Keeper(
        connector_to(place, identity),
        str(place),
        name=default_name() if name is None else name,
        features=Feature.RESUME if second is None else Feature.RESUME | Feature.DESCRIPTORS,
    )
    return RemoteBus(keeper, patience=patience, open_second=second)


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
        open_second: Opens a second connection, for descriptors; `None` where they do not travel.
    """

    def __init__(self, keeper: Keeper, *, patience: float = 0.0, open_second: Open | None = None) -> None:
        self._keeper = keeper
        self._open_second = open_second
        self._patience = patience
        self._links: dict[str, Link] = {}
        self._own = OwnSpaces(keeper, self._links)
        self._endpoints: dict[str, RemoteEndpoint] = {}
        self._lines = Lines()
        self._tasks = Tasks()
        self._asked: dict[tuple[Channel, int], asyncio.Task[Any]] = {}
        self._stack = AsyncExitStack()
        self._open = False
        self._arrival: anyio.Event  # these from the moment that it is entered
        self._directory: Directory
        self._memories: AddedMemories
        self._lent: LentMemories
        self._seats: Seats
        self._watchers: Watchers

    async def __aenter__(self) -> Self:
        check_loop()
        self._arrival = anyio.Event()
        self._directory = Directory(self._keeper, self._own.check_thread, self._lines, self._arrive)
        self._lent = LentMemories(self._open_second, self._run, self._own.memories.find, self._known)
        self._memories = AddedMemories(self._keeper, self._own, self._all_links, self._lent.lend)
        self._seats = Seats(self._keeper.clock, soon_in_this_loop(), self._run, self._lent.knows)
        self._keeper.on_sync = self._seats.speak
        self._watchers = Watchers()
        for part in (self._directory, self._lent, self._seats, self._watchers):
            self._keeper.handlers.update(part.handlers)
        self._keeper.handlers.update(self._handlers)
        self._keeper.join(Rank.MEMORIES, self._lent)
        self._keeper.join(Rank.MEMORIES, self._memories)
        self._keeper.join(Rank.SEATS, self._seats)
        self._keeper.join(Rank.SEATS, self._watchers)
        self._keeper.join(Rank.SEATS, self._directory)
        stack = self._stack = AsyncExitStack()
        try:
            await stack.enter_async_context(self._own)
            await stack.enter_async_context(self._tasks)
            stack.push_async_callback(self._keeper.end)
            await self._keeper.begin(self._patience)
            self._tasks.start_soon(self._keeper.keep)
            await self._directory.wait_listed()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stack.aclose()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._shut()
        finally:
            await self._stack.aclose()

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
            if self._keeper.channel is None:
                raise self._keeper.disconnected()
            await self._links[name].wait_change()
            self._own.check_new(name)
        link = self._links[name] = Link(making, self._keeper, self._created)
        link.on_gone = lambda: self._drop_link(link)
        space = await link.create(lambda: self._own.open_space(making))
        assert isinstance(space, RemoteSpace)  # noqa: S101 - what this bus makes
        return space

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
            made.append(self._make_endpoint(name))

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

    # -- following -------------------------------------------------------------------------

    def subscribe(
        self,
        endpoint: str | Iterable[str],
        caps: Cap,
        *,
        first: int = 0,
        last: int = LAST,
        ranges: Iterable[tuple[int, int]] | None = None,
        capacity: int = CAPACITY,
        ack: Acknowledge = "next",
        stops: Stops = "lease",
        on_fence: OnFence | None = None,
        holder: int | None = None,
        granule: int = 1,
        pow2: bool = False,
        exact: bool = False,
        limit: int | None = None,
        name: str | None = None,
    ) -> Subscription:
        self._check_open()
        terms = Terms(
            name or "",
            caps,
            ((first, last),) if ranges is None else tuple(ranges),
            capacity,
            Contract(granule, pow2, exact, limit),
            stops,
            on_fence,
            holder=holder,
        )
        endpoints, checked = self._own.plan_subscription(endpoint, terms)
        checked = replace(checked, name=name or "")  # a name that is made up here may be another client's, too
        return self._seats.subscription(checked, endpoints, self._own.check_thread, ack, self._lent.find)

    def observe(self, *patterns: str, capacity: int = OBSERVER_CAPACITY) -> Observer:
        self._check_open()
        if capacity < 1:
            raise BadCapacity(capacity)
        return RemoteObserver(patterns or EVERYTHING, index(capacity), self._check_open, self._watchers)

    # -- all spaces ------------------------------------------------------------------------

    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        self._check_open()
        spaces = [
            space
            for space in self._own.spaces()
            if isinstance(space, RemoteSpace)
            and any(fnmatchcase(space.name, pattern) for pattern in patterns or EVERYTHING)
        ]
        wanted = list(patterns)
        return await sync_spaces(self._keeper, spaces, lambda number, left: Sync(number, left, wanted), timeout)

    def spaces(self) -> tuple[AddressSpace, ...]:
        own = {space.name: space for space in self._own.spaces()}
        every: dict[str, AddressSpace] = {**self._directory.foreign(self._links), **own}
        places = {name: place for place, name in enumerate(self._directory.names)}
        return tuple(sorted(every.values(), key=lambda space: places.get(space.name, len(places))))

    async def wait_space(self, name: str) -> AddressSpace:
        self._check_open()
        await checkpoint()
        while True:
            self._check_open()
            found = [space for space in self.spaces() if space.name == name]
            if found:
                return found[0]
            await self._arrival.wait()

    def in_thread(self) -> ThreadPublisher:
        """Return what other threads publish with, once it is entered in this one.

        Raises:
            BusClosed, WrongThread: The bus cannot be used.
        """
        self._check_open()
        return ThreadPublisher(self)

    def statistics(self) -> BusStatistics:
        """Return what is known here: of what this client publishes, and what the daemon said of other spaces."""
        own = self._own.statistics()
        return own._replace(spaces={space.name: space.statistics() for space in self.spaces()})

    def __repr__(self) -> str:
        state = "closed" if not self._open else "connected" if self._keeper.channel is not None else "not connected"
        return f"<bus of the daemon at {self._keeper.address}, {state}, {len(self._links)} own spaces>"

    # -- inside: what the daemon says ------------------------------------------------------

    @property
    def _handlers(self) -> dict[type[Message], Handler]:
        return {
            Published: lambda _, message: self._tell_link(message, Link.published),
            PublishFailed: lambda _, message: self._tell_link(message, Link.failed),
            DemandWords: self._change_demand,
            Ask: self._ask,
            Cancel: self._cancel,
        }

    def _link(self, message: Any) -> Link | None:
        """Return the link that a message is about; what it says of an older space of the name is passed over."""
        link = self._links.get(message.space)
        return link if link is not None and link.epoch == message.epoch else None

    def _tell_link(self, message: Any, tell: Callable[[Link, Any], None]) -> None:
        link = self._link(message)
        if link is not None:
            tell(link, message)

    def _change_demand(self, channel: Channel, message: DemandWords) -> None:
        link = self._link(message)
        if link is None:
            channel.send(Done(message.request))
        else:
            link.demand_changed(channel, message)

    def _ask(self, channel: Channel, message: Ask) -> None:
        task = self._tasks.start_soon(self._answer, channel, message)
        if task is not None:
            self._asked[channel, message.request] = task

    async def _answer(self, channel: Channel, message: Ask) -> None:
        try:
            space = self._own.space(message.space)
            assert isinstance(space, RemoteSpace)  # noqa: S101 - what this bus makes
            await space.answer(channel, message)
        except IommubusError as failure:
            channel.send(Refused(message.request, to_failure(failure)))
        finally:
            self._asked.pop((channel, message.request), None)

    def _cancel(self, channel: Channel, message: Cancel) -> None:
        task = self._asked.get((channel, message.request))
        if task is not None:
            task.cancel()

    # -- inside: what is published ---------------------------------------------------------

    def _all_links(self) -> tuple[Link, ...]:
        return tuple(self._links.values())

    def _created(self, link: Link) -> None:
        """Have the endpoints attached that are in a space which the daemon has again."""
        for endpoint in self._endpoints.values():
            if endpoint.place is not None and endpoint.place.link is link:
                endpoint.say_place()

    def _drop_link(self, link: Link) -> None:
        if self._links.get(link.name) is link:
            del self._links[link.name]
        self._directory.retire(link.epoch)

    def _make_endpoint(self, name: str) -> RemoteEndpoint:
        endpoint = RemoteEndpoint(self._own.open_endpoint(name), self._keeper, self._check_shared, self._drop_endpoint)
        self._endpoints[name] = endpoint
        self._keeper.join(Rank.ENDPOINTS, endpoint)
        return endpoint

    def _check_shared(self, endpoint: RemoteEndpoint, space: RemoteSpace) -> None:
        """Raise `MustShare` if a subscription of this client needs an endpoint in another space."""
        for name, endpoints in self._seats.sharing(endpoint.name):
            for other in endpoints:
                place = None if other == endpoint.name else self._place_of(other)
                if place is not None and place is not space:
                    raise MustShare(name, endpoint.name, space.name, other, place.name)

    def _place_of(self, name: str) -> AddressSpace | None:
        """Return the space that an endpoint of this client is in; of others nothing is known here."""
        if name in self._endpoints:
            return self._endpoints[name].place
        return next((space for space in self._own.spaces() if space.name == name), None)

    def _drop_endpoint(self, endpoint: RemoteEndpoint) -> None:
        self._keeper.part(endpoint)
        if self._endpoints.get(endpoint.name) is endpoint:
            del self._endpoints[endpoint.name]

    # -- inside: beginning and end ---------------------------------------------------------

    def _check_open(self) -> None:
        if not self._open:
            raise BusClosed
        self._own.check_thread()
        if self._keeper.error is not None:
            raise self._keeper.error

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done in a task, if there still are any."""
        self._tasks.start_soon(work)

    def _known(self, memory: Memory) -> None:
        self._seats.known(memory)

    def _arrive(self) -> None:
        arrival, self._arrival = self._arrival, anyio.Event()
        arrival.set()

    def _shut(self) -> None:
        """Close what is published, and end every stream."""
        if not self._open:
            return
        self._open = False
        for endpoint in list(self._endpoints.values()):
            endpoint.shut()
        try:
            self._own.shut()
        finally:
            self._keeper.tell_ended()
            self._arrive()


def check_loop() -> None:
    """Check that this runs on asyncio.

    Raises:
        WrongLoop: It does not.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise WrongLoop from None
