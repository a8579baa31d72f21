"""Who plays: each space of a script, its judge, and those who listen to it."""

from collections.abc import AsyncIterator, Iterator

from msgspec import Struct, field

from ..bus.space import LocalSpace
from ..caps import Cap
from .counters import Counter, Watcher
from .house import Cache, Copy, House, SlowCopy
from .judge import Held, Judge, Violation
from .result import Published, Received
from .script import Script
from .subscribers import MSI_HOLE, Cacher, Follower, Shadower, SlowShadower


class Crew(Struct, frozen=True):
    """Who listens; a test puts a faulty one in."""

    shadower: type[Shadower] = Shadower
    slow: type[SlowShadower] = SlowShadower
    follower: type[Follower] = Follower
    cacher: type[Cacher] = Cacher
    counter: type[Counter] = Counter
    watcher: type[Watcher] = Watcher


class Cast(Struct, frozen=True):
    """One space, its judge and its subscribers."""

    space: LocalSpace
    judge: Judge
    counter: Counter
    cacher: Cache
    shadower: Copy | None
    slow: SlowCopy | None
    _asked: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def pull(self) -> bool:
        """Whether the space keeps no table."""
        return not self.space.offers & Cap.MAP

    @property
    def copies(self) -> list[Copy]:
        """Those who keep a copy."""
        return [one for one in (self.shadower, self.slow) if one is not None]

    @property
    def published(self) -> Published:
        """What the space published, and what is left in it."""
        figures = self.space.statistics()
        return Published(
            space=self.space.name,
            pull=self.pull,
            maps=figures.published[Cap.MAP],
            unmaps=figures.published[Cap.UNMAP],
            mappings=figures.mappings,
            pages=len(self.judge.whole),
        )

    async def received(self) -> AsyncIterator[Received]:
        """Yield what each subscriber was given."""
        for one in (*self.copies, self.cacher):
            yield await one.received()

        yield self.counter.received()

    async def look_up(self, iova: int, line: int) -> int | None:
        """Have the cacher ask where an address leads.

        Args:
            iova: The address.
            line: Line of the trace that is being played.

        Returns:
            The target, or `None` if it leads nowhere.
        """
        found = await self.cacher.miss(iova)
        if found is None:
            return None

        for page in range(found.first, found.last + 1, self.judge.whole.size):
            self._asked[page] = line

        return found.target + iova - found.first

    def check(self) -> Iterator[Violation | None]:
        """Yield what the judge says of each who keeps translations, after a `sync`."""
        for one in self.copies:
            yield self.judge.check_copy(one.name, one.targets)

        held = [Held(page, target, self._asked.get(page, 0)) for page, target in self.cacher.targets.items()]
        yield self.judge.check_cache(self.cacher.name, held)

    async def check_tables(self) -> AsyncIterator[Violation | None]:
        """Yield what the judge says of the tables that shadowers keep beside their pages."""
        for one in self.copies:
            yield self.judge.check_copy(f"{one.name}'s table", await one.table())

    def check_empty(self) -> Iterator[Violation | None]:
        """Yield what somebody still holds although the space was closed."""
        for one in (*self.copies, self.cacher):
            yield self.judge.check_empty(one.name, len(one.targets))


async def gather(house: House, name: str, script: Script, crew: Crew) -> Cast:
    """Make a space, and start those who listen to it."""
    keeps_table, granule = script.spaces[name], script.granule
    offers = Cap.IOTLB if keeps_table else Cap.UNMAP
    space = await house.create_space(name, granule, offers)
    counter = crew.counter(name, offers)
    space.register(counter.notifier)
    return Cast(
        space=space,
        judge=Judge(name, granule, MSI_HOLE),
        counter=counter,
        shadower=await house.copy(crew.shadower, name, granule) if keeps_table else None,
        slow=await house.slow_copy(crew.slow, name, granule) if keeps_table else None,
        cacher=await house.cache(crew.cacher, name, granule),
    )
