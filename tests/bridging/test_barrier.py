"""A barrier is passed when nobody uses what was unmapped, and not before (law 1)."""

from functools import partial

import anyio

from iommubus import Bus, Cap, Perm, Subscription
from iommubus.bridging.barrier import Barrier, sync_or_fence
from iommubus.bridging.telling import Notice, Told
from tests.loops import every_loop

PAGE = 0x1000


async def hold(events: Subscription) -> None:
    """Take what is mapped, and acknowledge nothing that comes behind."""
    await anext(aiter(events.batches()))


@every_loop
async def test_it_waits_for_the_acknowledgement() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("space")
        async with bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
            space.map(0, PAGE, 0, Perm.RW)
            batches = aiter(events.batches())
            events.ack(await anext(batches))
            space.unmap(0, PAGE)
            barrier = Barrier(space, tell=fail_on)
            tasks.start_soon(barrier.run)
            done = anyio.Event()
            barrier.settle(done.set)
            batch = await anext(batches)
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            events.ack(batch)
            await done.wait()
            tasks.cancel_scope.cancel()


@every_loop
async def test_who_misses_the_deadline_is_fenced() -> None:
    told: list[Told] = []
    async with Bus() as bus:
        space = await bus.create_space("space")
        async with bus.subscribe("space", Cap.IOTLB, name="slow", ack="manual") as events:
            space.map(0, PAGE, 0, Perm.RW)
            await hold(events)
            space.unmap(0, PAGE)
            await sync_or_fence(space, deadline=0.01, tell=told.append)
            assert events.fenced

    assert [(type(each), "slow" in str(each), "it was fenced" in str(each)) for each in told] == [(Notice, True, True)]


@every_loop
async def test_who_is_not_proven_stopped_holds_it_up() -> None:
    """The deadline fences; it does not let anybody past."""
    told: list[Told] = []
    stopped, asked = anyio.Event(), anyio.Event()

    async def stop() -> None:
        asked.set()
        await stopped.wait()

    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("space")
        hardware = bus.subscribe("space", Cap.IOTLB, name="hardware", ack="manual", stops="exit", on_fence=stop)
        async with hardware as events:
            space.map(0, PAGE, 0, Perm.RW)
            await hold(events)
            space.unmap(0, PAGE)
            barrier = Barrier(space, deadline=0.01, tell=told.append)
            tasks.start_soon(barrier.run)
            done = anyio.Event()
            barrier.settle(done.set)
            await asked.wait()
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            stopped.set()
            await done.wait()
            tasks.cancel_scope.cancel()

    assert [str(each).startswith("hardware") for each in told] == [True]


@every_loop
async def test_many_share_one_sync() -> None:
    order: list[int] = []
    everything = anyio.Event()
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("space", offers=Cap.UNMAP)
        barrier = Barrier(space, tell=fail_on)
        for number in range(100):
            space.unmap(number * PAGE, PAGE)
            barrier.settle(partial(order.append, number))
        barrier.settle(everything.set)
        tasks.start_soon(barrier.run)
        await everything.wait()
        assert barrier.syncs == 1
        tasks.cancel_scope.cancel()

    assert order == list(range(100))


@every_loop
async def test_a_map_that_failed_holds_up_nothing() -> None:
    """It is the consumer's loss, which is told, and is no old translation in use."""
    told: list[Told] = []
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("space")
        async with bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
            batches = aiter(events.batches())
            space.map(0, PAGE, 0, Perm.RW)
            events.ack(await anext(batches))
            space.map(PAGE, PAGE, 0, Perm.RW)
            batch = await anext(batches)
            events.fail(batch[0], OSError(28, "no room"))
            events.ack(batch)
            await sync_or_fence(space, tell=told.append)
            tasks.cancel_scope.cancel()

    assert ["could not map 0x1000..0x1fff" in str(each) for each in told] == [True]


@every_loop
async def test_what_is_closed_is_synced_still() -> None:
    async with Bus() as bus:
        space = await bus.create_space("space")
    await sync_or_fence(space, tell=fail_on)


def fail_on(told: Told) -> None:
    raise AssertionError(told)
