"""The vhost bridge on the real ``/dev/vhost-net``: its misses are answered, and frames come out of a tap."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from fcntl import ioctl
from time import perf_counter
from typing import Final

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from iommubus import AddressSpace, Bus, Memory, Perm
from iommubus.abi.vhost import VRING_ADDR, VRING_STATE, Ioctl, VringAddr, VringFlags, VringState
from iommubus.bridges.vhost import VhostBridge, VhostDevice
from iommubus.bridging.kernel import Kernel
from iommubus.errors import Fenced, SyncFailed
from tests.field.guest.rings import HEADER, SIZE, TransmitRing, frame, listen, make_tap, seen
from tests.field.guest.saying import say

PAGE: Final = 0x1000
TX: Final = 1
"""The transmit ring of vhost-net."""

RING_AT, FRAME_AT = 0x1000_0000, 0x2000_0000
RING_PAGE, FRAME_PAGE, NEW_PAGE = 0, 1, 2


class Bench(Struct):
    """What a trial works with."""

    space: AddressSpace
    memory: Memory
    page: memoryview
    ring: TransmitRing
    kick: int
    taps: socket.socket
    bridge: VhostBridge

    def map(self, iova: int, number: int, perm: Perm = Perm.RW) -> None:
        """Map a page of the memory."""
        self.space.map(iova, PAGE, number * PAGE, perm, memory=self.memory)

    def write(self, number: int, letter: bytes) -> int:
        """Put a frame into a page, and return how long it is with its header."""
        data = HEADER + frame(letter)
        self.page[number * PAGE : number * PAGE + len(data)] = data
        return len(data)

    def send(self, iova: int, size: int) -> None:
        """Offer a frame to the device, and ring its bell."""
        self.ring.offer(iova, size)
        os.eventfd_write(self.kick, 1)


class Timed(Kernel):
    """The kernel, and how long each write took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def write(self, fd: int, data: bytes) -> int:
        """Tell a device something, and note how long it took."""
        start = perf_counter()
        try:
            return super().write(fd, data)
        finally:
            self.seconds.append(perf_counter() - start)


async def try_vhost() -> None:
    """Try everything, one after the other, and say what was seen."""
    tap, taps = make_tap(), listen()
    await without_table(tap)
    with VhostDevice.open("/dev/vhost-vsock") as vsock:
        say("vsock", told=str(vsock.negotiate()))
    kernel = Timed()
    with VhostDevice.open("/dev/vhost-net", kernel=kernel) as device:
        async with Bus() as bus, anyio.create_task_group() as tasks:
            space = await bus.create_space("virtio0/net")
            memory = await bus.add_memory("ram", 16 * PAGE)
            page = bus.memory_view(memory)
            bridge = VhostBridge(
                bus, device=device, space="virtio0/net", name="vhost", tell=lambda told: say("told", text=str(told))
            )
            ring = TransmitRing(page[RING_PAGE * PAGE : (RING_PAGE + 1) * PAGE], RING_AT)
            bench = Bench(space, memory, page, ring, os.eventfd(0), taps, bridge)
            bench.map(RING_AT, RING_PAGE)
            await tasks.start(serve, bridge)
            await start(device, bench, tap)
            await send(bench)
            await hurry(bench, kernel)
            await stop(bench)
            tasks.cancel_scope.cancel()


async def serve(bridge: VhostBridge, *, task_status: TaskStatus[None]) -> None:
    """Run the bridge until it is fenced."""
    try:
        await bridge.run(task_status=task_status)
    except Fenced as fenced:
        say("over", error=str(fenced))


async def without_table(tap: int) -> None:
    """See what the kernel says of a ring where nobody has set a memory table, and where an empty one was."""
    for table in (False, True):
        with VhostDevice(os.open("/dev/vhost-net", os.O_RDWR)) as device:
            device.negotiate()
            if table:
                ioctl(device.fd, Ioctl.SET_MEM_TABLE, bytes(8))
            set_ring(device.fd, (RING_AT, RING_AT + 0x200, RING_AT + 0x400), os.eventfd(0))
            came = set_backend(device.fd, tap)
            miss = device.read()
            say("table", empty=table, errno=came, miss=None if miss is None else hex(miss.iova))


def set_ring(fd: int, parts: tuple[int, int, int], kick: int) -> None:
    """Tell a device of a ring."""
    descriptors, available, used = parts
    address = VringAddr(TX, VringFlags(0), descriptors, used, available, 0)
    ioctl(fd, Ioctl.SET_VRING_NUM, VRING_STATE.encode(VringState(TX, SIZE)))
    ioctl(fd, Ioctl.SET_VRING_BASE, VRING_STATE.encode(VringState(TX, 0)))
    ioctl(fd, Ioctl.SET_VRING_ADDR, VRING_ADDR.encode(address))
    ioctl(fd, Ioctl.SET_VRING_KICK, struct.pack("<Ii", TX, kick))
    ioctl(fd, Ioctl.SET_VRING_CALL, struct.pack("<Ii", TX, os.eventfd(0)))


def set_backend(fd: int, tap: int) -> str:
    """Have a device send to the tap, and return what came of it."""
    try:
        ioctl(fd, Ioctl.NET_SET_BACKEND, struct.pack("<Ii", TX, tap))
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]
    return "ok"


async def start(device: VhostDevice, bench: Bench, tap: int) -> None:
    """Start the ring: the kernel refuses until it was told where the ring is, for which it asks."""
    set_ring(device.fd, bench.ring.parts, bench.kick)
    came = list[str]()
    while not came or came[-1] == "EFAULT":
        before = bench.bridge.statistics().updates
        came.append(set_backend(device.fd, tap))
        if came[-1] == "EFAULT":
            await until(lambda: bench.bridge.statistics().updates > before)  # noqa: B023 - waited for at once
    say("backend", came=came, **bench.bridge.statistics()._asdict())


async def send(bench: Bench) -> None:
    """Send a frame; then one from where nothing is mapped any more; then that, from where it is again."""
    size = bench.write(FRAME_PAGE, b"a")
    bench.map(FRAME_AT, FRAME_PAGE, Perm.R)
    bench.send(FRAME_AT, size)
    await until(lambda: bench.ring.used == 1)
    say("mapped", frames=seen(bench.taps), **bench.bridge.statistics()._asdict())

    bench.space.unmap(FRAME_AT, PAGE)
    await synced(bench, "unmapped")
    bench.write(FRAME_PAGE, b"b")
    bench.send(FRAME_AT, size)
    await until(lambda: bench.bridge.statistics().unanswered == 1)
    say("unmapped", frames=seen(bench.taps), used=bench.ring.used, **bench.bridge.statistics()._asdict())

    bench.write(NEW_PAGE, b"c")
    bench.map(FRAME_AT, NEW_PAGE, Perm.R)
    os.eventfd_write(bench.kick, 1)
    await until(lambda: bench.ring.used == 2)
    say("mapped again", frames=seen(bench.taps), **bench.bridge.statistics()._asdict())


async def hurry(bench: Bench, kernel: Timed) -> None:
    """Unmap what was just sent, many times, and say how long the kernel and the bus take."""
    kernel.seconds.clear()
    took = list[float]()
    for number in range(100):
        used = bench.ring.used
        bench.send(FRAME_AT, len(HEADER) + 64)
        await until(lambda: bench.ring.used != used)  # noqa: B023 - waited for at once
        start = perf_counter()
        bench.space.remap(FRAME_AT, PAGE, (NEW_PAGE - number % 2) * PAGE, Perm.R, memory=bench.memory)
        await bench.space.sync()
        took.append(perf_counter() - start)
    say("latencies", sync=took, write=kernel.seconds, frames=len(seen(bench.taps)))
    say("statistics", **bench.bridge.statistics()._asdict())


async def stop(bench: Bench) -> None:
    """Fence the bridge: it has the device forget everything, and answers nothing more."""
    bench.space.remap(FRAME_AT, PAGE, NEW_PAGE * PAGE, Perm.R, memory=bench.memory)
    await bench.space.sync()
    size = bench.write(NEW_PAGE, b"y")
    used = bench.ring.used
    bench.send(FRAME_AT, size)
    await until(lambda: bench.ring.used > used)
    frames = seen(bench.taps)
    bench.write(NEW_PAGE, b"z")
    proven = await bench.space.fence("vhost")
    await synced(bench, "fenced")
    bench.send(FRAME_AT, size)
    await anyio.sleep(0.3)  # nothing can be waited for: that nothing comes
    say("fenced", before=frames, proven=proven, frames=seen(bench.taps), used=bench.ring.used)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon or never."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.002)


async def synced(bench: Bench, what: str) -> None:
    """Say what comes of a `sync`."""
    try:
        report = await bench.space.sync(2.0)
    except SyncFailed as failed:
        say("sync failed", after=what, text=str(failed))
    else:
        say("sync", after=what, who=[[one.subscriber, one.how.value] for one in report.outcomes])
