"""Those who keep translations of a space in the demo, each a task of its own.

* `Shadower` stands for VFIO: asks for MAP and UNMAP in the ranges that the MSI
  window leaves, keeps an exact copy, and is hardware: ``stops="exit"``.
* `SlowShadower` is one with a small mailbox that takes nothing until a `sync`
  makes it.  Its mailbox must overflow, and its copy must be right all the same.
* `Follower` subscribes to an endpoint instead of a space, and goes where that goes.
* `Cacher` stands for vhost: asks for UNMAP alone, and fills its cache by asking.

They follow the bus and know nothing of the trace; the judge looks at the pages
that they hold.  In the demo across processes each has a process of its own.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
from anyio.abc import TaskStatus

from ..bus.abc import Batch, EventBus, OnFence, Stops, Subscription
from ..caps import Cap, Perm
from ..consumers.iotlb import Iotlb
from ..consumers.mirror import Mirror
from ..errors import Fenced, MappingError, TranslationFault
from ..events import DevIotlbUnmap, Event, Map, Unmap
from ..mapping import Mapping as BusMapping
from ..ranges import LAST
from .pages import Pages, Ranges, Target
from .result import Received

MSI_HOLE: Final[Ranges] = ((0, 0xFEDF_FFFF), (0xFEF0_0000, LAST))
"""What VFIO asks for on x86: all but the window of the message-signalled interrupts."""

SLOW_CAPACITY: Final = 64
"""Events that wait for the slow shadower: fewer than are published between two syncs."""

ANY: Final = Perm(0)
"""Asks where an address leads, whatever is allowed there; the trace does not say the access."""


class Keeper:
    """Holds pages, where the judge can see them.

    Attributes:
        pages: What it holds.

    Args:
        subject: Name of the space or endpoint.
        granule: Bytes in a page.
    """

    def __init__(self, subject: str, granule: int) -> None:
        self.space = subject
        self.pages = Pages(granule)

    @property
    def targets(self) -> Mapping[int, Target]:
        """What it holds at this moment, page by page."""
        return self.pages.targets


class Shadower(Keeper):
    """Keeps an exact copy, as a `Mirror` and page by page.

    Attributes:
        mirror: Its copy; there once it runs.
        stops: How it is proven stopped.

    Args:
        subject: Name of the space.
        granule: Bytes in a page.
    """

    mirror: Mirror
    _subscription: Subscription

    name = "vfio"
    role = "keeps a copy, as VFIO does"
    may_conflate = False
    stops: Stops = "exit"

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end."""
        subscription = bus.subscribe(
            self.space, Cap.IOTLB, ranges=MSI_HOLE, stops=self.stops, on_fence=self._on_fence(), name=self.name
        )
        async with self._entered(subscription, task_status) as events:
            async for event in events:
                self.take(event)

    def take(self, event: Event) -> None:
        """Apply an event, or say that it cannot be applied."""
        try:
            self.apply(event)
        except MappingError as error:
            self._subscription.fail(event, error)

    def apply(self, event: Event) -> None:
        """Follow one event; raises as `Mirror.apply` does."""
        self.mirror.apply(event)
        match event:
            case Map():
                self.pages.map(event.first, event.last, event.target, event.perm)
            case Unmap():
                self.pages.unmap(event.first, event.last)
            case DevIotlbUnmap():
                pass

    async def empty(self) -> None:
        """Stop the device: it holds nothing after that."""
        self.pages.unmap(0, LAST)

    def _on_fence(self) -> OnFence | None:
        return self.empty if self.stops == "exit" else None

    async def table(self) -> Mapping[int, Target]:
        """Return the pages of its `Mirror`, which is a table."""
        pages = Pages(self.pages.size)
        for mapping in self.mirror:
            pages.map(mapping.first, mapping.last, mapping.target, mapping.perm)

        return pages.targets

    async def received(self) -> Received:
        """Return its counters."""
        figures = self._subscription.statistics()
        return Received(
            space=self.space,
            subscriber=self.name,
            role=self.role,
            maps=figures.delivered[Cap.MAP],
            unmaps=figures.delivered[Cap.UNMAP],
            lag=figures.lag,
            conflations=figures.conflations,
            may_conflate=self.may_conflate,
        )

    @asynccontextmanager
    async def _entered(
        self, subscription: Subscription, task_status: TaskStatus[None]
    ) -> AsyncGenerator[Subscription, None]:
        async with subscription:
            self._subscription = subscription
            self.mirror = Mirror(subscription)
            task_status.started()
            yield subscription


class SlowShadower(Shadower):
    """Takes a hand-over only while its gate is open: while a `sync` runs.

    Args:
        subject: Name of the space.
        granule: Bytes in a page.
    """

    name = "vfio-slow"
    role = f"slow copy, mailbox of {SLOW_CAPACITY}"
    may_conflate = True

    def __init__(self, subject: str, granule: int) -> None:
        super().__init__(subject, granule)
        self._opened = anyio.Event()

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end, hand-over by hand-over."""
        subscription = bus.subscribe(
            self.space,
            Cap.IOTLB,
            ranges=MSI_HOLE,
            capacity=SLOW_CAPACITY,
            ack="manual",
            stops=self.stops,
            on_fence=self._on_fence(),
            name=self.name,
        )
        async with self._entered(subscription, task_status) as events:
            await self._opened.wait()
            async for batch in events.batches():
                self._take_all(batch)
                events.ack(batch)
                await self._opened.wait()

    async def open_gate(self) -> None:
        """Take what waits, and what comes until `shut_gate`."""
        self._opened.set()

    async def shut_gate(self) -> None:
        """Take nothing any more."""
        self._opened = anyio.Event()

    def _take_all(self, batch: Batch) -> None:
        for event in batch:
            self.take(event)


class Follower(Shadower):
    """Keeps a copy of the space that its endpoint is in, and of nothing where that is in none.

    Args:
        subject: Name of the endpoint, and its own.
        granule: Bytes in a page.
    """

    role = "follows its endpoint"

    def __init__(self, subject: str, granule: int) -> None:
        super().__init__(subject, granule)
        self.name = subject


class Cacher(Keeper):
    """Keeps what it asked for until it is told to drop it.

    Attributes:
        iotlb: Its cache; there once it runs.

    Args:
        subject: Name of the space.
        granule: Bytes in a page.
    """

    iotlb: Iotlb
    _subscription: Subscription

    name = "vhost"
    role = "keeps a cache, as vhost does"

    def __init__(self, subject: str, granule: int) -> None:
        super().__init__(subject, granule)
        self._shown: dict[int, BusMapping] = {}

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end."""
        async with bus.subscribe(self.space, Cap.UNMAP, name=self.name) as events:
            self._subscription = events
            self.iotlb = Iotlb(events)
            task_status.started()
            async for event in events:
                self.apply(event)

    def apply(self, event: Event) -> None:
        """Drop what an event takes away."""
        self.iotlb.apply(event)
        self._show(event.first)

    async def miss(self, iova: int) -> BusMapping | None:
        """Ask where an address leads, keep the answer, and return it; `None` if it leads nowhere.

        The address is dropped first: the trace says that vhost did not have it.
        """
        self.iotlb.invalidate(iova, iova)
        self._show(iova & -self.pages.size)
        try:
            found = await self.iotlb.translate(iova, ANY)
        except TranslationFault:
            return None

        self._show(found.first, found)
        return found

    async def received(self) -> Received:
        """Return its counters."""
        figures = self._subscription.statistics()
        unmaps = figures.delivered[Cap.UNMAP]
        return Received(self.space, self.name, self.role, None, unmaps, figures.lag, figures.conflations)

    def _show(self, suspect: int, *new: BusMapping) -> None:
        """Show the pages that are in the cache, and no others.

        Only what was asked for comes in.  So whatever the cache has dropped, and
        for whatever reason, it has fewer entries than are shown.

        Args:
            suspect: First address of the entry that is the most likely to be gone.
            new: What came in.
        """
        if len(self._shown) + len(new) != len(self.iotlb):
            self._drop_if_gone(suspect)
        if len(self._shown) + len(new) != len(self.iotlb):
            self._drop_gone()

        for mapping in new:
            self.pages.map(mapping.first, mapping.last, mapping.target, mapping.perm)
            self._shown[mapping.first] = mapping

    def _drop_if_gone(self, first: int) -> None:
        shown = self._shown.get(first)
        with suppress(Fenced):
            if shown is not None and self.iotlb.lookup(first, ANY) is None:
                self._drop(shown)

    def _drop_gone(self) -> None:
        cached = {mapping.first: mapping for mapping in self.iotlb}
        for first, mapping in list(self._shown.items()):
            if cached.get(first) != mapping:
                self._drop(mapping)

    def _drop(self, mapping: BusMapping) -> None:
        del self._shown[mapping.first]
        self.pages.unmap(mapping.first, mapping.last)
