"""A consumer that ships with the bus is kept up to date by a task."""

import anyio

from iommubus import Bus, Cap, Iotlb, Mirror
from iommubus.testing.conformance.keeping import keep
from iommubus.testing.conformance.scene import PAGE, Stage
from tests.loops import every_loop


@every_loop
async def test_a_copy_and_a_cache_follow_the_space() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        stage = Stage(bus, tasks, 10)
        scene = await stage.scene()
        copy, cache = await keep(stage, Mirror, Cap.IOTLB), await keep(stage, Iotlb, Cap.UNMAP)
        mapping = scene.map(0)
        await scene.sync()
        assert list(copy) == [mapping]
        assert await cache.translate(PAGE - 1) == mapping
        scene.unmap(0)
        await scene.sync()
        assert len(copy) == len(cache) == 0
        tasks.cancel_scope.cancel()


@every_loop
async def test_a_fence_ends_the_task_and_fails_nothing() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        stage = Stage(bus, tasks, 10)
        scene = await stage.scene()
        await keep(stage, Mirror, Cap.IOTLB, name="vfio")
        scene.map(0)
        await scene.sync()
        assert await scene.space.fence("vfio")
    assert not tasks.cancel_scope.cancelled_caught
