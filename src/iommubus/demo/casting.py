"""Who plays: each space of a script, its judge, and those who listen to it."""

from collections.abc import Iterator

from anyio.abc import TaskGroup
from msgspec import Struct

from ..bus.bus import Bus
from ..bus.space import LocalSpace
from ..caps import Cap
from .counters import Counter, Watcher
from .judge import Judge, Violation
from .result import Lag, Published, Received
from .script import Script
from .subscribers import MSI_HOLE, Cacher, Follower, Gate, Shadower, SlowShadower


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
    cacher: Cacher
    shadowers: list[Shadower]

    @property
    def pull(self) -> bool:
        """Whether the space keeps no table."""
        return not self.space.offers & Cap.MAP

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

    def lags(self) -> Iterator[Lag]:
        """Yield how far each subscriber is behind."""
        for name, figures in self.space.statistics().subscriptions.items():
            yield Lag(self.space.name, name, figures.lag, figures.conflations)

    def received(self) -> Iterator[Received]:
        """Yield what each subscriber was given."""
        yield from (one.received() for one in self.shadowers)
        yield self.cacher.received()
        yield self.counter.received()

    def check(self) -> Iterator[Violation | None]:
        """Yield what the judge says of each who keeps translations, after a `sync`."""
        for one in self.shadowers:
            yield self.judge.check_copy(one.name, one.pages.targets)

        yield self.judge.check_cache(self.cacher.name, self.cacher.held())

    def check_tables(self) -> Iterator[Violation | None]:
        """Yield what the judge says of the tables that shadowers keep beside their pages."""
        for one in self.shadowers:
            yield self.judge.check_copy(f"{one.name}'s table", one.mirrored().targets)

    def check_empty(self) -> Iterator[Violation | None]:
        """Yield what somebody still holds although the space was closed."""
        for one in self.shadowers:
            yield self.judge.check_empty(one.name, len(one.pages))

        yield self.judge.check_empty(self.cacher.name, sum(1 for _ in self.cacher.held()))


async def gather(bus: Bus, tasks: TaskGroup, name: str, script: Script, gate: Gate, crew: Crew) -> Cast:
    """Make a space, and start those who listen to it."""
    keeps_table, granule = script.spaces[name], script.granule
    offers = Cap.IOTLB if keeps_table else Cap.UNMAP
    space = await bus.create_space(name, granule=granule, offers=offers, straddle="split")
    counter = crew.counter(name, offers)
    space.register(counter.notifier)
    cacher = crew.cacher(name, granule)
    shadowers = [crew.shadower(name, granule), crew.slow(name, granule, gate)] if keeps_table else []
    subscribers: list[Shadower | Cacher] = [*shadowers, cacher]
    for subscriber in subscribers:
        await tasks.start(subscriber.run, bus)

    return Cast(space, Judge(name, granule, MSI_HOLE), counter, cacher, shadowers)
