"""Plays a script on the bus of a house, with those who live there, and has the judge look.

The only producer.  It publishes without waiting, lets the others run now and
then, and after every `SYNC_EVERY` events waits for a `sync`, as a guest's
driver does before it uses the memory for something else.  It stops at the first
violation.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from msgspec import structs

from ..bus.space import LocalSpace
from ..errors import MappingError, Overlap, SyncFailed
from .casting import Cast, Crew, gather
from .endpoints import Endpoints
from .house import House, Venue, Watching, one_process
from .judge import Violation
from .result import Lag, Lookups, Progress, Published, Received, Result, judge_result
from .script import Change, LookupStep, MapStep, MoveStep, Script, Step, UnmapStep
from .source import Expected

SYNC_EVERY: Final = 256
"""Events between two syncs: the length of the queue in which Linux gathers unmapped ranges."""

CHECKPOINT_EVERY: Final = 32
"""Steps, moves aside, after which the others may run: a hundredth of a mailbox."""

SYNC_TIMEOUT: Final = 30.0
"""Seconds a sync may take; milliseconds are usual, and a busy machine is no failure."""

OBSERVER_TIMEOUT: Final = 30.0
"""Seconds in which the observer, for whom no sync waits, may see the last events."""

Watch = Callable[[Progress], object]
"""Called just before each `sync`, when the mailboxes are at their fullest."""


async def play(
    script: Script,
    *,
    expected: Expected | None = None,
    watch: Watch | None = None,
    crew: Crew | None = None,
    venue: Venue = one_process,
) -> Result:
    """Play a script to its end, or to the first violation.

    Args:
        script: What to play.
        expected: What must come out, of a log that is known.
        watch: Is told how far it is.
        crew: Who listens.
        venue: Where.
    """
    async with venue() as house:
        player = Player(script, house, watch)
        await player.gather(crew or Crew())
        await player.run()
        await player.finish()

    player.look_behind()
    result = player.result()
    if expected is not None:
        expected = structs.replace(expected, overflow=house.slow_overflows)

    return structs.replace(result, reasons=judge_result(result, expected))


class Player:
    """The producer of all spaces and endpoints of a script.

    Args:
        script: What to play.
        house: Where to play it.
        watch: Is told how far it is.
    """

    _watcher: Watching

    def __init__(self, script: Script, house: House, watch: Watch | None = None) -> None:
        self._script = script
        self._house = house
        self._watch = watch
        self._casts: dict[str, Cast] = {}
        self._endpoints = Endpoints(self._casts)
        self._lookups = Lookups(of_trace=script.has_lookups)
        self._remaps = 0
        self._seconds = 0.0
        self._synced_at = 0
        self._sync_seconds: list[float] = []
        self._checks = 0
        self._violations: list[Violation] = []
        self._failures: list[str] = []
        self._published: list[Published] = []
        self._received: list[Received] = []

    async def gather(self, crew: Crew) -> None:
        """Make the spaces and the endpoints, and start everybody."""
        for name in self._script.spaces:
            self._casts[name] = await gather(self._house, name, self._script, crew)

        await self._endpoints.gather(self._house, self._script, crew)
        self._watcher = await self._house.watch(crew.watcher, self._script.spaces)

    async def run(self) -> None:
        """Play every step, sync, and check; stop where something is wrong."""
        start = time.perf_counter()
        for number, step in enumerate(self._script.steps, 1):
            await self._play(step)
            if self._events - self._synced_at >= SYNC_EVERY:
                await self._sync(number, step.line)
            elif (number - self._endpoints.moves.of_trace) % CHECKPOINT_EVERY == 0:  # a move publishes nothing
                await checkpoint()

            if self._is_wrong():
                break
        else:
            await self._conclude()

        self._seconds = time.perf_counter() - start

    async def finish(self) -> None:
        """Note the figures, while everybody is still there; then end the streams."""
        watched = await self._watcher.received()
        with anyio.move_on_after(OBSERVER_TIMEOUT):
            while watched.seen < self._events:
                await checkpoint()
                watched = await self._watcher.received()

        self._published = [cast.published for cast in self._casts.values()]
        self._received = [one for cast in self._casts.values() async for one in cast.received()]
        self._received += [one async for one in self._endpoints.received()]
        self._received.append(watched)
        self._failures += self._miscounts(watched)
        await self._open_gates()
        await self._house.close()

    def look_behind(self) -> None:
        """Check that nobody kept anything of a space that is gone; who was wrong before is not asked again."""
        self._failures += self._house.losses
        if not self._is_wrong():
            self._judge(found for cast in self._casts.values() for found in cast.check_empty())
            self._judge(self._endpoints.check_empty())

    def result(self) -> Result:
        """Return what came out; the verdict is still to be found."""
        tally = self._script.tally
        return Result(
            title=self._script.title,
            processes=self._house.processes,
            family=self._script.family,
            lines=tally.lines,
            seconds=self._seconds,
            published=self._published,
            received=self._received,
            remaps=self._remaps,
            moves=self._endpoints.moves,
            sync_seconds=self._sync_seconds,
            checks=self._checks,
            lookups=self._lookups,
            skipped=dict(tally.skipped.most_common()),
            quiet=dict(tally.quiet.most_common()),
            damaged=tally.damaged,
            damage=[str(error) for error in tally.errors],
            violations=self._violations,
            failures=self._failures,
            reasons=[],
        )

    # -- inside: playing -----------------------------------------------------------

    @property
    def _events(self) -> int:
        return sum(cast.counter.events for cast in self._casts.values())

    async def _conclude(self) -> None:
        """Look at everything a last time; then have the endpoints leave, and come back."""
        steps, line = len(self._script.steps), self._script.steps[-1].line
        await self._sync(steps, line)
        self._judge([found for cast in self._casts.values() async for found in cast.check_tables()])
        for _ in self._endpoints.leave_and_return(line) if not self._is_wrong() else ():
            await self._sync(steps, line)
            if self._is_wrong():
                break

    async def _play(self, step: Step) -> None:
        if isinstance(step, MoveStep):
            self._endpoints.move(step)
        else:
            await self._play_in_space(step)

    async def _play_in_space(self, step: Change | LookupStep) -> None:
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
        await self._house.wait_published()
        found = await cast.look_up(iova, line)
        self._lookups.answered += found is not None
        self._lookups.agreed += found == target

    # -- inside: judging -----------------------------------------------------------

    async def _sync(self, steps: int, line: int) -> None:
        """Wait until nobody uses what was unmapped, and have the judge look at once."""
        if self._watch is not None:
            self._watch(self._progress(steps, await self._house.lags()))

        self._synced_at = self._events
        await self._open_gates()
        try:
            report = await self._house.bus.sync(*self._casts, timeout=SYNC_TIMEOUT)
        except SyncFailed as failure:
            self._failures.append(f"the sync after line {line} failed: {failure}")
            return

        self._sync_seconds.append(report.seconds)
        for cast in self._casts.values():
            cast.judge.reach(line)
            if not self._judge(cast.check()):
                cast.judge.passed()

        self._judge(self._endpoints.check(line))
        await self._shut_gates()

    async def _open_gates(self) -> None:
        for cast in self._casts.values():
            if cast.slow is not None:
                await cast.slow.open_gate()

    async def _shut_gates(self) -> None:
        for cast in self._casts.values():
            if cast.slow is not None:
                await cast.slow.shut_gate()

    def _judge(self, found: Iterable[Violation | None]) -> list[Violation]:
        """Count comparisons, and keep and return what they found."""
        checked = list(found)
        wrong = [violation for violation in checked if violation is not None]
        self._checks += len(checked)
        self._violations += wrong
        return wrong

    def _is_wrong(self) -> bool:
        return bool(self._violations or self._failures)

    def _miscounts(self, watched: Received) -> Iterator[str]:
        for cast, one in zip(self._casts.values(), self._published, strict=True):
            if (cast.counter.maps, cast.counter.unmaps) != (one.maps, one.unmaps):
                yield f"the notifier on {one.space} was called {cast.counter.events:,} times, not as often as published"

        total = sum(one.maps + one.unmaps for one in self._published)
        if watched.seen != total:
            yield f"the observer saw or lost {watched.seen:,} of {total:,} events"

    def _progress(self, steps: int, lags: Sequence[Lag]) -> Progress:
        return Progress(
            steps=steps,
            total=len(self._script.steps),
            events=self._events,
            mapped=sum(len(cast.judge.whole) for cast in self._casts.values()),
            syncs=len(self._sync_seconds),
            lags=list(lags),
        )
