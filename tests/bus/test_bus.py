"""The bus: spaces by name, waiting for them, closing."""

import anyio
import pytest

from iommubus import AddressSpace, Bus, Cap, EventBus, IovaRange, Perm
from iommubus.errors import BusClosed, InReserved, MapAlone, NameTaken, SpaceClosed, SyncFailed, UnknownName
from tests.actors import ask, map_page, open_space, settle
from tests.loops import every_loop


@every_loop
async def test_spaces_are_listed_in_the_order_they_were_made() -> None:
    async with Bus() as bus:
        assert isinstance(bus, EventBus)
        made = [await bus.create_space(name) for name in ("c", "a", "b")]
        assert list(bus.spaces()) == made
        assert all(isinstance(space, AddressSpace) for space in made)
        await made[1].close()
        assert [space.name for space in bus.spaces()] == ["c", "b"]
        assert bus.space("c") is made[0]
        with pytest.raises(UnknownName, match="no space is named 'a'; there are c, b"):
            bus.space("a")


@every_loop
async def test_a_space_gets_the_shape_it_was_made_with() -> None:
    async with open_space(granule=16, last=0xFF, reserved=[IovaRange(0x20, 0x2F)]) as (_, space):
        space.map(0x10, 0x10, 0x30, Perm.R)
        with pytest.raises(InReserved):
            space.map(0x20, 0x10, 0, Perm.R)
        assert space.unmap(0, 0x100)[0].target == 0x30


@every_loop
async def test_a_space_cannot_offer_map_alone() -> None:
    async with Bus() as bus:
        with pytest.raises(MapAlone):
            await bus.create_space("odd", offers=Cap.MAP)


@every_loop
async def test_waiting_for_a_space() -> None:
    """`wait_space`: whoever waits gets it the moment it is made; who comes later gets it at once."""
    found: list[AddressSpace] = []

    async def wait(bus: Bus) -> None:
        found.append(await bus.wait_space("late"))

    async with Bus() as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, bus)
            tasks.start_soon(wait, bus)
            await settle()
            await bus.create_space("other")
            await settle()
            assert not found
            await bus.create_space("late")
        await wait(bus)
        assert found == [bus.space("late")] * 3


@every_loop
async def test_waiting_for_a_space_ends_with_the_bus() -> None:
    """`wait_space`: a bus that closes makes no space any more."""

    async def wait(bus: Bus) -> None:
        with pytest.raises(BusClosed):
            await bus.wait_space("never")

    async with anyio.create_task_group() as tasks, Bus() as bus:
        tasks.start_soon(wait, bus)
        await settle()


@every_loop
async def test_a_cancelled_create_space_leaves_nothing() -> None:
    """A cancelled call has changed nothing: the name is free, and nobody owns a space unseen."""
    async with Bus() as bus:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.create_space("space")
        assert bus.spaces() == ()
        await bus.create_space("space")
        with pytest.raises(NameTaken):
            await bus.create_space("space")


@every_loop
async def test_two_tasks_cannot_make_one_name() -> None:
    outcomes: list[str] = []

    async def make(bus: Bus) -> None:
        try:
            await bus.create_space("space")
            outcomes.append("made")
        except NameTaken:
            outcomes.append("taken")

    async with Bus() as bus:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make, bus)
            tasks.start_soon(make, bus)
        assert sorted(outcomes) == ["made", "taken"]


@every_loop
async def test_closing_ends_everything_and_is_harmless_twice() -> None:
    async with open_space() as (bus, space):
        async with bus.subscribe("space", Cap.IOTLB) as events, bus.observe("*") as observer:
            await bus.close()
            await bus.close()
            with pytest.raises(StopAsyncIteration):
                await anext(aiter(events))
            with pytest.raises(StopAsyncIteration):
                await anext(aiter(observer))
        with pytest.raises(SpaceClosed):
            map_page(space, 0)
        with pytest.raises(BusClosed):
            await bus.sync("*")
        await space.sync()
        await space.close()


@every_loop
async def test_a_bus_can_be_entered_again() -> None:
    """It starts empty; those who waited for a space before do not spin."""
    bus = Bus()
    async with bus:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.wait_space("space")
    found: list[AddressSpace] = []

    async def wait() -> None:
        found.append(await bus.wait_space("space"))

    async with bus:
        assert bus.spaces() == ()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            await bus.create_space("space")
        assert found == [bus.space("space")]


@every_loop
async def test_statistics_and_reprs() -> None:
    async with open_space(offers=Cap.ALL) as (bus, space):
        assert repr(bus) == "<bus open, 1 spaces, 0 observers>"
        assert repr(space) == "<space space <Cap.ALL: 7>, 0 mappings, seq 0, 0 subscriptions>"
        async with bus.subscribe("space", Cap.IOTLB, name="shadower") as events, bus.observe("*") as observer:
            map_page(space, 0)
            map_page(space, 1)
            space.unmap(0, 0x1000)
            space.invalidate_device(0, 0x1000)
            statistics = bus.statistics()
            assert statistics.observers == (observer.statistics(),)
            assert observer.statistics().lag == 4
            of_space = statistics.spaces["space"]
            assert of_space == space.statistics()
            assert of_space.mappings == 1
            assert of_space.seq == 4
            assert of_space.published == {Cap.UNMAP: 1, Cap.MAP: 2, Cap.DEVIOTLB_UNMAP: 1}
            assert of_space.demand == Cap.IOTLB
            assert of_space.subscriptions == {"shadower": events.statistics()}
            assert (of_space.unproven, of_space.syncs, of_space.failed_syncs) == ((), 0, 0)
            await anext(aiter(events))
            await ask(events.batches())
        await bus.close()
        assert repr(bus) == "<bus closed, 0 spaces, 0 observers>"
        assert repr(space) == "<space space <Cap.ALL: 7>, closed, 0 subscriptions>"


@every_loop
async def test_who_names_no_space_means_all_of_them() -> None:
    """Law 1: a sync over nothing would promise nothing, so there is none; an observer of nothing sees nothing."""
    async with open_space() as (bus, space), bus.observe() as observer, bus.subscribe("space", Cap.UNMAP) as events:
        map_page(space, 1)
        space.unmap_all()
        with pytest.raises(SyncFailed):
            await bus.sync(timeout=0.02)
        assert [type(await anext(observer)).__name__ for _ in range(2)] == ["Map", "Unmap"]
        await anext(aiter(events))
