"""Those who keep translations of a space in the demo, each a task of its own.

* `Shadower` stands for VFIO: asks for MAP and UNMAP in the ranges that the MSI
  window leaves, keeps an exact copy, and is hardware: ``stops="exit"``.
* `SlowShadower` is one with a small mailbox that takes nothing until a `sync`
  makes it.  Its mailbox must overflow, and its copy must be right all the same.
* `Follower` subscribes to an endpoint instead of a space, and goes where that goes.
* `Cacher` stands for vhost: asks for UNMAP alone, and fills its cache by asking.

They follow the bus and know nothing of the trace; the judge looks at what they hold.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskStatus

from ..bus.abc import Batch, EventBus, Subscription
from ..caps import Cap, Perm
from ..consumers.iotlb import Iotlb
from ..consumers.mirror import Mirror
from ..errors import MappingError, TranslationFault
from ..events import DevIotlbUnmap, Event, Map, Unmap
from ..mapping import Mapping
from ..ranges import LAST
from .judge import Held
from .pages import Pages, Ranges
from .result import Received

MSI_HOLE: Final[Ranges] = ((0, 0xFEDF_FFFF), (0xFEF0_0000, LAST))
"""What VFIO asks for on x86: all but the window of the message-signalled interrupts."""

SLOW_CAPACITY: Final = 64
"""Events that wait for the slow shadower: fewer than are published between two syncs."""

ANY: Final = Perm(0)
"""Asks where an address leads, whatever is allowed there; the trace does not say the access."""


class Gate:
    """What the slow shadower waits at; open while a `sync` runs."""

    def __init__(self) -> None:
        self._opened = anyio.Event()

    def open(self) -> None:
        """Let everybody through until `shut`."""
        self._opened.set()

    def shut(self) -> None:
        """Let nobody through."""
        self._opened = anyio.Event()

    async def wait(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()


class Shadower:
    """Keeps an exact copy, as a `Mirror` and page by page.

    Attributes:
        mirror: Its copy; there once it runs.

    Args:
        space: Name of the space.
        granule: Bytes in a page.
    """

    mirror: Mirror
    _subscription: Subscription

    name = "vfio"
    role = "keeps a copy, as VFIO does"

    def __init__(self, space: str, granule: int) -> None:
        self.space = space
        self.pages = Pages(granule)

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end."""
        subscription = bus.subscribe(
            self.space, Cap.IOTLB, ranges=MSI_HOLE, stops="exit", on_fence=self.empty, name=self.name
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

    def mirrored(self) -> Pages:
        """Return the pages of its `Mirror`, which is a table."""
        pages = Pages(self.pages.size)
        for mapping in self.mirror:
            pages.map(mapping.first, mapping.last, mapping.target, mapping.perm)

        return pages

    def received(self, *, may_conflate: bool = False) -> Received:
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
            may_conflate=may_conflate,
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
    """Takes a hand-over only while its gate is open.

    Args:
        space: Name of the space.
        granule: Bytes in a page.
        gate: What it waits at.
    """

    name = "vfio-slow"
    role = f"slow copy, mailbox of {SLOW_CAPACITY}"

    def __init__(self, space: str, granule: int, gate: Gate) -> None:
        super().__init__(space, granule)
        self._gate = gate

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end, hand-over by hand-over."""
        subscription = bus.subscribe(
            self.space,
            Cap.IOTLB,
            ranges=MSI_HOLE,
            capacity=SLOW_CAPACITY,
            ack="manual",
            stops="exit",
            on_fence=self.empty,
            name=self.name,
        )
        async with self._entered(subscription, task_status) as events:
            await self._gate.wait()
            async for batch in events.batches():
                self._take_all(batch)
                events.ack(batch)
                await self._gate.wait()

    def received(self, *, may_conflate: bool = True) -> Received:
        """Return its counters."""
        return super().received(may_conflate=may_conflate)

    def _take_all(self, batch: Batch) -> None:
        for event in batch:
            self.take(event)


class Follower(Shadower):
    """Keeps a copy of the space that its endpoint is in, and of nothing where that is in none.

    Args:
        endpoint: Name of the endpoint, and its own.
        granule: Bytes in a page.
    """

    role = "follows its endpoint"

    def __init__(self, endpoint: str, granule: int) -> None:
        super().__init__(endpoint, granule)
        self.name = endpoint


class Cacher:
    """Keeps what it asked for until it is told to drop it.

    Attributes:
        iotlb: Its cache; there once it runs.

    Args:
        space: Name of the space.
        granule: Bytes in a page.
    """

    iotlb: Iotlb
    _subscription: Subscription

    name = "vhost"
    role = "keeps a cache, as vhost does"

    def __init__(self, space: str, granule: int) -> None:
        self.space = space
        self._granule = granule
        self._asked: dict[int, tuple[Mapping, int]] = {}

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

    async def miss(self, iova: int, line: int) -> int | None:
        """Ask where an address leads, and keep the answer.

        The address is dropped first: the trace says that vhost did not have it.

        Args:
            iova: The address.
            line: Line of the trace that is being played.

        Returns:
            The target, or `None` if it leads nowhere.
        """
        self.iotlb.invalidate(iova, iova)
        try:
            found = await self.iotlb.translate(iova, ANY)
        except TranslationFault:
            return None

        self._asked[found.first] = (found, line)
        return found.target + iova - found.first

    def held(self) -> Iterator[Held]:
        """Yield every page in the cache now; forget what is not in it any more."""
        cached = {mapping.first: mapping for mapping in self.iotlb}
        for first, (mapping, line) in list(self._asked.items()):
            if cached.get(first) != mapping:
                del self._asked[first]
                continue

            for page in range(mapping.first, mapping.last + 1, self._granule):
                yield Held(page, (mapping.target + page - mapping.first, mapping.perm), line)

    def received(self) -> Received:
        """Return its counters."""
        figures = self._subscription.statistics()
        unmaps = figures.delivered[Cap.UNMAP]
        return Received(self.space, self.name, self.role, None, unmaps, figures.lag, figures.conflations)
