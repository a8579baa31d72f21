"""A vfio-user client maps into a space, and is told that an UNMAP is done when nobody uses what went."""

import errno
import gc
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup, TaskStatus

from iommubus import Bus, Cap, Mirror, Perm
from iommubus.bridges.vfio_user_server import Done, VfioUserServer
from iommubus.bridging.telling import Lack, Negotiated, Notice, Told
from iommubus.bus.abc import EventBus
from iommubus.errors import Fenced
from tests.bridges.vfio_user_peers import (
    DMA_MAP,
    DMA_READ,
    DMA_UNMAP,
    ERROR,
    GET_INFO,
    HEADER,
    NO_REPLY,
    PAGE,
    REGION_READ,
    REGION_WRITE,
    REPLY,
    VERSION,
    connect,
    greeted,
    mapping,
    memfd,
    message,
    unmapping,
    until,
    version,
)
from tests.loops import every_loop
from tests.peers import open_descriptors


class Scene:
    """A server that runs, its bus, and what it said."""

    def __init__(self, bus: EventBus, path: Path, tasks: TaskGroup) -> None:
        self.bus = bus
        self.path = path
        self.tasks = tasks
        self.told: list[Told] = []
        self.server: VfioUserServer

    @property
    def troubles(self) -> list[str]:
        return [told.text for told in self.told if isinstance(told, Notice) and told.trouble]

    async def heard_of(self, part: str) -> None:
        """Wait until the server has said something."""
        await until(lambda: any(part in str(told) for told in self.told))


@asynccontextmanager
async def serving(tmp_path: Path, **options: Any) -> AsyncGenerator[Scene]:
    """Give a server at ``v.sock`` with the space ``v``, embedded."""
    path = tmp_path / "v.sock"
    async with Bus() as bus, anyio.create_task_group() as tasks:
        scene = Scene(bus, path, tasks)
        scene.server = VfioUserServer(bus, listen=str(path), space="v", tell=scene.told.append, **options)
        await tasks.start(scene.server.run)
        scene.told.clear()
        yield scene
        tasks.cancel_scope.cancel()


async def mirrored(bus: EventBus, *, task_status: TaskStatus[Mirror]) -> None:
    """Keep a copy of the space."""
    async with bus.subscribe("v", Cap.IOTLB) as events:
        mirror = Mirror(events)
        task_status.started(mirror)
        await mirror.run()


def kept_descriptors() -> dict[str, str]:
    """Return the descriptors of this process without those that wait for the garbage collector."""
    gc.collect()
    return open_descriptors()


class Follower:
    """A subscriber that is done with what it is given only while it may be."""

    def __init__(self, bus: EventBus, name: str = "follower") -> None:
        self.may = anyio.Event()
        self.may.set()
        self.seen: list[str] = []
        self._bus = bus
        self._name = name

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            async with self._bus.subscribe("v", Cap.IOTLB, name=self._name) as events:
                task_status.started()
                async for event in events:
                    self.seen.append(f"{type(event).__name__} {event.first:#x}")
                    await self.may.wait()
        except Fenced:
            self.seen.append("Fenced")

    async def has_seen(self, what: str) -> None:
        await until(lambda: what in self.seen)


@every_loop
async def test_a_version_is_agreed_upon(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with await connect(scene.path) as client:
            reply = await client.ask(VERSION, version(0, 3, max_msg_fds=8, max_dma_maps=100, pgsizes=0x1000))
            said = json.loads(reply.payload[4:-1])["capabilities"]

            assert reply.payload[:4] == struct.pack("<HH", 0, 0)
            assert (said["max_msg_fds"], said["max_dma_maps"], said.get("pgsizes", 4096)) == (16, 100, 4096)
            assert isinstance(scene.told[0], Negotiated)
            assert scene.told[0].agreed == (
                "version 0.0", "max_msg_fds 16 (8 to it)", "max_dma_maps 100", "pgsizes 0x1000"
            )  # fmt: skip
            assert [lack.what for lack in scene.told[0].lacks] == ["device"]


@every_loop
async def test_what_cannot_be_had_is_said_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, granule=0x10000) as scene:
        end = await greeted(scene.path, pgsizes=0x1000, twin_socket={"supported": True}, write_multiple=True)
        with end:
            told = scene.told[0]

    assert isinstance(told, Negotiated)
    assert [lack.what for lack in told.lacks] == ["pages of 0x1000", "twin_socket", "write_multiple", "device"]
    assert told.lacks[1] == Lack("twin_socket", "this side sends no commands of its own")


@every_loop
async def test_a_map_is_in_the_space_when_it_is_answered(tmp_path: Path) -> None:
    """With a descriptor it leads into a memory, of which there is one for each file; without, to its own address."""
    async with serving(tmp_path) as scene:
        mirror = await scene.tasks.start(mirrored, scene.bus)
        with await greeted(scene.path) as client, memfd(content=b"guest") as fd:
            done = await client.ask(DMA_MAP, mapping(0x4000, 2 * PAGE), [fd])
            assert (done.command, done.flags, done.error, done.payload) == (DMA_MAP, REPLY, 0, b"")
            assert (await client.ask(DMA_MAP, mapping(0x10000, PAGE, PAGE, 1), [fd])).error == 0
            assert (await client.ask(DMA_MAP, mapping(0xF0000, PAGE, 0, 1))).error == 0
            await scene.bus.sync()

            with mirror.view(0x4000, 5, Perm.R) as view:
                assert bytes(view) == b"guest"
            with mirror.view(0x5000, 4, Perm.W) as view:
                view[:] = b"DATA"
            assert os.pread(fd, 4, PAGE) == b"DATA"
            found = {one.first: one for one in mirror}
            assert (found[0xF0000].memory, found[0xF0000].target, found[0xF0000].perm) == (None, 0xF0000, Perm.R)
            assert found[0x4000].memory is not None
            assert found[0x4000].memory == found[0x10000].memory
            assert (found[0x10000].target, found[0x10000].perm) == (PAGE, Perm.R)
            statistics = scene.server.statistics()
            assert (statistics.clients, statistics.regions, statistics.maps, statistics.refused) == (1, 3, 3, 0)


@every_loop
async def test_an_unmap_is_answered_when_nobody_uses_what_went(tmp_path: Path) -> None:
    """And what is asked meanwhile is answered, in whatever order."""
    async with serving(tmp_path) as scene:
        follower = Follower(scene.bus)
        await scene.tasks.start(follower.run)
        with await greeted(scene.path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            await follower.has_seen("Map 0x4000")
            follower.may = anyio.Event()
            unmap = client.say(DMA_UNMAP, unmapping(0x4000))
            await follower.has_seen("Unmap 0x4000")

            assert (await client.ask(GET_INFO)).error == errno.ENOTSUP
            assert (await client.ask(DMA_MAP, mapping(0x4000), [fd])).error == 0
            assert await client.nothing_came()
            assert scene.server.statistics().waiting == 1
            follower.may.set()
            answer = await client.answer_to(unmap)

            assert (answer.command, answer.flags, answer.payload) == (DMA_UNMAP, REPLY, unmapping(0x4000))
            assert scene.server.statistics().waiting == 0


@every_loop
async def test_who_holds_an_unmap_up_is_fenced_at_the_deadline_and_it_is_never_answered_before(tmp_path: Path) -> None:
    """Here the fence is proof, because the subscriber follows its lease."""
    async with serving(tmp_path, deadline=0.05) as scene:
        follower = Follower(scene.bus)
        with await greeted(scene.path) as client, memfd() as fd:
            await scene.tasks.start(follower.run)
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            await follower.has_seen("Map 0x4000")
            follower.may = anyio.Event()
            await client.ask(DMA_UNMAP, unmapping(0x4000))

            assert "follower did not acknowledge within 0.05 s; it was fenced" in scene.troubles[0]
            assert follower.seen == ["Map 0x4000", "Unmap 0x4000"]
            follower.may.set()
            await follower.has_seen("Fenced")
            assert (await client.ask(DMA_MAP, mapping(0x4000), [fd])).error == 0


async def hold(bus: EventBus, stopped: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    """Leave at the first event without a word, like a device that is proven stopped only later."""
    with anyio.CancelScope() as scope:
        async with bus.subscribe("v", Cap.IOTLB, name="device", stops="exit", on_fence=stopped.wait) as events:
            task_status.started()
            async for _ in events:
                scope.cancel()


@every_loop
async def test_an_unmap_is_not_answered_while_it_is_not_proven_that_a_subscriber_has_stopped(tmp_path: Path) -> None:
    stopped = anyio.Event()
    async with serving(tmp_path, deadline=0.02) as scene:
        await scene.tasks.start(hold, scene.bus, stopped)
        with await greeted(scene.path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            unmap = client.say(DMA_UNMAP, unmapping(0x4000))
            await until(lambda: scene.bus.statistics().spaces["v"].unproven == ("device",))
            await until(lambda: scene.bus.statistics().spaces["v"].failed_syncs == 2)

            assert await client.nothing_came()
            stopped.set()
            assert (await client.answer_to(unmap)).error == 0


REFUSED = [
    (DMA_MAP, mapping(0x5000), errno.EEXIST),  # a part of another one
    (DMA_MAP, mapping(0x4000, 2 * PAGE, PAGE), errno.EEXIST),  # another target
    (DMA_MAP, mapping(0x4000, 2 * PAGE, 0, 1), errno.EEXIST),  # another permission
    (DMA_MAP, mapping(0x20000, PAGE, 0, 0), errno.EINVAL),  # for nothing
    (DMA_MAP, mapping(0x20000, PAGE, 0, 0x13), errno.EINVAL),  # a flag that nobody defined
    (DMA_MAP, mapping(0x20800), errno.EINVAL),
    (DMA_MAP, mapping(0x20000, 0x800), errno.EINVAL),
    (DMA_MAP, mapping(0x20000, PAGE, 0x800), errno.EINVAL),
    (DMA_MAP, mapping(0x20000, 0), errno.EINVAL),
    (DMA_MAP, mapping(2**64 - PAGE, 2 * PAGE), errno.EINVAL),
    (DMA_MAP, mapping(0x20000, PAGE, 16 * PAGE), errno.EINVAL),  # behind the end of its file
    (DMA_MAP, mapping(0x20000)[:-1], errno.EINVAL),
    (DMA_MAP, struct.pack("<IIQQQ", 8, 3, 0, 0x20000, PAGE), errno.EINVAL),
    (DMA_UNMAP, unmapping(0x20000), errno.ENOENT),
    (DMA_UNMAP, unmapping(0x4000), errno.ENOENT),  # a part
    (DMA_UNMAP, unmapping(0x3000, 4 * PAGE), errno.ENOENT),
    (DMA_UNMAP, unmapping(0x4000, 2 * PAGE, 1), errno.EINVAL),  # a bitmap of dirty pages
    (DMA_UNMAP, unmapping(0x4000, 2 * PAGE, 2), errno.EINVAL),  # all, and a range
    (DMA_UNMAP, unmapping(0x4000, 0), errno.EINVAL),
    (VERSION, version(), errno.EINVAL),  # a second one
    (GET_INFO, bytes(16), errno.ENOTSUP),
    (DMA_READ, bytes(16), errno.ENOTSUP),
    (0xFFFF, b"", errno.ENOTSUP),
]


@every_loop
@pytest.mark.parametrize(("command", "payload", "error"), REFUSED)
async def test_what_cannot_be_done_is_answered_with_an_error(
    tmp_path: Path, command: int, payload: bytes, error: int
) -> None:
    """Nothing is changed by it."""
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000, 2 * PAGE), [fd])
            seq = scene.bus.statistics().spaces["v"].seq

            answer = await client.ask(command, payload, [fd] if command == DMA_MAP else [])

            assert (answer.flags, errno.errorcode[answer.error], answer.payload) == (
                REPLY | ERROR, errno.errorcode[error], b""
            )  # fmt: skip
            assert scene.bus.statistics().spaces["v"].seq == seq
            assert (await client.ask(DMA_UNMAP, unmapping(0x4000, 2 * PAGE))).error == 0


@every_loop
async def test_the_same_map_again_is_done_and_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            seq = scene.bus.statistics().spaces["v"].seq

            assert (await client.ask(DMA_MAP, mapping(0x4000), [fd])).error == 0

            assert scene.bus.statistics().spaces["v"].seq == seq
            assert (await client.ask(DMA_UNMAP, unmapping(0x4000))).error == 0
            assert (await client.ask(DMA_UNMAP, unmapping(0x4000))).error == errno.ENOENT


@every_loop
async def test_no_more_are_mapped_than_were_agreed_upon(tmp_path: Path) -> None:
    async with serving(tmp_path, max_maps=3) as scene:
        with await greeted(scene.path, max_dma_maps=2) as client:
            errors = [(await client.ask(DMA_MAP, mapping(page * PAGE))).error for page in range(3)]
            await client.ask(DMA_UNMAP, unmapping(0))

            assert errors == [0, 0, errno.ENOSPC]
            assert (await client.ask(DMA_MAP, mapping(2 * PAGE))).error == 0


@every_loop
async def test_descriptors_that_are_no_memory_are_refused(tmp_path: Path) -> None:
    """A pipe, an empty file, one that can only be written, and two at once."""
    async with serving(tmp_path) as scene:
        before = kept_descriptors()
        with await greeted(scene.path) as client, memfd(pages=0) as empty, memfd() as fd:
            reading, writing = os.pipe()
            blind = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
            for fds in ([reading], [empty], [blind], [fd, fd]):
                assert (await client.ask(DMA_MAP, mapping(0x4000), fds)).error == errno.EINVAL
            for left in (reading, writing, blind):
                os.close(left)
        await scene.heard_of("it closed the connection")

        assert scene.bus.statistics().spaces["v"].seq == 0
        await until(lambda: len(open_descriptors()) == len(before))


@every_loop
async def test_all_goes_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client:
            for page in range(5):
                await client.ask(DMA_MAP, mapping(2 * page * PAGE))

            answer = await client.ask(DMA_UNMAP, unmapping(0, 0, 2))

            assert (answer.error, answer.payload) == (0, unmapping(0, 0, 2))
            assert scene.server.statistics().regions == 0
            assert scene.bus.statistics().spaces["v"].mappings == 0
            assert (await client.ask(DMA_UNMAP, unmapping(0, 0, 2))).error == 0


@every_loop
async def test_the_whole_space_comes_and_goes_in_two_halves(tmp_path: Path) -> None:
    half = 2**63
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client:
            for first in (0, half):
                assert (await client.ask(DMA_MAP, mapping(first, half))).error == 0
            for first in (0, half):
                assert (await client.ask(DMA_UNMAP, unmapping(first, half))).error == 0


@every_loop
async def test_a_command_without_answer_is_done_before_the_next_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        follower = Follower(scene.bus)
        await scene.tasks.start(follower.run)
        with await greeted(scene.path) as client, memfd() as fd:
            client.say(DMA_MAP, mapping(0x4000), [fd], NO_REPLY)
            await follower.has_seen("Map 0x4000")
            follower.may = anyio.Event()
            client.say(DMA_UNMAP, unmapping(0x4000), flags=NO_REPLY)
            number = client.say(GET_INFO)
            await follower.has_seen("Unmap 0x4000")

            assert await client.nothing_came()
            follower.may.set()
            assert (await client.answer_to(number)).error == errno.ENOTSUP
            assert [heard.command for heard in client.heard] == [VERSION, GET_INFO]


@every_loop
async def test_unmaps_that_wait_share_a_sync(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        follower = Follower(scene.bus)
        await scene.tasks.start(follower.run)
        with await greeted(scene.path) as client:
            for page in range(20):
                await client.ask(DMA_MAP, mapping(page * PAGE))
            await follower.has_seen("Map 0x13000")
            follower.may = anyio.Event()
            numbers = [client.say(DMA_UNMAP, unmapping(page * PAGE)) for page in range(20)]
            await client.ask(GET_INFO)
            follower.may.set()

            for number in numbers:
                assert (await client.answer_to(number)).error == 0
            statistics = scene.server.statistics()
            assert statistics.unmaps == 20
            assert statistics.syncs <= 2


@every_loop
async def test_when_the_client_is_gone_all_of_it_is_unmapped_and_the_next_one_is_served(tmp_path: Path) -> None:
    """The next one is answered when nobody uses anything of the one before; the space stays."""
    async with serving(tmp_path) as scene:
        follower = Follower(scene.bus)
        await scene.tasks.start(follower.run)
        before = kept_descriptors()
        with await greeted(scene.path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            await follower.has_seen("Map 0x4000")
            follower.may = anyio.Event()
        with await connect(scene.path) as after:
            number = after.say(VERSION, version())
            await follower.has_seen("Unmap 0x0")

            assert await after.nothing_came()
            follower.may.set()
            assert (await after.answer_to(number)).flags == REPLY
            assert scene.server.statistics().regions == 0
            assert (await after.ask(DMA_MAP, mapping(0x4000))).error == 0
            assert len(open_descriptors()) - len(before) == 2, "both ends of this connection"
        assert scene.troubles == []


HOSTILE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    message(1, DMA_MAP, mapping(0)),
    message(1, VERSION, version(), NO_REPLY),
    message(1, VERSION, version(), REPLY),
    message(1, VERSION, version(1)),
    message(1, VERSION, struct.pack("<HH", 0, 0) + b"{"),
    message(1, VERSION, struct.pack("<HH", 0, 0) + b'{"capabilities": 7}\0'),
    message(1, VERSION, struct.pack("<HH", 0, 0) + b"[" * 3000 + b"\0"),
    message(1, VERSION, b"\0\0"),
    message(1, VERSION, version(max_dma_maps=0)),
    message(1, VERSION, version(max_msg_fds=-1)),
    message(1, VERSION, version(pgsizes=0)),
    message(1, VERSION, version(max_data_xfer_size=0)),
    message(1, VERSION, version(max_dma_maps=2**70)),
    HEADER.pack(1, VERSION, 15, 0, 0),
    HEADER.pack(1, VERSION, 2**32 - 1, 0, 0),
    HEADER.pack(1, VERSION, 16, 0x40, 0),
    message(1, VERSION, version()) + HEADER.pack(2, DMA_MAP, 3, 0, 0),
    message(1, VERSION, version()) + HEADER.pack(2, REGION_WRITE, 2**31, 0, 0),
    message(1, VERSION, version()) + message(2, DMA_UNMAP, unmapping(0), REPLY),
    message(1, VERSION, version()) + HEADER.pack(2, DMA_MAP, 16, ERROR, 0),
]


@every_loop
@pytest.mark.parametrize("data", HOSTILE)
async def test_who_breaks_the_protocol_is_cut_off_and_the_next_one_is_served(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path) as scene:
        before = kept_descriptors()
        with memfd() as fd:
            with await connect(scene.path) as hostile:
                hostile.send(data, [fd] if data.startswith(b"GET") else [])
                assert await hostile.ended()
            with await greeted(scene.path) as client:
                assert (await client.ask(DMA_MAP, mapping(0x4000), [fd])).error == 0
        assert len(scene.troubles) == 1
        await scene.heard_of("it closed the connection")
        await until(lambda: len(open_descriptors()) == len(before))


@every_loop
async def test_too_many_descriptors_cut_a_client_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        before = kept_descriptors()
        with memfd() as fd, await greeted(scene.path) as client:
            client.send(message(5, DMA_MAP, mapping(0)), [fd] * 17)
            assert await client.ended()
        assert "more than 16 descriptors" in scene.troubles[0]
        await until(lambda: len(open_descriptors()) == len(before))


@every_loop
async def test_a_message_may_come_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client, memfd() as fd:
            data = message(7, DMA_MAP, mapping(0x4000))
            client.send(data[:3], [fd])
            assert await client.nothing_came()
            for at in range(3, len(data)):
                client.send(data[at : at + 1])
            assert (await client.answer_to(7)).error == 0
            assert scene.server.statistics().regions == 1


@every_loop
async def test_numbers_may_be_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client:
            client.send(message(9, DMA_MAP, mapping(0)) + message(9, DMA_MAP, mapping(0x1000)))
            answers = [await client.hear(), await client.hear()]
            assert [answer and (answer.number, answer.error) for answer in answers] == [(9, 0), (9, 0)]


class Register:
    """A device with one register, whose interrupt is a descriptor."""

    def __init__(self) -> None:
        self.value = b"\0\0\0\0"
        self.goes_on = anyio.Event()
        self.goes_on.set()
        self.gone = 0
        self.came = 0

    async def handle(self, command: int, payload: bytes, fds: Sequence[int]) -> Done | int:
        await self.goes_on.wait()
        self.came += len(fds)
        if command == REGION_WRITE:
            self.value = payload
            return Done()
        if command == REGION_READ:
            return Done(self.value, [os.memfd_create("bar")] if payload else ())
        return errno.EPERM

    def client_gone(self) -> None:
        self.gone += 1


@every_loop
async def test_other_commands_are_a_devices(tmp_path: Path) -> None:
    """One after the other, with descriptors in both directions; it is told when the client is gone."""
    device = Register()
    async with serving(tmp_path, handler=device) as scene:
        before = kept_descriptors()
        with await greeted(scene.path) as client, memfd() as fd:
            assert (await client.ask(REGION_WRITE, b"abcd", [fd, fd])).error == 0
            read = await client.ask(REGION_READ, b"with its file")
            assert (read.payload, len(read.fds)) == (b"abcd", 1)
            assert (await client.ask(GET_INFO)).error == errno.EPERM
            client.say(REGION_WRITE, b"last", flags=NO_REPLY)
            assert (await client.ask(REGION_READ)).payload == b"last"
            assert isinstance(scene.told[0], Negotiated)
            assert scene.told[0].lacks == ()
        await scene.heard_of("it closed the connection")
        assert (device.gone, device.came) == (1, 2)
        await until(lambda: len(open_descriptors()) == len(before))


@every_loop
async def test_a_device_that_takes_its_time_holds_up_no_map(tmp_path: Path) -> None:
    device = Register()
    async with serving(tmp_path, handler=device) as scene:
        with await greeted(scene.path) as client, memfd() as fd:
            device.goes_on = anyio.Event()
            slow = client.say(REGION_READ, fds=[fd])
            waiting = client.say(REGION_READ, fds=[fd])

            assert (await client.ask(DMA_MAP, mapping(0), [fd])).error == 0
            assert (await client.ask(DMA_UNMAP, unmapping(0))).error == 0
            assert scene.server.statistics().waiting == 2
            device.goes_on.set()
            assert (await client.answer_to(slow)).error == (await client.answer_to(waiting)).error == 0


@every_loop
async def test_when_it_is_told_to_end_it_waits_for_those_who_use_what_is_mapped(tmp_path: Path) -> None:
    """And closes the connection only then; the socket is gone and the space is closed."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        follower = Follower(bus)
        path = tmp_path / "v.sock"
        bridge = anyio.CancelScope()

        async def run(*, task_status: TaskStatus[None]) -> None:
            with bridge:
                await VfioUserServer(bus, listen=str(path), space="v", tell=lambda _: None).run(task_status=task_status)

        await tasks.start(run)
        await tasks.start(follower.run)
        with await greeted(path) as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            await follower.has_seen("Map 0x4000")
            follower.may = anyio.Event()
            bridge.cancel()
            await follower.has_seen("Unmap 0x0")

            assert await client.nothing_came()
            follower.may.set()
            assert await client.ended()
            await until(lambda: not bus.spaces())
            await until(lambda: not path.exists())
        tasks.cancel_scope.cancel()


@every_loop
async def test_when_it_is_told_to_end_the_client_is_kept_until_who_uses_its_pages_is_proven_stopped(
    tmp_path: Path,
) -> None:
    """Its DMA_UNMAP waits meanwhile, and is not answered; who holds it up is fenced, and that is said."""
    told: list[Told] = []
    stopped = anyio.Event()
    bridge = anyio.CancelScope()
    async with Bus() as bus, anyio.create_task_group() as tasks:
        server = VfioUserServer(bus, listen=str(tmp_path / "v.sock"), space="v", deadline=0.02, tell=told.append)

        async def run(*, task_status: TaskStatus[None]) -> None:
            with bridge:
                await server.run(task_status=task_status)

        await tasks.start(run)
        await tasks.start(hold, bus, stopped)
        with await greeted(tmp_path / "v.sock") as client, memfd() as fd:
            await client.ask(DMA_MAP, mapping(0x4000), [fd])
            client.say(DMA_UNMAP, unmapping(0x4000))
            await until(lambda: server.statistics().waiting == 1)
            told.clear()
            bridge.cancel()
            await until(lambda: any("device" in str(one) and "was fenced" in str(one) for one in told))
            failed = bus.statistics().spaces["v"].failed_syncs
            await until(lambda: bus.statistics().spaces["v"].failed_syncs >= failed + 2)

            with pytest.raises(BlockingIOError):  # there is no answer, and no end
                client.sock.recv(1, socket.MSG_PEEK)
            stopped.set()
            assert await client.ended()
            assert [heard.command for heard in client.heard] == [VERSION, DMA_MAP]
        tasks.cancel_scope.cancel()


def shout(sock: socket.socket) -> None:
    """Ask and read nothing, until nobody is there any more."""
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            sock.sendall(message(1, GET_INFO) * 100)


@every_loop
async def test_a_client_that_reads_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.bridges.vfio_user_server.bridge.OUTGOING", 1000)
    async with serving(tmp_path) as scene:
        with await greeted(scene.path) as client:
            client.sock.setblocking(True)
            await anyio.to_thread.run_sync(shout, client.sock)
        await scene.heard_of("it has not read the last")


@every_loop
async def test_who_asks_for_more_than_can_wait_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.bridges.vfio_user_server.answers.WAITING_LIMIT", 3)
    async with serving(tmp_path) as scene:
        follower = Follower(scene.bus)
        await scene.tasks.start(follower.run)
        with await greeted(scene.path) as client:
            await client.ask(DMA_MAP, mapping(0))
            await follower.has_seen("Map 0x0")
            follower.may = anyio.Event()
            for _ in range(5):
                client.say(DMA_UNMAP, unmapping(0))
                client.say(DMA_MAP, mapping(0), flags=NO_REPLY)
            await scene.heard_of("while 3 waited for an answer")
            follower.may.set()
            assert await client.ended()
