"""The daemon's table follows the producer's, and is the same once a producer that is back has named all it has."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from iommubus import Bus, Cap, Perm
from iommubus.bus.space import LocalSpace
from iommubus.errors import BadMessage, LimitReached, Misaligned, NotOffered, Overlap, Straddle
from iommubus.events import DevIotlbUnmap, Event, Map, Unmap
from iommubus.mapping import Mapping
from iommubus.service.spaces.applying import Named, apply

pytestmark = pytest.mark.asyncio

PAGE = 0x1000
MANY = 1 << 20


@asynccontextmanager
async def table(*mappings: Mapping, offers: Cap = Cap.ALL) -> AsyncGenerator[LocalSpace]:
    """Give a space with these mappings."""
    async with Bus() as bus:
        space = await bus.create_space("vtd0", last=2**32 - 1, offers=offers)
        space.apply(mappings)
        yield space


def mapping(first: int, last: int, target: int = 0) -> Mapping:
    """Return a mapping of pages."""
    return Mapping(first * PAGE, last * PAGE + PAGE - 1, target * PAGE, Perm.RW)


def map_(first: int, last: int, target: int = 0) -> Map:
    return mapping(first, last, target).event("vtd0", 1)


def unmap(first: int, last: int) -> Unmap:
    return Unmap("vtd0", 1, first * PAGE, last * PAGE + PAGE - 1)


def contents(space: LocalSpace) -> list[Mapping]:
    return space.walk(0, space.shape.last, MANY)


async def test_events_happen_as_they_did_at_the_producer() -> None:
    async with table() as space:
        for event in (map_(1, 2, 5), map_(4, 4), unmap(1, 2), map_(2, 2, 9)):
            apply(space, event, MANY)
        apply(space, DevIotlbUnmap("vtd0", 1, 0, PAGE - 1), MANY)

        assert contents(space) == [mapping(2, 2, 9), mapping(4, 4)]
        assert space.seq == 5


async def test_a_map_that_cannot_be_changes_nothing() -> None:
    async with table(mapping(1, 2)) as space:
        with pytest.raises(Overlap):
            apply(space, map_(2, 3), MANY)
        with pytest.raises(LimitReached):
            apply(space, map_(5, 5), 1)
        with pytest.raises(Misaligned):
            apply(space, Map("vtd0", 1, 1, PAGE, 0, Perm.R), MANY)
        assert contents(space) == [mapping(1, 2)]


async def test_an_unmap_that_would_cut_takes_all_of_what_it_touches_and_says_so() -> None:
    async with table(mapping(1, 2), mapping(4, 4), mapping(6, 8), mapping(9, 9)) as space:
        with pytest.raises(Straddle):
            apply(space, unmap(2, 7), MANY)
        assert contents(space) == [mapping(9, 9)]


async def test_an_unmap_that_no_table_makes_breaks_the_protocol() -> None:
    async with table(mapping(1, 2)) as space:
        with pytest.raises(BadMessage):
            apply(space, Unmap("vtd0", 1, 1, PAGE), MANY)
        with pytest.raises(BadMessage):
            apply(space, Unmap("vtd0", 1, 0, 2**40 - 1), MANY)


async def test_a_kind_that_the_space_does_not_offer_is_refused() -> None:
    async with table(offers=Cap.IOTLB) as space:
        with pytest.raises(NotOffered):
            apply(space, DevIotlbUnmap("vtd0", 1, 0, PAGE - 1), MANY)
    async with table(offers=Cap.UNMAP) as space:
        with pytest.raises(NotOffered):
            apply(space, map_(1, 1), MANY)


# -- resuming -----------------------------------------------------------------


async def resumed(old: tuple[Mapping, ...], events: list[Event]) -> list[Mapping]:
    """Return what is there after a producer came back and said this."""
    async with table(*old) as space:
        named = Named()
        for event in events:
            named.apply(space, event, MANY)
        for _ in named.sweep(space):
            pass
        return contents(space)


async def test_what_is_named_as_it_was_is_not_touched() -> None:
    async with table(mapping(1, 2), mapping(4, 4)) as space:
        seq, named = space.seq, Named()
        named.apply(space, map_(1, 2), MANY)
        named.apply(space, map_(4, 4), MANY)
        for _ in named.sweep(space):
            pass
        assert space.seq == seq


async def test_what_differs_takes_the_place_of_all_that_it_overlaps() -> None:
    assert await resumed((mapping(1, 2), mapping(3, 3), mapping(4, 6)), [map_(2, 5, 7)]) == [mapping(2, 5, 7)]
    assert await resumed((mapping(1, 2),), [map_(1, 2, 7)]) == [mapping(1, 2, 7)]


async def test_what_was_not_named_goes() -> None:
    assert await resumed((mapping(1, 2), mapping(4, 4), mapping(6, 6)), [map_(4, 4)]) == [mapping(4, 4)]
    assert await resumed((mapping(1, 2),), []) == []


async def test_a_map_that_cannot_be_is_not_named() -> None:
    async with table(mapping(0, 2)) as space:
        named = Named()
        with pytest.raises(Misaligned):
            named.apply(space, Map("vtd0", 1, 0, 3 * PAGE, 0, Perm.R), MANY)
        for _ in named.sweep(space):
            pass
        assert contents(space) == []


async def test_a_large_table_is_swept_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.applying.PIECE", 4)
    pages = [mapping(at, at) for at in range(0, 40, 2)]
    async with table(*pages) as space:
        named = Named()
        named.apply(space, map_(20, 20), MANY)
        pieces = 0
        for _ in named.sweep(space):
            pieces += 1
        assert contents(space) == [mapping(20, 20)]
        assert pieces == 6


async def test_what_is_published_while_it_is_swept_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.applying.PIECE", 2)
    async with table(*(mapping(at, at) for at in range(6))) as space:
        named = Named()
        for _ in named.sweep(space):
            if space.lookup(9 * PAGE) is None:
                named.apply(space, map_(9, 9), MANY)
        assert contents(space) == [mapping(9, 9)]


SPANS = [(0, 0), (1, 1), (0, 1)]
TABLES = [(), ((0, 0, 1),), ((1, 1, 1),), ((0, 1, 1),), ((0, 0, 1), (1, 1, 1)), ((0, 0, 2), (1, 1, 1)), ((0, 1, 2),)]


def cuts(held: Mapping, first: int, last: int) -> bool:
    """Say whether an UNMAP of pages takes a part of a mapping."""
    low, high = first * PAGE, last * PAGE + PAGE - 1
    overlaps = held.first <= high and held.last >= low
    return overlaps and not (low <= held.first and held.last <= high)


async def test_an_unmap_takes_whole_what_is_not_named_yet() -> None:
    assert await resumed((mapping(0, 3),), [unmap(1, 1), map_(0, 0), map_(2, 3)]) == [mapping(0, 0), mapping(2, 3)]


async def test_after_the_sweep_the_two_tables_are_the_same_whatever_each_was_before() -> None:
    """Every table of two pages before the loss, every one after it, and every change while that is named."""
    for old, new, (first, last) in itertools.product(TABLES, TABLES, SPANS):
        before = tuple(mapping(*each) for each in old)
        after = [mapping(*each) for each in new]
        events: list[Event] = [each.event("vtd0", 1) for each in after]
        assert await resumed(before, events) == after
        if any(cuts(each, first, last) for each in after):
            continue  # no table does that
        kept = [each for each in after if each.last < first * PAGE or each.first > last * PAGE]
        assert await resumed(before, [*events, unmap(first, last), map_(first, last, 8)]) == sorted(
            [*kept, mapping(first, last, 8)]
        )
