"""A vhost device of the kernel: what it asks is answered, and what is unmapped it uses no more."""

import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from iommubus import AddressSpace, Bus, Mapping, Memory, Perm
from iommubus.abi.vhost import IotlbMsg, IotlbType, MsgType
from iommubus.abi.vhost_user import Features
from iommubus.bridges.vhost import VhostBridge, VhostDevice
from iommubus.bridges.vhost.bridge import ATTEMPTS
from iommubus.bridging.telling import Negotiated, Notice, Told
from iommubus.bus.reports import Missing
from iommubus.caps import Cap
from iommubus.completion import How
from iommubus.errors import AbiError, Fenced, KernelRefused, PeerCannot, SyncFailed
from iommubus.ranges import LAST
from tests.actors import settle
from tests.daemons import bus_at, daemon
from tests.kernels import PATIENCE, Gate, VhostKernel
from tests.loops import every_loop

PAGE: Final = 0x1000
HALF: Final = 2**63
MEMORY: Final = 16 * PAGE
TX, RX = 1, 0

Walk = Callable[[int, Perm], Awaitable[Mapping | None]]


class Setting:
    """A space, a memory, a device, and a bridge between them."""

    def __init__(self, kernel: VhostKernel) -> None:
        self.kernel = kernel
        self.device = VhostDevice.open("/dev/vhost-net", kernel=kernel)
        self.told: list[Told] = []
        self.error: BaseException | None = None
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        self.bus: Bus
        self.space: AddressSpace
        self.memory: Memory
        self.bridge: VhostBridge

    def map(self, iova: int, page: int, perm: Perm = Perm.RW, count: int = 1) -> None:
        """Map pages of the memory."""
        self.space.map(iova, count * PAGE, page * PAGE, perm, memory=self.memory)

    def write(self, page: int, data: bytes) -> None:
        """Write into the memory, as the guest does."""
        self.bus.memory_view(self.memory)[page * PAGE : page * PAGE + len(data)] = data

    async def read(self, iova: int, size: int, ring: int = TX) -> bytes:
        """Have a ring read, as often as it has to, and return what it reads."""
        while (data := self.kernel.device_reads(ring, iova, size)) is None:
            before = self.kernel.updates
            await until(lambda: self.kernel.updates > before)  # noqa: B023 - waited for at once
        return data

    async def failing_sync(self) -> list[Missing]:
        """Return who is missing from a `sync` that has to fail."""
        with pytest.raises(SyncFailed) as failed:
            await self.space.sync(0.2)
        return cast("list[Missing]", list(failed.value.missing))

    @property
    def notices(self) -> list[str]:
        """What it told of trouble."""
        return [told.text for told in self.told if isinstance(told, Notice) and told.trouble]

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Run the bridge, and keep what it raises."""
        with self.scope:
            try:
                await self.bridge.run(task_status=task_status)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.error = error
        self.over.set()


@asynccontextmanager
async def bridged(kernel: VhostKernel | None = None, walk: Walk | None = None) -> AsyncGenerator[Setting]:
    """Give a setting whose bridge runs; with ``walk`` its space is one that is asked."""
    it = Setting(kernel or VhostKernel())
    pull = {} if walk is None else {"offers": Cap.UNMAP, "translate": walk}
    async with Bus() as it.bus, anyio.create_task_group() as tasks:
        it.space = await it.bus.create_space("net0", **cast("dict[str, Any]", pull))
        it.memory = await it.bus.add_memory("ram", MEMORY)
        it.bridge = VhostBridge(it.bus, device=it.device, space="net0", name="vhost", tell=it.told.append)
        await tasks.start(it.run)
        yield it
        it.kernel.gate.open()
        it.kernel.behind.open()
        it.scope.cancel()
    it.device.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - much of it happens in threads
            await anyio.sleep(0.001)


async def reached(gate: Gate) -> None:
    """Wait until a write is held back."""
    assert await anyio.to_thread.run_sync(gate.reached.wait, PATIENCE)


# -- misses ------------------------------------------------------------------------


@every_loop
async def test_a_miss_is_answered_by_the_address_of_what_is_mapped() -> None:
    async with bridged() as it:
        it.map(0x10000, 3, count=2)
        it.write(4, b"a frame")

        assert await it.read(0x11000, 7) == b"a frame"
        assert [(entry.first, entry.last, entry.perm) for entry in it.kernel.entries] == [(0x10000, 0x11FFF, Perm.RW)]
        assert it.kernel.device_reads(RX, 0x10000, 1) is not None  # it is one IOTLB for all rings
        await until(lambda: it.bridge.statistics().updates == 1)
        assert (it.bridge.statistics().misses, it.bridge.statistics().unanswered) == (1, 0)


@every_loop
async def test_an_address_is_told_with_what_may_be_done_there() -> None:
    async with bridged() as it:
        it.map(0x10000, 3, Perm.R)
        await it.read(0x10000, 1)

        assert it.kernel.access(TX, 0x10000, 1, Perm.W) is None
        await until(lambda: it.bridge.statistics().unanswered == 1)
        assert len(it.kernel.entries) == 1


@every_loop
async def test_equal_questions_are_asked_once_and_answered_once() -> None:
    """
    The kernel asks again with each try, and an UPDATE wakes everybody who waits for it.
    """
    answer = anyio.Event()
    asked = list[int]()

    async def walk(iova: int, perm: Perm) -> Mapping:
        asked.append(iova)
        await answer.wait()
        return Mapping(0x10000, 0x10FFF, 0, perm, it.memory)

    async with bridged(walk=walk) as it:
        for ring in (TX, RX, TX):
            assert it.kernel.device_reads(ring, 0x10000, 1) is None
        await until(lambda: it.bridge.statistics().misses == 3)
        answer.set()
        await until(lambda: it.bridge.statistics().updates == 1)

        assert asked == [0x10000]
        assert (it.bridge.statistics().repeated, sorted(it.kernel.woken)) == (2, [RX, TX, TX])
        assert it.kernel.pending == []


@every_loop
async def test_a_question_that_is_read_while_it_is_answered_has_an_answer_of_its_own() -> None:
    """
    The UPDATE may have looked for who is to be woken by then.
    """
    async with bridged() as it:
        it.map(0x10000, 0)
        it.kernel.behind.close()
        it.kernel.device_reads(TX, 0x10000, 1)
        await reached(it.kernel.behind)
        assert it.kernel.woken == [TX]
        it.kernel.ask(RX, 0x10000, Perm.R)  # it looked before the UPDATE came
        await until(lambda: it.bridge.statistics().misses == 2)
        it.kernel.behind.open()
        await until(lambda: it.kernel.woken == [TX, RX])

        assert it.kernel.pending == []


@every_loop
async def test_questions_do_not_wait_for_one_another() -> None:
    slow = anyio.Event()

    async def walk(iova: int, perm: Perm) -> Mapping:
        if iova == 0x10000:
            await slow.wait()
        return Mapping(iova, iova + PAGE - 1, iova - 0x10000, perm, it.memory)

    async with bridged(walk=walk) as it:
        it.kernel.device_reads(TX, 0x10000, 1)
        await it.read(0x11000, 1, RX)
        assert [entry.first for entry in it.kernel.entries] == [0x11000]
        slow.set()
        await it.read(0x10000, 1)


@every_loop
async def test_an_answer_that_an_unmap_overtook_is_not_written() -> None:
    """
    The page table is walked, the page is unmapped and mapped elsewhere, and then the old answer comes.
    """
    walks = list[int]()
    go_on = anyio.Event()

    async def walk(iova: int, perm: Perm) -> Mapping:
        page = len(walks)
        walks.append(iova)
        if not page:
            await go_on.wait()
        return Mapping(0x10000, 0x10FFF, page * PAGE, perm, it.memory)

    async with bridged(walk=walk) as it:
        it.write(0, b"old")
        it.write(1, b"new")
        it.kernel.device_reads(TX, 0x10000, 3)
        await until(lambda: len(walks) == 1)
        it.space.unmap(0x10000, PAGE)
        await it.space.sync()
        go_on.set()

        assert await it.read(0x10000, 3) == b"new"
        assert len(walks) == 2
        assert [message.type for message in it.kernel.written] == [IotlbType.INVALIDATE, IotlbType.UPDATE]
        assert it.bridge.statistics().stale == 1


@every_loop
async def test_an_unmap_that_comes_while_an_answer_is_written_is_written_behind_it() -> None:
    async with bridged() as it:
        it.map(0x10000, 0)
        it.kernel.gate.close()
        it.kernel.device_reads(TX, 0x10000, 1)
        await reached(it.kernel.gate)
        it.space.unmap(0x10000, PAGE)
        await settle()
        it.kernel.gate.open()
        await it.space.sync()

        assert [message.type for message in it.kernel.written] == [IotlbType.UPDATE, IotlbType.INVALIDATE]
        assert it.kernel.entries == []


@every_loop
async def test_answers_that_are_always_overtaken_are_given_up() -> None:
    async def walk(iova: int, perm: Perm) -> Mapping:
        it.space.unmap(iova, PAGE)
        await it.space.sync()
        return Mapping(iova, iova + PAGE - 1, 0, perm, it.memory)

    async with bridged(walk=walk) as it:
        it.kernel.device_reads(TX, 0x10000, 1)
        await until(lambda: it.bridge.statistics().unanswered == 1)

        assert it.bridge.statistics().stale == ATTEMPTS
        assert f"UNMAPs overtook {ATTEMPTS} answers" in it.notices[0]


@every_loop
async def test_what_has_no_answer_is_told_of_less_and_less_often() -> None:
    """
    The kernel knows no negative answer, and a guest can make it ask as often as it likes.
    """
    async with bridged() as it:
        for count in range(1, 10):
            it.kernel.device_reads(TX, 0x10000, 1)
            await until(lambda: it.bridge.statistics().unanswered == count)  # noqa: B023 - waited for at once

        assert it.kernel.written == []
        assert [notice.partition(" for ")[0] for notice in it.notices] == 4 * [
            "a miss of /dev/vhost-net at 0x10000"
        ]  # the 1st, 2nd, 4th and 8th
        assert "the 8th that does: nothing is mapped at 0x10000" in it.notices[-1]


@every_loop
async def test_what_is_not_in_this_process_is_no_answer() -> None:
    async with bridged() as it:
        it.space.map(0x10000, PAGE, 0x8000_0000, Perm.RW)
        it.kernel.device_reads(TX, 0x10000, 1)
        await until(lambda: it.bridge.statistics().unanswered == 1)

        assert it.kernel.written == []
        assert "0x80000000" in it.notices[0]


@every_loop
async def test_an_answer_that_the_kernel_refuses_is_told() -> None:
    async with bridged() as it:
        it.map(0x10000, 0)
        it.kernel.refuse = errno.EFAULT
        it.kernel.device_reads(TX, 0x10000, 1)
        await until(lambda: it.bridge.statistics().unanswered == 1)

        assert "UPDATE 0x10000..0x10fff: EFAULT" in it.notices[0]
        it.kernel.refuse = 0
        assert await it.read(0x10000, 1) == b"\0"


@every_loop
async def test_more_questions_than_are_answered_at_once_are_answered_too() -> None:
    async with bridged() as it:
        for page in range(200):
            it.map(page * PAGE, page % 16)
            it.kernel.device_reads(TX, page * PAGE, 1)
        await until(lambda: len(it.kernel.entries) == 200)


# -- invalidations -----------------------------------------------------------------


@every_loop
async def test_a_sync_waits_until_no_worker_uses_what_was_unmapped() -> None:
    """
    That is when the kernel's write returns; the loop goes on meanwhile.
    """
    async with bridged() as it:
        it.map(0x10000, 0)
        await it.read(0x10000, 1)
        it.kernel.gate.close()
        it.space.unmap(0x10000, PAGE)
        done = anyio.Event()

        async def sync() -> None:
            report = await it.space.sync()
            assert [(one.subscriber, one.how) for one in report.outcomes] == [("vhost", How.ACKNOWLEDGED)]
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sync)
            await reached(it.kernel.gate)
            assert (len(it.kernel.entries), done.is_set()) == (1, False)
            it.kernel.gate.open()
        assert it.kernel.entries == []


@every_loop
async def test_everything_is_taken_away_in_two_halves() -> None:
    """
    No size is written that kernels of 2022 and 2023 refuse.
    """

    async def walk(iova: int, perm: Perm) -> Mapping:
        return Mapping(iova, iova + PAGE - 1, 0, perm, it.memory)

    async with bridged(walk=walk) as it:
        await it.read(0x10000, 1)
        it.space.unmap(0, 2**64)
        await it.space.sync()

        assert it.kernel.entries == []
        assert [(message.iova, message.size) for message in it.kernel.written[1:]] == [(0, HALF), (HALF, HALF)]


@every_loop
async def test_an_unmap_that_the_kernel_refuses_is_raised_until_it_is_done() -> None:
    async with bridged() as it:
        for page in range(3):
            it.map(page * 0x10000, page)
            await it.read(page * 0x10000, 1)
        it.kernel.refuse = errno.EFAULT
        it.space.unmap(0x10000, PAGE)
        it.space.unmap(0x20000, PAGE)

        for _ in range(2):
            missing = await it.failing_sync()
            assert isinstance(missing[0].cause, KernelRefused)
            assert missing[0].cause.errno == errno.EFAULT
        it.kernel.refuse = 0
        await it.space.sync()
        assert [entry.first for entry in it.kernel.entries] == [0]
        assert it.notices


# -- the end -------------------------------------------------------------------------


@every_loop
async def test_who_is_cancelled_takes_everything_away_and_leaves_clean() -> None:
    async with bridged() as it:
        it.map(0x10000, 0)
        await it.read(0x10000, 1)
        it.scope.cancel()
        await it.over.wait()

        assert (it.kernel.entries, it.device.fd >= 0) == ([], True)
        it.space.unmap_all()
        assert (await it.space.sync()).outcomes == ()


@every_loop
async def test_the_end_of_the_space_is_the_end_of_the_bridge() -> None:
    async with bridged() as it:
        it.map(0x10000, 0)
        await it.read(0x10000, 1)
        await it.space.close()
        await it.over.wait()

        assert (it.kernel.entries, it.error) == ([], None)
        await it.space.sync()


@every_loop
async def test_a_fence_takes_everything_away_and_nothing_is_answered_any_more() -> None:
    """
    Also what is being answered at that moment is not.
    """
    answer = anyio.Event()

    async def walk(iova: int, perm: Perm) -> Mapping:
        if iova == 0x20000:
            await answer.wait()
        return Mapping(iova, iova + PAGE - 1, 0, perm, it.memory)

    async with bridged(walk=walk) as it:
        await it.read(0x10000, 1)
        it.kernel.device_reads(TX, 0x20000, 1)
        await until(lambda: it.bridge.statistics().misses == 2)
        assert await it.space.fence("vhost")
        answer.set()
        await it.over.wait()

        assert isinstance(it.error, Fenced)
        assert it.kernel.entries == []
        assert it.kernel.updates == 1
        await it.space.sync()


@every_loop
async def test_a_fence_that_the_kernel_refuses_proves_nothing() -> None:
    async with bridged() as it:
        it.map(0x10000, 0)
        await it.read(0x10000, 1)
        it.kernel.refuse = errno.EFAULT
        assert not await it.space.fence("vhost")
        await it.over.wait()
        it.space.unmap_all()
        missing = await it.failing_sync()
        assert isinstance(missing[0].cause, KernelRefused)

        it.kernel.refuse = 0
        await it.space.sync()
        assert it.kernel.entries == []


@every_loop
async def test_what_makes_no_sense_is_the_end_of_the_bridge() -> None:
    async with bridged() as it:
        it.kernel.says = b"\0" * 72
        it.kernel.ask(TX, 0, Perm.R)
        await it.over.wait()

        assert isinstance(it.error, AbiError)


# -- the device ------------------------------------------------------------------------


def negotiated(kernel: VhostKernel, features: int = Features.VERSION_1) -> Negotiated:
    """Return what is agreed upon with a device."""
    with VhostDevice.open("/dev/vhost-net", kernel=kernel) as device:
        return device.negotiate(features)


def test_what_is_agreed_upon_is_said_by_its_names() -> None:
    kernel = VhostKernel()
    said = negotiated(kernel, Features.VERSION_1 | 1 << 15)

    assert str(said) == (
        "/dev/vhost-net: agreed on feature bit 15, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, "
        "VHOST_BACKEND_F_IOTLB_MSG_V2"
    )
    assert (kernel.owner, kernel.acked) == ("us", 1 << 15 | 3 << 32)
    assert kernel.memory_table == bytes(8)


@pytest.mark.parametrize("backend", [None, 0])
def test_an_older_kernel_is_told_in_the_first_form(backend: int | None) -> None:
    kernel = VhostKernel(backend=backend)
    with VhostDevice.open("/dev/vhost-net", kernel=kernel) as device:
        said = device.negotiate()
        device.write(IotlbMsg(0, PAGE, 0, 0, IotlbType.INVALIDATE))

    assert [lack.what for lack in said.lacks] == ["VHOST_BACKEND_F_IOTLB_MSG_V2"]
    assert kernel.types == [MsgType.IOTLB]


def test_a_kernel_without_an_iotlb_will_not_do() -> None:
    with pytest.raises(PeerCannot, match="has no VIRTIO_F_ACCESS_PLATFORM: the kernel keeps no IOTLB"):
        negotiated(VhostKernel(features=Features.VERSION_1))


def test_a_feature_that_the_guest_has_and_the_kernel_not_will_not_do() -> None:
    with pytest.raises(PeerCannot, match="has no feature bit 22"):
        negotiated(VhostKernel(), 1 << 22)


def test_a_device_that_this_process_owns_already_is_taken_as_it_is() -> None:
    """
    Who gives a descriptor may have begun; its memory table stays.
    """
    kernel = VhostKernel()
    kernel.owner = "us"
    fd = kernel.open("/dev/vhost-net")
    with VhostDevice(fd, kernel=kernel) as device:
        device.negotiate()

    assert kernel.memory_table is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_device_of_another_process_will_not_do() -> None:
    kernel = VhostKernel()
    kernel.owner = "others"
    with pytest.raises(PeerCannot, match="has no owner in this process: another process owns it"):
        negotiated(kernel)


def test_a_device_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(KernelRefused, match=r"open /dev/vhost-blk: ENOENT, No such file or directory .*module loaded"):
        VhostDevice.open("/dev/vhost-blk", kernel=VhostKernel())


def test_what_the_kernel_refuses_is_named_with_its_values() -> None:
    kernel = VhostKernel()
    with VhostDevice.open("/dev/vhost-net", kernel=kernel) as device:
        device.negotiate()
        kernel.refuse = errno.EINVAL
        with pytest.raises(KernelRefused, match=r"INVALIDATE 0x1000\.\.0xffffffffffffffff: EINVAL"):
            device.write(IotlbMsg(PAGE, LAST + 1 - PAGE, 0, 0, IotlbType.INVALIDATE))


# -- over a daemon -------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_a_device_reads_the_memory_of_another_process(tmp_path: Path) -> None:
    kernel = VhostKernel()
    with (
        daemon(tmp_path) as running,
        bus_at(running.address, "emulator") as (there, emulator),
        bus_at(running.address, "vmm") as (here, bus),
        VhostDevice.open("/dev/vhost-net", kernel=kernel) as device,
    ):
        space: AddressSpace = there.call(emulator.create_space, "net0")
        memory: Memory = there.call(emulator.add_memory, "ram", MEMORY)
        there.call(publish, emulator, space, memory)
        there.call(space.sync)  # the daemon knows of it
        bridge = VhostBridge(bus, device=device, space="net0", name="vhost")
        future, _ = here.start_task(bridge.run)
        assert kernel.device_reads(TX, 0x10000, 7) is None
        here.call(until, lambda: len(kernel.entries) == 1)
        assert kernel.device_reads(TX, 0x10000, 7) == b"a frame"

        there.call(space.unmap, 0x10000, PAGE)
        report: Any = there.call(space.sync)
        assert kernel.entries == []
        assert [(one.subscriber, one.how) for one in report.outcomes] == [("vhost", How.ACKNOWLEDGED)]

        there.call(publish, emulator, space, memory)
        there.call(space.sync)  # the daemon knows of it
        kernel.device_reads(TX, 0x10000, 7)
        here.call(until, lambda: len(kernel.entries) == 1)
        assert there.call(space.fence, "vhost")
        assert kernel.entries == []
        assert isinstance(future.exception(PATIENCE), Fenced)


def publish(bus: Any, space: AddressSpace, memory: Memory) -> None:
    """Map a page with a frame in it, in the thread of the bus."""
    space.map(0x10000, PAGE, 0, Perm.RW, memory=memory)
    bus.memory_view(memory)[:7] = b"a frame"
