"""A space beside the array of pages that it must equal, and those who follow it.

Every change is made to both.  What the array refuses the space has to refuse
too, with the same kind of error and without a trace.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Any, Final, cast

from anyio.abc import TaskGroup

from ...bus.abc import AddressSpace, EventBus
from ...bus.reports import SyncReport
from ...caps import Cap, Perm
from ...errors import MappingError
from ...events import Event
from ...mapping import Mapping
from ...ranges import IovaRange
from ..oracle import WHOLE, PageArray, Ranges
from .demands import demand, demand_raised
from .follower import Follower

PAGE: Final = 0x1000
"""Bytes in a page of every scene."""

TARGET: Final = 0x8000_0000
"""Where the first mapping leads; each goes elsewhere, so that an old one is known by it."""

FAR: Final = 0x10_0000
"""Bytes from one target to the next: no mapping of a scene is as long."""


class Scene:
    """One space of a bus, as its producer sees it.

    Args:
        stage: Where it is played.
        space: The space.
        pages: What it must equal.
        size: Bytes in the space.
        ats: Whether each removal is followed by an invalidation of device TLBs.
    """

    def __init__(
        self,
        stage: "Stage",
        space: AddressSpace,
        pages: PageArray,
        *,
        size: int,
        ats: bool,
    ) -> None:
        self.bus = stage.bus
        self.stage = stage
        self.space = space
        self.pages = pages
        self.size = size
        self.followers: list[Follower] = []
        self._ats = ats

    # -- changing ----------------------------------------------------------------

    def next_target(self) -> int:
        """Return where nothing leads, nor ever has."""
        return next(self.stage.targets)

    def map(self, page: int, pages: int = 1, perm: Perm = Perm.RW) -> Mapping:
        """Map pages to a new target; return the mapping."""
        mapping = Mapping(page * PAGE, (page + pages) * PAGE - 1, self.next_target(), perm)
        values = (mapping.first, mapping.size, mapping.target, perm)
        self.do(lambda right: right.map(*values), lambda: self.space.map(*values))
        return mapping

    def unmap(self, page: int, pages: int = 1) -> None:
        """Unmap pages; what the space says that it removed has to be that."""
        self._remove(page * PAGE, pages * PAGE)

    def unmap_all(self) -> None:
        """Unmap everything, in one call."""
        self.do(PageArray.unmap_all, self.space.unmap_all)
        self._forget_in_devices(0, self.size)

    def unmap_whole(self) -> None:
        """Unmap the range that is the whole space."""
        self._remove(0, self.size)

    def remap(self, page: int, pages: int = 1, perm: Perm = Perm.RW) -> None:
        """Put a mapping in the place of what is there."""
        values = (page * PAGE, pages * PAGE, self.next_target(), perm)
        self.do(lambda right: right.remap(*values), lambda: self.space.remap(*values))
        self._forget_in_devices(page * PAGE, pages * PAGE)

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        """Make many changes, all or none."""
        made = list(changes)
        self.do(lambda right: right.apply(made), lambda: self.space.apply(made))
        for change in made:
            if isinstance(change, IovaRange):
                self._forget_in_devices(change.first, change.size)

    def do(self, right: Callable[[PageArray], object], call: Callable[[], object]) -> None:
        """Make a change here and there; what it returns has to be the same, and what is refused, too."""
        twin = self.pages.copy()
        try:
            wanted = right(twin)
        except MappingError as refusal:
            before = self.space.statistics().seq
            with demand_raised(type(refusal)):
                call()
            demand("what is refused publishes nothing", self.space.statistics().seq, before)
        else:
            found = call()
            self.pages = twin
            demand("a change returns what it removed", as_list(found), as_list(wanted))

    # -- waiting and checking ------------------------------------------------------

    async def sync(self) -> SyncReport:
        """Sync, which has to succeed."""
        return await self.space.sync(timeout=self.stage.patience / 2)

    async def settle(self) -> None:
        """Sync, and demand that everybody holds what is mapped."""
        await self.sync()
        for follower in self.followers:
            self.check(follower)

    def check(self, follower: Follower) -> None:
        """Demand that a follower holds exactly what is mapped in its ranges."""
        wanted = self.pages.mappings(follower.ranges)
        demand("a shadower holds exactly what is mapped in its ranges", follower.holds(), wanted)

    async def join(self, caps: Cap = Cap.IOTLB, **options: Any) -> Follower:
        """Have somebody follow the space; a shadower is current, and is checked, when this returns."""
        follower = await self.enter(caps, **options)
        if caps & Cap.MAP:
            await follower.events.wait_current()
            self.followers.append(follower)
        return follower

    async def enter(self, caps: Cap = Cap.IOTLB, **options: Any) -> Follower:
        """Have somebody follow the space, and do not wait for its replay."""
        return await self.stage.follow(self.space.name, caps, (self.space.name,), **options)

    # -- inside ----------------------------------------------------------------

    def _remove(self, iova: int, size: int) -> None:
        self.do(lambda right: right.unmap(iova, size), lambda: self.space.unmap(iova, size))
        self._forget_in_devices(iova, size)

    def _forget_in_devices(self, iova: int, size: int) -> None:
        if self._ats:
            self.space.invalidate_device(iova, size)


class Stage:
    """A bus without spaces, and a place for tasks; each case has one of its own.

    Args:
        bus: The bus that is looked at.
        tasks: Where followers run; they are cancelled when the case is over.
        patience: Seconds that a case gets.
    """

    def __init__(self, bus: EventBus, tasks: TaskGroup, patience: float) -> None:
        self.bus = bus
        self.tasks = tasks
        self.patience = patience
        self.targets = (TARGET + number * FAR for number in count())  # of all spaces: what is of another one is seen

    async def scene(self, name: str = "space", *, pages: int = 64, ats: bool = False, **options: Any) -> Scene:
        """Make a space, which is a scene."""
        size = pages * PAGE
        space = await self.bus.create_space(name, granule=PAGE, last=size - 1, **options)
        return Scene(self, space, PageArray(PAGE, options.get("straddle", "refuse")), size=size, ats=ats)

    async def follow(
        self,
        endpoint: str | Iterable[str],
        caps: Cap,
        spaces: Collection[str],
        *,
        dawdle: int = 0,
        failing: Collection[type[Event]] = (),
        ranges: Ranges = WHOLE,
        **options: Any,
    ) -> Follower:
        """Have somebody follow what an endpoint sees, in whichever of these spaces it is."""
        subscription = self.bus.subscribe(endpoint, caps, ranges=ranges, **options)
        follower = Follower(subscription, spaces, caps, ranges, dawdle=dawdle, failing=failing)
        await self.tasks.start(follower.run)
        return follower

    async def sync(self) -> SyncReport:
        """Sync every open space, which has to succeed."""
        return await self.bus.sync(timeout=self.patience / 2)

    async def enter(self, caps: Cap, endpoint: str | Iterable[str] = "space", **options: Any) -> None:
        """Subscribe and leave again: what cannot be had is refused on the way."""
        async with self.bus.subscribe(endpoint, caps, **options):
            pass


def as_list(found: object) -> object:
    """Return a sequence as a list, so that it can be compared; anything else as it is."""
    return list(cast("Sequence[object]", found)) if isinstance(found, Sequence) else found
