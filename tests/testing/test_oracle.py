"""The array of pages, against hand-written changes, and beside the table that it is the measure of."""

import itertools
from contextlib import suppress
from typing import Final

import pytest

from iommubus import LAST, Bus, IovaRange, Mapping, Perm
from iommubus.bus.abc import Straddling
from iommubus.errors import MappingError, Overlap, Straddle
from iommubus.testing import PageArray, joined
from iommubus.testing.oracle import beyond, without
from tests.actors import mappings
from tests.loops import every_loop

PAGE: Final = 0x1000
RW: Final = Perm.RW


def pages(first: int, count: int, target: int = 0x80000, perm: Perm = RW) -> Mapping:
    """Return a mapping of pages to where the first one's number says."""
    return Mapping(first * PAGE, (first + count) * PAGE - 1, target + first * PAGE, perm)


def test_it_says_what_was_mapped() -> None:
    array = PageArray()
    array.map(PAGE, 2 * PAGE, 0x81000, RW)
    array.map(4 * PAGE, PAGE, 0x84000, RW)

    assert array.mappings() == [pages(1, 2), pages(4, 1)]
    assert array.lookup(2 * PAGE + 5) == pages(1, 2)
    assert array.lookup(3 * PAGE) is None
    assert array.mappings([(2 * PAGE, 3 * PAGE - 1), (0, PAGE - 1)]) == [pages(2, 1)]
    assert repr(array) == "<3 pages of 0x1000 bytes>"


def test_a_copy_is_another_array() -> None:
    array = PageArray(straddle="split")
    array.map(0, 2 * PAGE, 0x80000, RW)

    twin = array.copy()
    twin.unmap(0, PAGE)

    assert array.mappings() == [pages(0, 2)]
    assert twin.mappings() == [pages(1, 1)]


def test_a_map_over_a_live_mapping_is_refused_but_for_the_same() -> None:
    array = PageArray()
    array.map(PAGE, 2 * PAGE, 0x81000, RW)

    array.map(PAGE, 2 * PAGE, 0x81000, RW)
    with pytest.raises(Overlap) as caught:
        array.map(0, 2 * PAGE, 0, RW)

    assert (caught.value.held_first, caught.value.held_last) == (PAGE, 3 * PAGE - 1)
    assert array.mappings() == [pages(1, 2)]


def test_an_unmap_that_cuts_is_refused_or_splits() -> None:
    refusing, splitting = PageArray(), PageArray(straddle="split")
    for array in (refusing, splitting):
        array.map(0, 4 * PAGE, 0x80000, RW)

    with pytest.raises(Straddle):
        refusing.unmap(PAGE, PAGE)

    assert refusing.mappings() == [pages(0, 4)]
    assert splitting.unmap(PAGE, 2 * PAGE) == [pages(1, 2)]
    assert splitting.mappings() == [pages(0, 1), pages(3, 1)]
    assert splitting.unmap_all() == [pages(0, 1), pages(3, 1)]
    assert len(splitting) == 0


def test_a_remap_replaces_and_the_same_is_nothing() -> None:
    array = PageArray()
    array.map(0, PAGE, 0x80000, RW)
    array.remap(0, PAGE, 0x80000, RW)
    array.remap(0, 2 * PAGE, 0x90000, Perm.R)

    assert array.mappings() == [pages(0, 2, 0x90000, Perm.R)]


def test_of_many_changes_all_are_made_or_none() -> None:
    array = PageArray()
    array.map(0, PAGE, 0x80000, RW)

    with pytest.raises(Overlap):
        array.apply([IovaRange(0, PAGE - 1), pages(4, 2), pages(5, 1)])

    assert array.mappings() == [pages(0, 1)]
    array.apply([IovaRange(0, PAGE - 1), pages(0, 2)])
    assert array.mappings() == [pages(0, 2)]


def test_what_is_left_of_a_mapping_keeps_its_targets() -> None:
    assert without(pages(0, 4), PAGE, 2 * PAGE - 1) == [pages(0, 1), pages(2, 2)]
    assert without(pages(1, 1), 0, LAST) == []


def test_copies_that_say_the_same_are_joined_to_the_same() -> None:
    whole, parts = [pages(0, 4)], [pages(2, 2), pages(0, 1), pages(1, 1)]

    assert joined(parts) == whole == joined(whole)
    for other in (pages(2, 2, 0x90000), pages(2, 2, perm=Perm.R), pages(3, 1)):
        assert joined([pages(0, 2), other]) == [pages(0, 2), other]
    assert joined([pages(0, 2), pages(1, 2)]) == [pages(0, 2), pages(1, 2)]
    assert joined([]) == []


def test_what_is_held_and_not_in_the_table_is_named() -> None:
    table = [pages(0, 2), pages(2, 2), pages(6, 1, perm=Perm.R)]
    good = [pages(1, 2), pages(0, 1, perm=Perm.R), pages(6, 1, perm=Perm.R)]
    bad = [pages(3, 2), pages(4, 1), pages(0, 1, 0x90000), pages(6, 1)]

    assert beyond([*good, *bad], table) == bad


def change(array: PageArray, step: tuple[str, int, int]) -> None:
    verb, first, count = step
    if verb == "map":
        array.map(first * PAGE, count * PAGE, 0x80000 + first * PAGE, RW)
    elif verb == "remap":
        array.remap(first * PAGE, count * PAGE, 0x90000 + first * PAGE, RW)
    else:
        array.unmap(first * PAGE, count * PAGE)


STEPS: Final = [(verb, first, count) for verb in ("map", "unmap", "remap") for first, count in ((0, 1), (0, 2), (1, 2))]


@pytest.mark.parametrize("straddle", ["refuse", "split"])
@every_loop
async def test_it_agrees_with_the_table_in_every_short_history(straddle: Straddling) -> None:
    """Two readings of the same words, which share no line: each history of three changes ends the same in both."""
    async with Bus() as bus:
        for history in itertools.product(STEPS, repeat=3):
            array, space = (
                PageArray(straddle=straddle),
                await bus.create_space("s", last=4 * PAGE - 1, straddle=straddle),
            )
            for verb, first, count in history:
                with suppress(MappingError):
                    change(array, (verb, first, count))
                with suppress(MappingError):
                    if verb == "unmap":
                        space.unmap(first * PAGE, count * PAGE)
                    else:
                        target = (0x80000 if verb == "map" else 0x90000) + first * PAGE
                        (space.map if verb == "map" else space.remap)(first * PAGE, count * PAGE, target, RW)
                assert array.mappings() == mappings(space), history
            space.shut()
