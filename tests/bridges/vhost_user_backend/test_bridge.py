"""The bridge against a scripted front end: what QEMU says becomes events, and its answers wait for the bus (law 1)."""

import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from iommubus import Bus, Cap, Iotlb, Memory, Perm, Subscription, Unmap
from iommubus.abi.vhost_user import (
    U64,
    Channel,
    Empty,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemRegion,
    MemTable,
    Message,
    Opaque,
    ProtocolFeatures,
    Region,
    Request,
    VringFd,
    VringState,
    encode,
)
from iommubus.bridges.vhost_user_backend import VhostUserBackend, asking
from iommubus.bridging.telling import Negotiated, Notice
from iommubus.errors import NameTaken, NoAnswer, NotMapped, PeerLeft, SpaceClosed, UnknownMemory
from iommubus.ranges import LAST
from tests.bridges.vhost_user_backend.stage import stage
from tests.guests import FEATURES, PAGE, PAGES, PROTOCOL, USER, Guest, guest, status
from tests.loops import every_loop


async def follow(events: Subscription, seen: list[tuple[int, int]]) -> None:
    """Note what is taken away; asking for the next acknowledges it."""
    async for event in events:
        assert isinstance(event, Unmap)
        seen.append((event.first, event.last))


async def fails_with(kind: type[Exception], work: Awaitable[object]) -> None:
    with pytest.raises(kind):
        await work


# -- what is agreed upon -------------------------------------------------------


@every_loop
async def test_what_was_agreed_upon_is_told_once_for_each_front_end(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.say(Request.SET_FEATURES, U64(FEATURES))
        assert (await qemu.ask(Request.GET_QUEUE_NUM)).value == 32

        [negotiated] = [told for told in here.told if isinstance(told, Negotiated)]
        assert "VHOST_USER_PROTOCOL_F_REPLY_ACK" in negotiated.agreed
        assert negotiated.lacks == ()
        assert here.bridge.statistics().front_ends == 1


@every_loop
async def test_a_front_end_without_anything_is_told_what_follows(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.negotiate(features=int(Features.VERSION_1), protocol=0)
        await qemu.ask(Request.GET_FEATURES)

        [negotiated] = [told for told in here.told if isinstance(told, Negotiated)]
        assert [lack.what for lack in negotiated.lacks] == [
            "VIRTIO_F_ACCESS_PLATFORM",
            "VHOST_USER_PROTOCOL_F_REPLY_ACK",
            "VHOST_USER_PROTOCOL_F_BACKEND_REQ",
        ]
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            await fails_with(NotMapped, events.translate(0x1000))


@every_loop
async def test_a_space_whose_name_is_taken_is_not_made(tmp_path: Path) -> None:
    async with Bus() as bus:
        await bus.create_space("vm")
        bridge = VhostUserBackend(bus, listen=str(tmp_path / "sock"), space="vm")
        await fails_with(NameTaken, bridge.run())
        assert not (tmp_path / "sock").exists()


# -- misses --------------------------------------------------------------------


@every_loop
async def test_a_miss_is_answered_by_the_update_that_covers_it(tmp_path: Path) -> None:
    """
    And the bytes are those of the guest's memory.
    """
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 3 * PAGE)
        qemu.memory[3 * PAGE : 3 * PAGE + 5] = b"hello"
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            iotlb = Iotlb(events)
            mapping = await iotlb.translate(0x5004, Perm.W)
            assert (mapping.first, mapping.last, mapping.target) == (0x5000, 0x5FFF, 3 * PAGE)
            assert bytes(iotlb.view(0x5000, 5)) == b"hello"
        assert qemu.asked == [(0x5004, Perm.W)]
        assert here.bridge.statistics()[1:5] == (1, 0, 1, 0)


@every_loop
async def test_a_reply_without_an_update_is_a_negative_answer(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 0, Perm.R)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            await fails_with(NotMapped, events.translate(0x9000))
            await fails_with(NotMapped, events.translate(0x5000, Perm.W))
            assert (await events.translate(0x5000, Perm.R)).mapping.perm is Perm.R
        assert here.bridge.statistics().negative == 2


@every_loop
async def test_an_update_that_allows_too_little_is_no_answer(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.answering = False
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(fails_with, NotMapped, events.translate(0x5000, Perm.W))
            await qemu.wait_asked(1)
            assert await status(qemu.update(0x5000, Perm.R)) == 0
            assert await status(qemu.update(0x5000, Perm(0))) == 0
            qemu.reply_to_miss()


@every_loop
async def test_an_update_that_was_sent_before_the_reply_counts_even_if_it_is_read_later(tmp_path: Path) -> None:
    """
    Both lie in their sockets when the bridge gets its turn; which it reads first is left to the loop.
    """
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.answering = False
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            for turn in range(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(events.translate, 0x5000)
                    await qemu.wait_asked(turn + 1)
                    for _ in range(turn):  # work that the main channel has before
                        qemu.invalidate(0x9000, PAGE)
                    qemu.update(0x5000)
                    qemu.reply_to_miss()
        assert here.bridge.statistics().negative == 0


@every_loop
async def test_several_misses_are_asked_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.answering = False
        for number in range(3):
            qemu.map(number * PAGE, number * PAGE)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(events.translate, 0)
            tasks.start_soon(fails_with, NotMapped, events.translate(PAGE))
            tasks.start_soon(events.translate, 2 * PAGE)
            await qemu.wait_asked(3)
            for number, (iova, _) in enumerate(qemu.asked):
                if iova != PAGE:
                    qemu.update(iova)
                qemu.reply_to_miss(number % 2)
        assert sorted(iova for iova, _ in qemu.asked) == [0, PAGE, 2 * PAGE]


@every_loop
async def test_without_replies_only_the_update_or_the_deadline_answers(tmp_path: Path) -> None:
    protocol = PROTOCOL & ~int(ProtocolFeatures.REPLY_ACK)
    async with stage(tmp_path, answer_timeout=0.05) as here, guest(here.path) as qemu:
        await qemu.begin(protocol=protocol)
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            await events.translate(0x5000)
            await fails_with(NoAnswer, events.translate(0x9000))
            await events.translate(0x5800)


@every_loop
async def test_who_asks_when_no_front_end_is_there_is_told_that_nothing_is_mapped(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, here.bus.subscribe("vm", Cap.UNMAP) as events:
        await fails_with(NotMapped, events.translate(0x5000))
        async with guest(here.path) as qemu:
            await qemu.begin()
            qemu.answering = False
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fails_with, NotMapped, events.translate(0x5000))
                await qemu.wait_asked(1)
                qemu.close()


@every_loop
async def test_an_update_that_leads_out_of_the_memory_table_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        for uaddr in (0x1000, USER - PAGE, USER + PAGES * PAGE, USER + PAGES * PAGE - PAGE // 2, USER + 0x10):
            body = IotlbMsg(0x5000, PAGE, uaddr, 3, IotlbType.UPDATE)
            assert await qemu.told(Request.IOTLB_MSG, body) == 1
        assert await status(qemu.tell(Request.IOTLB_MSG, IotlbMsg(0x5000, PAGE, USER, 3, IotlbType.UPDATE))) == 0
        assert (here.bridge.statistics().refused, here.bridge.statistics().unasked, len(here.troubles)) == (5, 1, 1)


@every_loop
async def test_what_lies_in_no_whole_page_answers_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.answering = False
        async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(fails_with, NotMapped, events.translate(0x5800))
            await qemu.wait_asked(1)
            half = IotlbMsg(0x5800, 0x1000, USER + 0x800, 3, IotlbType.UPDATE)
            assert await qemu.told(Request.IOTLB_MSG, half) == 0
            qemu.reply_to_miss()
        answers: list[Any] = []
        async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:

            async def ask() -> None:
                answers.append((await events.translate(0x6000)).mapping)

            tasks.start_soon(ask)
            await qemu.wait_asked(2)
            whole = IotlbMsg(0x5800, 0x2000, USER + 0x800, 3, IotlbType.UPDATE)
            assert await qemu.told(Request.IOTLB_MSG, whole) == 0
        assert [(each.first, each.last, each.target) for each in answers] == [(0x6000, 0x6FFF, 0x1000)]


# -- INVALIDATEs ---------------------------------------------------------------


@every_loop
async def test_an_invalidate_is_acknowledged_when_the_subscriber_has_let_go(tmp_path: Path) -> None:
    """
    What comes behind it is done at once, and answered behind it.
    """
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x7000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            batches = events.batches()
            invalidated = qemu.invalidate(0x5000, PAGE)
            batch = await anext(batches)
            assert [(event.first, event.last) for event in batch] == [(0x5000, 0x5FFF)]
            await events.translate(0x7000)
            assert len(qemu.asked) == 1
            later = qemu.update(0x7000)
            await here.until(lambda here: here.bridge.statistics().updates == 2)
            assert not invalidated.came.is_set()
            assert not later.came.is_set()

            events.ack(batch)

            assert (await status(invalidated), await status(later)) == (0, 0)


@every_loop
async def test_invalidates_that_come_meanwhile_share_the_next_sync(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            batches = events.batches()
            first = qemu.invalidate(0, PAGE)
            events_first = await anext(batches)
            others = [qemu.invalidate(number * PAGE, PAGE) for number in range(1, 100)]
            await here.until(lambda here: here.bridge.statistics().invalidations == 100)
            events.ack(events_first)
            assert await status(first) == 0
            assert not any(each.came.is_set() for each in others)
            events.ack(await anext(batches))
            assert {await status(each) for each in others} == {0}
            assert here.bridge.statistics().syncs == 2


@pytest.mark.parametrize(
    ("iova", "size", "first", "last"),
    [
        (0x5000, 0x3000, 0x5000, 0x7FFF),
        (0, 0, 0, LAST),
        (0x5000, 0, 0, LAST),  # size 0 is the whole space, wherever it begins
        (0x5800, 0x10, 0x5000, 0x5FFF),
        (0x5FFF, 2, 0x5000, 0x6FFF),
        (2**64 - 0x1000, 0x1000, 2**64 - 0x1000, LAST),
        (0, 2**64 - 1, 0, LAST),
    ],
)
@every_loop
async def test_an_invalidate_is_published_in_whole_granules(
    tmp_path: Path, iova: int, size: int, first: int, last: int
) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu, anyio.create_task_group() as tasks:
        await qemu.begin()
        async with here.bus.subscribe("vm", Cap.UNMAP) as events:
            seen: list[tuple[int, int]] = []
            tasks.start_soon(follow, events, seen)
            assert await status(qemu.invalidate(iova, size)) == 0
            assert seen == [(first, last)]
            tasks.cancel_scope.cancel()


@every_loop
async def test_one_that_needs_no_reply_is_published_and_not_answered(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            qemu.say(Request.IOTLB_MSG, IotlbMsg(0x5000, PAGE, 0, 0, IotlbType.INVALIDATE))
            batch = await anext(events.batches())
            assert (await qemu.ask(Request.GET_QUEUE_NUM)).value == 32  # nothing waits before it
            events.ack(batch)


@every_loop
async def test_who_does_not_let_go_is_fenced_at_the_deadline(tmp_path: Path) -> None:
    async with stage(tmp_path, deadline=0.05) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 0)
        events = here.bus.subscribe("vm", Cap.UNMAP, ack="manual", name="stuck")
        async with events:
            await events.translate(0x5000)
            assert await status(qemu.unmap(0x5000)) == 0
            assert events.fenced
            assert here.troubles == ["stuck did not acknowledge within 0.05 s; it was fenced"]
            await events.close()


@every_loop
async def test_the_answer_waits_for_who_is_not_proven_stopped(tmp_path: Path) -> None:
    """
    A device that goes on using what it has: the guest goes on when it was stopped, and not before.
    """
    stopped = anyio.Event()
    asked = anyio.Event()

    async def stop() -> None:
        asked.set()
        await stopped.wait()

    async with stage(tmp_path, deadline=0.05) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual", stops="exit", on_fence=stop) as events:
            await events.translate(0x5000)
            invalidated = qemu.unmap(0x5000)
            await asked.wait()
            await anyio.wait_all_tasks_blocked()
            assert not invalidated.came.is_set()
            stopped.set()
            assert await status(invalidated) == 0
            await events.close()


# -- memory --------------------------------------------------------------------


@every_loop
async def test_another_memory_table_takes_everything_away_before_the_old_memory_goes(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu, guest_memory() as more:
        await qemu.begin()
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            old = (await events.translate(0x5000)).mapping.memory
            assert old is not None
            region = Region(0, PAGE, USER, 0)
            changed = qemu.tell(Request.SET_MEM_TABLE, MemTable((region,)), [more])
            batches = events.batches()
            batch = await anext(batches)
            assert [(event.first, event.last) for event in batch] == [(0, LAST)]
            here.bus.memory_view(old)  # it is still there
            assert not changed.came.is_set()
            events.ack(batch)
            assert await status(changed) == 0
            with pytest.raises(UnknownMemory):
                here.bus.memory_view(old)
            new = (await events.translate(0x5000)).mapping.memory
            assert new is not None
            assert (new.size, new.name == old.name) == (PAGE, False)


@every_loop
async def test_a_table_of_the_same_file_keeps_its_memory(tmp_path: Path) -> None:
    """
    QEMU sends one whenever its memory layout changes.
    """
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:
            before = (await events.translate(0x5000)).mapping.memory
            tasks.start_soon(follow, events, list[tuple[int, int]]())
            assert await qemu.set_memory(qemu.region(0, 8), qemu.region(8, PAGES - 8)) == 0
            assert (await events.translate(0x5000)).mapping.memory == before
            tasks.cancel_scope.cancel()


@every_loop
async def test_regions_come_and_go_one_by_one(tmp_path: Path) -> None:
    protocol = PROTOCOL | int(ProtocolFeatures.CONFIGURE_MEM_SLOTS)
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.negotiate(protocol=protocol)
        assert (await qemu.ask(Request.GET_MAX_MEM_SLOTS)).value == 32
        low, high = MemRegion(0, 8 * PAGE, USER, 0), MemRegion(8 * PAGE, PAGE, USER + 8 * PAGE, 8 * PAGE)
        assert await qemu.told(Request.ADD_MEM_REG, low, [qemu.fd]) == 0
        assert await qemu.told(Request.ADD_MEM_REG, high, [qemu.fd]) == 0
        qemu.map(0x5000, 8 * PAGE)
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            memory = (await events.translate(0x5000)).mapping.memory
            removed = qemu.tell(Request.REM_MEM_REG, high)
            events.ack(await anext(events.batches()))
            assert await status(removed) == 0
            assert await status(qemu.update(0x5000)) == 1
            qemu.map(0x6000, 0)
            assert (await events.translate(0x6000)).mapping.memory == memory  # the other region is of the same file


@asynccontextmanager
async def guest_memory() -> AsyncGenerator[int]:
    """Give a descriptor of a page of memory."""
    fd = os.memfd_create("more")
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


# -- one front end after another -----------------------------------------------


@every_loop
async def test_the_space_stays_while_front_ends_come_and_go(tmp_path: Path) -> None:
    async with (
        stage(tmp_path) as here,
        here.bus.subscribe("vm", Cap.UNMAP) as events,
        anyio.create_task_group() as tasks,
    ):
        seen: list[tuple[int, int]] = []
        tasks.start_soon(follow, events, seen)
        memories: list[Memory | None] = []
        for turn in range(3):
            async with guest(here.path) as qemu:
                await qemu.begin()
                qemu.map(0x5000, turn * PAGE)
                mapping = (await events.translate(0x5000)).mapping
                assert mapping.target == turn * PAGE
                memories.append(mapping.memory)
        await here.until(lambda here: len([told for told in here.told if "is gone" in str(told)]) == 3)
        assert seen == [(0, LAST)] * 3
        for memory in memories:
            assert memory is not None
            with pytest.raises(UnknownMemory):
                here.bus.memory_view(memory)
        tasks.cancel_scope.cancel()


@every_loop
async def test_memory_that_another_space_leads_into_is_in_nobodys_way(tmp_path: Path) -> None:
    """It stays when its front end goes, and the next one's has another name."""
    async with (
        stage(tmp_path) as here,
        here.bus.subscribe("vm", Cap.UNMAP) as events,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(follow, events, list[tuple[int, int]]())
        other, names = await here.bus.create_space("other", offers=Cap.IOTLB), list[str]()
        for turn in range(2):
            async with guest(here.path) as qemu:
                await qemu.begin()
                qemu.map(0x5000, 0)
                memory = (await events.translate(0x5000)).mapping.memory
                assert memory is not None
                other.map(turn * PAGE, PAGE, 0, Perm.R, memory=memory)
                names.append(memory.name)
        assert names == ["vm.ram1", "vm.ram2"]
        tasks.cancel_scope.cancel()


@every_loop
async def test_the_next_front_end_waits_until_nobody_uses_what_the_last_one_had(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
        async with guest(here.path) as first:
            await first.begin()
            first.map(0x5000, 0)
            await events.translate(0x5000)
        async with guest(here.path) as second, anyio.create_task_group() as tasks:
            tasks.start_soon(second.begin)
            batch = await anext(events.batches())
            await anyio.wait_all_tasks_blocked()
            assert here.bridge.statistics().front_ends == 1
            events.ack(batch)
        assert here.bridge.statistics().front_ends == 2


@every_loop
async def test_a_bridge_that_is_told_to_end_holds_the_guest_until_nobody_uses_its_pages(tmp_path: Path) -> None:
    """
    A front end whose connection ends lets the guest go on.
    """
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        qemu.map(0x5000, 0)
        async with here.bus.subscribe("vm", Cap.UNMAP, ack="manual") as events:
            await events.translate(0x5000)
            here.scope.cancel()
            batches = events.batches()
            batch = await anext(batches)
            await anyio.wait_all_tasks_blocked()
            assert not qemu.left.is_set()
            events.ack(batch)
            await qemu.left.wait()


@every_loop
async def test_a_bridge_whose_bus_is_closed_ends(tmp_path: Path) -> None:
    path, bus = str(tmp_path / "vhost.sock"), Bus()
    bridge = VhostUserBackend(bus, listen=path, space="vm", tell=str)
    with anyio.CancelScope():
        async with anyio.create_task_group() as tasks:
            async with bus:
                await tasks.start(ends_with_space, bridge)
                qemu = Guest(path)
                tasks.start_soon(qemu.run)
                tasks.start_soon(qemu.answer_misses)
                await qemu.begin()
            qemu.invalidate(0x5000, PAGE)
            await qemu.left.wait()
            qemu.release()


async def ends_with_space(bridge: VhostUserBackend, *, task_status: TaskStatus[None]) -> None:
    with pytest.RaisesGroup(SpaceClosed):
        await bridge.run(task_status=task_status)


@every_loop
async def test_one_front_end_is_asked_so_much_at_once_and_no_more(tmp_path: Path) -> None:
    """
    The others wait, and are told when it is gone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "MISS_LIMIT", 2)
        async with stage(tmp_path) as here, guest(here.path) as qemu:
            await qemu.begin()
            qemu.answering = False
            async with here.bus.subscribe("vm", Cap.UNMAP) as events, anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(fails_with, NotMapped, events.translate(number * PAGE))
                await qemu.wait_asked(2)
                await anyio.wait_all_tasks_blocked()
                assert len(qemu.asked) == 2
                qemu.reply_to_miss(1)
                await qemu.wait_asked(3)
                qemu.reply_to_miss(1)
                qemu.reply_to_miss(1)
                await qemu.wait_asked(4)
                qemu.reply_to_miss(1)


# -- what no front end may say -------------------------------------------------


def raw(request: int, body: Any, flags: int = 0) -> bytes:
    return encode(Message(request, body, Flags(flags)))


HOSTILE: dict[str, bytes] = {
    "a header of another version": b"\x01\0\0\0\x02\0\0\0\0\0\0\0",
    "a payload without end": b"\x01\0\0\0\x01\0\0\0\xff\xff\xff\xff",
    "a reply that nobody asked for": raw(Request.GET_FEATURES, U64(0), Flags.REPLY),
    "an unknown type": b"\x16\0\0\0\x01\0\0\0\x1a\0\0\0" + bytes(25) + b"\x09",
    "an INVALIDATE that wraps": b"\x16\0\0\0\x01\0\0\0\x1a\0\0\0" + b"\xff" * 8 + b"\x02" + bytes(16) + b"\x03",
    "features that were not offered": raw(Request.SET_FEATURES, U64(1 << 5)),
    "protocol features that were not offered": raw(Request.SET_PROTOCOL_FEATURES, U64(1 << 30)),
    "a channel without a descriptor": raw(Request.SET_BACKEND_REQ_FD, Empty()),
    "a ring that there is not": raw(Request.SET_VRING_NUM, VringState(64, 8)),
    "a ring of no power of two": raw(Request.SET_VRING_NUM, VringState(0, 9)),
    "an index of more bits": raw(Request.SET_VRING_BASE, VringState(0, 0x10000)),
    "a region that is not there": raw(Request.REM_MEM_REG, MemRegion(0, PAGE, 0, 0)),
    "a second channel": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
@every_loop
async def test_who_breaks_the_protocol_is_left_and_the_next_is_served(tmp_path: Path, what: str) -> None:
    async with stage(tmp_path) as here:
        async with guest(here.path) as bad:
            await bad.begin()
            if what == "a second channel":
                bad.say(Request.SET_BACKEND_REQ_FD, None, [bad.fd])
            else:
                bad.main.put(HOSTILE[what])
            await bad.left.wait()
        assert len(here.troubles) == 1
        assert "broke its protocol" in here.troubles[0], here.troubles
        async with guest(here.path) as good:
            await good.begin()


@pytest.mark.parametrize(("protocol", "reason"), [(PROTOCOL, "no socket"), (int(ProtocolFeatures.MQ), "BACKEND_REQ")])
@every_loop
async def test_a_channel_is_a_socket_and_was_agreed_upon(tmp_path: Path, protocol: int, reason: str) -> None:
    async with stage(tmp_path) as here, guest(here.path) as bad:
        bad.say(Request.SET_PROTOCOL_FEATURES, U64(protocol))
        bad.say(Request.SET_BACKEND_REQ_FD, None, [bad.fd])
        await bad.left.wait()
        assert reason in here.troubles[0]


@every_loop
async def test_protocol_features_are_agreed_upon_before_the_channel_is_there(tmp_path: Path) -> None:
    """The same ones again are no change: QEMU says them for each pair of queues."""
    async with stage(tmp_path) as here, guest(here.path) as bad:
        await bad.begin()
        bad.say(Request.SET_PROTOCOL_FEATURES, U64(PROTOCOL))
        assert await bad.ask(Request.GET_QUEUE_NUM)
        bad.say(Request.SET_PROTOCOL_FEATURES, U64(0))
        await bad.left.wait()
        assert "behind SET_BACKEND_REQ_FD" in here.troubles[0]


@every_loop
async def test_a_region_that_overlaps_another_is_refused(tmp_path: Path) -> None:
    protocol = PROTOCOL | int(ProtocolFeatures.CONFIGURE_MEM_SLOTS)
    async with stage(tmp_path) as here, guest(here.path) as bad:
        await bad.begin(protocol=protocol)
        bad.say(Request.ADD_MEM_REG, MemRegion(0, PAGE, USER, 0), [bad.fd])
        await bad.left.wait()
        assert "disjoint" in here.troubles[0]


FOREIGN: dict[str, bytes] = {
    "a reply to no miss": encode(Message(1, U64(0), Flags.REPLY, Channel.BACK_END)),
    "a request": encode(Message(1, IotlbMsg(0, 0, 0, 1, IotlbType.MISS), channel=Channel.BACK_END)),
    "no message": b"\xff" * 12,
}


@pytest.mark.parametrize("what", FOREIGN)
@every_loop
async def test_the_same_on_the_back_end_channel(tmp_path: Path, what: str) -> None:
    async with stage(tmp_path) as here:
        async with guest(here.path) as bad:
            await bad.begin()
            bad.channel.put(FOREIGN[what], [bad.fd])
            await bad.left.wait()
        assert len(here.troubles) == 1
        assert "broke its protocol" in here.troubles[0]
        async with guest(here.path) as good:
            await good.begin()


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL])
@every_loop
async def test_a_descriptor_that_is_no_eventfd_is_refused(tmp_path: Path, request_: Request) -> None:
    async with stage(tmp_path) as here, guest(here.path) as bad:
        await bad.begin()
        bad.say(request_, VringFd(0), [bad.fd])
        await bad.left.wait()
        assert "eventfd" in here.troubles[0]


@pytest.mark.parametrize(
    "table",
    [
        MemTable((Region(0, PAGE, USER, 0), Region(PAGE, PAGE, USER + 0x800, PAGE))),
        MemTable((Region(0, PAGES * PAGE + 1, USER, 0),)),
    ],
)
@every_loop
async def test_a_table_that_cannot_be_leaves_nothing_behind(tmp_path: Path, table: MemTable) -> None:
    async with stage(tmp_path) as here, guest(here.path) as bad:
        await bad.negotiate()
        bad.say(Request.SET_MEM_TABLE, table, [bad.fd] * len(table.regions))
        await bad.left.wait()
        assert "broke its protocol" in here.troubles[0]
        await here.bus.add_memory("vm.ram1", PAGE)  # its name is free


@every_loop
async def test_a_memory_that_is_a_socket_is_refused(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as bad:
        await bad.negotiate()
        one, two = socket.socketpair()
        with one, two:
            bad.say(Request.SET_MEM_TABLE, MemTable((Region(0, PAGE, USER, 0),)), [one.fileno()])
            await bad.left.wait()
        assert len(here.troubles) == 1


@every_loop
async def test_a_request_that_is_not_known_is_refused_or_passed_over(tmp_path: Path) -> None:
    async with stage(tmp_path) as here, guest(here.path) as qemu:
        await qemu.begin()
        for _ in range(2):
            assert await qemu.told(99, Opaque(b"what")) == 1
            qemu.say(99, Opaque(b""))
            qemu.say(100, Opaque(b""))
        assert await qemu.told(Request.SEND_RARP, U64(0)) == 1
        passed = [told.text for told in here.told if isinstance(told, Notice) and "not known" in told.text]
        assert len(passed) == 3


@every_loop
async def test_a_back_end_that_is_not_read_gives_the_front_end_up(tmp_path: Path) -> None:
    """
    Memory is bounded: who asks without end and reads nothing is left.
    """
    async with stage(tmp_path) as here:
        deaf = Guest(here.path)
        deaf.main.sock.setblocking(True)

        def flood() -> None:
            ask = raw(Request.GET_FEATURES, Empty()) * 1000
            try:
                while True:
                    deaf.main.sock.sendall(ask)
            except OSError:
                return

        await anyio.to_thread.run_sync(flood)
        await here.until(lambda here: any("has not read" in str(told) for told in here.told))
        deaf.release()
        async with guest(here.path) as good:
            await good.begin()


def mangled(random: Random) -> bytes:
    """Return a message that is right in most, and wrong somewhere."""
    request = random.choice([*Request, 0, 99, 2**32 - 1])
    size = random.choice([0, 0, 8, 8, 8, 26, 32, 40, 44, random.randrange(300)])
    payload = bytearray(random.choice([bytes(size), random.randbytes(size)]))
    for _ in range(random.randrange(3)):
        if payload:
            payload[random.randrange(len(payload))] = random.choice([0, 1, 2, 3, 8, 0x7F, 0xFF])
    flags = random.choice([1] * 15 + [9] * 15 + [5, 2])
    announced = size if random.random() < 0.95 else random.randrange(2**13)
    return struct.pack("=III", request, flags, announced) + payload


@pytest.mark.parametrize("seed", range(8))
@every_loop
async def test_whatever_comes_the_next_front_end_is_served(tmp_path: Path, seed: int) -> None:
    """
    Messages that are wrong somewhere, some with descriptors that are, until the connection is closed; ten times.
    """
    random = Random(seed)  # noqa: S311 - messages, no secrets
    async with (
        stage(tmp_path, deadline=0.05) as here,
        here.bus.subscribe("vm", Cap.UNMAP) as events,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(follow, events, list[tuple[int, int]]())
        for _ in range(10):
            async with guest(here.path) as bad:
                if random.random() < 0.7:
                    await bad.begin()
                bad.careless = True
                fds = [bad.fd, os.eventfd(0), os.open("/dev/null", os.O_RDWR)]
                bad.owned += fds[1:]
                with suppress(PeerLeft, BrokenPipeError):
                    for _ in range(200):
                        with_fds = random.choices(fds, k=random.choice([0, 0, 0, 1, 1, 2]))
                        bad.main.put(mangled(random), with_fds)
                        await checkpoint()
        async with guest(here.path) as good:
            await good.begin()
            good.map(0x5000, 0)
            assert (await events.translate(0x5000)).mapping.target == 0
        tasks.cancel_scope.cancel()
