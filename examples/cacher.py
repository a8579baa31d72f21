"""A cache of a pull space: misses, an eviction, and a pin that a sync waits for.

The IOMMU keeps its page table to itself, and the bus asks it where an address
leads when a cacher does not know.  So there is nothing to map, only to unmap.
"""

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from iommubus import AddressSpace, Bus, Cap, Iotlb, Mapping, Perm, Pin
from iommubus.errors import NotMapped

PAGE = 0x1000
PAGE_TABLE = {0x1000: 0x8000_7000, 0x2000: 0x8000_3000, 0x3000: 0x8000_9000}


async def walk(iova: int, perm: Perm) -> Mapping | None:
    """Answer a miss from the guest's page table."""
    page = iova - iova % PAGE
    print(f"iommu: asked for {page:#x}, {perm.name}")
    target = PAGE_TABLE.get(page)
    return None if target is None else Mapping(page, page + PAGE - 1, target, Perm.RW)


async def vhost(bus: Bus, *, task_status: TaskStatus[Iotlb]) -> None:
    """Keep at most two translations, and forget what is unmapped."""
    async with bus.subscribe("smmu0", Cap.UNMAP, name="vhost") as events:
        cache = Iotlb(events, capacity=2)
        task_status.started(cache)
        await cache.run()


async def reuse(space: AddressSpace) -> None:
    """Wait until nobody uses the page, as a guest does before it puts something else there."""
    report = await space.sync()
    print(f"guest: the page is free, {report.outcomes[0].subscriber} {report.outcomes[0].how.value}")


async def copy(pin: Pin) -> None:
    """Use a translation piece by piece, and no longer than needed once it was taken away."""
    with pin:
        while not pin.revoked:
            await checkpoint()  # a piece
        print(f"vhost: {pin.mapping.first:#x} was unmapped, and is still in use")
        for _ in range(10):
            await checkpoint()  # the rest of the last piece
        print("vhost: lets go of it")


async def main() -> None:
    """Fill the cache, unmap a page that is in use, and look at the counters."""
    async with anyio.create_task_group() as tasks, Bus() as bus:
        space = await bus.create_space("smmu0", offers=Cap.UNMAP, translate=walk)
        cache = await tasks.start(vhost, bus)

        for iova in (0x1000, 0x1800, 0x2000, 0x3000):  # the second is a hit, the last needs room
            mapping = await cache.translate(iova, Perm.W)
            print(f"vhost: {iova:#x} -> {mapping.target + iova - mapping.first:#x}")

        pin = await cache.pin(0x3000)
        del PAGE_TABLE[0x3000]
        space.unmap(0x3000, PAGE)
        async with anyio.create_task_group() as both:
            both.start_soon(reuse, space)
            both.start_soon(copy, pin)
        try:
            await cache.translate(0x3000)
        except NotMapped as fault:
            print(f"vhost: {fault}")

        counters, questions = cache.statistics(), space.statistics().questions
        print(f"cache: {counters.hits} hits, {counters.misses} misses, {counters.evictions} eviction, ", end="")
        print(f"{counters.invalidations} invalidation, {counters.entries} entry left, {counters.pinned} pinned")
        print(f"iommu: {questions['asked']} questions, {questions['answered']} answered")


if __name__ == "__main__":
    anyio.run(main)
