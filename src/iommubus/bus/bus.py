"""The embedded bus: spaces by name, subscriptions, observers."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import index
from threading import get_ident
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint

from ..caps import Cap, check_mask
from ..errors import BadCapacity, BadName, BusClosed, NameTaken, NotifierFailed, UnknownName, WrongThread
from ..mailbox import CAPACITY
from ..ranges import LAST, IovaRange
from ..shape import Shape
from .abc import SYNC_TIMEOUT, Acknowledge, DemandChanged, EventBus, OnFence, Stops, Straddling
from .endpoint import Endpoint
from .logs import Lines
from .member import Member
from .observer import OBSERVER_CAPACITY, LocalObserver
from .reports import BusStatistics, SyncReport
from .space import LocalSpace, Soon, sync_spaces
from .subscription import LocalSubscription
from .threads import ThreadPublisher, soon_in_this_loop

PATTERN_CHARACTERS: Final = frozenset("*?[]")
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
        self._endpoints: dict[str, Endpoint] = {}
        self._observers: list[LocalObserver] = []
        self._awaited: dict[str, anyio.Event] = {}
        self._lines = Lines()
        self._soon: Soon = do_nothing
        self._open = False

    async def __aenter__(self) -> Self:
        await checkpoint()
        self._owner = get_ident()
        self._soon = soon_in_this_loop()
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
    ) -> LocalSpace:
        self._check_open()
        await checkpoint()
        self._check_open()
        if not name or PATTERN_CHARACTERS & set(name):
            raise BadName(name)
        if name in self._spaces:
            raise NameTaken(name)
        space = LocalSpace(
            name,
            Shape(granule, last, tuple(reserved)),
            offers=check_mask(offers),
            straddle=straddle,
            demand_changed=demand_changed,
            lines=self._lines,
            soon=self._soon,
            on_close=self._forget,
        )
        self._spaces[name] = space
        self._endpoints[name] = Endpoint(name, space)
        for observer in self._observers:
            if observer.matches(name):
                space.routes.add_observer(observer.put)
        if name in self._awaited:
            self._awaited.pop(name).set()
        return space

    def subscribe(
        self,
        endpoint: str,
        caps: Cap,
        *,
        first: int = 0,
        last: int = LAST,
        ranges: Iterable[tuple[int, int]] | None = None,
        capacity: int = CAPACITY,
        ack: Acknowledge = "next",
        stops: Stops = "lease",
        on_fence: OnFence | None = None,
        name: str | None = None,
    ) -> LocalSubscription:
        self._check_open()
        mask = check_mask(caps)
        if capacity < 1:
            raise BadCapacity(capacity)
        target = self._endpoint(endpoint)
        member = Member(
            target.space,
            mask,
            target.clip([(first, last)] if ranges is None else ranges),
            capacity=index(capacity),
            stops=stops,
            on_fence=on_fence,
            name=name,
        )
        return LocalSubscription(member, target.space.enroll, self._check_thread, ack)

    def observe(self, *patterns: str, capacity: int = OBSERVER_CAPACITY) -> LocalObserver:
        self._check_open()
        if capacity < 1:
            raise BadCapacity(capacity)
        self._select(patterns)
        return LocalObserver(patterns or EVERYTHING, index(capacity), self._attach_observer)

    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        self._check_open()
        return await sync_spaces(self._select(patterns), timeout)

    def spaces(self) -> tuple[LocalSpace, ...]:
        return tuple(self._spaces.values())

    def space(self, name: str) -> LocalSpace:
        """Return an open space.

        Raises:
            UnknownName: There is none of this name.
        """
        return self._endpoint(name).space

    async def wait_space(self, name: str) -> LocalSpace:
        self._check_open()
        await checkpoint()
        while name not in self._spaces:
            self._check_open()
            await self._awaited.setdefault(name, anyio.Event()).wait()
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
            observers=tuple(observer.statistics() for observer in self._observers),
        )

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<bus {state}, {len(self._spaces)} spaces, {len(self._observers)} observers>"

    # -- inside ----------------------------------------------------------------

    def _check_thread(self) -> None:
        if get_ident() != self._owner:
            raise WrongThread(self._owner, get_ident())

    def _check_open(self) -> None:
        if not self._open:
            raise BusClosed
        self._check_thread()

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self._endpoints:
            raise UnknownName(name, tuple(self._endpoints))
        return self._endpoints[name]

    def _select(self, patterns: tuple[str, ...]) -> tuple[LocalSpace, ...]:
        """Return the spaces that match, all if nothing was named; a plain name has to be one."""
        for pattern in patterns:
            if not PATTERN_CHARACTERS & set(pattern):
                self._endpoint(pattern)
        return tuple(
            space
            for name, space in self._spaces.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns or EVERYTHING)
        )

    def _attach_observer(self, observer: LocalObserver) -> Callable[[], None]:
        self._check_open()
        self._observers.append(observer)
        for space in self._spaces.values():
            if observer.matches(space.name):
                space.routes.add_observer(observer.put)
        return lambda: self._detach_observer(observer)

    def _detach_observer(self, observer: LocalObserver) -> None:
        if observer in self._observers:
            self._observers.remove(observer)
        for space in self._spaces.values():
            space.routes.remove_observer(observer.put)

    def _forget(self, space: LocalSpace) -> None:
        """Take a closed space off the list; its name is free again."""
        del self._spaces[space.name], self._endpoints[space.name]

    def _shut(self) -> None:
        failures: list[Exception] = []
        for space in self.spaces():
            try:
                space.shut()
            except NotifierFailed as failed:
                failures += failed.exceptions
        for observer in self._observers:
            observer.end()
        self._open = False
        while self._awaited:
            self._awaited.popitem()[1].set()
        if failures:
            raise NotifierFailed(f"{len(failures)} notifiers raised", failures)


def do_nothing(_: Callable[[], object]) -> None:
    """Stand in for the loop of a bus that was not entered."""
