"""What came out of playing a trace: the figures, and the verdict.

Plain values that encode as JSON; a verdict is a list of reasons, and empty
when all is well.
"""

from collections.abc import Mapping, Sequence
from math import ceil

from msgspec import Struct

from ..abi.qemu_trace import Family
from .judge import Violation
from .source import Expected


class Lag(Struct, frozen=True):
    """How far one subscriber is behind."""

    space: str
    subscriber: str
    lag: int
    conflations: int


class Progress(Struct, frozen=True):
    """How far a trace is played, just before a `sync`.

    Attributes:
        steps: Steps played.
        total: Steps there are.
        events: Events published.
        mapped: Pages mapped, by the judge's reading.
        syncs: Syncs done.
        lags: How far each subscriber is behind.
    """

    steps: int
    total: int
    events: int
    mapped: int
    syncs: int
    lags: list[Lag]


class Received(Struct, frozen=True):
    """What one subscriber was given.

    Attributes:
        space: Name of the space, or of the endpoint that it follows.
        subscriber: Its name.
        role: What it stands for.
        maps: MAPs delivered, or `None` if it does not ask for them.
        unmaps: UNMAPs delivered.
        lag: Events that waited at the end.
        conflations: How often its mailbox was full and became dirty ranges;
            `None` if it has none.
        lost: Events it was told it lost; only an observer may.
        may_conflate: Whether it is slow on purpose.
    """

    space: str
    subscriber: str
    role: str
    maps: int | None
    unmaps: int
    lag: int = 0
    conflations: int | None = None
    lost: int | None = None
    may_conflate: bool = False

    @property
    def seen(self) -> int:
        """Events it was given, or was told that it lost."""
        return (self.maps or 0) + self.unmaps + (self.lost or 0)


class Published(Struct, frozen=True):
    """What one space published, and what is left in it.

    Attributes:
        space: Its name.
        pull: Whether it keeps no table.
        maps: MAPs.
        unmaps: UNMAPs.
        mappings: Mappings at the end, as the bus counts them.
        pages: Pages mapped at the end, as the judge reads the trace.
    """

    space: str
    pull: bool
    maps: int
    unmaps: int
    mappings: int
    pages: int


class Lookups(Struct):
    """What the cachers asked.

    Attributes:
        of_trace: Whether the trace named the addresses; if not, the first page
            of each MAP was asked for.
        asked: Questions.
        answered: Answers that were no fault.
        agreed: Answers that lead where the trace says.
    """

    of_trace: bool
    asked: int = 0
    answered: int = 0
    agreed: int = 0


class Moves(Struct, frozen=True):
    """How endpoints went from space to space.

    Attributes:
        endpoints: Those of the trace.
        of_trace: Moves of theirs in the trace.
        left: Pages held by those who follow them once all were detached, after the
            last line; `None` if it did not come to that.
        returned: Pages held once each was attached again where it was.
    """

    endpoints: int = 0
    of_trace: int = 0
    left: int | None = None
    returned: int | None = None


class Result(Struct, frozen=True):
    """One trace, played.

    Attributes:
        title: What people call the trace.
        processes: How many processes took part.
        family: The family that was played.
        lines: Lines in the log.
        seconds: How long playing took, judging included.
        published: By space.
        received: By space and subscriber.
        remaps: MAPs over a live mapping, played as a remap.
        moves: How endpoints went from space to space.
        sync_seconds: How long each sync took.
        checks: Comparisons the judge made.
        lookups: What the cachers asked.
        skipped: Lines of other events, by name.
        quiet: Lines of the family that changed nothing, by name.
        damaged: Lines that could not be read.
        damage: The first of those, as text.
        violations: What the judge found.
        failures: What else went wrong, as text.
        reasons: Why it failed; empty if all is well.
    """

    title: str
    processes: int
    family: Family
    lines: int
    seconds: float
    published: list[Published]
    received: list[Received]
    remaps: int
    moves: Moves
    sync_seconds: list[float]
    checks: int
    lookups: Lookups
    skipped: dict[str, int]
    quiet: dict[str, int]
    damaged: int
    damage: list[str]
    violations: list[Violation]
    failures: list[str]
    reasons: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is to be said against it."""
        return not self.reasons

    @property
    def maps(self) -> int:
        """MAPs published in all spaces."""
        return sum(space.maps for space in self.published)

    @property
    def unmaps(self) -> int:
        """UNMAPs published in all spaces."""
        return sum(space.unmaps for space in self.published)

    @property
    def events(self) -> int:
        """Events published in all spaces."""
        return self.maps + self.unmaps

    @property
    def pages(self) -> int:
        """Pages mapped at the end in all spaces."""
        return sum(space.pages for space in self.published)

    @property
    def rate(self) -> float:
        """Events published in a second, judging included."""
        return self.events / self.seconds if self.seconds else 0.0


class Summary(Struct, frozen=True):
    """A sync's and a run's figures, as a script wants them."""

    title: str
    processes: int
    family: str
    ok: bool
    reasons: list[str]
    lines: int
    events: int
    maps: int
    unmaps: int
    pages: int
    remaps: int
    moves: Moves
    spaces: list[Published]
    subscribers: list[Received]
    syncs: int
    sync_p50_us: float
    sync_p99_us: float
    checks: int
    seconds: float
    events_per_second: float
    lookups: Lookups
    skipped: Mapping[str, int]
    quiet: Mapping[str, int]
    damaged: int
    damage: list[str]
    violations: list[Violation]


def summarise(result: Result) -> Summary:
    """Return what `iommubus demo --json` says of one trace."""
    return Summary(
        title=result.title,
        processes=result.processes,
        family=result.family,
        ok=result.ok,
        reasons=result.reasons,
        lines=result.lines,
        events=result.events,
        maps=result.maps,
        unmaps=result.unmaps,
        pages=result.pages,
        remaps=result.remaps,
        moves=result.moves,
        spaces=result.published,
        subscribers=result.received,
        syncs=len(result.sync_seconds),
        sync_p50_us=round(percentile(result.sync_seconds, 0.50) * 1e6, 1),
        sync_p99_us=round(percentile(result.sync_seconds, 0.99) * 1e6, 1),
        checks=result.checks,
        seconds=round(result.seconds, 6),
        events_per_second=round(result.rate, 1),
        lookups=result.lookups,
        skipped=result.skipped,
        quiet=result.quiet,
        damaged=result.damaged,
        damage=result.damage,
        violations=result.violations,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not below ``share`` of all; 0 if there are none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def judge_result(result: Result, expected: Expected | None) -> list[str]:
    """Return what is to be said against a result.

    Args:
        result: What came out.
        expected: What must come out, of a log that is known.
    """
    reasons = [str(violation) for violation in result.violations] + result.failures
    reasons += [
        f"{one.subscriber} on {one.space} conflated {one.conflations} times, and only the slow one may"
        for one in result.received
        if one.conflations and not one.may_conflate
    ]
    return reasons + (_differences(result, expected) if expected is not None else [])


def _differences(result: Result, expected: Expected) -> list[str]:
    figures = [
        ("MAPs published", result.maps, expected.maps),
        ("UNMAPs published", result.unmaps, expected.unmaps),
        ("pages mapped at the end", result.pages, expected.pages),
        ("moves of endpoints", result.moves.of_trace, expected.moves),
        ("lookups asked", result.lookups.asked, expected.lookups),
        ("lookups answered", result.lookups.answered, expected.lookups),
        ("lookups answered as the trace says", result.lookups.agreed, expected.lookups),
    ]
    found = [f"{got:,} {what}, expected {wanted:,}" for what, got, wanted in figures if got != wanted]
    if expected.overflow and not any(one.conflations for one in result.received if one.may_conflate):
        found.append("the slow subscriber never conflated, and was to")

    return found
