"""The VFIO bridge on a real container, and a real device that shows what it reaches."""

import ctypes
import errno
from pathlib import Path
from time import perf_counter
from typing import Final, cast

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from iommubus import AddressSpace, Bus, Memory, Perm
from iommubus.abi.vfio import MAP_DMA, MapDma, MapFlags, UnmapDma, UnmapFlags
from iommubus.bridges.vfio import Container, VfioBridge, group_of
from iommubus.bridging.kernel import Kernel
from iommubus.bridging.telling import Told
from iommubus.bus.reports import MapFailure, Missing
from iommubus.errors import Fenced, KernelRefused, SyncFailed
from iommubus.ranges import IovaRange
from tests.field.guest.edu import Edu
from tests.field.guest.faults import Faults
from tests.field.guest.saying import say

PAGE: Final = 0x1000
MEMORY: Final = 64 * PAGE
HALF: Final = PAGE // 2
"""Bytes that the device copies: QEMU's edu has room for a page, and is wrong about its last byte."""

SECRET, OTHER, BLANK = b"\xa5" * PAGE, b"\x5a" * PAGE, b"\x11" * PAGE

DEVICES: Final = Path("/sys/bus/pci/devices")
EDU: Final = ("0x1234", "0x11e8")
"""Vendor and device of QEMU's edu."""


class Bench(Struct):
    """What a trial works with.

    Attributes:
        space: The space that the device sees.
        memory: What is mapped there.
        page: Its bytes.
        edu: The device.
        faults: What the kernel says of what was blocked.
        container: The container, to go past the bridge.
        kernel: What its calls are made to.
    """

    space: AddressSpace
    memory: Memory
    page: memoryview
    edu: Edu
    faults: Faults
    container: Container
    kernel: "Timed"

    def fill(self, number: int, data: bytes) -> None:
        """Write a page of the memory."""
        self.page[number * PAGE : (number + 1) * PAGE] = data

    def map(self, iova: int, number: int, perm: Perm = Perm.RW) -> None:
        """Map a page of the memory."""
        self.space.map(iova, PAGE, number * PAGE, perm, memory=self.memory)

    def read(self, number: int) -> bytes:
        """Return what each byte of the half of a page is that the device writes; nothing, if they differ."""
        data = bytes(self.page[number * PAGE : number * PAGE + HALF])
        return data[:1] if data == data[:1] * HALF else b""


def find_edu() -> str:
    """Return the address of the device."""
    for device in DEVICES.iterdir():
        if ((device / "vendor").read_text().strip(), (device / "device").read_text().strip()) == EDU:
            return device.name
    raise FileNotFoundError("edu")


def bind(address: str) -> None:
    """Bind a device to vfio-pci."""
    (DEVICES / address / "driver_override").write_text("vfio-pci")
    Path("/sys/bus/pci/drivers_probe").write_text(address)


async def try_vfio() -> None:
    """Try everything, one after the other, and say what was seen."""
    address = find_edu()
    bind(address)
    kernel = Timed()
    with Container.open(group_of(address), kernel=kernel) as container:
        edu = Edu(container.device(address))
        say("traits", pagesizes=container.traits.pagesizes, room=container.traits.room,
            unmap_all=container.traits.unmap_all, ranges=[str(each) for each in container.traits.ranges])  # fmt: skip
        async with Bus() as bus, anyio.create_task_group() as tasks:
            space = await bus.create_space("vtd0/edu")
            memory = await bus.add_memory("ram", MEMORY)
            bench = Bench(space, memory, bus.memory_view(memory), edu, Faults(), container, kernel)
            bench.map(0x10_0000, 0)  # before the bridge comes: it is replayed
            stay = Stay()
            bridge = VfioBridge(bus, container=container, space="vtd0/edu", name="vfio", tell=tell)
            await tasks.start(stay.run, bridge)
            await bridge.wait_current()
            await reach(bench)
            await read_file(bench, bus)
            await refuse(bench)
            await hurry(bench)
            say("statistics", **bridge.statistics()._asdict())
            await leave(bench, stay)
            again = VfioBridge(bus, container=container, space="vtd0/edu", name="again", tell=tell)
            await tasks.start(serve, again)
            await fence(bench, again)
        edu.close()


def tell(told: Told) -> None:
    """Say what a bridge tells."""
    say("told", text=str(told))


async def serve(bridge: VfioBridge, *, task_status: TaskStatus[None]) -> None:
    """Run a bridge until it is fenced."""
    try:
        await bridge.run(task_status=task_status)
    except Fenced as fenced:
        say("over", error=str(fenced))


class Stay:
    """Has a bridge run until it is told to go."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()

    async def run(self, bridge: VfioBridge, *, task_status: TaskStatus[None]) -> None:
        """Run the bridge."""
        with self._scope:
            await bridge.run(task_status=task_status)
        self._over.set()

    async def end(self) -> None:
        """Cancel it, and wait until it has left."""
        self._scope.cancel()
        await self._over.wait()


class Timed(Kernel):
    """The kernel, and how long it took for each MAP and UNMAP."""

    def __init__(self) -> None:
        self.seconds: dict[int, list[float]] = {}

    def ioctl(self, fd: int, request: int, argument: bytearray | int = 0) -> int:
        """Make a request, and note how long it took."""
        start = perf_counter()
        try:
            return super().ioctl(fd, request, argument)
        finally:
            self.seconds.setdefault(int(request), []).append(perf_counter() - start)


async def reach(bench: Bench) -> None:
    """Let the device copy where it may, and where it may not any more."""
    bench.map(0x20_0000, 1)
    bench.map(0x30_0000, 2, Perm.R)
    await bench.space.sync()

    bench.fill(0, SECRET)
    bench.fill(1, BLANK)
    await bench.edu.fetch(0x10_0000, HALF)
    await bench.edu.store(0x20_0000, HALF)
    say("mapped", page=bench.read(1).hex(), faults=bench.faults.since())

    bench.fill(2, BLANK)
    await bench.edu.store(0x30_0000, HALF)
    say("read-only, written", page=bench.read(2).hex(), faults=bench.faults.since())
    bench.fill(2, OTHER)
    await bench.edu.fetch(0x30_0000, HALF)
    await bench.edu.store(0x20_0000, HALF)
    say("read-only, read", page=bench.read(1).hex(), faults=bench.faults.since())

    bench.space.unmap(0x20_0000, PAGE)
    await bench.space.sync()
    bench.fill(1, BLANK)
    await bench.edu.store(0x20_0000, HALF)
    say("unmapped, written", page=bench.read(1).hex(), faults=bench.faults.since())

    bench.space.unmap(0x10_0000, PAGE)
    bench.map(0x20_0000, 3)
    await bench.space.sync()
    bench.fill(0, SECRET)
    bench.fill(3, BLANK)
    await bench.edu.fetch(0x10_0000, HALF)
    await bench.edu.store(0x20_0000, HALF)
    say("unmapped, read", page=bench.read(3).hex(), faults=bench.faults.since())


async def read_file(bench: Bench, bus: Bus) -> None:
    """Let the device copy from a file that can only be read here, and that somebody else writes meanwhile."""
    path = Path("/tmp/rom")  # noqa: S108 - there is one program in this guest
    path.write_bytes(BLANK)
    with path.open("rb") as readable:
        rom = await bus.add_memory("rom", PAGE, readable.fileno())
    bench.space.map(0x50_0000, PAGE, 0, Perm.R, memory=rom)
    await bench.space.sync()
    with path.open("r+b") as written:
        written.write(SECRET)
    bench.fill(3, BLANK)
    await bench.edu.fetch(0x50_0000, HALF)
    await bench.edu.store(0x20_0000, HALF)
    say("file, read", page=bench.read(3).hex(), faults=bench.faults.since())
    bench.space.unmap(0x50_0000, PAGE)


async def refuse(bench: Bench) -> None:
    """Get in the bridge's way, and see what the kernel says come back by `sync`."""
    tell = bench.container.tell
    address = 0x7000_0000
    flags = MapFlags.READ | MapFlags.WRITE
    where = bench_address(bench)

    tell(MapDma(MAP_DMA.size, flags, where, address, PAGE))
    bench.map(address, 4)
    await synced(bench, "EEXIST")
    tell(UnmapDma(24, UnmapFlags(0), address, PAGE))
    bench.space.unmap(address, PAGE)
    await synced(bench, "after EEXIST")

    tell(MapDma(MAP_DMA.size, flags, where, address, 2 * PAGE))  # a mapping that the bus's UNMAP would cut
    bench.map(address, 4)
    await synced(bench, "EEXIST again")
    bench.space.unmap(address, PAGE)
    await synced(bench, "EINVAL")
    await synced(bench, "EINVAL again")
    tell(UnmapDma(24, UnmapFlags(0), address, 2 * PAGE))
    await synced(bench, "after EINVAL")

    free = (bench.container.traits.room or 0) - 2  # mapped now: 0x200000 and 0x300000
    tell(MapDma(MAP_DMA.size, flags, where, address, PAGE))  # one that the bus does not count
    for number in range(free):
        bench.map(0x100_0000 + 2 * number * PAGE, 5)
    await synced(bench, "ENOSPC")
    bench.space.unmap(0x100_0000, 2 * free * PAGE)  # across all the holes
    await synced(bench, "after ENOSPC")
    tell(UnmapDma(24, UnmapFlags(0), address, PAGE))

    for what, call in (
        ("unaligned", MapDma(MAP_DMA.size, flags, where, address + 1, PAGE)),
        ("no access", MapDma(MAP_DMA.size, MapFlags(0), where, address, PAGE)),
        ("interrupts", MapDma(MAP_DMA.size, flags, where, 0xFEE0_0000, PAGE)),
        ("nothing there", UnmapDma(24, UnmapFlags(0), address, PAGE)),
    ):
        say("past the bridge", call=what, errno=told_errno(bench.container, call))

    bench.space.map(0xFEE0_0000, PAGE, 0, Perm.RW, memory=bench.memory)  # cropped away: it is in the Lack
    await synced(bench, "interrupts")
    bench.space.unmap(0xFEE0_0000, PAGE)


async def hurry(bench: Bench) -> None:
    """Map, unmap and sync many times, and say how long the kernel and the bus take."""
    kernel = bench.kernel
    kernel.seconds.clear()
    took = list[float]()
    for number in range(200):
        bench.map(0x200_0000 + number * PAGE, number % 64)
        start = perf_counter()
        bench.space.unmap(0x200_0000 + number * PAGE, PAGE)
        await bench.space.sync()
        took.append(perf_counter() - start)
    say("latencies", sync=took, map=kernel.seconds[0x3B71], unmap=kernel.seconds[0x3B72])


async def leave(bench: Bench, stay: Stay) -> None:
    """See that the device reaches nothing once the bridge was left, although it is still mapped in the space."""
    bench.map(0x40_0000, 6)
    await bench.space.sync()
    await stay.end()
    await synced(bench, "left")
    bench.fill(6, BLANK)
    await bench.edu.store(0x40_0000, HALF)  # the kernel logs no more than three faults in five seconds
    say("left", page=bench.read(6).hex(), closed=bench.container.closed)


async def fence(bench: Bench, bridge: VfioBridge) -> None:
    """Fence another bridge on the same container: the device reaches what is mapped, and then nothing."""
    await bridge.wait_current()
    bench.fill(3, SECRET)
    await bench.edu.fetch(0x20_0000, HALF)
    await bench.edu.store(0x40_0000, HALF)
    say("current", page=bench.read(6).hex())
    proven = await bench.space.fence("again")
    bench.fill(6, BLANK)
    await bench.edu.store(0x40_0000, HALF)
    say("fenced", page=bench.read(6).hex(), proven=proven, closed=bench.container.closed)
    await synced(bench, "fenced")


# -- what helps ----------------------------------------------------------------


async def synced(bench: Bench, what: str) -> None:
    """Say what comes of a `sync`."""
    try:
        report = await bench.space.sync(2.0)
    except SyncFailed as failed:
        failures = [
            {"range": str(IovaRange(one.first, one.last)), "cause": str(one.cause), "errno": number_of(one.cause)}
            for one in cast("tuple[MapFailure, ...]", failed.failures)
        ]
        missing = [
            {"reason": one.reason, "cause": str(one.cause), "errno": number_of(one.cause)}
            for one in cast("tuple[Missing, ...]", failed.missing)
        ]
        say("sync failed", after=what, failures=failures, missing=missing)
    else:
        say("sync", after=what, who=[[one.subscriber, one.how.value] for one in report.outcomes])


def number_of(cause: object) -> str:
    """Return the name of the kernel's error."""
    return errno.errorcode.get(cause.errno, str(cause.errno)) if isinstance(cause, KernelRefused) else ""


def told_errno(container: Container, call: MapDma | UnmapDma) -> str:
    """Tell the kernel something, and return the name of its error; or how many bytes it took away."""
    try:
        return str(container.tell(call))
    except KernelRefused as refusal:
        return number_of(refusal)


def bench_address(bench: Bench) -> int:
    """Return where the memory is in this process, for calls that go past the bridge."""
    return ctypes.addressof(ctypes.c_char.from_buffer(bench.page))
