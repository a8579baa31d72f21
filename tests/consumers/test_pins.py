"""Pins of a cache, and its counters."""

import pytest

from iommubus import Cap, Iotlb, NotMapped, Perm
from iommubus.errors import AccessDenied, BadCapacity, Fenced
from tests.actors import PAGE, apply_all, map_page, open_space, unmap_page
from tests.loops import every_loop


@every_loop
async def test_only_what_overlaps_is_revoked() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        for page in range(3):
            map_page(space, page)
        pins = [await cache.pin(page * PAGE) for page in range(3)]
        unmap_page(space, 1)
        await apply_all(aiter(events), cache.apply)
        assert [pin.revoked for pin in pins] == [False, True, False]
        for pin in pins:
            pin.release()
            pin.release()
        assert cache.statistics().pinned == 0


@every_loop
async def test_an_entry_that_was_evicted_is_still_revoked_where_it_is_pinned() -> None:
    """No room in the cache is no reason to forget who is copying."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events, capacity=1)
        map_page(space, 0)
        map_page(space, 1)
        pin = await cache.pin(0)
        await cache.translate(PAGE)
        assert cache.lookup(0) is None
        unmap_page(space, 0)
        await apply_all(aiter(events), cache.apply)
        assert pin.revoked
        pin.release()


@every_loop
async def test_a_pin_without_waiting_needs_an_entry() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        map_page(space, 0, perm=Perm.R)
        assert cache.pin_nowait(0) is None
        await cache.translate(0)
        pin = cache.pin_nowait(0)
        assert pin is not None
        pin.release()
        with pytest.raises(AccessDenied):
            cache.pin_nowait(0, Perm.W)
        assert events.statistics().pinned == 0


@every_loop
async def test_what_cannot_be_translated_cannot_be_pinned() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        with pytest.raises(NotMapped):
            await cache.pin(0)
        map_page(space, 0)
        await cache.translate(0)
        await space.fence(events)
        with pytest.raises(Fenced):
            await cache.pin(0)
        assert events.statistics().pinned == 0


@every_loop
async def test_the_entry_that_was_not_used_for_longest_makes_room() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events, capacity=2)
        for page in range(3):
            map_page(space, page)
        await cache.translate(0)
        await cache.translate(PAGE)
        assert cache.lookup(0) is not None
        await cache.translate(2 * PAGE)
        assert [mapping.first for mapping in cache] == [0, 2 * PAGE]
        assert len(cache) == 2


@every_loop
async def test_everything_is_counted() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events, capacity=2)
        for page in range(3):
            map_page(space, page, perm=Perm.R)
            await cache.translate(page * PAGE)
        assert cache.lookup(2 * PAGE) is not None
        with pytest.raises(AccessDenied):
            cache.lookup(2 * PAGE, Perm.W)
        unmap_page(space, 2)
        unmap_page(space, 0)
        await apply_all(aiter(events), cache.apply)
        with await cache.pin(PAGE):
            assert cache.statistics() == (1, 2, 3, 1, 0, 1, 1, 1)
        assert cache.statistics()._asdict() == {
            "entries": 1, "hits": 2, "misses": 3, "access_failures": 1, "stale": 0, "evictions": 1,
            "invalidations": 1, "pinned": 0,
        }  # fmt: skip


@every_loop
async def test_a_cache_holds_at_least_one_entry() -> None:
    async with open_space() as (bus, _):
        with pytest.raises(BadCapacity):
            Iotlb(bus.subscribe("space", Cap.UNMAP), capacity=0)
