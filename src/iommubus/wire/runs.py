"""Events of the bus as rows of the wire, and back; and removed pieces, as many as fit.

Rows are bytes to the messages that have them.  What is done for each event is compiled
(`iommubus.compiled.rows`); what is not plain there, or not right, or all of it where
nothing is compiled, is done here, and what is wrong is always said here.  There, two
comprehensions and a loop are written out: a call for each event would cost as much
again, and so would `isinstance`, which takes the long way round where the class is another one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from ..compiled import load
from ..errors import BadMessage
from ..events import DevIotlbUnmap, Event, Lost, Map, Memory, Observed, Unmap
from ..ledger import OldPieces
from ..mapping import PERMS
from ..ranges import LAST
from .messages.publishing import Publish
from .messages.rows import (
    EVENT_LIMIT,
    DevIotlbUnmapRow,
    LostRow,
    MapRow,
    Row,
    Rows,
    Run,
    UnmapRow,
    WatchedRows,
    WatchedRun,
)
from .messages.syncing import PIECE_LIMIT
from .messages.values import RANGE_LIMIT, MemoryName, Piece, Range, check_order, check_target

AnyRow = Row | LostRow
EventT = TypeVar("EventT", bound=Observed)
RunT = TypeVar("RunT", Run, WatchedRun)

HALF: Final = 2**63
"""Where neither a target nor a last address reaches it, no sum can leave 64 bits."""

_ENCODER = Encoder()
_ROWS: Final = Decoder(Rows)
_WATCHED: Final = Decoder(WatchedRows)
_NO_EVENT = UnmapRow(0, 0, 0)  # stands in the place of a lost one, so that the others keep theirs
_space_of = attrgetter("space")
COMPILED = load("rows")
"""The compiled `to_rows` and `from_rows`, for all that is plain; `None` where there is none."""


# -- to the wire -------------------------------------------------------------


def portions(events: Sequence[EventT]) -> Iterator[Sequence[EventT]]:
    """Cut events into what goes into one message each; there is always one, which may be empty."""
    yield events[:EVENT_LIMIT]
    for at in range(EVENT_LIMIT, len(events), EVENT_LIMIT):
        yield events[at : at + EVENT_LIMIT]


def to_rows(events: Sequence[Observed], start: int = 0) -> tuple[Raw, list[MemoryName], int]:
    """Pack the run of events of one space that begins at a place.

    Returns:
        The rows, the memories that they lead into, and where the next run begins.
    """
    if COMPILED is not None:
        packed = COMPILED.pack(events, start)
        if packed is not None:
            rows, memories, end = packed
            return Raw(rows), list(map(MemoryName.of, memories)) if memories else [], end
    return _to_rows(events, start)


def to_runs(events: Sequence[Event]) -> list[Run]:
    """Return events as runs of one space each, in the same order."""
    return _to_runs(Run, events)


def to_watched(events: Sequence[Observed]) -> list[WatchedRun]:
    """Return what an observer gets as runs of one space each, in the same order."""
    return _to_runs(WatchedRun, events)


def pack(runs: list[Run]) -> Raw:
    """Encode runs once, for the messages of all who get the same (`DeliverPacked`)."""
    return Raw(_ENCODER.encode(runs))


def to_pieces(old: OldPieces, room: int = PIECE_LIMIT) -> tuple[list[Piece], list[Range]]:
    """Return removed pieces and the ranges of those that are not named.

    Args:
        old: What was removed; not all of it is made.
        room: Most pieces that are returned; the rest becomes one range.
    """
    pieces = iter(old)
    named = [Piece.of(piece) for piece in islice(pieces, room)]
    ranges = [Range(first, last) for first, last in old.ranges[:RANGE_LIMIT]]
    unnamed = [(one.first, one.last) for one in islice(pieces, PIECE_LIMIT)] + list(old.ranges[RANGE_LIMIT:])
    if next(pieces, None) is not None:  # there may be very many, for each of very many subscribers
        unnamed.append(old.bounds)
    if not unnamed:
        return named, ranges
    if len(ranges) == RANGE_LIMIT:
        last_one = ranges.pop()
        unnamed.append((last_one.first, last_one.last))
    firsts, lasts = zip(*unnamed, strict=True)
    return named, [*ranges, Range(min(firsts), max(lasts))]


# -- from the wire -----------------------------------------------------------


def from_rows(run: Publish | Run | WatchedRun) -> list[Any] | None:
    """Return the events of what has rows, `None` if they are not plain or were not looked at: see `from_any_rows`."""
    if COMPILED is None:
        return None
    memories = tuple([name.memory for name in run.memories]) if run.memories else ()
    return cast("list[Any] | None", COMPILED.unpack(run.rows, run.space, memories, type(run) is WatchedRun))


def from_any_rows(message: str, field: str, run: Publish | Run | WatchedRun) -> list[Any]:
    """Return the events of what has rows, however they are written.

    Args:
        message: Name of the message, for the error.
        field: Name of the field that has the rows.
        run: What has rows, memories and a space; in a `WatchedRun` events may be lost.

    Raises:
        BadMessage: No event has what a row has.
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: They are no rows.
    """
    if isinstance(run, WatchedRun):
        told = _WATCHED.decode(run.rows)
        check_watched(message, field, told, run.memories)
        return _from_rows(run.space, told, run.memories)
    rows = _ROWS.decode(run.rows)
    check_rows(message, field, rows, run.memories)
    return _from_rows(run.space, rows, run.memories)


def from_pieces(pieces: Iterable[Piece], ranges: Iterable[Range]) -> OldPieces:
    """Return removed pieces in the words of the bus."""
    named = [piece.mapping for piece in pieces]
    return OldPieces([named], [(0, LAST)], [(one.first, one.last) for one in ranges])


def check_rows(message: str, field: str, rows: Iterable[Row], memories: Sequence[MemoryName]) -> None:
    """Refuse rows with what no event has.

    Args:
        message: Name of the message, for the error.
        field: Name of the field that has the rows.
        rows: The rows; what each number holds by itself was checked before.
        memories: The memories that they may name.

    Raises:
        BadMessage: A range is the wrong way round, its targets leave 0..2^64-1, or
            it leads into a memory that is not there.
    """
    count = len(memories)
    for at, row in enumerate(rows):
        if row.first > row.last:
            check_order(f"{field}[{at}] of {message}", row.first, row.last)
        if type(row) is MapRow and (
            row.memory > count
            or ((row.target >= HALF or row.last >= HALF) and row.target + (row.last - row.first) > LAST)
        ):
            _blame(f"{field}[{at}] of {message}", row, count)


def check_watched(message: str, field: str, rows: Iterable[AnyRow], memories: Sequence[MemoryName]) -> None:
    """Do `check_rows` for an observer, whose lost events have no addresses that could be wrong."""
    check_rows(message, field, [_NO_EVENT if isinstance(row, LostRow) else row for row in rows], memories)


# -- inside ------------------------------------------------------------------


def _to_runs(kind: type[RunT], events: Sequence[Observed]) -> list[RunT]:
    runs: list[RunT] = []
    end = 0
    while end < len(events):
        space = events[end].space
        rows, memories, end = to_rows(events, end)
        runs.append(kind(space, rows, memories))
    return runs


def _to_rows(events: Sequence[Observed], start: int) -> tuple[Raw, list[MemoryName], int]:
    """Do `to_rows`; a memory's place is told when it is first met."""
    places: dict[Memory, int] = {}
    spaces = map(_space_of, islice(events, start, None))
    first = next(spaces, "")
    end = next((at for at, space in enumerate(spaces, start + 1) if space != first), len(events))
    rows = [
        MapRow(
            one.seq, one.first, one.last, one.target, one.perm,
            0 if one.memory is None else places.setdefault(one.memory, len(places) + 1),
        )
        if type(one) is Map
        else UnmapRow(one.seq, one.first, one.last)
        if type(one) is Unmap
        else _rare_row(one)
        for one in events[start:end]
    ]  # fmt: skip
    return Raw(_ENCODER.encode(rows)), list(map(MemoryName.of, places)), end


def _from_rows(space: str, rows: Iterable[AnyRow], memories: Iterable[MemoryName]) -> list[Any]:
    """Return the events of rows."""
    names: list[Memory | None] = [None, *(name.memory for name in memories)]
    return [
        Map(space, row.seq, row.first, row.last, row.target, PERMS[row.perm], names[row.memory])
        if type(row) is MapRow
        else Unmap(space, row.seq, row.first, row.last)
        if type(row) is UnmapRow
        else _rare_event(space, row)
        for row in rows
    ]


def _rare_row(event: Observed) -> AnyRow:
    if isinstance(event, Lost):
        return LostRow(event.seq, event.count)
    return DevIotlbUnmapRow(event.seq, event.first, event.last)


def _rare_event(space: str, row: AnyRow) -> Observed:
    if isinstance(row, LostRow):
        return Lost(space, row.seq, row.count)
    return DevIotlbUnmap(space, row.seq, row.first, row.last)


def _blame(name: str, row: MapRow, count: int) -> None:
    """Say what is wrong with a MAP."""
    check_order(name, row.first, row.last)
    check_target(name, row.first, row.last, row.target)
    raise BadMessage(name, "memory", str(row.memory), f"{count} memories are named")
