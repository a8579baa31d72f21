"""What is aimed at, and whether it was reached."""

from collections.abc import Iterable, Iterator
from operator import ge, gt, le, lt
from typing import Final

from msgspec import Struct

from ..rows import Row
from .beside import ONE_WAY, THROUGHPUT, percentiles, round_trip
from .growth import MAPPINGS, SOME
from .notes import Key, Notes, rounded

OWN: Final = "iommubus"
FLOOR: Final = "bare hub"

SERVER_TIME: Final = f"{SOME}, processor time of the server"


class BesideFloor(Struct, frozen=True):
    """A ratio to the bare hub.

    Attributes:
        key: Of what.
        must: What it has to be: at least, of speeds; at most, of times.
        stretch: What would be better.
    """

    key: Key
    must: float
    stretch: float | None


class Among(Struct, frozen=True):
    """To be ahead of every peer that has a server.

    Attributes:
        key: In what.
        word: How much that matters.
    """

    key: Key
    word: str


class Growth(Struct, frozen=True):
    """A ratio to the same with less of something.

    Attributes:
        key: With more of it.
        less: How much of it there is in the other one.
        must: As of `BesideFloor`.
        stretch: The same.
    """

    key: Key
    less: int
    must: float
    stretch: float


def speed(subscribers: int, batch: int) -> Key:
    """Return the key of a throughput."""
    return Key(THROUGHPUT, OWN, "events/s", subscribers, batch)


def time(case: str, subscribers: int, batch: int = 1) -> Key:
    """Return the key of a time."""
    return Key(case, OWN, "us", subscribers, batch)


PINNED_P50, PINNED_P99 = percentiles(round_trip(pinned=True))
FREE_P50, FREE_P99 = percentiles(round_trip(pinned=False))
ONE_WAY_P50, ONE_WAY_P99 = percentiles(ONE_WAY)

FLOORS: Final = (
    BesideFloor(speed(1, 1), 0.35, 0.5),
    BesideFloor(speed(4, 1), 0.5, 0.8),
    BesideFloor(speed(1, 64), 0.12, None),
    BesideFloor(time(PINNED_P50, 1), 2.0, 1.4),
    BesideFloor(time(PINNED_P50, 4), 2.5, 1.4),
)

EVENTS_A_SECOND: Final = 1_000_000
"""The stretch of 64 events a call, which is no ratio."""

AHEAD: Final = (
    Among(speed(1, 1), "must"),
    Among(speed(4, 1), "must"),
    *(Among(time(PINNED_P50, count), "must") for count in (1, 4)),
    *(Among(time(case, count), "stretch") for case in (PINNED_P99, FREE_P50, FREE_P99) for count in (1, 4)),
)

CROWD: Final = 256
MANY: Final = 1_000_000
FEW: Final = 1_000

GROWTHS: Final = (
    Growth(Key(SERVER_TIME, OWN, "us/event", CROWD), 4, 1.3, 1.1),
    Growth(Key(f"{MAPPINGS}, in order", OWN, "events/s", MANY), FEW, 0.8, 0.95),
    Growth(Key(f"{MAPPINGS}, at random", OWN, "events/s", MANY), FEW, 0.4, 0.6),
)


def rows(notes: Notes, peers: Iterable[str]) -> Iterator[Row]:
    """Return a row for each target of what was measured.

    Args:
        notes: What was measured.
        peers: Names of the peers that have a server; the bare hub is none.
    """
    for floor in FLOORS:
        reference = floor.key._replace(subject=FLOOR)
        if floor.key in notes and reference in notes:
            ratio = notes.ratio(floor.key, reference)
            yield from judged(notes, floor.key, ratio, FLOOR, floor.must, floor.stretch)
    fast = speed(1, 64)
    if fast in notes:
        row = notes.row(fast)
        yield with_target(row, f"stretch >= {EVENTS_A_SECOND:,} events/s", met=notes.value(fast) >= EVENTS_A_SECOND)
    yield from ahead(notes, tuple(peers))
    for growth in GROWTHS:
        reference = growth.key._replace(subscribers=growth.less)
        if growth.key in notes and reference in notes:
            ratio = notes.ratio(growth.key, reference)
            yield from judged(notes, growth.key, ratio, f"with {growth.less:,}", growth.must, growth.stretch)


def ahead(notes: Notes, peers: Iterable[str]) -> Iterator[Row]:
    """Return whether iommubus is ahead of all peers: a row names the best of them."""
    for among in AHEAD:
        others = [key for key in (among.key._replace(subject=peer) for peer in peers) if key in notes]
        if among.key not in notes or not others:
            continue
        faster = among.key.unit == "events/s"
        ratios = {notes.ratio(among.key, other): other.subject for other in others}
        ratio = min(ratios) if faster else max(ratios)
        row = notes.row(among.key)
        yield with_target(
            row,
            f"{among.word} {'>' if faster else '<'} 1 of every peer with a server",
            met=(gt if faster else lt)(ratio, 1.0),
            ratio=ratio,
            reference=ratios[ratio],
        )


def judged(notes: Notes, key: Key, ratio: float, reference: str, must: float, stretch: float | None) -> Iterator[Row]:
    """Return a row for what has to be, and one for what would be better."""
    sign, holds = (">=", ge) if key.unit == "events/s" else ("<=", le)
    for word, bound in (("must", must), ("stretch", stretch)):
        if bound is not None:
            target = f"{word} {sign} {bound:g} of {reference}"
            yield with_target(notes.row(key), target, met=holds(ratio, bound), ratio=ratio, reference=reference)


def with_target(row: Row, target: str, *, met: bool, ratio: float | None = None, reference: str | None = None) -> Row:
    """Return a row that says what was aimed at."""
    return Row(
        case=row.case,
        subject=row.subject,
        subscribers=row.subscribers,
        batch=row.batch,
        value=row.value,
        unit=row.unit,
        ratio=None if ratio is None else rounded(ratio),
        reference=reference,
        target=target,
        met=met,
    )
