"""A shadower's copy of what is mapped."""

import anyio
import pytest

from iommubus import Cap, DevIotlbUnmap, Map, Mirror, Perm, Unmap
from iommubus.errors import AccessDenied, Fenced, NotMapped, Overlap, Straddle
from tests.actors import PAGE, map_page, mappings, open_space, unmap_page
from tests.loops import every_loop


@every_loop
async def test_it_follows_a_subscription() -> None:
    """I3: at every sync it equals the table."""
    async with open_space(offers=Cap.ALL) as (bus, space):
        for page in range(4):
            map_page(space, page)
        subscription = bus.subscribe("space", Cap.ALL)
        mirror = Mirror(subscription)
        async with subscription as events, anyio.create_task_group() as tasks:
            tasks.start_soon(mirror.run)
            await events.wait_current()
            assert list(mirror) == mappings(space)
            unmap_page(space, 1)
            space.remap(0, PAGE, 0, Perm.R)
            space.invalidate_device(0, PAGE)
            await space.sync()
            assert list(mirror) == mappings(space)
            assert len(mirror) == 3
            assert repr(mirror) == f"<mirror of {events.name}, 3 mappings>"
            await space.close()
        assert len(mirror) == 0


@every_loop
async def test_lookup_checks_address_and_access() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        mirror = Mirror(events)
        mirror.apply(Map("space", 1, 0x1000, 0x2FFF, 0x8000, Perm.R))
        assert mirror.lookup(0x2FFF).target == 0x8000
        for hole in (0xFFF, 0x3000):
            with pytest.raises(NotMapped):
                mirror.lookup(hole)
        with pytest.raises(AccessDenied):
            mirror.lookup(0x1000, Perm.W)
        with pytest.raises(AccessDenied):
            mirror.lookup(0x1000, Perm.RW)
        await space.fence(events)
        for address in (0x1000, 0x3000):
            with pytest.raises(Fenced):
                mirror.lookup(address)


@every_loop
async def test_it_refuses_what_a_shadower_is_never_sent() -> None:
    """Law 6, I8: a MAP over a live mapping and an UNMAP that cuts one would be mistakes of the bus."""
    async with open_space() as (bus, _):
        mirror = Mirror(bus.subscribe("space", Cap.IOTLB))
        mirror.apply(Map("space", 1, 0, 0x3FFF, 0, Perm.R))
        with pytest.raises(Overlap):
            mirror.apply(Map("space", 2, 0x1000, 0x1FFF, 0, Perm.R))
        with pytest.raises(Straddle):
            mirror.apply(Unmap("space", 2, 0x1000, 0x1FFF))
        mirror.apply(DevIotlbUnmap("space", 2, 0x1000, 0x1FFF))
        assert len(mirror) == 1
        mirror.apply(Unmap("space", 3, 0, 0xFFFF))
        assert len(mirror) == 0
