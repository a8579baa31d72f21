"""An emulator whose virtual CPUs are threads: each maps a buffer, has it used, and takes it back."""

from threading import Thread

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Mirror, Perm, PublisherClosed, ThreadPublisher, ThreadSpace

CPUS = 4
REQUESTS = 250
BUFFER = 0x4000


def vcpu(space: ThreadSpace, number: int, recycled: list[int]) -> None:
    """Run one guest CPU: plain, blocking code that knows no event loop."""
    iova, target = number * 0x10_0000, 0x8000_0000 + number * BUFFER
    for _ in range(REQUESTS):
        space.map(iova, BUFFER, target, Perm.RW)
        for piece in space.unmap(iova, BUFFER):
            space.sync(timeout=5.0)  # as the guest does: now nobody uses the buffer any more
            recycled.append(piece.target)


def clock(space: ThreadSpace) -> None:
    """Run a device model that only the end of the machine ends."""
    try:
        while True:
            space.remap(0xF000_0000, 0x1000, 0xF000_0000, Perm.R)
    except PublisherClosed:
        print("clock: powered off")


async def vfio(bus: Bus, *, task_status: TaskStatus[Mirror]) -> None:
    """Shadow the space, as a device's own table does."""
    async with bus.subscribe("vtd0/00:03.0", Cap.IOTLB) as events:
        mirror = Mirror(events)
        task_status.started(mirror)
        await mirror.run()


async def run_guest(machine: ThreadPublisher) -> None:
    """Start the CPUs and wait until they halt; the loop of the bus runs meanwhile."""
    space, recycled = machine.space("vtd0/00:03.0"), list[int]()
    threads = [Thread(target=vcpu, args=(space, number, recycled)) for number in range(CPUS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    print(f"{CPUS} CPUs recycled {len(recycled)} buffers")


async def main() -> None:
    """Put the guest between a bus and a device."""
    async with anyio.create_task_group() as tasks, Bus() as bus:
        space = await bus.create_space("vtd0/00:03.0", granule=0x1000, last=2**48 - 1)
        mirror = await tasks.start(vfio, bus)
        async with bus.in_thread() as machine:
            ticking = Thread(target=clock, args=(machine.space("vtd0/00:03.0"),))
            ticking.start()
            await run_guest(machine)
        await anyio.to_thread.run_sync(ticking.join)  # its call was ended with the block
        counters = space.statistics()
        print(f"{counters.seq} events, {counters.syncs} syncs, {len(mirror)} mappings left")


if __name__ == "__main__":
    anyio.run(main)
