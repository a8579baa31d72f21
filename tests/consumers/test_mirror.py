"""A shadower's copy of what is mapped."""

import anyio
import pytest

from iommubus import Cap, DevIotlbUnmap, Map, Memory, Mirror, Perm, Unmap
from iommubus.errors import (
    AccessDenied,
    EmptyRange,
    Fenced,
    NoBacking,
    NotContiguous,
    NotMapped,
    Overlap,
    Straddle,
    UnknownMemory,
)
from tests.actors import PAGE, failing_sync, map_page, mappings, open_space, settle, unmap_page
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


# -- views ---------------------------------------------------------------------


@every_loop
async def test_what_the_producer_writes_is_read_through_a_view_and_the_reverse() -> None:
    """Where a mapping leads to, and nowhere else; until the UNMAP was acknowledged, and never after."""
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", 4 * PAGE)
        whole = bus.memory_view(ram)
        subscription = bus.subscribe("space", Cap.IOTLB)
        mirror = Mirror(subscription)
        async with subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(mirror.run)
            space.map(0x8000, 2 * PAGE, PAGE, Perm.RW, memory=ram)
            space.map(0xA000, PAGE, 3 * PAGE, Perm.R, memory=ram)
            await space.sync()
            whole[PAGE + 16 : PAGE + 20] = b"ping"
            view = mirror.view(0x8010, 4)
            assert bytes(view) == b"ping"
            view[:] = b"pong"
            assert bytes(whole[PAGE + 16 : PAGE + 20]) == b"pong"
            assert bytes(mirror.view(0x8000, 3 * PAGE)) == bytes(whole[PAGE:])
            assert mirror.view(0x8FFF).nbytes == PAGE + 1
            readable = mirror.view(0xA000)

            space.unmap(0x8000, 2 * PAGE)
            await space.sync()

            with pytest.raises(ValueError, match="released"):
                bytes(view)
            with pytest.raises(NotMapped):
                mirror.view(0x8010, 4)
            assert readable.nbytes == PAGE
            await space.close()
            await settle()
            with pytest.raises(ValueError, match="released"):
                bytes(readable)


@every_loop
async def test_a_view_is_refused_as_a_lookup_is() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        ram = await bus.add_memory("ram", 4 * PAGE)
        gone = Memory("gone", 1, PAGE)
        mirror = Mirror(events)
        mirror.apply(Map("space", 1, 0x1000, 0x2FFF, 0, Perm.R, ram))
        with pytest.raises(TypeError):
            mirror.view(0x1000)[0] = 1
        mirror.apply(Map("space", 2, 0x3000, 0x3FFF, 0x8000, Perm.RW))
        mirror.apply(Map("space", 3, 0x4000, 0x4FFF, 0, Perm.RW, gone))
        with pytest.raises(NotMapped):
            mirror.view(0xFFF)
        with pytest.raises(AccessDenied):
            mirror.view(0x1000, perm=Perm.RW)
        with pytest.raises(EmptyRange):
            mirror.view(0x1000, 0)
        with pytest.raises(NotContiguous):
            mirror.view(0x1000, 0x2001)
        with pytest.raises(NoBacking):
            mirror.view(0x3000)
        with pytest.raises(UnknownMemory):
            mirror.view(0x4000)
        await space.fence(events)
        with pytest.raises(Fenced):
            mirror.view(0x1000)


@every_loop
async def test_an_unmap_waits_until_its_views_are_dropped() -> None:
    """
    Law 1, T32: a slice that outlives the view stops every sync, and nothing else.

    The mapping is gone at once, so that no view of it follows, and what is mapped
    there now can be looked at.
    """
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", 4 * PAGE)
        subscription = bus.subscribe("space", Cap.IOTLB)
        mirror = Mirror(subscription)
        async with subscription, anyio.create_task_group() as tasks:
            tasks.start_soon(mirror.run)
            space.map(0, PAGE, 0, Perm.RW, memory=ram)
            space.map(PAGE, PAGE, PAGE, Perm.RW, memory=ram)
            await space.sync()
            kept = mirror.view(0)[4:8]
            old = list(space.unmap(0, PAGE))
            space.map(0, PAGE, 3 * PAGE, Perm.R, memory=ram)

            for _ in range(2):
                said = await failing_sync(space)
                (missing,) = said.missing
                assert list(missing.pieces) == old
                assert missing.reason == "did not end 1 uses within 0.02 s"
                assert len(kept) == 4
                assert mirror.view(0).readonly
                assert mirror.view(PAGE).nbytes == PAGE

            kept.release()
            await space.sync()
            assert list(mirror) == mappings(space)
            await space.close()


@every_loop
async def test_a_device_invalidation_ends_no_view() -> None:
    """It concerns the caches behind a mirror; the mapping stays."""
    async with open_space(offers=Cap.ALL) as (bus, _), bus.subscribe("space", Cap.ALL) as events:
        ram = await bus.add_memory("ram", PAGE)
        mirror = Mirror(events)
        mirror.apply(Map("space", 1, 0, PAGE - 1, 0, Perm.R, ram))
        view = mirror.view(0)
        mirror.apply(DevIotlbUnmap("space", 2, 0, PAGE - 1))
        assert view.nbytes == PAGE


@every_loop
async def test_a_fence_ends_what_can_be_ended() -> None:
    """Law 8: a mirror that runs releases its views when it learns of the fence; a slice it cannot."""
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", 2 * PAGE)
        space.map(0, 2 * PAGE, 0, Perm.R, memory=ram)
        views: list[memoryview] = []
        with pytest.RaisesGroup(Fenced):
            async with bus.subscribe("space", Cap.IOTLB) as events, anyio.create_task_group() as tasks:
                mirror = Mirror(events)
                tasks.start_soon(mirror.run)
                await events.wait_current()
                views += [mirror.view(0), mirror.view(PAGE), mirror.view(PAGE)[1:]]
                await space.fence(events)
        for view in views[:2]:
            with pytest.raises(ValueError, match="released"):
                bytes(view)
        assert views[2].nbytes == PAGE - 1
