"""A space in a VFIO container: what the device reaches is what is mapped, whatever the kernel says."""

import errno
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from iommubus import AddressSpace, Bus, IovaRange, Memory, Perm
from iommubus.abi.vfio import MAP_DMA, UNMAP_DMA, Ioctl, MapDma, MapFlags, UnmapDma, UnmapFlags
from iommubus.bridges.vfio import Container, VfioBridge, VfioStatistics, group_of
from iommubus.bridges.vfio.bridge import AT_ONCE
from iommubus.bridges.vfio.container import Step
from iommubus.bridges.vfio.words import Traits, gaps, naming, negotiated
from iommubus.bridging.telling import Negotiated, Notice, Told
from iommubus.bus.reports import MapFailure, Missing
from iommubus.completion import How
from iommubus.errors import (
    BadMemory,
    Fenced,
    GranuleRefused,
    KernelRefused,
    MappingFailed,
    NoBacking,
    PeerCannot,
    SyncFailed,
    TooManyMappings,
)
from iommubus.ranges import LAST
from tests.actors import settle
from tests.daemons import bus_at, daemon
from tests.kernels import PATIENCE, X86, VfioKernel
from tests.loops import every_loop

PAGE: Final = 0x1000
RW: Final = MapFlags.READ | MapFlags.WRITE
MEMORY: Final = 64 * PAGE
DEVICE: Final = "0000:00:03.0"


class Setting:
    """A space, a memory, a container, and a bridge between them that a test starts and ends."""

    def __init__(self, kernel: VfioKernel) -> None:
        self.kernel = kernel
        self.container = Container.open(26, kernel=kernel)
        self.told: list[Told] = []
        self.error: BaseException | None = None
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        self.bus: Bus
        self.space: AddressSpace
        self.memory: Memory
        self.bridge: VfioBridge

    def map(self, iova: int, page: int, perm: Perm = Perm.RW, count: int = 1) -> None:
        """Map pages of the memory."""
        self.space.map(iova, count * PAGE, page * PAGE, perm, memory=self.memory)

    def write(self, page: int, data: bytes) -> None:
        """Write into the memory, as the guest does."""
        self.bus.memory_view(self.memory)[page * PAGE : page * PAGE + len(data)] = data

    async def failing_sync(self) -> tuple[list[MapFailure], list[Missing]]:
        """Return what a `sync` says that has to fail."""
        with pytest.raises(SyncFailed) as failed:
            await self.space.sync(0.2)
        return cast("list[MapFailure]", list(failed.value.failures)), cast("list[Missing]", list(failed.value.missing))

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Run the bridge, and keep what it raises."""
        with self.scope:
            try:
                await self.bridge.run(task_status=task_status)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.error = error
        self.over.set()


@asynccontextmanager
async def setting(kernel: VfioKernel | None = None) -> AsyncGenerator[Setting]:
    """Give a setting whose bridge does not run yet, and end it."""
    it = Setting(kernel or VfioKernel())
    async with Bus() as it.bus:
        it.space = await it.bus.create_space("vtd0/dev")
        it.memory = await it.bus.add_memory("ram", MEMORY)
        it.bridge = VfioBridge(it.bus, container=it.container, space="vtd0/dev", name="vfio", tell=it.told.append)
        yield it


@asynccontextmanager
async def bridged(kernel: VfioKernel | None = None) -> AsyncGenerator[Setting]:
    """Give a setting whose bridge runs."""
    async with setting(kernel) as it, anyio.create_task_group() as tasks:
        await tasks.start(it.run)
        yield it
        it.kernel.gate.open()
        it.scope.cancel()


async def reached(kernel: VfioKernel) -> None:
    """Wait until a call is held back."""
    assert await anyio.to_thread.run_sync(kernel.gate.reached.wait, PATIENCE)


# -- the bridge ----------------------------------------------------------------


@every_loop
async def test_a_device_reaches_what_is_mapped_and_nothing_else() -> None:
    async with bridged() as it:
        it.map(0x10000, 1)
        it.map(0x20000, 2, Perm.R)
        await it.space.sync()
        it.write(1, b"page one")
        it.write(2, b"page two")

        assert it.kernel.device_reads(0x10000, 8) == b"page one"
        assert it.kernel.device_writes(0x10004, b"1111")
        assert bytes(it.bus.memory_view(it.memory)[PAGE : PAGE + 8]) == b"page1111"
        assert it.kernel.device_reads(0x20000, 8) == b"page two"
        assert not it.kernel.device_writes(0x20000, b"2222")
        assert it.kernel.device_reads(0x30000, 1) is None

        it.space.unmap(0x10000, PAGE)
        report = await it.space.sync()
        assert it.kernel.device_reads(0x10000, 1) is None
        assert [(one.subscriber, one.how) for one in report.outcomes] == [("vfio", How.ACKNOWLEDGED)]
        assert it.bridge.statistics() == VfioStatistics(maps=2, unmaps=1, failed=0)


@every_loop
async def test_what_was_mapped_before_is_there_once_it_is_current() -> None:
    async with setting() as it, anyio.create_task_group() as tasks:
        for page in range(5):
            it.map(page * 0x10000, page)
        it.kernel.gate.close()
        await tasks.start(it.run)
        current = anyio.Event()

        async def wait() -> None:
            await it.bridge.wait_current()
            current.set()

        tasks.start_soon(wait)
        await reached(it.kernel)
        assert not current.is_set()
        it.kernel.gate.open()
        await current.wait()
        assert [entry.first for entry in it.kernel.entries] == [page * 0x10000 for page in range(5)]
        it.scope.cancel()


@every_loop
async def test_a_sync_waits_until_the_kernel_has_unmapped() -> None:
    """
    And the loop goes on meanwhile.
    """
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()
        it.kernel.gate.close()
        it.space.unmap(0x10000, PAGE)
        done = anyio.Event()

        async def sync() -> None:
            await it.space.sync()
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sync)
            await reached(it.kernel)
            assert it.kernel.device_reads(0x10000, 1) is not None
            assert not done.is_set()
            it.kernel.gate.open()
        assert it.kernel.device_reads(0x10000, 1) is None


@every_loop
@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EEXIST, "somebody else uses this container"),
        (errno.ENOSPC, "dma_entry_limit"),
        (errno.ENOMEM, "RLIMIT_MEMLOCK"),
    ],
)
async def test_a_map_that_the_kernel_refuses_is_raised_by_the_next_sync_once(number: int, hint: str) -> None:
    kernel = VfioKernel(room=None)
    async with bridged(kernel) as it:
        it.map(0x10000, 1)
        await it.space.sync()
        make_refuse(it, number)
        it.map(0x20000, 2)
        it.map(0x30000, 3)

        failures, missing = await it.failing_sync()
        assert not missing
        assert [(one.subscriber, one.first, one.last) for one in failures] == [("vfio", 0x20000, 0x20FFF)]
        cause = failures[0].cause
        assert isinstance(cause, KernelRefused)
        assert (cause.errno, hint in cause.hint) == (number, True)
        assert "VFIO_IOMMU_MAP_DMA 0x20000..0x20fff" in str(cause)
        await it.space.sync()
        assert kernel.device_reads(0x30000, 1) is not None  # what came behind it
        it.space.unmap_all()
        await it.space.sync()
        assert kernel.device_reads(0x10000, 1) is None
        assert it.bridge.statistics().failed == 1


def make_refuse(it: Setting, number: int) -> None:
    """Have the kernel refuse the mapping at 0x20000, for a reason of which the model knows."""
    if number == errno.EEXIST:
        it.container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, 0x20000, PAGE))
    elif number == errno.ENOSPC:
        it.kernel.room_at[0x20000] = 1
    else:
        it.kernel.pinnable_at[0x20000] = PAGE


@every_loop
async def test_an_unmap_that_the_kernel_refuses_is_raised_until_it_is_done() -> None:
    """
    It would cut a mapping: somebody else made a larger one there.  The MAP that waits behind it comes after it.
    """
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()
        it.container.tell(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), 0x10000, PAGE))
        it.container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, 0x10000, 2 * PAGE))
        it.space.unmap(0x10000, PAGE)
        it.map(0x10000, 2)

        for _ in range(2):
            _, missing = await it.failing_sync()
            assert [(piece.first, piece.target) for piece in missing[0].pieces] == [(0x10000, PAGE)]
            cause = missing[0].cause
            assert isinstance(cause, KernelRefused)
            assert (cause.errno, "would cut" in cause.hint) == (errno.EINVAL, True)
            assert len(it.kernel.entries) == 1  # the MAP has not passed it

        it.container.tell(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), 0x10000, 2 * PAGE))
        await it.space.sync()
        await it.space.sync()  # by the second, the MAP behind it has come
        it.write(2, b"two")
        assert it.kernel.device_reads(0x10000, 3) == b"two"
        assert [told.trouble for told in it.told if isinstance(told, Notice)] == [True, True]


@every_loop
async def test_what_fails_of_the_first_replay_is_told_to_who_waits_for_it() -> None:
    kernel = VfioKernel()
    async with setting(kernel) as it, anyio.create_task_group() as tasks:
        it.map(0x10000, 1)
        it.container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, 0x10000, PAGE))
        await tasks.start(it.run)

        with pytest.raises(MappingFailed, match="errno=17"):
            await it.bridge.wait_current()
        it.scope.cancel()


@every_loop
async def test_who_is_cancelled_unmaps_everything_and_leaves_clean() -> None:
    async with bridged() as it:
        it.map(0x10000, 1)
        it.map(0x20000, 2)
        await it.space.sync()
        it.scope.cancel()
        await it.over.wait()

        assert (it.kernel.entries, it.container.closed) == ([], False)
        it.space.unmap_all()
        assert (await it.space.sync()).outcomes == ()


@every_loop
async def test_who_is_cancelled_while_the_kernel_works_leaves_clean_all_the_same() -> None:
    async with bridged() as it:
        it.kernel.gate.close()
        for page in range(8):
            it.map(page * 0x10000, page)
        await reached(it.kernel)
        it.scope.cancel()
        it.kernel.gate.open()
        await it.over.wait()

        assert it.kernel.entries == []
        it.space.unmap_all()
        assert (await it.space.sync()).outcomes == ()


@every_loop
async def test_the_end_of_the_space_is_the_end_of_the_bridge() -> None:
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()
        await it.space.close()
        await it.over.wait()

        assert (it.kernel.entries, it.error) == ([], None)
        await it.space.sync()


@every_loop
async def test_a_fence_unmaps_everything_and_is_proven_by_the_kernels_answer() -> None:
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()

        assert await it.space.fence("vfio")
        assert it.kernel.entries == []
        await it.over.wait()
        assert isinstance(it.error, Fenced)
        it.space.unmap_all()
        await it.space.sync()


@every_loop
async def test_what_is_under_way_when_it_is_fenced_is_not_done_afterwards() -> None:
    """
    The kernel works on the first of many MAPs; the others must not come behind the UNMAP of everything.
    """
    async with bridged() as it:
        it.map(0x80000, 0)
        await it.space.sync()
        it.kernel.gate.close()
        for page in range(8):
            it.map(page * 0x10000, page)
        await reached(it.kernel)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.space.fence, "vfio")
            await settle()  # it waits for the call that is under way
            it.kernel.gate.open()
        await it.over.wait()

        assert it.kernel.entries == []
        after = it.kernel.calls[it.kernel.calls.index(UnmapDma(UNMAP_DMA.size, UnmapFlags.ALL, 0, 0)) :]
        assert not [call for call in after if isinstance(call, MapDma)]
        assert len([call for call in it.kernel.calls if isinstance(call, MapDma)]) == 2


@every_loop
async def test_a_container_that_cannot_be_emptied_is_closed_instead() -> None:
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()
        it.kernel.refuse_unmaps = True

        assert await it.space.fence("vfio")
        assert (it.container.closed, it.kernel.entries, it.kernel.open_fds) == (True, [], {})
        await it.over.wait()
        assert isinstance(it.error, Fenced)


@every_loop
async def test_closing_proves_nothing_while_somebody_has_the_device() -> None:
    """
    Every sync fails, with what the kernel said, until it can be emptied.
    """
    async with bridged() as it:
        it.map(0x10000, 1)
        await it.space.sync()
        it.container.device(DEVICE)
        it.kernel.refuse_unmaps = True

        assert not await it.space.fence("vfio")
        await it.over.wait()
        it.space.unmap(0x10000, PAGE)
        _, missing = await it.failing_sync()
        assert isinstance(missing[0].cause, KernelRefused)
        assert not it.container.closed
        it.kernel.refuse_unmaps = False
        await it.space.sync()
        assert it.kernel.entries == []


@every_loop
async def test_where_interrupts_go_nothing_is_mapped_and_that_is_said() -> None:
    async with bridged() as it:
        it.map(0xFEDF_F000, 0, count=2)  # reaches into it
        it.map(0xFEEF_F000, 4, count=2)  # reaches out of it
        await it.space.sync()

        assert [(entry.first, entry.last) for entry in it.kernel.entries] == [
            (0xFEDF_F000, 0xFEDF_FFFF),
            (0xFEF0_0000, 0xFEF0_0FFF),
        ]
        it.write(5, b"five")
        assert it.kernel.device_reads(0xFEF0_0000, 4) == b"five"
        it.space.unmap_all()
        await it.space.sync()
        assert it.kernel.entries == []
        said = it.told[0]
        assert isinstance(said, Negotiated)
        assert [lack.what for lack in said.lacks] == [
            "IOVA 0xfee00000..0xfeefffff",
            "IOVA 0x8000000000..0xffffffffffffffff",
        ]


@every_loop
async def test_a_mapping_too_many_is_refused_before_the_kernel_is_asked() -> None:
    async with bridged(VfioKernel(room=2)) as it:
        for page in range(3):
            it.map(page * 0x10000, page)
        failures, _ = await it.failing_sync()

        assert isinstance(failures[0].cause, TooManyMappings)
        assert len(it.kernel.calls) == 2


@every_loop
async def test_what_has_no_bytes_here_is_failed_and_the_rest_is_mapped() -> None:
    async with bridged() as it:
        with memfile(b"read only") as fd:
            rom = await it.bus.add_memory("rom", PAGE, fd)
        it.space.map(0x10000, PAGE, 0x8000_0000, Perm.RW)
        it.space.map(0x20000, PAGE, 0, Perm.RW, memory=rom)
        it.space.map(0x30000, PAGE, 0, Perm.R, memory=rom)
        failures, _ = await it.failing_sync()

        assert [(one.first, type(one.cause)) for one in failures] == [(0x10000, NoBacking), (0x20000, BadMemory)]
        assert it.kernel.device_reads(0x30000, 9) == b"read only"


@every_loop
async def test_what_has_no_bytes_here_is_failed_once_however_often_the_kernel_refuses_before_it() -> None:
    """
    All of it is in one batch, which is gone on with behind each refusal.
    """
    kernel = VfioKernel(room=None)
    async with setting(kernel) as it, anyio.create_task_group() as tasks:
        kernel.room_at = {0x10000: 0, 0x20000: 0}
        it.map(0x10000, 1)
        it.map(0x20000, 2)
        it.space.map(0x30000, PAGE, 0x8000_0000, Perm.RW)
        it.map(0x40000, 4)
        await tasks.start(it.run)
        with pytest.raises(MappingFailed) as failed:
            await it.bridge.wait_current()

        failures = cast("list[MapFailure]", list(failed.value.failures))
        assert [(one.first, type(one.cause)) for one in failures] == [
            (0x10000, KernelRefused), (0x20000, KernelRefused), (0x30000, NoBacking),
        ]  # fmt: skip
        assert [entry.first for entry in kernel.entries] == [0x40000]
        assert it.bridge.statistics() == VfioStatistics(maps=1, unmaps=0, failed=3)
        it.scope.cancel()


@every_loop
async def test_a_batch_of_more_than_is_told_at_once_is_done_whole() -> None:
    """
    And nothing is told twice, wherever the kernel refuses.
    """
    kernel = VfioKernel()
    refused = [0, AT_ONCE - 1, AT_ONCE, 2 * AT_ONCE + 1]
    async with setting(kernel) as it, anyio.create_task_group() as tasks:
        kernel.room_at = {place * PAGE: 0 for place in refused}
        for place in range(2 * AT_ONCE + 2):
            it.map(place * PAGE, place % 64)
        await tasks.start(it.run)
        with pytest.raises(MappingFailed) as failed:
            await it.bridge.wait_current()

        failures = cast("list[MapFailure]", list(failed.value.failures))
        assert [one.first // PAGE for one in failures] == refused
        assert len(kernel.calls) == 2 * AT_ONCE + 2
        assert it.bridge.statistics() == VfioStatistics(maps=2 * AT_ONCE - 2, unmaps=0, failed=4)
        it.scope.cancel()


class memfile:  # noqa: N801 - used like a function
    """Gives a descriptor of a file that can only be read."""

    def __init__(self, data: bytes) -> None:
        fd = os.memfd_create("rom")
        os.write(fd, data.ljust(PAGE, b"\0"))
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        os.close(fd)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@every_loop
async def test_a_space_of_smaller_pages_cannot_be_had() -> None:
    async with setting(VfioKernel(pagesizes=1 << 16, ranges=(IovaRange(0, 2**39 - 1),))) as it:
        with pytest.raises(GranuleRefused):
            await it.bridge.run()


@every_loop
async def test_a_container_that_is_full_is_said_at_once() -> None:
    kernel = VfioKernel(room=1)
    async with setting(kernel) as it:
        it.container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, 0, PAGE))
        with pytest.raises(PeerCannot, match="it is full before anything is mapped in it"):
            await it.bridge.run()


@every_loop
async def test_a_kernel_that_says_nothing_of_itself_is_told_everything() -> None:
    kernel = VfioKernel(room=None, ranges=(), pagesizes=0, unmap_all=False)
    async with bridged(kernel) as it:
        it.map(0, 0)
        it.space.map(2**63, PAGE, 0, Perm.R, memory=it.memory)  # where everything is cut in two
        await it.space.sync()
        it.space.unmap_all()
        await it.space.sync()
        assert kernel.entries == []
        said = it.told[0]
        assert isinstance(said, Negotiated)
        assert [lack.what for lack in said.lacks] == [
            "INFO_PGSIZES", "INFO_DMA_AVAIL", "UNMAP_ALL", "INFO_CAP_IOVA_RANGE",
        ]  # fmt: skip


@pytest.mark.timeout(60)
def test_a_device_reaches_the_memory_of_another_process(tmp_path: Path) -> None:
    """
    Over a daemon: what is mapped here is the producer's memory, by its descriptor.
    """
    kernel = VfioKernel()
    with (
        daemon(tmp_path) as running,
        bus_at(running.address, "emulator") as (there, emulator),
        bus_at(running.address, "vmm") as (here, bus),
        Container.open(26, kernel=kernel) as container,
    ):
        bridge = VfioBridge(bus, container=container, space="vtd0/dev", name="vfio")
        future, _ = here.start_task(bridge.run)
        space: AddressSpace = there.call(emulator.create_space, "vtd0/dev")
        memory: Memory = there.call(emulator.add_memory, "ram", MEMORY)
        there.call(publish, space, memory)
        there.call(space.sync)
        assert kernel.device_writes(0x10000, b"by the device")
        assert there.call(peek, emulator, memory) == b"by the device"

        there.call(space.unmap, 0x10000, PAGE)
        report: Any = there.call(space.sync)
        assert kernel.device_reads(0x10000, 1) is None
        assert [(one.subscriber, one.how) for one in report.outcomes] == [("vfio", How.ACKNOWLEDGED)]

        there.call(publish, space, memory)
        there.call(space.sync)
        assert there.call(space.fence, "vfio")
        assert kernel.entries == []
        assert isinstance(future.exception(PATIENCE), Fenced)


def publish(space: AddressSpace, memory: Memory) -> None:
    """Map a page, in the thread of the bus."""
    space.map(0x10000, PAGE, 0, Perm.RW, memory=memory)


def peek(bus: Any, memory: Memory) -> bytes:
    """Return the beginning of a memory, in the thread of the bus."""
    return bytes(bus.memory_view(memory)[:13])


# -- the container ---------------------------------------------------------------


def test_a_container_is_made_of_its_groups() -> None:
    kernel = VfioKernel(7, 26)
    with Container.open("/dev/vfio/7", 26, kernel=kernel) as container:
        assert container.name == "VFIO container of group 7, 26"
        assert list(kernel.open_fds.values()) == ["/dev/vfio/vfio", "/dev/vfio/7", "/dev/vfio/26"]
        assert container.traits == Traits(PAGE | 1 << 21, X86, 65535, unmap_all=True)
    assert (kernel.open_fds, container.closed) == ({}, True)
    container.empty()  # there is nothing any more


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        ("absent", KernelRefused, "open /dev/vfio/9: ENOENT, No such file or directory .*bound to vfio-pci"),
        ("taken", KernelRefused, "open /dev/vfio/26: EBUSY, .*another process has it"),
        ("not viable", PeerCannot, "has no VFIO_GROUP_FLAGS_VIABLE"),
        ("version 1", PeerCannot, "has no VFIO_TYPE1v2_IOMMU"),
    ],
)
def test_a_container_that_cannot_be_had_leaves_nothing_open(spoil: str, error: type[Exception], sentence: str) -> None:
    kernel = VfioKernel()
    before = dict(kernel.open_fds)
    if spoil == "taken":
        kernel.open("/dev/vfio/26")
        before = dict(kernel.open_fds)
    kernel.not_viable = spoil == "not viable"
    kernel.version1 = spoil == "version 1"

    with pytest.raises(error, match=sentence):
        Container.open(9 if spoil == "absent" else 26, kernel=kernel)
    assert kernel.open_fds == before


def test_a_device_that_no_group_has_is_refused() -> None:
    with (
        Container.open(26, kernel=VfioKernel()) as container,
        pytest.raises(KernelRefused, match=r"VFIO_GROUP_GET_DEVICE_FD 0000:00:09\.0: ENODEV"),
    ):
        container.device("0000:00:09.0")


def test_a_descriptor_of_somebody_elses_container_is_emptied_and_proves_nothing_by_its_end() -> None:
    kernel = VfioKernel()
    fd = kernel.open("/dev/vfio/vfio")
    container = Container(fd, kernel=kernel)
    container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, 0x1000, PAGE))
    kernel.refuse_unmaps = True

    with pytest.raises(KernelRefused, match="VFIO_IOMMU_UNMAP_DMA of everything: EINVAL"):
        container.empty()
    assert not container.closed
    container.close()
    with pytest.raises(KernelRefused, match="EBADF"):
        container.empty()


def test_an_unmap_says_how_much_it_took_away_across_holes() -> None:
    with Container.open(26, kernel=VfioKernel()) as container:
        for iova in (0x1000, 0x5000):
            container.tell(MapDma(MAP_DMA.size, RW, 0x7000_0000, iova, PAGE))

        assert container.tell(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), 0, 0x10000)) == 2 * PAGE
        assert container.tell(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), 0, 0x10000)) == 0


def test_steps_end_at_the_first_that_is_refused() -> None:
    kernel = VfioKernel()
    with Container.open(26, kernel=kernel) as container:
        calls = [MapDma(MAP_DMA.size, RW, 0x7000_0000, iova, PAGE) for iova in (0x1000, 0x1000, 0x2000)]
        setback = container.carry_out([Step(place, (call,)) for place, call in enumerate(calls)])

        assert setback is not None
        assert isinstance(setback.error, KernelRefused)
        assert (setback.place, setback.error.errno) == (1, errno.EEXIST)
        assert [entry.first for entry in kernel.entries] == [0x1000]


def test_a_group_is_found_by_the_address_of_its_device(tmp_path: Path) -> None:
    (tmp_path / DEVICE).mkdir()
    (tmp_path / DEVICE / "iommu_group").symlink_to("../../../kernel/iommu_groups/26")
    (tmp_path / "0000:00:04.0").mkdir()

    assert group_of(DEVICE, tmp_path) == group_of("00:03.0", tmp_path) == 26
    with pytest.raises(PeerCannot, match=r"0000:00:04\.0 has no IOMMU group"):
        group_of("00:04.0", tmp_path)
    with pytest.raises(PeerCannot, match=r"0000:00:05\.0 has no place on this machine"):
        group_of("00:05.0", tmp_path)


# -- words -----------------------------------------------------------------------


def test_ranges_are_cut_to_whole_pages() -> None:
    ranges = (IovaRange(0x800, 0x2FFF), IovaRange(0x4000, 0x47FF), IovaRange(0x8000, LAST))

    assert Traits(PAGE, ranges, None, unmap_all=True).usable == (IovaRange(0x1000, 0x2FFF), IovaRange(0x8000, LAST))


def test_gaps_are_what_lies_between_and_behind() -> None:
    assert [str(each) for each in gaps(X86)] == ["0xfee00000..0xfeefffff", "0x8000000000..0xffffffffffffffff"]
    assert list(gaps([IovaRange(0, LAST)])) == []
    assert list(gaps([IovaRange(0x1000, LAST)])) == [IovaRange(0, 0xFFF)]
    assert list(gaps([])) == [IovaRange(0, LAST)]


def test_what_is_agreed_upon_is_said_by_its_names() -> None:
    said = negotiated("it", Traits(PAGE | 1 << 21, (IovaRange(0, LAST),), 65535, unmap_all=True))

    assert str(said) == (
        "it: agreed on TYPE1v2, UNMAP_ALL, pages of 0x1000, 0x200000, 65,535 mappings, IOVA 0x0..0xffffffffffffffff"
    )


def test_calls_are_named_with_their_values() -> None:
    assert naming(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), 0x1000, PAGE)) == "VFIO_IOMMU_UNMAP_DMA 0x1000..0x1fff"
    assert naming(MapDma(MAP_DMA.size, MapFlags.READ, 0x7000, 0x1000, PAGE)).startswith(
        "VFIO_IOMMU_MAP_DMA 0x1000..0x1fff at 0x7000, "
    )


def test_the_model_asks_for_room_as_the_kernel_does() -> None:
    """
    GET_INFO with too short a structure says how long it has to be, and gives no capabilities.
    """
    kernel = VfioKernel()
    fd = kernel.open("/dev/vfio/vfio")
    data = bytearray(24)
    kernel.ioctl(fd, Ioctl.IOMMU_GET_INFO, data)

    assert int.from_bytes(data[:4], "little") == 24 + 16 + 32 + 12
