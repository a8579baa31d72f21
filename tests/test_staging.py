"""Changes of a table that are made all or none."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest

from iommubus.caps import Perm
from iommubus.errors import (
    InReserved,
    MappingError,
    Misaligned,
    NotOffered,
    OutsideSpace,
    Overlap,
    PastMemory,
    Straddle,
)
from iommubus.events import Map, Memory, Unmap
from iommubus.mapping import Mapping
from iommubus.plain import Plain
from iommubus.ranges import IovaRange
from iommubus.shape import Shape
from iommubus.staging import Staging
from iommubus.table import Table

SHAPE = Shape(granule=1, last=7, reserved=(IovaRange(7, 7),))
RAM = Memory("ram", 1, 0x104)
Change = Mapping | IovaRange


def mapping(first: int, last: int, target: int = 0x100, memory: Memory | None = None) -> Mapping:
    return Mapping(first, last, target, Perm.RW, memory)


def check_memory(memory: Memory, target: int, size: int) -> None:
    """Refuse what does not lie in the memory."""
    if target + size > memory.size:
        raise PastMemory(target, size, str(memory), memory.size)


def filled(*mappings: Mapping) -> Table:
    table = Table(chunk=2)
    for one in mappings:
        table.insert(one.first, one.last, one.target, one.perm, one.memory)
    return table


def plain_of(table: Table | None, *, split: bool = False) -> Plain | None:
    return None if table is None else Plain("s", table, SHAPE, split=split)


def stage(table: Table | None, changes: Sequence[Change], *, split: bool = False, seq: int = 10) -> Staging:
    staging = Staging("s", seq, table, SHAPE, split=split, check_memory=check_memory)
    staging.add_all(changes, plain_of(table, split=split))
    return staging


def test_a_change_is_made_at_once_and_told_of_by_a_numbered_event() -> None:
    """
    The table has changed before anybody is told, and numbers go on from the space's.
    """
    table = filled(mapping(0, 1))

    staging = stage(table, [IovaRange(0, 2), mapping(1, 3, 0x200)])

    assert list(table) == [mapping(1, 3, 0x200)]
    assert staging.events == [Unmap("s", 11, 0, 2), Map("s", 12, 1, 3, 0x200, Perm.RW)]
    assert [(seq, list(removed)) for seq, removed in staging.removed] == [(11, [mapping(0, 1)])]


def test_what_changes_nothing_is_not_published() -> None:
    """
    An identical MAP and an UNMAP of nothing take no number.
    """
    table = filled(mapping(0, 1))

    staging = stage(table, [mapping(0, 1), IovaRange(4, 5), mapping(4, 5)])

    assert staging.events == [Map("s", 11, 4, 5, 0x100, Perm.RW)]


def test_a_pull_space_tells_of_every_unmap_and_of_no_map() -> None:
    """
    Without a table an UNMAP may name what was never mapped.
    """
    staging = stage(None, [IovaRange(2, 3), IovaRange(2, 3)])

    assert staging.events == [Unmap("s", 11, 2, 3), Unmap("s", 12, 2, 3)]
    with pytest.raises(NotOffered):
        staging.add(mapping(0, 0))
    staging.undo()


def test_splitting_removes_whole_mappings_and_maps_what_survives() -> None:
    """
    Law 6: nobody sees an UNMAP that cuts a mapping it holds.
    """
    table = filled(mapping(0, 2, 0x100), mapping(3, 5, 0x200))

    staging = stage(table, [IovaRange(1, 4)], split=True)

    assert staging.events == [
        Unmap("s", 11, 0, 5),
        Map("s", 12, 0, 0, 0x100, Perm.RW),
        Map("s", 13, 5, 5, 0x202, Perm.RW),
    ]
    ((_, removed),) = staging.removed
    assert list(removed) == [mapping(0, 2, 0x100), mapping(3, 5, 0x200)]
    assert stage(table, [IovaRange(2, 3)], split=True).events == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (mapping(1, 2), Overlap),
        (IovaRange(0, 0), Straddle),
        (mapping(7, 7), InReserved),
        (mapping(7, 8), OutsideSpace),
        (IovaRange(0, 8), OutsideSpace),
        (mapping(3, 4, 0x103, RAM), PastMemory),
        (mapping(0, 1, 0x100, RAM), Overlap),
    ],
)
def test_a_change_that_cannot_be_raises_and_leaves_the_table(change: Change, error: type[MappingError]) -> None:
    """
    The check comes before the change.
    """
    table = filled(mapping(0, 1))

    with pytest.raises(error):
        stage(table, [change])

    assert list(table) == [mapping(0, 1)]


@pytest.mark.parametrize(
    "change", [Map("s", 1, 0, 1, 0x100, Perm.RW), Unmap("s", 1, 0, 1), (0, 1), Mapping(2, 3, 0, cast("Perm", 1.5))]
)
def test_a_change_of_another_type_raises_and_leaves_the_table(change: object) -> None:
    """
    Above all, an event is no request: nobody knows what it would ask for.
    """
    table = filled(mapping(0, 1))

    with pytest.raises(TypeError):
        stage(table, [cast("Any", change)])

    assert list(table) == [mapping(0, 1)]


@pytest.mark.parametrize("split", [False, True])
def test_a_mapping_is_told_of_with_its_memory(split: bool) -> None:
    """
    Also when it is what a cut left of another.
    """
    staging = stage(filled(), [mapping(0, 3, 0x100, RAM), IovaRange(0, 1 if split else 3)], split=split)

    events = staging.events
    rest = [Map("s", 13, 2, 3, 0x102, Perm.RW, RAM)] if split else []
    assert events == [Map("s", 11, 0, 3, 0x100, Perm.RW, RAM), Unmap("s", 12, 0, 3), *rest]
    ((_, removed),) = staging.removed
    assert list(removed) == [mapping(0, 3, 0x100, RAM)]


def test_a_plain_number_is_told_of_as_the_permission_that_it_means() -> None:
    """
    Whoever gets the event may ask what is in it.
    """
    staging = stage(filled(), [Mapping(0, 1, 0x100, cast("Perm", 2))])

    (event,) = staging.events
    assert isinstance(event, Map)
    assert event.perm is Perm.W


def test_ranges_are_checked_against_the_granule() -> None:
    """
    A staged change is held to the same shape as a single one.
    """
    table, shape = Table(), Shape(granule=4, last=15)
    staging = Staging("s", 0, table, shape, split=False, check_memory=check_memory)

    with pytest.raises(Misaligned):
        staging.add_all([IovaRange(2, 5)], Plain("s", table, shape, split=False))


@pytest.mark.parametrize("split", [False, True])
def test_undo_puts_back_exactly_what_was(split: bool) -> None:
    """
    All or none: over every short list of changes of a small table.
    """
    ranges = [(0, 0), (0, 3), (1, 2), (3, 4)]
    alphabet: list[Change] = [IovaRange(*edges) for edges in ranges]
    alphabet += [mapping(*edges, 0x300) for edges in ranges]
    alphabet.append(mapping(1, 2, 0x100, RAM))
    start = [mapping(0, 1, 0x100), mapping(3, 4, 0x100, RAM)]

    for changes in itertools.product(alphabet, repeat=3):
        table = filled(*start)
        staging = Staging("s", 0, table, SHAPE, split=split, check_memory=check_memory)
        with suppress(MappingError):
            staging.add_all(changes, plain_of(table, split=split))
        staging.undo()

        assert list(table) == start, changes
