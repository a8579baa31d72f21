"""Plain events of another table, made to happen here in one loop."""

from collections.abc import Sequence

import pytest

from iommubus.caps import Perm
from iommubus.errors import UnknownMemory
from iommubus.events import DevIotlbUnmap, Event, Map, Memory, Unmap
from iommubus.mapping import Mapping
from iommubus.ranges import LAST, IovaRange
from iommubus.repeating import Repeating
from iommubus.shape import Shape
from iommubus.table import Table

SHAPE = Shape(granule=4, last=63, reserved=(IovaRange(32, 35),))
RAM = Memory("ram", 1, 64)


def map_(seq: int, first: int, last: int, target: int = 0, memory: Memory | None = None) -> Map:
    return Map("s", seq, first, last, target, Perm.RW, memory)


def unmap(seq: int, first: int, last: int) -> Unmap:
    return Unmap("s", seq, first, last)


def check_memory(memory: Memory, target: int, size: int) -> None:
    """Know one memory."""
    del target, size
    if memory != RAM:
        raise UnknownMemory(memory.name, memory.generation, 0)


def repeating(table: Table, seq: int = 10, shape: Shape = SHAPE, *, split: bool = False) -> Repeating:
    return Repeating("s", seq, table, shape, split=split, check_memory=check_memory)


def filled(*ranges: tuple[int, int]) -> Table:
    table = Table(chunk=2)
    for first, last in ranges:
        table.insert(first, last, 0, Perm.RW)
    return table


def test_events_are_passed_on_as_they_are_where_their_numbers_go_on() -> None:
    """
    Nothing is made anew for who has the same number here and there.
    """
    table = Table()
    events: list[Event] = [map_(11, 0, 3), unmap(12, 0, 3), map_(13, 4, 7, 4, RAM)]
    plain = repeating(table)

    assert plain.run(iter(events), 9) == (3, None)

    assert all(one is other for one, other in zip(plain.events, events, strict=True))
    assert [(seq, list(removed)) for seq, removed in plain.removed] == [(12, [Mapping(0, 3, 0, Perm.RW)])]
    assert list(table) == [Mapping(4, 7, 4, Perm.RW, RAM)]


def test_numbers_go_on_from_the_spaces_own() -> None:
    """
    What changes nothing takes none, and what carries another one is made anew.
    """
    table = filled((0, 3))
    plain = repeating(table)

    taken = plain.run(iter([map_(50, 0, 3), unmap(51, 8, 11), unmap(52, 0, 7), map_(53, 4, 7, 4, RAM)]), 9)

    assert taken == (4, None)
    assert plain.events == [unmap(11, 0, 7), map_(12, 4, 7, 4, RAM)]
    assert plain.run(iter([map_(54, 0, 3)]), 9) == (1, None)
    assert plain.events[-1] == map_(13, 0, 3)


@pytest.mark.parametrize(
    "event",
    [
        DevIotlbUnmap("s", 12, 0, 3),
        map_(12, 4, 11),  # in the way of another
        map_(12, 0, 2),
        map_(12, 1, 3),
        map_(12, 0, 3, 1),
        map_(12, 0, 3, LAST - 3),
        map_(12, 32, 35),
        map_(12, 60, 67),
        map_(12, 0, 3, 0, Memory("rom", 1, 64)),
        Map("s", 12, 0, 3, 0, Perm(0)),
        unmap(12, 8, 8),
        unmap(12, 8, 9),
        unmap(12, 60, 67),
        unmap(12, 12, 15),  # cuts one
    ],
)
def test_it_stops_before_what_is_not_plain_or_cannot_be(event: Event) -> None:
    """
    That one changed nothing, and what is behind it was not taken.
    """
    table = filled((8, 15))
    plain, events = repeating(table), iter([map_(11, 4, 7), event, unmap(13, 4, 7)])

    assert plain.run(events, 9) == (1, event)

    assert list(table) == [Mapping(4, 7, 0, Perm.RW), Mapping(8, 15, 0, Perm.RW)]
    assert plain.events == [map_(11, 4, 7)]
    assert plain.run(events, 9) == (1, None)
    assert plain.events == [map_(11, 4, 7), unmap(12, 4, 7)]


def test_an_unmap_that_may_cut_is_not_plain() -> None:
    """
    It may have to be told of by several events.
    """
    assert repeating(filled((0, 3)), split=True).run(iter([unmap(11, 0, 3)]), 9) == (0, unmap(11, 0, 3))


@pytest.mark.parametrize(
    ("room", "events", "taken"),
    [
        (-1, [map_(11, 0, 3)], 0),
        (0, [map_(11, 0, 3)], 0),
        (1, [map_(11, 0, 3), map_(12, 4, 7)], 1),
        (1, [map_(11, 0, 3), unmap(12, 0, 3), map_(13, 4, 7)], 3),
        (0, [unmap(11, 8, 11), map_(13, 4, 7)], 2),
    ],
)
def test_no_more_come_than_there_is_room_for(room: int, events: Sequence[Event], taken: int) -> None:
    """
    What goes makes room.
    """
    count, event = repeating(filled((8, 11))).run(iter(events), room)

    assert (count, event) == (taken, events[taken] if taken < len(events) else None)
