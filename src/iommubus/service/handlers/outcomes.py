"""What became of a `sync`, in messages that fit a frame, whatever is in them.

What does not fit is left out: causes first, then the old pieces, in whose place stands
a range of everything.  There may be very many of them, of which this looks at those
that it names.  So the producer keeps more out of use, never less.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.msgpack import Encoder

from ...bus import reports
from ...errors import SyncFailed
from ...ranges import LAST
from ...wire.failures import to_failure
from ...wire.framing import FRAME_LIMIT
from ...wire.messages.syncing import (
    OUTCOME_LIMIT,
    PIECE_LIMIT,
    MapFailure,
    Missing,
    Outcome,
    Synced,
    SyncRefused,
)
from ...wire.messages.values import ENTRY_LIMIT, NAME_LIMIT, Range, clip_text
from ...wire.runs import to_pieces

US: Final = 1_000_000
"""Microseconds in a second, the unit of the wire."""

ROOM: Final = FRAME_LIMIT - 4096
"""Bytes of entries in one message: a frame without its own fields."""

LEAST: Final = 4608
"""Bytes that every entry has: two names and a reason of full length, four bytes a
character, and a range.  All that there can be in one message take half of its room."""

Entry = TypeVar("Entry", bound=Struct)

_ENCODER: Final = Encoder()


def synced(request: int, report: reports.SyncReport) -> Iterator[Synced]:
    """Yield the answers to a `sync` that succeeded, all but the last with ``more``."""
    outcomes = [
        Outcome(one.subscriber[:NAME_LIMIT], one.space[:NAME_LIMIT], one.how, int(one.seconds * US))
        for one in report.outcomes
    ]
    took = int(report.seconds * US)
    for portion, more in portions(outcomes, OUTCOME_LIMIT):
        yield Synced(request, took, portion, more)


def portions(entries: Sequence[Entry], limit: int) -> Iterator[tuple[list[Entry], bool]]:
    """Cut entries into what fits one message each, and say whether more follow; there is always one."""
    portion: list[Entry] = []
    left = ROOM
    for entry in entries:
        taken = size(entry)
        if portion and (taken > left or len(portion) >= limit):
            yield portion, True
            portion, left = [], ROOM
        portion.append(entry)
        left -= taken
    yield portion, False


def refused(request: int, failed: SyncFailed) -> SyncRefused:
    """Return the answer to a `sync` that failed."""
    reported = [one for one in failed.missing if isinstance(one, reports.Missing)]
    failures = [one for one in failed.failures if isinstance(one, reports.MapFailure)]
    missing, left = fitting_missing(reported[:ENTRY_LIMIT])
    told: list[MapFailure] = []
    for failure in map(failure_of, failures[:ENTRY_LIMIT]):
        left -= size(failure)
        if left < 0:
            break
        told.append(failure)
    return SyncRefused(request, missing, told, len(reported) > len(missing) or len(failures) > len(told))


def fitting_missing(reported: Sequence[reports.Missing]) -> tuple[list[Missing], int]:
    """Return entries that fit one message together, and how many bytes are left."""
    missing: list[Missing] = []
    left, pieces = ROOM, PIECE_LIMIT
    for behind, one in zip(reversed(range(len(reported))), reported, strict=True):
        said = missing_of(one, left - behind * LEAST, pieces)
        pieces -= len(said.pieces)
        left -= size(said)
        missing.append(said)
    return missing, left


def missing_of(one: reports.Missing, room: int, pieces: int) -> Missing:
    """Return what is told of one who may still use something.

    Args:
        one: The same in the words of the bus.
        room: Bytes that it may have, at least `LEAST`.
        pieces: Most pieces that are named.
    """
    words = one.subscriber[:NAME_LIMIT], one.space[:NAME_LIMIT], clip_text(one.reason)
    cause = None if one.cause is None else to_failure(one.cause)
    if pieces > 0:
        named, ranges = to_pieces(one.pieces, pieces)
        for said in (Missing(*words, named, ranges, cause), Missing(*words, named, ranges)):
            if size(said) <= room:
                return said
    return Missing(*words, [], [Range(0, LAST)] if one.pieces else [])


def failure_of(one: reports.MapFailure) -> MapFailure:
    """Return what is told of MAPs that a subscriber could not apply."""
    subscriber, space = one.subscriber[:NAME_LIMIT], one.space[:NAME_LIMIT]
    return MapFailure(subscriber, space, one.first, one.last, to_failure(one.cause), one.count)


def size(entry: Struct) -> int:
    """Return how many bytes an entry takes."""
    return len(_ENCODER.encode(entry))
