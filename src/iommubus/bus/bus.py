"""The embedded bus: spaces by name, subscriptions, observers."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import count
from operator import index
from threading import get_ident
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from ..caps import Cap, check_mask
from ..contract import Contract
from ..errors import BadCapacity, BadName, BusClosed, MemoryInUse, NameTaken, NotifierFailed, UnknownName, WrongThread
from ..events import Memory
from ..mailbox import CAPACITY
from ..ranges import LAST, IovaRange
from ..shape import Shape
from .abc import SYNC_TIMEOUT, Acknowledge, DemandChanged, EventBus, OnFence, Stops, Straddling, Translate
from .buried import Buried
from .endpoint import LocalEndpoint, check_inside, check_together, common_space, follow, join_ranges
from .logs import Lines
from .member import Member, Terms, check_holder
from .memory import Memories
from .observer import OBSERVER_CAPACITY, LocalObserver, Watcher
from .publisher import Making, Surroundings
from .questions import ANSWER_TIMEOUT
from .reports import BusStatistics, SyncReport
from .soon import soon_in_this_loop
from .space import LocalSpace
from .subscription import StreamSubscription
from .sync import Sync
from .threads import ThreadPublisher

PATTERN_CHARACTERS: Final = frozenset("*?[]")
NUMBERS: Final = count(1)
"""Numbers for subscriptions without a name of their own."""

EVERYTHING: Final = ("*",)
"""What is meant where nothing is named: a `sync` over nothing would promise nothing."""


class Bus(EventBus):
    """An event bus in this process, on any event loop that anyio knows.

    Enter it with ``async with``; it starts no task of its own.  It belongs to
    the thread that entered it.
    """

    def __init__(self) -> None:
        self._owner = 0
        self._spaces: dict[str, LocalSpace] = {}
        self._endpoints: dict[str, LocalEndpoint] = {}
        self._joined: dict[Member, tuple[LocalEndpoint, ...]] = {}
        self._observers: list[Watcher] = []
        self._arrival: anyio.Event | None = None  # what everybody waits for who waits for a space
        self.memories = Memories()
        self._lines = Lines()
        self._buried = Buried(do_nothing)
        self._around = Surroundings(self.memories, self._lines, self._buried)
        self._open = False

    async def __aenter__(self) -> Self:
        await checkpoint()
        self._owner = get_ident()
        self._buried = Buried(soon_in_this_loop())
        self._around = Surroundings(self.memories, self._lines, self._buried)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut()

    async def close(self) -> None:
        if self._open:
            self._check_thread()
            self._shut()
        await checkpoint()

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
    ) -> LocalSpace:
        self._check_open()
        await checkpoint()
        return self.open_space(
            Making(
                name,
                Shape(granule, last, tuple(reserved)),
                offers=check_mask(offers),
                straddle=straddle,
                demand_changed=demand_changed,
                translate=translate,
                answer_timeout=answer_timeout,
            )
        )

    def open_space(self, making: Making) -> LocalSpace:
        """Do `create_space` without waiting, for those who make spaces for others; raises the same."""
        self._check_open()
        self._check_new(making.name)
        space = self._spaces[making.name] = self._build_space(making)
        for observer in self._observers:
            if observer.matches(making.name):
                space.routes.add_observer(observer.put)
        self._endpoint(making.name).come(space)
        self._tell_arrival()
        return space

    async def create_endpoint(self, name: str) -> LocalEndpoint:
        self._check_open()
        await checkpoint()
        return self.open_endpoint(name)

    def open_endpoint(self, name: str) -> LocalEndpoint:
        """Do `create_endpoint` without waiting; raises the same."""
        self._check_open()
        self._check_new(name)
        endpoint = self._endpoint(name)
        endpoint.made = True
        return endpoint

    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        self._check_open()
        await checkpoint()
        self._check_open()
        return self.memories.add(name, size, fd)

    def remove_memory(self, memory: Memory) -> None:
        self._check_open()
        self.memories.find(memory)
        for space in self._spaces.values():
            mapping = space.leading_to(memory)
            if mapping is not None:
                raise MemoryInUse(str(memory), space.name, mapping.first, mapping.last)
        self.memories.remove(memory)

    def memory_view(self, memory: Memory) -> memoryview:
        self._check_open()
        return self.memories.view(memory)

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
    ) -> StreamSubscription:
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
        member, enroll = self.enlist(endpoint, terms)

        async def register() -> None:
            enroll()

        return StreamSubscription(member, register, self._check_thread, ack, self.memories.find)

    def enlist(self, endpoint: str | Iterable[str], terms: Terms) -> tuple[Member, Callable[[], None]]:
        """Return what the bus keeps of a subscription, and what registers it: for those who subscribe for others.

        Args:
            endpoint: As for `EventBus.subscribe`.
            terms: What is asked for, not checked yet; a name is made up where there is none.

        Raises:
            SubscribeError, BadName, BusClosed, WrongThread: As `EventBus.subscribe`; and so does what registers it.
        """
        endpoints, checked = self.plan_subscription(endpoint, terms)
        member = Member(checked, self._buried, self._part)
        return member, lambda: self._enroll(member, endpoints)

    def plan_subscription(self, endpoint: str | Iterable[str], terms: Terms) -> tuple[tuple[str, ...], Terms]:
        """Return the endpoints and the terms of a subscription, checked; takes and raises what `enlist` does."""
        self._check_open()
        endpoints = (endpoint,) if isinstance(endpoint, str) else tuple(dict.fromkeys(endpoint))
        for each in endpoints or ("",):
            check_name(each)
        return endpoints, self._checked(terms, endpoints)

    def observe(self, *patterns: str, capacity: int = OBSERVER_CAPACITY) -> LocalObserver:
        self._check_open()
        if capacity < 1:
            raise BadCapacity(capacity)
        self._select(patterns)
        return LocalObserver(patterns or EVERYTHING, index(capacity), self.attach_observer)

    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        self._check_open()
        return await Sync(self._select(patterns)).run(timeout)

    def spaces(self) -> tuple[LocalSpace, ...]:
        return tuple(self._spaces.values())

    def space(self, name: str) -> LocalSpace:
        """Return an open space.

        Raises:
            UnknownName: There is none of this name.
        """
        return self._space(name)

    def place(self, endpoints: Iterable[str]) -> LocalSpace | None:
        """Return the space that the endpoints of these names are all in; `None` if one is elsewhere, or nowhere."""
        places = {self._endpoints[name].place if name in self._endpoints else None for name in endpoints}
        return places.pop() if len(places) == 1 else None

    def endpoints_of(self, member: Member) -> tuple[str, ...]:
        """Return the names of the endpoints of a subscription; none if it has left."""
        return tuple(endpoint.name for endpoint in self._joined.get(member, ()))

    async def wait_space(self, name: str) -> LocalSpace:
        self._check_open()
        await checkpoint()
        while name not in self._spaces:
            self._check_open()
            self._arrival = self._arrival or anyio.Event()
            await self._arrival.wait()
        return self._spaces[name]

    def in_thread(self) -> ThreadPublisher:
        """Return what other threads publish with, once it is entered in this one.

        Raises:
            BusClosed, WrongThread: The bus cannot be used.
        """
        self._check_open()
        return ThreadPublisher(self)

    def statistics(self) -> BusStatistics:
        return BusStatistics(
            spaces={name: space.statistics() for name, space in self._spaces.items()},
            endpoints={name: endpoint.statistics() for name, endpoint in self._endpoints.items()},
            observers=tuple(observer.statistics() for observer in self._observers),
        )

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<bus {state}, {len(self._spaces)} spaces, {len(self._observers)} observers>"

    def attach_observer(self, observer: Watcher) -> Callable[[], None]:
        """Begin to feed an observer; return what stops that.

        Raises:
            BusClosed, WrongThread: The bus cannot be used.
        """
        self._check_open()
        self._observers.append(observer)
        for space in self._spaces.values():
            if observer.matches(space.name):
                space.routes.add_observer(observer.put)
        return lambda: self._detach_observer(observer)

    # -- inside ----------------------------------------------------------------

    def _build_space(self, making: Making) -> LocalSpace:
        """Return a new space; a bus whose spaces do more has another."""
        return LocalSpace(making, self._around, self._forget)

    def _check_thread(self) -> None:
        if get_ident() != self._owner:
            raise WrongThread(self._owner, get_ident())

    def _check_open(self) -> None:
        if not self._open:
            raise BusClosed
        self._check_thread()

    def _space(self, name: str) -> LocalSpace:
        if name not in self._spaces:
            raise UnknownName(name, tuple(self._spaces))
        return self._spaces[name]

    def _endpoint(self, name: str) -> LocalEndpoint:
        """Return an endpoint, which may not exist yet."""
        if name not in self._endpoints:
            self._endpoints[name] = LocalEndpoint(name, self._check_thread, self._owns, self._drop)
        return self._endpoints[name]

    def _check_new(self, name: str) -> None:
        """Check a name for a space or an endpoint that is going to be made."""
        check_name(name)
        if name in self._endpoints and self._endpoints[name].made:
            raise NameTaken(name)

    def _checked(self, terms: Terms, endpoints: tuple[str, ...]) -> Terms:
        """Return what a subscription asks for, if it can be had."""
        mask = check_mask(terms.caps)
        if terms.capacity < 1:
            raise BadCapacity(terms.capacity)
        check_holder(terms.stops, terms.holder)
        wanted = join_ranges(terms.wanted, endpoints[0])
        terms.contract.check_mask(mask)
        terms.contract.check_ranges(wanted)
        for each in endpoints:
            if each in self._spaces:
                check_inside(wanted, self._spaces[each])
        name = terms.name or f"{endpoints[0]}#{next(NUMBERS)}"
        return replace(terms, name=name, caps=mask, wanted=wanted, capacity=index(terms.capacity))

    def _owns(self, space: LocalSpace) -> bool:
        """Say whether a space is one of this bus; one that is closed says so itself."""
        return space.surroundings is self._around

    def _drop(self, endpoint: LocalEndpoint) -> None:
        if self._endpoints.get(endpoint.name) is endpoint:
            del self._endpoints[endpoint.name]

    def _enroll(self, member: Member, names: tuple[str, ...]) -> None:
        """Register a subscription with its endpoints; raises as `Member.join` does."""
        self._check_open()
        endpoints = tuple(map(self._endpoint, names))
        try:
            check_together(member, endpoints)
            self._joined[member] = endpoints
            for endpoint in endpoints:
                endpoint.members.append((member, endpoints))
            member.join(common_space(endpoints))
        except BaseException:
            self._part(member)
            for endpoint in endpoints:
                endpoint.look()
            raise
        follow(member, endpoints)  # the producer, when it was asked, may have moved one
        if member.ended:  # or closed the space
            self._part(member)

    def _part(self, member: Member) -> None:
        """Move a subscription about no longer."""
        for endpoint in self._joined.pop(member, ()):
            endpoint.remove(member)

    def _select(self, patterns: tuple[str, ...]) -> tuple[LocalSpace, ...]:
        """Return the spaces that match, all if nothing was named; a plain name has to be one."""
        for pattern in patterns:
            if not PATTERN_CHARACTERS & set(pattern):
                self._space(pattern)
        return tuple(
            space
            for name, space in self._spaces.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns or EVERYTHING)
        )

    def _detach_observer(self, observer: Watcher) -> None:
        if observer in self._observers:
            self._observers.remove(observer)
        for space in self._spaces.values():
            space.routes.remove_observer(observer.put)

    def _forget(self, space: LocalSpace) -> None:
        """Take a closed space off the list, and out of every endpoint; its name is free again."""
        del self._spaces[space.name]
        for endpoint in [one for one in self._endpoints.values() if one.place is space]:
            if endpoint.name == space.name:
                endpoint.finish()
            else:
                endpoint.detach()

    def _tell_arrival(self) -> None:
        if self._arrival is not None:
            arrival, self._arrival = self._arrival, None
            arrival.set()

    def _shut_spaces(self) -> tuple[list[Exception], list[BaseException]]:
        """Close every space; return what notifiers raised."""
        failures: list[Exception] = []
        interrupts: list[BaseException] = []
        for space in self.spaces():
            try:
                space.shut()
            except NotifierFailed as failed:
                failures += failed.exceptions
            except BaseException as interrupt:  # noqa: BLE001 - raised once everything is shut
                interrupts.append(interrupt)
        return failures, interrupts

    def _shut(self) -> None:
        failures, interrupts = self._shut_spaces()
        for endpoint in list(self._endpoints.values()):
            endpoint.shut()
        for observer in self._observers:
            observer.end()
        self.memories.close()
        self._open = False
        self._tell_arrival()
        if interrupts:
            raise interrupts[0]
        if failures:
            raise NotifierFailed(f"{len(failures)} notifiers raised", failures)


def check_name(name: str) -> None:
    """Check a name of a space or an endpoint.

    Raises:
        BadName: It cannot be told from a pattern.
    """
    if not name or PATTERN_CHARACTERS & set(name):
        raise BadName(name)


def do_nothing(_: Callable[[], object]) -> None:
    """Stand in for the loop of a bus that was not entered."""
