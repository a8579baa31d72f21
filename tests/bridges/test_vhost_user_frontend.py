"""A space that drives a vhost-user back end: real sockets, a real bus, and a small back end."""

import gc
import os
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import anyio
import pytest
from anyio.abc import TaskStatus
from msgspec import Struct

from iommubus import LAST, AddressSpace, Bus, Cap, Mapping, Memory, Perm
from iommubus.abi.vhost import VringFlags
from iommubus.abi.vhost_user import (
    NO_DESCRIPTOR,
    BackendRequest,
    Channel,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemTable,
    Message,
    ProtocolFeatures,
    Request,
    VringAddr,
    VringFd,
    VringState,
    encode,
)
from iommubus.bridges.vhost_user_frontend import Ring, VhostUserFrontend, answering, frontend, revoking, session
from iommubus.bridging.telling import Negotiated, Notice, Told
from iommubus.bus.reports import Missing
from iommubus.errors import IommubusError, PeerCannot, PeerLeft, PeerRefused, SyncFailed
from iommubus.transport import credentials
from tests.bridges.vhost_user_backends import OFFERED, PATIENCE, PROTOCOL, BackEnd, Backend
from tests.daemons import bus_at, command, daemon, environment, said_by_failure, wait_failure, wait_synced
from tests.loops import every_loop
from tests.peers import open_descriptors

PAGE: Final = 0x1000
SIZE: Final = 16 * PAGE
SLOTTED: Final = PROTOCOL | int(ProtocolFeatures.CONFIGURE_MEM_SLOTS)
RING: Final = Ring(0, 256, 0x1000, 0x2000, 0x3000, base=5)


class Scene(Struct):
    """A bridge at work between a space and a back end."""

    bus: Bus
    space: AddressSpace
    memory: Memory
    end: BackEnd
    bridge: VhostUserFrontend
    told: list[Told]
    tasks: anyio.abc.TaskGroup
    over: anyio.Event
    failures: list[IommubusError]

    def map(self, iova: int, target: int = 0, perm: Perm = Perm.RW) -> None:
        self.space.map(iova, PAGE, target, perm, memory=self.memory)

    async def cached(self, iova: int, target: int = 0) -> None:
        """Map a page, and have the back end ask for it."""
        self.map(iova, target)
        self.end.miss(iova)
        await self.end.until(lambda: self.end.has(iova))

    def notices(self) -> list[str]:
        return [each.text for each in self.told if isinstance(each, Notice)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so that the back end does not hear of."""
        with anyio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.001)


@asynccontextmanager
async def scene(
    directory: Path, *, end: BackEnd | None = None, space: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Scene]:
    """Give a bridge that has started, and end it before its back end."""
    told: list[Told] = []
    failures: list[IommubusError] = []
    end = end or BackEnd(directory / "vu.sock")
    async with anyio.create_task_group() as ends, Bus() as bus:
        made = await bus.create_space("gpu", **(space or {}))
        memory = await bus.add_memory("ram", SIZE)
        bridge = VhostUserFrontend(bus, connect=end.path, space="gpu", name="bridge", tell=told.append, **options)
        await ends.start(end.run)
        over = anyio.Event()

        async def run(*, task_status: TaskStatus[None]) -> None:
            try:
                await bridge.run(task_status=task_status)
            except IommubusError as failure:
                failures.append(failure)
            finally:
                over.set()

        async with anyio.create_task_group() as tasks:
            await tasks.start(run)
            yield Scene(bus, made, memory, end, bridge, told, tasks, over, failures)
            tasks.cancel_scope.cancel()
        ends.cancel_scope.cancel()
    assert failures == []  # but for what the test took out


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is done now and then done at once."""
    monkeypatch.setattr(answering, "AGAIN", 0.001)
    monkeypatch.setattr(session, "LOOK", 0.001)
    monkeypatch.setattr(frontend, "RETRY", 0.001)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait long for a back end that will not stop."""
    monkeypatch.setattr(frontend, "RETRY", 0.001)
    monkeypatch.setattr(session, "GOODBYE", 0.01)


# -- the beginning -----------------------------------------------------------------


@every_loop
async def test_it_agrees_before_anything_else_and_says_on_what(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        heard = [message.request for message in at.end.heard]

    assert heard == [
        Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES, Request.SET_PROTOCOL_FEATURES, Request.SET_OWNER,
        Request.SET_FEATURES, Request.SET_BACKEND_REQ_FD,
    ]  # fmt: skip
    (said,) = [each for each in at.told if isinstance(each, Negotiated)]
    assert said.agreed == ("PROTOCOL_FEATURES", "VERSION_1", "ACCESS_PLATFORM", "REPLY_ACK", "BACKEND_REQ")
    assert [lack.what for lack in said.lacks] == ["CONFIGURE_MEM_SLOTS"]
    assert at.bridge.statistics().connections == 1


@pytest.mark.parametrize(
    ("offered", "protocol", "what"),
    [
        (OFFERED & ~int(Features.PROTOCOL_FEATURES), PROTOCOL, "PROTOCOL_FEATURES"),
        (OFFERED & ~int(Features.ACCESS_PLATFORM), PROTOCOL, "ACCESS_PLATFORM"),
        (OFFERED, PROTOCOL & ~int(ProtocolFeatures.REPLY_ACK), "REPLY_ACK"),
        (OFFERED, PROTOCOL & ~int(ProtocolFeatures.BACKEND_REQ), "BACKEND_REQ"),
    ],
)
@every_loop
async def test_a_back_end_that_will_not_do_is_named(tmp_path: Path, offered: int, protocol: int, what: str) -> None:
    end = BackEnd(tmp_path / "vu.sock", offered=offered, protocol=protocol)
    async with anyio.create_task_group() as tasks, Bus() as bus:
        await bus.create_space("gpu")
        await tasks.start(end.run)
        with pytest.raises(PeerCannot) as cannot:
            await VhostUserFrontend(bus, connect=end.path, space="gpu", tell=lambda _: None).run()
        assert cannot.value.what == what
        assert str(end.path) in str(cannot.value)
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_it_waits_for_a_back_end_that_is_not_there_yet(tmp_path: Path) -> None:
    told: list[Told] = []
    end = BackEnd(tmp_path / "vu.sock")
    async with anyio.create_task_group() as tasks, Bus() as bus:
        await bus.create_space("gpu")
        bridge = VhostUserFrontend(bus, connect=end.path, space="gpu", tell=told.append)
        async with anyio.create_task_group() as bridges:
            bridges.start_soon(bridge.run)
            while not told:  # noqa: ASYNC110 - nothing tells of it
                await anyio.sleep(0.001)
            tasks.start_soon(end.run)
            await end.until(lambda: end.of(Request.SET_BACKEND_REQ_FD))
            bridges.cancel_scope.cancel()
        tasks.cancel_scope.cancel()

    assert str(told[0]).startswith(f"waits for a back end at {end.path}")


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_who_is_no_back_end_is_said_once_and_tried_again(tmp_path: Path) -> None:
    told: list[Told] = []
    path = tmp_path / "vu.sock"
    gc.collect()  # what other tests left
    before = open_descriptors()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        async with Bus() as bus, anyio.create_task_group() as tasks:
            await bus.create_space("gpu")
            tasks.start_soon(VhostUserFrontend(bus, connect=path, space="gpu", tell=told.append).run)
            for _ in range(5):
                accepted, _ = await anyio.to_thread.run_sync(listening.accept)
                with accepted:
                    accepted.sendall(b"\xff" * 12)
                    with suppress(ConnectionError):
                        while await anyio.to_thread.run_sync(accepted.recv, 4096):
                            pass
            tasks.cancel_scope.cancel()

    assert [str(each) for each in told if "broke its protocol" in str(each)] == [str(told[0])]
    assert open_descriptors() == before


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_ring_is_served_once_it_is_mapped(tmp_path: Path) -> None:
    async with scene(tmp_path, rings=[RING]) as at:
        at.map(0x1000)
        at.map(0x2000, 0x1000)
        assert not at.end.rings
        at.map(0x3000, 0x2000)
        await at.until(lambda: any("serves ring 0" in notice for notice in at.notices()))
        told = at.end.heard[-6:]

    assert [(message.request, message.body) for message in told] == [
        (Request.SET_VRING_NUM, VringState(0, 256)),
        (Request.SET_VRING_BASE, VringState(0, 5)),
        (Request.SET_VRING_ADDR, VringAddr(0, VringFlags(0), 0x1000, 0x3000, 0x2000, 0)),
        (Request.SET_VRING_CALL, VringFd(NO_DESCRIPTOR)),
        (Request.SET_VRING_KICK, VringFd(NO_DESCRIPTOR)),
        (Request.SET_VRING_ENABLE, VringState(0, 1)),
    ]
    assert at.end.of(Request.SET_MEM_TABLE)  # DPDK takes no ring without


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_no_ring_is_kicked_behind_the_question_that_proves_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 8: a fence comes while a ring is set up, and while nobody can look after it."""
    monkeypatch.setattr(revoking, "WINDOW", 1)
    async with scene(tmp_path, rings=[RING]) as at:

        def fall_silent(message: Message) -> int:
            at.end.silent = message.request == Request.SET_VRING_ADDR
            return 0

        at.end.status = fall_silent
        await at.cached(0x8000)
        for part in (0x1000, 0x2000, 0x3000):
            at.map(part)
        await at.end.until(lambda: at.end.of(Request.SET_VRING_CALL))
        at.space.unmap(0x8000, PAGE)
        await at.end.until(lambda: at.end.iotlb_messages(IotlbType.INVALIDATE))
        at.space.unmap(0x1000, PAGE)
        at.space.unmap(0x3000, PAGE)
        await anyio.wait_all_tasks_blocked()
        at.end.status = lambda _: 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at.space.fence, "bridge")
            await at.end.until(lambda: at.end.of(Request.GET_VRING_BASE))
            at.end.answer_late()
        await at.until(lambda: at.end.connections > 1)
        requests = [message.request for message in at.end.heard]
        behind = requests[requests.index(Request.GET_VRING_BASE) :]
        again = behind.index(Request.GET_FEATURES)  # of the next connection
        assert Request.SET_VRING_KICK not in behind[:again]
        assert Request.SET_VRING_ENABLE not in behind[:again]


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_ring_of_which_nothing_is_known_goes_on_where_it_was_used(tmp_path: Path) -> None:
    async with scene(tmp_path, rings=[Ring(0, 256, 0x1000, 0x1400, 0x1800, base=None)]) as at:
        at.bus.memory_view(at.memory)[0x2802:0x2804] = b"\x34\x12"
        at.map(0x1000, target=0x2000)
        await at.end.until(lambda: at.end.rings)

    assert [message.body for message in at.end.of(Request.SET_VRING_BASE)] == [VringState(0, 0x1234)]


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_eventfds_go_with_their_ring(tmp_path: Path) -> None:
    kick = os.eventfd(0)
    ring = Ring(1, 64, 0x1000, 0x1400, 0x1800, kick=kick, call=kick)
    async with scene(tmp_path, rings=[ring]) as at:
        at.map(0x1000)
        await at.end.until(lambda: at.end.rings)
        assert at.end.events == {1: [1, 1]}
    os.close(kick)


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_ring_that_is_refused_ends_the_bridge(tmp_path: Path) -> None:
    end = BackEnd(tmp_path / "vu.sock")
    end.status = lambda message: int(message.request == Request.SET_VRING_ADDR)
    async with anyio.create_task_group() as tasks, Bus() as bus:
        space = await bus.create_space("gpu")
        memory = await bus.add_memory("ram", SIZE)
        space.map(0x1000, 3 * PAGE, 0, Perm.RW, memory=memory)
        await tasks.start(end.run)
        bridge = VhostUserFrontend(bus, connect=end.path, space="gpu", rings=[RING], tell=lambda _: None)
        with pytest.raises(PeerRefused, match="SET_VRING_ADDR of ring 0"):
            await bridge.run()
        assert end.of(Request.GET_VRING_BASE)
        await space.sync()
        tasks.cancel_scope.cancel()


# -- MISS and UPDATE ---------------------------------------------------------------


@every_loop
async def test_the_back_end_reads_what_the_space_leads_to(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.bus.memory_view(at.memory)[0x3010:0x3014] = b"bus!"
        await at.cached(0x7000, target=0x3000)

        assert at.end.read(0x7010, 4) == b"bus!"
        (update,) = at.end.iotlb_messages(IotlbType.UPDATE)
        assert (update.iova, update.size, update.perm) == (0x7000, PAGE, 3)


@every_loop
async def test_an_answer_allows_no_more_than_the_mapping(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.map(0x1000, perm=Perm.R)
        at.end.miss(0x1000, Perm.W, reply=True)
        await at.end.until(lambda: at.end.answers)
        assert not at.end.iotlb

        at.end.miss(0x1000, Perm.R, reply=True)
        await at.end.until(lambda: len(at.end.answers) == 2)
        assert [entry.perm for entry in at.end.iotlb] == [int(Perm.R)]


@every_loop
async def test_a_miss_is_acknowledged_after_its_update_in_the_order_of_questions(tmp_path: Path) -> None:
    asked = anyio.Event()
    answer = anyio.Event()

    async def walk(iova: int, _: Perm) -> Mapping | None:
        if iova == 0x1000:
            asked.set()
            await answer.wait()
            return Mapping(0x1000, 0x1FFF, 0, Perm.RW, at.memory)
        return None

    async with scene(tmp_path, space={"offers": Cap.UNMAP, "translate": walk}) as at:
        at.end.miss(0x1000, reply=True)
        await asked.wait()
        at.end.miss(0x9000, reply=True)  # nowhere, which is known at once
        await at.until(lambda: at.bridge.statistics().negative == 1)
        assert at.end.answers == []

        answer.set()
        await at.end.until(lambda: len(at.end.answers) == 2)
        assert at.end.answers == [0, 0]
        assert at.end.has(0x1000)


@every_loop
async def test_an_update_that_is_refused_is_counted_and_said(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.end.status = lambda message: int(message.request == Request.IOTLB_MSG)
        at.map(0x1000)
        at.end.miss(0x1000, reply=True)
        await at.end.until(lambda: at.end.answers)

        assert at.end.answers == [1]
        assert at.bridge.statistics().refused == 1
        at.end.status = lambda _: 0


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_what_is_mapped_later_is_answered_later(tmp_path: Path) -> None:
    """
    DPDK asks once for an address, and never again.
    """
    async with scene(tmp_path) as at:
        at.end.miss(0x1000)
        await at.until(lambda: at.bridge.statistics().negative)
        assert at.end.iotlb == []

        at.map(0x1000)
        await at.end.until(lambda: at.end.has(0x1000))


@every_loop
async def test_a_bare_address_is_no_answer_and_said_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.space.map(0x1000, 2 * PAGE, 0x8000_0000, Perm.RW)
        for iova in (0x1000, 0x2000):
            at.end.miss(iova, reply=True)
        await at.end.until(lambda: len(at.end.answers) == 2)

        assert at.end.iotlb == []
        assert len([notice for notice in at.notices() if "leads into no memory" in notice]) == 1


@every_loop
async def test_an_answer_that_ends_behind_its_memory_is_none(tmp_path: Path) -> None:
    async def walk(iova: int, _: Perm) -> Mapping | None:
        return Mapping(iova, iova + PAGE - 1, SIZE, Perm.RW, at.memory)

    async with scene(tmp_path, space={"offers": Cap.UNMAP, "translate": walk}) as at:
        at.end.miss(0x1000, reply=True)
        await at.end.until(lambda: at.end.answers)
        assert at.end.iotlb == []


@every_loop
async def test_an_answer_that_an_unmap_overtook_is_never_sent(tmp_path: Path) -> None:
    """
    Law 5: after the hand-over of an UNMAP no UPDATE of what it took leaves, before its INVALIDATE or behind it.
    """
    questions: list[anyio.Event] = []
    target = [0x1000, 0x5000]

    async def walk(iova: int, _: Perm) -> Mapping | None:
        found = Mapping(iova, iova + PAGE - 1, target[len(questions)], Perm.RW, at.memory)
        questions.append(anyio.Event())
        if len(questions) == 1:
            await questions[0].wait()
        return found

    async with scene(tmp_path, space={"offers": Cap.UNMAP, "translate": walk}) as at:
        at.end.miss(0x7000)
        await at.until(lambda: questions)
        at.space.unmap(0x7000, PAGE)
        await at.space.sync()
        assert at.end.acked == [(0x7000, 0x7FFF)]

        questions[0].set()
        await at.end.until(lambda: at.end.has(0x7000))

        (update,) = at.end.iotlb_messages(IotlbType.UPDATE)
        assert at.end.window(0x7000)[1] == 0x5000
        assert at.bridge.statistics().stale == 1
        bodies = [message.body for message in at.end.of(Request.IOTLB_MSG)]
        assert bodies[-1] == update


@every_loop
async def test_a_flood_of_misses_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    walking = anyio.Event()

    async def walk(iova: int, _: Perm) -> Mapping | None:
        await walking.wait()
        return Mapping(iova, iova + PAGE - 1, 0, Perm.RW, at.memory)

    async with scene(tmp_path, space={"offers": Cap.UNMAP, "translate": walk}) as at:
        for page in range(1000):
            at.end.miss(page * PAGE)
            at.end.miss(page * PAGE)
        for page in range(100):
            at.space.unmap(page * PAGE, PAGE)
            await at.space.sync()
        await at.until(lambda: at.bridge.statistics().misses + at.bridge.statistics().repeated == 2000)
        assert at.bridge.statistics().repeated > 900

        walking.set()
        await at.end.until(lambda: len({entry.first for entry in at.end.iotlb}) == 1000)


# -- UNMAP and INVALIDATE ----------------------------------------------------------


@every_loop
async def test_a_sync_returns_when_the_back_end_has_acknowledged(tmp_path: Path) -> None:
    """
    Law 1.
    """
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.end.held = True
        at.space.unmap(0x1000, PAGE)
        at.tasks.start_soon(at.space.sync)
        await at.end.until(lambda: at.end.iotlb_messages(IotlbType.INVALIDATE))
        with pytest.raises(SyncFailed):
            await at.space.sync(0)
        assert at.end.has(0x1000)

        at.end.let_go()
        await at.space.sync()
        assert at.end.acked == [(0x1000, 0x1FFF)]
        assert not at.end.has(0x1000)


@every_loop
async def test_a_hand_over_is_acknowledged_when_all_of_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        for iova in (0x1000, 0x5000):
            await at.cached(iova)
        at.end.held = True
        for iova in (0x1000, 0x5000):
            at.space.unmap(iova, PAGE)
        await at.end.until(partial(heard, at, 2))
        at.end.let_go(1)
        await at.until(lambda: at.bridge.statistics().acknowledged == 1)
        with pytest.raises(SyncFailed):
            await at.space.sync(0)

        at.end.let_go()
        await at.space.sync()


@every_loop
async def test_neighbours_go_together_and_who_is_behind_takes_away_what_lies_between(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        pages = [*range(10), *range(10, 600, 2)]
        for page in pages:
            at.map(page * PAGE)
        for page in pages:
            at.space.unmap(page * PAGE, PAGE)
        await at.space.sync()

        assert len(at.end.acked) == 128
        assert all(any(first <= page * PAGE <= last for first, last in at.end.acked) for page in pages)
        assert max(last for _, last in at.end.acked) < 600 * PAGE
        assert at.bridge.statistics().acknowledged == 128


def heard(at: Scene, count: int) -> bool:
    """Say whether the back end heard so many INVALIDATEs."""
    return len(at.end.iotlb_messages(IotlbType.INVALIDATE)) == count


@every_loop
async def test_many_invalidations_are_on_their_way_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        pages = range(0, 200, 2)
        for page in pages:
            at.map(page * PAGE)
        at.end.held = True
        for count, target in ((100, PAGE), (128, 2 * PAGE)):
            for page in pages:
                at.space.remap(page * PAGE, PAGE, target, Perm.RW, memory=at.memory)
            await at.end.until(partial(heard, at, count))

        at.end.let_go()
        await at.space.sync()
        assert at.bridge.statistics().acknowledged == len(at.end.acked)


@every_loop
async def test_the_whole_space_goes_in_two_halves(tmp_path: Path) -> None:
    async with scene(tmp_path, space={"offers": Cap.UNMAP}) as at:
        at.space.unmap(0, LAST + 1)
        await at.space.sync()
        assert at.end.acked == [(0, LAST // 2), (LAST // 2 + 1, LAST)]


@every_loop
async def test_an_unmap_that_is_refused_fails_every_sync_until_it_is_not(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.end.status = lambda message: 5 * int(message.request == Request.IOTLB_MSG)
        at.space.unmap(0x1000, PAGE)
        for _ in range(2):
            with pytest.raises(SyncFailed) as failed:
                await at.space.sync(0.2)
            (cause,) = causes(failed.value)
            assert cause.endswith("refused INVALIDATE of 0x1000..0x1fff: EIO, Input/output error")

        at.end.status = lambda _: 0
        await at.space.sync()
        assert at.end.acked == [(0x1000, 0x1FFF)]


def missing_in(failed: SyncFailed) -> tuple[Missing, ...]:
    return cast("tuple[Missing, ...]", failed.missing)


def causes(failed: SyncFailed) -> list[str]:
    return [str(missing.cause) for missing in missing_in(failed)]


@every_loop
async def test_both_halves_of_a_refused_unmap_fail_once(tmp_path: Path) -> None:
    async with scene(tmp_path, space={"offers": Cap.UNMAP}) as at:
        at.end.status = lambda message: int(message.request == Request.IOTLB_MSG)
        at.space.unmap(0, LAST + 1)
        at.space.unmap(0x1000, PAGE)
        with pytest.raises(SyncFailed):
            await at.space.sync(0.2)

        at.end.status = lambda _: 0
        await at.space.sync()
        assert (LAST // 2 + 1, LAST) in at.end.acked


# -- memories ----------------------------------------------------------------------


@every_loop
async def test_each_memory_that_comes_into_use_is_in_the_table_before_its_update(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        other = await at.bus.add_memory("other", 3 * PAGE)
        at.bus.memory_view(other)[0x2000:0x2002] = b"ok"
        at.space.map(0x2000, PAGE, 0x2000, Perm.RW, memory=other)
        at.end.miss(0x2000)
        await at.end.until(lambda: at.end.has(0x2000))

        assert at.end.read(0x2000, 2) == b"ok"
        sizes = [tuple(region.size for region in table(message).regions) for message in tables(at)]
        assert sizes == [(SIZE,), (SIZE, 3 * PAGE)]


@every_loop
async def test_memories_can_be_given_at_the_start(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks, Bus() as bus:
        memory = await bus.add_memory("ram", SIZE)
        space = await bus.create_space("gpu")
        end = BackEnd(tmp_path / "vu.sock")
        await tasks.start(end.run)
        async with anyio.create_task_group() as bridges:
            bridge = VhostUserFrontend(bus, connect=end.path, space="gpu", memories=[memory], tell=lambda _: None)
            await bridges.start(bridge.run)
            assert len(end.regions) == 1
            await space.sync()
            bridges.cancel_scope.cancel()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("slots", "limit"), [(0, 8), (3, 3)])
@every_loop
async def test_a_memory_that_is_not_used_makes_room_and_nothing_leads_into_it(
    tmp_path: Path, slots: int, limit: int
) -> None:
    end = BackEnd(tmp_path / "vu.sock", protocol=SLOTTED if slots else PROTOCOL, slots=slots)
    async with scene(tmp_path, end=end) as at:
        for number in range(limit + 1):
            memory = await at.bus.add_memory(f"m{number}", PAGE)
            at.bus.memory_view(memory)[0] = number
            at.space.map(number * PAGE, PAGE, 0, Perm.RW, memory=memory)
            at.end.miss(number * PAGE)
            await at.end.until(partial(at.end.has, number * PAGE))
            assert at.end.read(number * PAGE, 1) == bytes([number])

        assert len(at.end.regions) == limit
        assert not at.end.has(0)
        at.end.miss(0)
        await at.end.until(lambda: at.end.has(0))
        assert at.end.read(0, 1) == b"\0"
        assert at.bridge.statistics().withdrawn == 2
        assert bool(at.end.of(Request.SET_MEM_TABLE)) == (not slots)


@every_loop
async def test_a_memory_that_is_removed_leaves_the_table_with_the_next_change(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.space.unmap(0x1000, PAGE)
        await at.space.sync()
        at.bus.remove_memory(at.memory)
        at.memory = await at.bus.add_memory("ram", SIZE)
        await at.cached(0x1000)

        assert len(at.end.regions) == 1
        assert at.bridge.statistics().withdrawn == 1


@pytest.mark.parametrize("slots", [0, 4])
@every_loop
async def test_a_memory_that_is_refused_is_left_out_and_the_others_stay(tmp_path: Path, slots: int) -> None:
    end = BackEnd(tmp_path / "vu.sock", protocol=SLOTTED if slots else PROTOCOL, slots=slots)
    async with scene(tmp_path, end=end) as at:
        await at.cached(0x1000)
        odd = await at.bus.add_memory("odd", 7 * PAGE)
        at.space.map(0x2000, PAGE, 0, Perm.RW, memory=odd)
        at.end.status = lambda message: int(sizes_in(message)[-1:] == [7 * PAGE])
        for _ in range(2):
            at.end.miss(0x2000, reply=True)
        await at.end.until(lambda: len(at.end.answers) == 2)
        assert not at.end.has(0x2000)

        await at.cached(0x3000)
        assert len([notice for notice in at.notices() if "odd@1" in notice]) == 1
        assert at.bridge.statistics().refused == 1


def table(message: Message) -> MemTable:
    assert isinstance(message.body, MemTable)
    return message.body


def tables(at: Scene) -> list[Message]:
    return at.end.of(Request.SET_MEM_TABLE)


def sizes_in(message: Message) -> list[int]:
    """Return the sizes of the memories that a message gives."""
    if message.request == Request.SET_MEM_TABLE:
        return [region.size for region in table(message).regions]
    return [message.body.size] if message.request == Request.ADD_MEM_REG else []  # type: ignore[union-attr]


# -- the end -----------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_bridge_that_is_cancelled_stops_the_back_end_and_leaves_clean(tmp_path: Path) -> None:
    async with scene(tmp_path, rings=[RING]) as at:
        at.space.map(0x1000, 3 * PAGE, 0, Perm.RW, memory=at.memory)
        await at.end.until(lambda: at.end.rings)
        at.end.miss(0x1000)
        await at.end.until(lambda: at.end.has(0x1000))
        at.tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await at.over.wait()
            at.space.unmap(0x1000, 3 * PAGE)
            await at.space.sync(0)

    assert [message.body for message in at.end.of(Request.GET_VRING_BASE)] == [VringState(0, 0)]


@every_loop
async def test_without_rings_it_stops_when_all_is_invalidated(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)

    assert at.end.acked == [(0, LAST // 2), (LAST // 2 + 1, LAST)]


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_back_end_that_is_silent_fails_syncs_until_it_answers(tmp_path: Path) -> None:
    """
    It is stopped by the sync that needs it, and that is not given up.
    """
    async with scene(tmp_path, rings=[RING]) as at:
        at.space.map(0x1000, 3 * PAGE, 0, Perm.RW, memory=at.memory)
        await at.end.until(lambda: at.end.rings)
        at.end.held = at.end.silent = True
        at.space.unmap(0x1000, 3 * PAGE)
        with pytest.raises(SyncFailed):
            await at.space.sync(0.05)
        assert not await fence(at)
        with pytest.raises(SyncFailed):
            await at.space.sync(0.05)
        await at.end.until(lambda: at.end.of(Request.GET_VRING_BASE))
        assert at.end.of(Request.GET_VRING_BASE) == at.end.heard[-1:]

        at.end.answer_late()
        await at.space.sync()


async def fence(at: Scene) -> bool:
    """Fence the bridge, and do not wait for the proof."""
    with anyio.move_on_after(0.05):
        return await at.space.fence("bridge")
    return False


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_one_that_is_fenced_stops_its_back_end_and_comes_back(tmp_path: Path) -> None:
    async with scene(tmp_path, rings=[RING]) as at:
        at.space.map(0x1000, 3 * PAGE, 0, Perm.RW, memory=at.memory)
        await at.end.until(lambda: at.end.rings)
        at.end.miss(0x1000)
        await at.end.until(lambda: at.end.has(0x1000))

        assert await at.space.fence("bridge")
        assert len(at.end.of(Request.GET_VRING_BASE)) == 1
        await at.space.sync()
        await at.end.until(lambda: at.end.connections == 2 and at.end.rings)
        at.end.miss(0x1000)
        await at.end.until(lambda: at.end.has(0x1000))
        at.space.unmap(0x1000, 3 * PAGE)
        await at.space.sync()
        assert not at.end.has(0x1000)
        bases = [message.body for message in at.end.of(Request.SET_VRING_BASE)]
        assert bases == [VringState(0, 5), VringState(0, 7)]  # it goes on where the first left off


@every_loop
async def test_the_end_of_the_endpoint_is_the_end_of_the_bridge(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        await at.space.close()
        await at.space.sync()
        await at.over.wait()
        assert not at.end.has(0x1000)


def words(request: int, flags: int, payload: bytes) -> bytes:
    """Return a message, right or wrong."""
    return struct.pack("<III", request, flags, len(payload)) + payload


def reply(request: int, payload: bytes) -> bytes:
    return words(request, 5, payload)


def request_of(request: int, payload: bytes) -> bytes:
    return words(request, 1, payload)


ZERO: Final = bytes(8)
UPDATE: Final = encode(
    Message(BackendRequest.IOTLB_MSG, IotlbMsg(0, PAGE, 0, 3, IotlbType.UPDATE), Flags(0), Channel.BACK_END)
)


@pytest.mark.parametrize(
    ("data", "main"),
    [
        (b"\xff" * 12, True),
        (b"\xff" * 12, False),
        (reply(Request.SET_OWNER, ZERO), True),
        (request_of(Request.SET_OWNER, b""), True),
        (reply(BackendRequest.IOTLB_MSG, ZERO), False),
        (request_of(BackendRequest.IOTLB_MSG, b"\0" * 25), False),
        (request_of(BackendRequest.IOTLB_MSG, b"\0" * 24 + b"\x07\x01" + b"\0" * 6), False),
        (UPDATE, False),
    ],
)
@pytest.mark.usefixtures("impatient")
@every_loop
async def test_wrong_words_close_the_connection_and_the_back_end_counts_until_it_is_gone(
    tmp_path: Path, data: bytes, main: bool
) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.end.say(data, main=main)
        await at.until(lambda: any("broke its protocol" in notice for notice in at.notices()))
        at.space.unmap(0x1000, PAGE)
        with pytest.raises(SyncFailed) as failed:
            await at.space.sync(0.05)
        (missing,) = missing_in(failed.value)
        assert [(piece.first, piece.last) for piece in missing.pieces] == [(0x1000, 0x1FFF)]
        await at.end.until(lambda: at.end.connections == 1)


@pytest.mark.usefixtures("impatient")
@every_loop
async def test_an_answer_out_of_turn_closes_the_connection(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.end.held = True
        at.space.unmap(0x1000, PAGE)
        await at.end.until(lambda: at.end.iotlb_messages(IotlbType.INVALIDATE))
        at.end.say(reply(Request.SET_MEM_TABLE, ZERO), main=True)
        await at.until(lambda: any("where IOTLB_MSG comes first" in notice for notice in at.notices()))


@every_loop
async def test_questions_that_nobody_knows_are_refused_and_nothing_more(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        for request in (BackendRequest.CONFIG_CHANGE_MSG, 77):
            at.end.say(words(request, 9, b""))
        await at.end.until(lambda: len(at.end.answers) == 2)
        await at.cached(0x1000)

    assert at.end.answers == [1, -1]  # the second carries bytes, as far as anybody knows


@every_loop
async def test_an_access_that_failed_is_said_once_and_counted(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        failed = IotlbMsg(0x4000, 0, 0, 2, IotlbType.ACCESS_FAIL)
        for _ in range(3):
            message = Message(BackendRequest.IOTLB_MSG, failed, Flags.NEED_REPLY, Channel.BACK_END)
            at.end.say(encode(message))
        await at.end.until(lambda: len(at.end.answers) == 3)

    assert at.bridge.statistics().access_failures == 3
    assert len([notice for notice in at.notices() if "0x4000" in notice]) == 1


async def unseen(_: object) -> int:
    """Stand for a kernel that names a process of a pid namespace that cannot be seen from here."""
    return 0


@pytest.mark.usefixtures("impatient")
@every_loop
async def test_a_back_end_that_cannot_be_seen_is_said_and_its_loss_ends_the_bridge(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "sender_pid", unseen)
        async with scene(tmp_path) as at:
            await at.cached(0x1000)
            (said,) = [each for each in at.told if isinstance(each, Negotiated)]
            assert said.lacks[-1].what == "SCM_CREDENTIALS"
            at.end.hang_up()
            await at.over.wait()
            failure = at.failures.pop()

    assert isinstance(failure, PeerLeft)
    assert "nothing proves" in str(failure)


@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_back_end_that_agrees_to_nothing_is_given_up_and_tried_again(tmp_path: Path) -> None:
    end = BackEnd(tmp_path / "vu.sock")
    end.silent = True
    told: list[Told] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "GREETING", 0.01)
        async with anyio.create_task_group() as ends, Bus() as bus:
            await bus.create_space("gpu")
            await ends.start(end.run)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(VhostUserFrontend(bus, connect=end.path, space="gpu", tell=told.append).run)
                await end.until(lambda: end.connections > 2)
                tasks.cancel_scope.cancel()
            ends.cancel_scope.cancel()

    assert [str(each) for each in told if "agreed to nothing" in str(each)] == [str(told[0])]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("request_", [Request.SET_OWNER, Request.SET_FEATURES, Request.SET_BACKEND_REQ_FD])
@every_loop
async def test_what_is_refused_at_the_start_is_named(tmp_path: Path, request_: Request) -> None:
    end = BackEnd(tmp_path / "vu.sock")
    end.status = lambda message: int(message.request == request_)
    async with anyio.create_task_group() as tasks, Bus() as bus:
        await bus.create_space("gpu")
        await tasks.start(end.run)
        with pytest.raises(PeerRefused, match=request_.name):
            await VhostUserFrontend(bus, connect=end.path, space="gpu", tell=lambda _: None).run()
        tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("impatient")
@every_loop
async def test_who_hangs_up_with_answers_owed_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        at.map(0x2000)
        at.end.silent = True
        at.end.miss(0x2000)
        at.space.unmap(0x1000, PAGE)
        await at.end.until(lambda: at.end.iotlb_messages(IotlbType.INVALIDATE))
        await at.end.until(lambda: len(at.end.iotlb_messages(IotlbType.UPDATE)) == 2)
        at.end.hang_up()
        await at.until(lambda: any("until it has stopped" in notice for notice in at.notices()))
        with pytest.raises(SyncFailed):
            await at.space.sync(0.05)


@pytest.mark.usefixtures("impatient")
@every_loop
async def test_a_back_end_that_takes_no_memory_any_more_ends_the_bridge(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.cached(0x1000)
        other = await at.bus.add_memory("other", PAGE)
        at.space.map(0x2000, PAGE, 0, Perm.RW, memory=other)
        at.end.status = lambda message: int(message.request == Request.SET_MEM_TABLE)
        at.end.miss(0x2000)
        await at.over.wait()
        failure = at.failures.pop()
        assert isinstance(failure, PeerRefused)
        assert failure.what == "the memory other@1"
        at.space.unmap(0x1000, 2 * PAGE)
        await at.space.sync()


# -- processes ---------------------------------------------------------------------


async def told_by(end: Backend, order: str = "") -> str:
    """Give an order to a back end in another process, and return what comes back."""
    return await anyio.to_thread.run_sync(end.do, order)


@pytest.mark.parametrize("flags", [(), ("--handed",)])
@pytest.mark.usefixtures("hurried")
@every_loop
async def test_a_back_end_that_is_killed_is_proven_stopped_by_that_and_the_next_one_is_served(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path = tmp_path / "vu.sock"
    told: list[Told] = []
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("gpu")
        memory = await bus.add_memory("ram", SIZE)
        bus.memory_view(memory)[:4] = b"\x01\x02\x03\x04"
        for number in (1, 2):
            space.map(0x1000, PAGE, 0, Perm.RW, memory=memory)
            with Backend(path, *flags) as end:
                assert await told_by(end) == "ready"
                if number == 1:
                    await tasks.start(VhostUserFrontend(bus, connect=path, space="gpu", tell=told.append).run)
                with anyio.fail_after(PATIENCE):
                    while sum(isinstance(each, Negotiated) for each in told) < number:  # noqa: ASYNC110
                        await anyio.sleep(0.001)
                assert await told_by(end, "miss 0x1000") == "has 01020304"
                space.unmap(0x1000, PAGE)
                await space.sync()
                assert await told_by(end, "wait 0x1000") == "gone"
                space.map(0x1000, PAGE, 0, Perm.RW, memory=memory)
                assert await told_by(end, "miss 0x1000") == "has 01020304"
            space.unmap(0x1000, PAGE)
            await space.sync()
        tasks.cancel_scope.cancel()


@pytest.mark.timeout(120)
def test_a_space_of_a_daemon_drives_it_just_as_well(tmp_path: Path) -> None:
    path = tmp_path / "vu.sock"
    told: list[Told] = []
    with Backend(path) as end, daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
        assert end.hear() == "ready"
        space = portal.call(bus.create_space, "gpu")
        memory = portal.call(bus.add_memory, "ram", SIZE)
        portal.call(lambda: bus.memory_view(memory).__setitem__(slice(0, 2), b"\xca\xfe"))
        with bus_at(served.address, "bridge") as (others, far):
            bridge = VhostUserFrontend(far, connect=path, space="gpu", name="bridge", tell=told.append)
            scope = others.call(anyio.CancelScope)

            async def run(*, task_status: TaskStatus[None]) -> None:
                with scope:
                    await bridge.run(task_status=task_status)

            running, _ = others.start_task(run)
            portal.call(lambda: space.map(0x1000, PAGE, 0, Perm.RW, memory=memory))
            portal.call(space.sync)
            assert end.do("miss 0x1000") == "has cafe0000"
            portal.call(lambda: space.unmap(0x1000, PAGE))
            report = portal.call(space.sync)
            assert end.do("wait 0x1000") == "gone"
            assert [outcome.subscriber for outcome in report.outcomes] == ["bridge"]
            assert bridge.statistics().negative == 0
            others.call(scope.cancel)
            running.result(PATIENCE)
        portal.call(lambda: space.map(0x2000, PAGE, 0, Perm.RW, memory=memory))
        portal.call(lambda: space.unmap(0x2000, PAGE))
        assert portal.call(space.sync).outcomes == ()


@pytest.mark.parametrize("flags", [(), ("--handed",)])
def test_a_bridge_that_is_killed_counts_until_its_back_end_has_ended(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Law 8: the back end can read the page after its front end is gone, and nobody has told it to stop."""
    path = tmp_path / "vu.sock"
    with Backend(path, *flags) as end, daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
        assert end.hear() == "ready"
        space = portal.call(bus.create_space, "gpu")
        memory = portal.call(bus.add_memory, "ram", SIZE)
        portal.call(lambda: space.map(0x1000, PAGE, 0, Perm.RW, memory=memory))
        words = ("--connect", str(path), "--space", "gpu", "--name", "dpdk", "-a", served.address)
        line = command("bridge", "vhost-user-frontend", *words)
        with subprocess.Popen(line, stdout=subprocess.PIPE, env=environment()) as bridge:
            try:
                assert bridge.stdout is not None
                assert b"agreed on" in bridge.stdout.readline()
                assert end.do("miss 0x1000") == "has 00000000"
            finally:
                bridge.kill()
        portal.call(lambda: space.unmap(0x1000, PAGE))
        assert "dpdk on gpu is not proven stopped" in said_by_failure(portal, space)
        wait_failure(portal, space, f"process {end.process.pid} has ended: its own, {bridge.pid}, has")
        end.process.kill()
        wait_synced(portal, space)
