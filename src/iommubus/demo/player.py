"""Plays a script on a bus, with subscribers beside it, and has the judge look.

The only producer.  It publishes without waiting, lets the others run now and
then, and after every `SYNC_EVERY` events waits for a `sync`, as a guest's
driver does before it uses the memory for something else.  It stops at the first
violation.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from msgspec import Struct, structs

from ..bus.bus import Bus
from ..bus.space import LocalSpace
from ..caps import Cap
from ..errors import MappingError, Overlap, SyncFailed
from .judge import Judge, Violation
from .result import Lag, Lookups, Progress, Published, Received, Result, judge_result
from .script import LookupStep, MapStep, Script, Step, UnmapStep
from .source import Expected
from .subscribers import MSI_HOLE, Cacher, Counter, Gate, Shadower, SlowShadower, Watcher

SYNC_EVERY: Final = 256
"""Events between two syncs: half of what Linux flushes its queue of unmapped ranges at."""

CHECKPOINT_EVERY: Final = 32
"""Steps after which the others may run: a hundredth of a mailbox."""

SYNC_TIMEOUT: Final = 30.0
"""Seconds a sync may take; milliseconds are usual, and a busy machine is no failure."""

Watch = Callable[[Progress], object]
"""Called just before each `sync`, when the mailboxes are at their fullest."""


class Crew(Struct, frozen=True):
    """Who listens; a test puts a faulty one in."""

    shadower: type[Shadower] = Shadower
    slow: type[SlowShadower] = SlowShadower
    cacher: type[Cacher] = Cacher


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


async def play(
    script: Script, *, expected: Expected | None = None, watch: Watch | None = None, crew: Crew | None = None
) -> Result:
    """Play a script to its end, or to the first violation.

    Args:
        script: What to play.
        expected: What must come out, of a log that is known.
        watch: Is told how far it is.
        crew: Who listens.
    """
    gate = Gate()
    async with Bus() as bus, anyio.create_task_group() as tasks:
        casts = {name: await _cast(bus, tasks, name, script, gate, crew or Crew()) for name in script.spaces}
        watcher = Watcher()
        await tasks.start(watcher.run, bus)
        player = Player(script, bus, casts, gate, watch)
        await player.run()
        result = await player.result(watcher)
        gate.open()
        await bus.close()

    left = [violation for cast in casts.values() for violation in _left(cast)]
    result = structs.replace(result, violations=result.violations + left)
    return structs.replace(result, reasons=judge_result(result, expected))


class Player:
    """The producer of all spaces of a script.

    Args:
        script: What to play.
        bus: Where to play it.
        casts: Who is there, by the name of the space.
        gate: What the slow subscribers wait at.
        watch: Is told how far it is.
    """

    def __init__(self, script: Script, bus: Bus, casts: dict[str, Cast], gate: Gate, watch: Watch | None) -> None:
        self._script = script
        self._bus = bus
        self._casts = casts
        self._gate = gate
        self._watch = watch
        self._lookups = Lookups(of_trace=script.has_lookups)
        self._remaps = 0
        self._seconds = 0.0
        self._synced_at = 0
        self._sync_seconds: list[float] = []
        self._checks = 0
        self._violations: list[Violation] = []
        self._failures: list[str] = []

    async def run(self) -> None:
        """Play every step, sync, and check."""
        start = time.perf_counter()
        for number, step in enumerate(self._script.steps, 1):
            await self._play(step)
            if self._stopped():
                break

            if self._events - self._synced_at >= SYNC_EVERY:
                await self._sync(number, step.line)
                if self._stopped():
                    break
            elif number % CHECKPOINT_EVERY == 0:
                await checkpoint()
        else:
            await self._sync(len(self._script.steps), self._script.steps[-1].line)
            self._check_mirrors()

        self._seconds = time.perf_counter() - start

    async def result(self, watcher: Watcher) -> Result:
        """Return what came out so far; the verdict is still to be found."""
        with anyio.move_on_after(SYNC_TIMEOUT):
            while watcher.seen < self._events:
                await checkpoint()

        tally = self._script.tally
        return Result(
            title=self._script.title,
            family=self._script.family,
            lines=tally.lines,
            seconds=self._seconds,
            published=[_published(cast) for cast in self._casts.values()],
            received=[*self._received(), watcher.received()],
            remaps=self._remaps,
            sync_seconds=self._sync_seconds,
            checks=self._checks,
            lookups=self._lookups,
            skipped=dict(tally.skipped.most_common()),
            quiet=dict(tally.quiet.most_common()),
            damaged=tally.damaged,
            damage=[str(error) for error in tally.errors],
            violations=self._violations,
            failures=self._failures + list(self._miscounts(watcher)),
            reasons=[],
        )

    # -- inside: playing -----------------------------------------------------------

    @property
    def _events(self) -> int:
        return sum(cast.counter.events for cast in self._casts.values())

    def _stopped(self) -> bool:
        return bool(self._violations or self._failures)

    async def _play(self, step: Step) -> None:
        cast = self._casts[step.space]
        cast.judge.follow(step)
        try:
            match step:
                case MapStep():
                    self._map(cast.space, step)
                    if not self._script.has_lookups:
                        await self._look_up(cast, step.first, step.target, step.line)
                case UnmapStep():
                    cast.space.unmap(step.first, step.last - step.first + 1)
                case LookupStep():
                    await self._look_up(cast, step.iova, step.target, step.line)
        except MappingError as error:
            self._failures.append(f"line {step.line} could not be published on {step.space}: {error}")

    def _map(self, space: LocalSpace, step: MapStep) -> None:
        size = step.last - step.first + 1
        try:
            space.map(step.first, size, step.target, step.perm)
        except Overlap:
            self._remaps += 1
            space.remap(step.first, size, step.target, step.perm)

    async def _look_up(self, cast: Cast, iova: int, target: int, line: int) -> None:
        if cast.pull:
            return

        self._lookups.asked += 1
        found = await cast.cacher.miss(iova, line)
        self._lookups.answered += found is not None
        self._lookups.agreed += found == target

    # -- inside: judging -----------------------------------------------------------

    async def _sync(self, steps: int, line: int) -> None:
        """Wait until nobody uses what was unmapped, and have the judge look at once."""
        if self._watch is not None:
            self._watch(self._progress(steps))

        self._synced_at = self._events
        self._gate.open()
        try:
            report = await self._bus.sync("*", timeout=SYNC_TIMEOUT)
        except SyncFailed as failure:
            self._failures.append(f"the sync after line {line} failed: {failure}")
            return
        finally:
            self._gate.shut()

        self._sync_seconds.append(report.seconds)
        self._check(line)

    def _check(self, line: int) -> None:
        for cast in self._casts.values():
            cast.judge.reach(line)
            found = [cast.judge.check_copy(one.name, one.pages.targets) for one in cast.shadowers]
            found.append(cast.judge.check_cache(cast.cacher.name, cast.cacher.held()))
            self._checks += len(found)
            wrong = [violation for violation in found if violation is not None]
            self._violations += wrong
            if not wrong:
                cast.judge.passed()

    def _check_mirrors(self) -> None:
        """Compare the tables too, which the shadowers keep beside their pages."""
        if self._stopped():
            return

        for cast in self._casts.values():
            for one in cast.shadowers:
                self._checks += 1
                wrong = cast.judge.check_copy(f"{one.name}'s table", one.mirrored().targets)
                self._violations += [wrong] if wrong is not None else []

    def _miscounts(self, watcher: Watcher) -> Iterator[str]:
        published = [_published(cast) for cast in self._casts.values()]
        for cast, one in zip(self._casts.values(), published, strict=True):
            if (cast.counter.maps, cast.counter.unmaps) != (one.maps, one.unmaps):
                yield f"the notifier on {one.space} was called {cast.counter.events:,} times, not as often as published"

        total = sum(one.maps + one.unmaps for one in published)
        if watcher.seen != total:
            yield f"the observer saw or lost {watcher.seen:,} of {total:,} events"

    # -- inside: figures -----------------------------------------------------------

    def _progress(self, steps: int) -> Progress:
        lags = [
            Lag(name, subscriber, figures.lag, figures.conflations)
            for name, cast in self._casts.items()
            for subscriber, figures in cast.space.statistics().subscriptions.items()
        ]
        return Progress(
            steps=steps,
            total=len(self._script.steps),
            events=self._events,
            mapped=sum(len(cast.judge.whole) for cast in self._casts.values()),
            syncs=len(self._sync_seconds),
            lags=lags,
        )

    def _received(self) -> Iterator[Received]:
        for cast in self._casts.values():
            yield from (one.received() for one in cast.shadowers)
            yield cast.cacher.received()
            yield cast.counter.received()


async def _cast(bus: Bus, tasks: TaskGroup, name: str, script: Script, gate: Gate, crew: Crew) -> Cast:
    """Make a space, and start those who listen to it."""
    keeps_table, granule = script.spaces[name], script.granule
    offers = Cap.IOTLB if keeps_table else Cap.UNMAP
    space = await bus.create_space(name, granule=granule, offers=offers, straddle="split")
    counter = Counter(name, offers)
    space.register(counter.notifier)
    cacher = crew.cacher(name, granule)
    shadowers = [crew.shadower(name, granule), crew.slow(name, granule, gate)] if keeps_table else []
    subscribers: list[Shadower | Cacher] = [*shadowers, cacher]
    for subscriber in subscribers:
        await tasks.start(subscriber.run, bus)

    return Cast(space, Judge(name, granule, MSI_HOLE), counter, cacher, shadowers)


def _published(cast: Cast) -> Published:
    figures = cast.space.statistics()
    return Published(
        space=cast.space.name,
        pull=cast.pull,
        maps=figures.published[Cap.MAP],
        unmaps=figures.published[Cap.UNMAP],
        mappings=figures.mappings,
        pages=len(cast.judge.whole),
    )


def _left(cast: Cast) -> Iterator[Violation]:
    """Yield what somebody still holds although the space was closed."""
    held = {one.name: len(one.pages) for one in cast.shadowers}
    held[cast.cacher.name] = sum(1 for _ in cast.cacher.held())
    for name, count in held.items():
        violation = cast.judge.check_empty(name, count)
        if violation is not None:
            yield violation
