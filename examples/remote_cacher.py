"""The device of cacher.py in a process of its own: start `iommubus serve` first, and remote_emulator.py beside it.

But for the line that makes the bus it is what it is in one process.
"""

import anyio
from anyio.abc import TaskStatus

from iommubus import Cap, EventBus, Iotlb, Perm, Pin, connect
from iommubus.errors import NotMapped


async def vhost(bus: EventBus, *, task_status: TaskStatus[Iotlb]) -> None:
    """Keep at most two translations, and forget what is unmapped."""
    async with bus.subscribe("smmu0", Cap.UNMAP, name="vhost") as events:
        cache = Iotlb(events, capacity=2)
        task_status.started(cache)
        await cache.run()  # to the end of the space


async def copy(pin: Pin) -> None:
    """Use a translation piece by piece, and no longer than needed once it was taken away."""
    with pin:
        while not pin.revoked:  # noqa: ASYNC110 - it works piece by piece
            await anyio.sleep(0.01)  # a piece
        print(f"vhost: {pin.mapping.first:#x} was unmapped, and is still in use")
        await anyio.sleep(0.1)  # the rest of the last piece
        print("vhost: lets go of it")


async def main() -> None:
    """Fill the cache, use a page until it is taken away, and look at the counters."""
    async with connect() as bus, anyio.create_task_group() as tasks:
        cache = await tasks.start(vhost, bus)
        await bus.wait_space("smmu0")  # its producer may come later

        for iova in (0x1000, 0x1800, 0x2000, 0x3000):  # the second is a hit, the last needs room
            mapping = await cache.translate(iova, Perm.W)
            print(f"vhost: {iova:#x} -> {mapping.target + iova - mapping.first:#x}")

        await copy(await cache.pin(0x3000))
        try:
            await cache.translate(0x3000)
        except NotMapped as fault:
            print(f"vhost: {fault}")

        counters = cache.statistics()
        print(f"cache: {counters.hits} hits, {counters.misses} misses, {counters.evictions} eviction, ", end="")
        print(f"{counters.invalidations} invalidation, {counters.entries} entry left, {counters.pinned} pinned")


if __name__ == "__main__":
    anyio.run(main)
