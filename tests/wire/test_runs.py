"""Events and removed pieces come back as they were."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, strategies as st

from iommubus.caps import Perm
from iommubus.errors import BadMessage
from iommubus.events import DevIotlbUnmap, Event, Lost, Map, Memory, Observed, Unmap
from iommubus.ledger import OldPieces
from iommubus.mapping import Mapping
from iommubus.wire.messages.rows import (
    EVENT_LIMIT,
    DevIotlbUnmapRow,
    LostRow,
    MapRow,
    Row,
    Run,
    UnmapRow,
    WatchedRun,
)
from iommubus.wire.messages.syncing import PIECE_LIMIT
from iommubus.wire.messages.values import RANGE_LIMIT, MemoryName, Piece, Range
from iommubus.wire.runs import (
    check_rows,
    check_watched,
    from_any_rows,
    from_pieces,
    from_rows,
    pack,
    portions,
    to_pieces,
    to_rows,
    to_runs,
    to_watched,
)
from tests.wire.packed import packed, rows_of, watched_rows_of

pytestmark = pytest.mark.usefixtures("either")

LAST: Final = 2**64 - 1
RAM, ROM = Memory("ram", 1, 0x8000), Memory("rom", 2, 0x1000)

u64 = st.integers(0, LAST)
edges = st.tuples(u64, u64).map(sorted)
spaces = st.sampled_from(["vtd0", "vtd1"])
perms = st.sampled_from([Perm.R, Perm.W, Perm.RW])
memories = st.none() | st.sampled_from([RAM, ROM])


@st.composite
def maps(draw: st.DrawFn) -> Map:
    first, last = draw(edges)
    target = draw(st.integers(0, LAST - (last - first)))
    return Map(draw(spaces), draw(u64), first, last, target, draw(perms), draw(memories))


@st.composite
def unmaps(draw: st.DrawFn) -> Unmap | DevIotlbUnmap:
    (first, last), seq, space = draw(edges), draw(u64), draw(spaces)
    return Unmap(space, seq, first, last) if draw(st.booleans()) else DevIotlbUnmap(space, seq, first, last)


losses = st.builds(Lost, spaces, u64, u64)
events: st.SearchStrategy[list[Event]] = st.lists(maps() | unmaps(), max_size=12)
observed: st.SearchStrategy[list[Observed]] = st.lists(maps() | unmaps() | losses, max_size=12)


def events_of(runs: Sequence[Run | WatchedRun]) -> list[Any]:
    """Return the events of runs, in order."""
    found: list[Any] = []
    for run in runs:
        events = from_rows(run)
        found += from_any_rows("message", "rows", run) if events is None else events
    return found


@given(events)
def test_events_come_back_as_they_were(told: list[Event]) -> None:
    """In order, of whatever spaces, leading into whatever memories; a run is of one space."""
    runs = to_runs(told)

    assert events_of(runs) == told
    assert all(type(one.perm) is Perm for one in events_of(runs) if isinstance(one, Map))
    assert all(one.space != other.space for one, other in pairwise(runs))
    for run in runs:
        check_rows("Deliver", "rows", rows_of(run), run.memories)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(run), type=Run) == run


@given(observed)
def test_what_an_observer_gets_comes_back_as_it_was(told: list[Observed]) -> None:
    runs = to_watched(told)

    assert events_of(runs) == told
    for run in runs:
        check_watched("Observed", "rows", watched_rows_of(run), run.memories)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(run), type=WatchedRun) == run


def test_a_run_names_its_space_and_each_memory_once() -> None:
    told: list[Event] = [
        Map("vtd0", 1, 0, 0xFFF, 0x1000, Perm.R, ROM),
        Map("vtd0", 2, 0x1000, 0x1FFF, 0x2000, Perm.W, RAM),
        Map("vtd0", 3, 0x2000, 0x2FFF, 0x3000, Perm.RW),
        Map("vtd0", 4, 0x3000, 0x3FFF, 0, Perm.RW, ROM),
        Unmap("vtd1", 5, 0, 1),
        DevIotlbUnmap("vtd1", 6, 0, 2),
    ]

    assert to_runs(told) == [
        Run(
            "vtd0",
            packed(
                MapRow(1, 0, 0xFFF, 0x1000, 1, 1),
                MapRow(2, 0x1000, 0x1FFF, 0x2000, 2, 2),
                MapRow(3, 0x2000, 0x2FFF, 0x3000, 3, 0),
                MapRow(4, 0x3000, 0x3FFF, 0, 3, 1),
            ),
            [MemoryName("rom", 2, 0x1000), MemoryName("ram", 1, 0x8000)],
        ),
        Run("vtd1", packed(UnmapRow(5, 0, 1), DevIotlbUnmapRow(6, 0, 2))),
    ]
    assert to_rows(told) == (to_runs(told)[0].rows, [MemoryName("rom", 2, 0x1000), MemoryName("ram", 1, 0x8000)], 4)
    assert to_rows(told, 4) == (to_runs(told)[1].rows, [], 6)
    assert events_of(to_runs(told)) == told


def test_no_events_are_no_rows() -> None:
    assert to_runs([]) == []
    assert to_rows([]) == (packed(), [], 0)


def test_packed_runs_are_the_bytes_of_runs() -> None:
    runs = to_runs([Unmap("vtd0", 5, 0, 1), Unmap("vtd1", 5, 0, 1)])

    assert bytes(pack(runs)) == msgspec.msgpack.encode(runs)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (EVENT_LIMIT, [EVENT_LIMIT]),
        (EVENT_LIMIT + 1, [EVENT_LIMIT, 1]),
        (2 * EVENT_LIMIT, [EVENT_LIMIT] * 2),
    ],
)
def test_a_long_hand_over_is_cut_into_messages(count: int, sizes: list[int]) -> None:
    told = [Unmap("vtd0", seq, 0, 1) for seq in range(count)]

    cut = list(portions(told))

    assert list(map(len, cut)) == sizes
    assert [event for portion in cut for event in portion] == told


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        (UnmapRow(1, 2, 1), "last of rows[1] of Publish", "0x1"),
        (DevIotlbUnmapRow(1, LAST, 0), "last of rows[1] of Publish", "0x0"),
        (MapRow(1, 0x2000, 0x1FFF, 0, 1), "last of rows[1] of Publish", "0x1fff"),
        (MapRow(1, 0, 0xFFF, LAST - 0xFFE, 1), "target of rows[1] of Publish", "0xfffffffffffff001"),
        (MapRow(1, 0, LAST, 1, 1), "target of rows[1] of Publish", "0x1"),
        (MapRow(1, 0, 0xFFF, 0, 1, 2), "memory of rows[1] of Publish", "2"),
    ],
)
def test_a_row_that_no_event_is_made_of_is_refused_by_field_and_value(row: Row, field: str, value: str) -> None:
    with pytest.raises(BadMessage) as caught:
        check_rows("Publish", "rows", [UnmapRow(1, 0, 0), row], [MemoryName("ram", 1, 1)])

    assert f"{caught.value.field} of {caught.value.message}" == field
    assert caught.value.value == value


@pytest.mark.parametrize(
    "row",
    [
        UnmapRow(0, 5, 5),
        UnmapRow(0, 0, LAST),
        DevIotlbUnmapRow(0, LAST, LAST),
        MapRow(0, 0, LAST, 0, 3),
        MapRow(0, 1, 1, LAST, 1, 1),
        MapRow(0, 0, 0xFFF, LAST - 0xFFF, 2),
        LostRow(0, 0),
    ],
)
def test_a_row_at_the_edge_is_taken(row: Row | LostRow) -> None:
    check_watched("Observed", "rows", [row], [MemoryName("ram", 1, 1)])


# -- mappings and removed pieces ---------------------------------------------


@given(maps())
def test_a_mapping_comes_back_as_it_was(event: Map) -> None:
    mapping = Mapping(event.first, event.last, event.target, event.perm, event.memory)

    piece = msgspec.msgpack.decode(msgspec.msgpack.encode(Piece.of(mapping)), type=Piece)

    assert piece.mapping == mapping
    assert type(piece.mapping.perm) is Perm


def old(count: int, ranges: list[tuple[int, int]]) -> OldPieces:
    pieces = [Mapping(at * 16, at * 16 + 7, 0x1000 + at, Perm.R) for at in range(count)]
    return OldPieces([pieces[: count // 2], pieces[count // 2 :]], [(0, LAST)], ranges)


def test_removed_pieces_come_back_as_they_were() -> None:
    again = from_pieces(*to_pieces(old(5, [(3, 9), (20, LAST)])))

    assert list(again) == list(old(5, []))
    assert again.ranges == [(3, 9), (20, LAST)]
    assert again.truncated
    assert not from_pieces(*to_pieces(old(5, []))).truncated
    assert not from_pieces(*to_pieces(old(0, [])))


@pytest.mark.parametrize(
    ("count", "room", "left"), [(5, 5, None), (5, 4, (64, 71)), (5, 2, (32, 71)), (5, 0, (0, 71)), (1, 0, (0, 7))]
)
def test_pieces_past_the_room_become_one_range(count: int, room: int, left: tuple[int, int] | None) -> None:
    """Who reads it keeps everything out of use that lies there."""
    pieces, ranges = to_pieces(old(count, [(1, 2)]), room)

    assert [piece.first for piece in pieces] == [at * 16 for at in range(min(count, room))]
    assert ranges == [Range(1, 2), *([] if left is None else [Range(*left)])]


def test_there_are_never_more_pieces_and_ranges_than_a_message_takes() -> None:
    many = [(at * 4, at * 4 + 1) for at in range(RANGE_LIMIT + 3)]

    pieces, ranges = to_pieces(old(PIECE_LIMIT + 1, many))

    assert (len(pieces), len(ranges)) == (PIECE_LIMIT, RANGE_LIMIT)
    assert (ranges[-2], ranges[-1]) == (
        Range(*many[RANGE_LIMIT - 2]),
        Range(many[RANGE_LIMIT - 1][0], PIECE_LIMIT * 16 + 7),
    )


def test_as_many_ranges_as_fit_are_left_alone() -> None:
    many = [(at * 4, at * 4 + 1) for at in range(RANGE_LIMIT)]

    assert to_pieces(old(0, many)) == ([], [Range(*edges) for edges in many])
