"""A device of this machine on the bus: `python vfio_consumer.py 0000:00:03.0`, as root.

The device has to be bound to vfio-pci.  What is mapped in the space is what it
reaches, and after a sync it reaches nothing that was unmapped.
"""

import sys

import anyio

from iommubus import Bus, Perm
from iommubus.bridges.vfio import Container, VfioBridge, group_of
from iommubus.errors import BridgeError, SyncFailed

PAGE = 0x1000


async def main(address: str) -> None:
    """Map, look at what the kernel refuses, unmap, and leave the device with nothing."""
    with Container.open(group_of(address)) as container:
        print(f"vfio: {address} is in {container.name}")
        async with Bus() as bus, anyio.create_task_group() as tasks:
            space = await bus.create_space("iommu0/dev")
            memory = await bus.add_memory("ram", 16 * PAGE)
            space.map(0x10_0000, 4 * PAGE, 0, Perm.RW, memory=memory)

            bridge = VfioBridge(bus, container=container, space="iommu0/dev", name="vfio", tell=print)
            await tasks.start(bridge.run)
            await bridge.wait_current()
            device = container.device(address)  # its driver has it from here on
            print(f"vfio: the device can be started, it reaches what was mapped before (descriptor {device})")

            space.unmap(0x10_0000, 4 * PAGE)
            report = await space.sync()
            print(f"guest: the pages are free, {report.outcomes[0].subscriber} {report.outcomes[0].how.value}")

            space.map(0x20_0000, PAGE, 0x8000_0000, Perm.R)  # a bare address: nothing that the kernel could pin
            try:
                await space.sync()
            except SyncFailed as failed:
                print(f"guest: {failed}")

            print(f"vfio: {bridge.statistics()}")
            tasks.cancel_scope.cancel()  # whatever is mapped is unmapped first


if __name__ == "__main__":
    try:
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "0000:00:03.0")
    except BridgeError as missing:
        sys.exit(f"vfio: {missing}")
