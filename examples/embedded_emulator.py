"""An emulated IOMMU and two of its users in one process."""

import anyio
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Iotlb, Map, Perm


async def vfio(bus: Bus, *, task_status: TaskStatus[None]) -> None:
    """Shadow the space into a device's own table: every MAP, every UNMAP."""
    async with bus.subscribe("vtd0/00:03.0", Cap.IOTLB) as events:
        task_status.started()  # registered: from here on it counts in every sync
        async for event in events:  # asking for the next one says: this one is applied
            if isinstance(event, Map):
                print(f"vfio: map   {event.iova:#x} size {event.size:#x} -> {event.target:#x}")
            else:
                print(f"vfio: unmap {event.iova:#x} size {event.size:#x}")


async def vhost(bus: Bus, *, task_status: TaskStatus[Iotlb]) -> None:
    """Cache translations that are asked for; hear of UNMAPs alone."""
    async with bus.subscribe("vtd0/00:03.0", Cap.UNMAP) as events:
        cache = Iotlb(events)
        task_status.started(cache)
        async for event in events:
            cache.apply(event)


async def main() -> None:
    """Map, use, unmap, and wait until nobody can use it any more."""
    async with anyio.create_task_group() as tasks, Bus() as bus:
        space = await bus.create_space("vtd0/00:03.0", granule=0x1000, last=2**48 - 1)
        await tasks.start(vfio, bus)
        cache = await tasks.start(vhost, bus)

        space.map(0x10_0000, 0x4000, target=0x8000_0000, perm=Perm.RW)
        print("vhost:", await cache.translate(0x10_1234, Perm.W))

        space.unmap(0x10_0000, 0x4000)
        report = await space.sync(timeout=1.0)
        print(f"reusable: {len(report.outcomes)} subscribers let go, {len(cache)} translations cached")


if __name__ == "__main__":
    anyio.run(main)
