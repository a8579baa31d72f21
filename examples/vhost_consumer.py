"""A vhost device of this machine's kernel on the bus: `python vhost_consumer.py /dev/vhost-net`, as root.

A transmit ring is set up and started.  Its addresses are I/O virtual ones, so the
kernel asks where the ring is before it takes it, and the bridge answers from the space.
"""

import os
import struct
import sys
from fcntl import ioctl

import anyio

from iommubus import Bus, Perm
from iommubus.abi.vhost import VRING_ADDR, VRING_STATE, Ioctl, VringAddr, VringFlags, VringState
from iommubus.bridges.vhost import VhostBridge, VhostDevice
from iommubus.errors import BridgeError

RING, USED, AVAILABLE = 0x1000_0000, 0x1000_0400, 0x1000_0200
TX = 1


def open_tap() -> int:
    """Return a network interface: what vhost-net sends to."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    ioctl(tap, 0x4004_54CA, struct.pack("16sH22x", b"iommubus%d", 0x5002))  # TUNSETIFF: TAP, NO_PI, VNET_HDR
    return tap


def take_ring(fd: int, tap: int) -> bool:
    """Have the kernel take the ring; say whether it knows where that is."""
    try:
        ioctl(fd, Ioctl.NET_SET_BACKEND, struct.pack("=Ii", TX, tap))
    except OSError:  # EFAULT: it has asked
        return False
    return True


async def main(path: str) -> None:
    """Start a ring, and take its page away again."""
    with VhostDevice.open(path) as device:
        async with Bus() as bus, anyio.create_task_group() as tasks:
            space = await bus.create_space("iommu0/net")
            memory = await bus.add_memory("ram", 0x1000)
            space.map(RING, 0x1000, 0, Perm.RW, memory=memory)

            bridge = VhostBridge(bus, device=device, space="iommu0/net", name="vhost", tell=print)
            await tasks.start(bridge.run)
            ioctl(device.fd, Ioctl.SET_VRING_NUM, VRING_STATE.encode(VringState(TX, 8)))
            ioctl(
                device.fd,
                Ioctl.SET_VRING_ADDR,
                VRING_ADDR.encode(VringAddr(TX, VringFlags(0), RING, USED, AVAILABLE, 0)),
            )
            tap = open_tap()
            while not take_ring(device.fd, tap):  # noqa: ASYNC110 - the kernel is asked again
                await anyio.sleep(0.01)  # the answer is on its way
            asked = "asked where it is" if bridge.statistics().updates else "did not ask"
            print(f"vhost: the ring runs; the kernel {asked}")

            space.unmap(RING, 0x1000)
            report = await space.sync()
            print(f"guest: the page is free, {report.outcomes[0].subscriber} {report.outcomes[0].how.value}")
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    try:
        anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "/dev/vhost-net")
    except BridgeError as missing:
        sys.exit(f"vhost: {missing}")
