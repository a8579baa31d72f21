"""Who is proven stopped, by what, and when: real members on a virtual clock, processes that end when told to."""

from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest

from iommubus import Bus, Perm, SyncFailed
from iommubus.bus.attachment import State
from iommubus.bus.logs import Lines
from iommubus.bus.member import Member, Terms
from iommubus.bus.reports import Missing
from iommubus.bus.space import LocalSpace
from iommubus.caps import Cap
from iommubus.contract import Contract
from iommubus.errors import (
    ConnectionLost,
    ExitRefused,
    LeasesUnwritable,
    LimitReached,
    NoCredentials,
    SpaceClosed,
    StopUnproven,
)
from iommubus.service.proof.leases import ExitMember
from iommubus.service.proof.record import Disk, Granted, Record, encode, load
from iommubus.service.proof.stopping import Proof
from iommubus.service.proof.watch import Watch
from iommubus.transport.credentials import Peer, Process
from iommubus.transport.tasks import Tasks
from iommubus.wire.messages import Message
from iommubus.wire.messages.replies import Done
from iommubus.wire.messages.subscribing import RunFence
from tests.virtual import VirtualLoop, run

LEASE: Final = 10.0
PEER: Final = Peer(4711, 1000, (1000,))
BOOT: Final = "b6e1b2d2-0000-4000-8000-000000000000"


class FakeProcess(Process):
    """A process that ends when it is told to, and counts those who watch it."""

    def __init__(self, pid: int = PEER.pid, *, killable: bool = True) -> None:
        super().__init__(pid, 100 * pid, -1)
        self.end = anyio.Event()
        self.watchers = 0
        self.killed = False
        self.killable = killable

    def another(self) -> Process:
        self.watchers += 1
        return Watcher(self)

    @property
    def ended(self) -> bool:
        return self.end.is_set()


class Watcher(Process):
    """One watch of a `FakeProcess`."""

    __slots__ = ("_closed", "_process")

    def __init__(self, process: FakeProcess) -> None:
        super().__init__(process.pid, process.start, -1)
        self._process = process
        self._closed = False

    async def wait_exit(self) -> None:
        await self._process.end.wait()

    def kill(self) -> None:
        if not self._process.killable:
            raise PermissionError(1, "Operation not permitted")
        self._process.killed = True
        self._process.end.set()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._process.watchers -= 1


class Connection:
    """A connection, whose client answers as it is told to."""

    def __init__(self, proof: Proof, peer: Peer = PEER, process: Process | None = None) -> None:
        self.name = "qemu"
        self.peer = peer
        self.process = process
        self.open = True
        self.lease_end = 0.0
        self.asked: list[int] = []
        self.answer: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.watches: list[Watch] = []
        self.closed = ""
        self._proof = proof

    async def ask(self, make: Callable[[int], Message], /) -> Message:
        request = make(1)
        assert isinstance(request, RunFence)
        self.asked.append(request.subscription)
        await self.answer()
        return Done(1)

    def lose(self, reason: str = "its connection was closed") -> None:
        self.open = False
        for watch in self.watches:
            watch.member.abandon(reason)
            watch.look()
        self._proof.lost(self)

    def close(self, reason: str, /) -> None:
        self.closed = reason
        self.lose(reason)


class Scene:
    """A space, a daemon's proof, and what happens to the connections of its subscribers."""

    def __init__(self, loop: VirtualLoop, bus: Bus, proof: Proof, space: LocalSpace, tasks: Tasks) -> None:
        self.loop = loop
        self.bus = bus
        self.proof = proof
        self.space = space
        self.tasks = tasks
        self._numbers = 0

    def connection(self, peer: Peer = PEER, process: Process | None = None) -> Connection:
        connection = Connection(self.proof, peer, process)
        connection.lease_end = self.loop.time() + LEASE
        return connection

    async def subscribe(
        self,
        connection: Connection,
        stops: Any = "lease",
        *,
        has_on_fence: bool = False,
        touched: bool = True,
        holder: int = 0,
    ) -> Watch:
        """Return a subscriber that was given a mapping, which was taken away again."""
        self._numbers += 1
        watch = Watch(self._numbers, f"vhost#{self._numbers}", stops, has_on_fence=has_on_fence, holder=holder)
        contract = Contract(1, False, False, None)
        terms = Terms(watch.name, Cap.IOTLB, ((0, 2**64 - 1),), 16, contract, "exit", watch.prove, watched=True)
        watch.member, enroll = self.bus.enlist("vtd0", terms)
        self.proof.watch(connection, watch)
        await self.proof.grant(watch, LEASE)
        enroll()
        await self.proof.remember(watch)
        connection.watches.append(watch)
        if touched:
            self.space.map(0x1000, 0x1000, target=0x8000, perm=Perm.RW)
            give(watch.member)
            self.space.unmap(0x1000, 0x1000)
        return watch

    async def sync(self, seconds: float = 100.0) -> float:
        """Sync, and return how long that took."""
        start = self.loop.time()
        await self.space.sync(seconds)
        return self.loop.time() - start

    async def missing(self, seconds: float = 100.0) -> list[tuple[str, Exception | None]]:
        """Return whom a sync misses, and why."""
        with pytest.raises(SyncFailed) as failed:
            await self.space.sync(seconds)
        missing: list[Missing] = list(failed.value.missing)  # type: ignore[arg-type]  # errors know no reports
        return [(each.reason, each.cause) for each in missing]


def give(member: Member) -> None:
    """Have a member take what there is, and use it."""
    while member.ready:
        member.take()
    member.acknowledge(member.handed)


def play(
    case: Callable[[Scene], Coroutine[Any, Any, None]],
    *,
    record: Record | None = None,
    may_kill: Callable[[Peer], bool] = lambda _: False,
) -> None:
    """Run a case, and see to it that nothing is left of it."""

    async def whole(loop: VirtualLoop) -> None:
        proof = Proof(loop.time, Lines(loop.time), record=record, may_kill=may_kill)
        async with Bus() as bus, Tasks() as tasks:
            proof.begin(tasks)
            await case(Scene(loop, bus, proof, await bus.create_space("vtd0"), tasks))
        await proof.close()

    run(whole)


# -- leases --------------------------------------------------------------------


def test_a_lost_subscriber_counts_until_its_lease_has_run_out() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()
        watch = await scene.subscribe(connection)
        await anyio.sleep(3.0)
        connection.lose()
        assert await scene.missing(5.0) != []
        end = connection.lease_end
        await scene.sync()
        assert end < scene.loop.time() < end + 0.01
        assert watch.member.state is State.GONE

    play(case)


def test_a_lease_that_has_run_out_already_is_waited_for_no_longer() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()
        await scene.subscribe(connection)
        await anyio.sleep(LEASE + 1)
        connection.lose("its lease has run out")
        assert await scene.sync() < 0.01

    play(case)


def test_each_lost_connection_has_a_lease_of_its_own() -> None:
    async def case(scene: Scene) -> None:
        late, early = scene.connection(), scene.connection()
        late.lease_end, early.lease_end = scene.loop.time() + 8, scene.loop.time() + 2
        first, second = await scene.subscribe(late), await scene.subscribe(early)
        late.lose()
        early.lose()
        await anyio.sleep(2.1)
        assert (first.member.state, second.member.state) == (State.UNPROVEN, State.GONE)
        assert 5.0 < await scene.sync() < 6.0

    play(case)


def test_who_was_given_nothing_is_gone_at_once() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        await scene.subscribe(connection, touched=False)
        await scene.subscribe(connection, "exit", touched=False)
        connection.lose()
        assert await scene.sync() == 0
        assert scene.proof.count(connection) == 0

    play(case)


def test_a_process_that_is_seen_to_end_is_not_waited_for_any_longer() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        await scene.subscribe(connection)
        connection.lose()
        scene.loop.call_later(1.5, process.end.set)
        assert await scene.sync() == 1.5
        await anyio.lowlevel.checkpoint()
        assert process.watchers == 0

    play(case)


def test_the_end_of_a_process_and_that_of_its_connection_come_in_any_order() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        await scene.subscribe(connection)
        await scene.subscribe(connection, "exit")
        process.end.set()
        scene.loop.call_later(0.001, connection.lose)
        assert await scene.sync() < 0.01
        assert connection.closed == ""

    play(case)


def test_a_child_that_goes_on_with_a_connection_is_sent_away_and_its_lease_runs() -> None:
    """Hardware that stops with its process has stopped; software may go on in the child."""

    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        hardware = await scene.subscribe(connection, "exit")
        software = await scene.subscribe(connection)
        process.end.set()
        await anyio.sleep(1)
        assert connection.closed == f"process {PEER.pid}, which connected, has ended"
        assert (hardware.member.state, software.member.state) == (State.GONE, State.UNPROVEN)
        software.using(1)
        assert 8.0 < await scene.sync() < 9.1

    play(case)


def test_what_is_in_use_outlasts_the_lease_where_the_process_can_be_seen() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        seen, unseen = scene.connection(process=process), scene.connection(Peer(names=("vm1",)))
        for connection in seen, unseen:
            (await scene.subscribe(connection)).using(2)
            connection.lose()
        (_, cause), *others = await scene.missing(50.0)
        assert others == []
        assert isinstance(cause, StopUnproven)
        scene.loop.call_later(1, process.end.set)
        assert await scene.sync() == 1

    play(case)


# -- fences ----------------------------------------------------------------------


def test_a_fenced_subscriber_of_a_lease_is_asked_once_and_at_once() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()
        drained = anyio.Event()
        connection.answer = drained.wait
        watch = await scene.subscribe(connection)
        watch.member.abandon("the producer fenced it")
        watch.fenced(by_client=False)
        assert (await scene.missing(1.0))[0][0] == "is not proven stopped (the producer fenced it)"
        scene.loop.call_later(1, drained.set)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.sync)
            tasks.start_soon(scene.sync)
        assert connection.asked == [watch.number]
        assert watch.member.state is State.GONE

    play(case)


def test_a_lease_that_runs_out_stands_in_for_an_answer_that_never_comes() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()

        async def break_down() -> None:
            await anyio.sleep(1)
            raise ConnectionLost("qemu", "it broke")

        connection.answer = break_down
        watch = await scene.subscribe(connection)
        watch.member.abandon("the producer fenced it")
        watch.fenced(by_client=False)
        scene.loop.call_later(1, connection.lose)
        await scene.sync()
        assert connection.lease_end < scene.loop.time() < connection.lease_end + 0.01

    play(case)


def test_a_client_that_fenced_itself_is_believed_once_nothing_is_in_use() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()
        idle, busy = await scene.subscribe(connection), await scene.subscribe(connection)
        busy.using(1)
        connection.answer = anyio.sleep_forever
        for watch in idle, busy:
            watch.member.abandon("its block was left by KeyError")
            watch.fenced(by_client=True)
        assert (idle.member.state, busy.member.state) == (State.GONE, State.UNPROVEN)
        busy.using(0)
        assert await scene.sync() == 0

    play(case)


def test_uses_that_end_before_a_client_knows_of_its_fence_prove_nothing() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection()
        connection.answer = anyio.sleep_forever
        watch = await scene.subscribe(connection)
        watch.using(1)
        watch.member.abandon("the producer fenced it")
        watch.fenced(by_client=False)
        watch.using(0)
        assert watch.member.state is State.UNPROVEN

    play(case)


def test_a_device_is_stopped_by_its_client_when_that_is_needed_and_not_before() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        watch = await scene.subscribe(connection, "exit", has_on_fence=True)
        watch.member.abandon("the producer fenced it")
        watch.fenced(by_client=False)
        await anyio.sleep(100)
        assert connection.asked == []
        assert await scene.sync() == 0
        assert connection.asked == [watch.number]

    play(case)


def test_what_a_client_could_not_stop_is_said_and_tried_again_by_the_next_sync() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        refusals: list[Exception] = [OSError(5, "Input/output error"), SpaceClosed("x")]

        async def refuse() -> None:
            if refusals:
                raise refusals.pop()

        connection.answer = refuse
        watch = await scene.subscribe(connection, "exit", has_on_fence=True)
        watch.member.abandon("the producer fenced it")
        for kind in SpaceClosed, OSError:
            (_, cause), *_ = await scene.missing(1.0)
            assert isinstance(cause, kind)
        assert await scene.sync() == 0
        assert len(connection.asked) == 3

    play(case)


def test_a_sync_that_gives_up_does_not_call_off_the_fence() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())

        async def slow() -> None:
            await anyio.sleep(5)

        connection.answer = slow
        watch = await scene.subscribe(connection, "exit", has_on_fence=True)
        watch.member.abandon("the producer fenced it")
        assert await scene.missing(1.0) != []
        await anyio.sleep(5)
        assert watch.member.state is State.GONE
        assert connection.asked == [watch.number]

    play(case)


def test_without_any_means_a_device_is_missing_until_its_process_has_ended() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        watch = await scene.subscribe(connection, "exit")
        connection.lose()
        (reason, cause), *_ = await scene.missing(60.0)
        assert reason == "is not proven stopped (its connection was closed)"
        assert isinstance(cause, StopUnproven)
        assert cause.args == (watch.name, PEER.pid, "it has no on_fence")
        scene.loop.call_later(2, process.end.set)
        assert await scene.sync() == 2

    play(case)


def test_a_rule_has_a_process_killed_where_nothing_else_stops_it() -> None:
    """Not before a `sync` needs it, not while its client can do it, and one that has stopped is left alone."""

    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        watch = await scene.subscribe(connection, "exit", has_on_fence=True)
        watch.member.abandon("the producer fenced it")
        await scene.sync()
        assert not process.killed
        await scene.subscribe(connection, "exit", has_on_fence=True)
        connection.lose()
        await anyio.sleep(100)
        assert not process.killed
        assert await scene.sync() < 0.1
        assert process.killed

    play(case, may_kill=lambda peer: peer == PEER)


def test_a_process_that_may_not_be_killed_is_missing_with_the_reason() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess(killable=False))
        await scene.subscribe(connection, "exit")
        connection.lose()
        (_, cause), *_ = await scene.missing(1.0)
        assert "may not kill it" in str(cause)

    play(case, may_kill=lambda _: True)


def test_a_rule_has_a_process_killed_that_pins_something_beyond_its_lease() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        (await scene.subscribe(connection)).using(1)
        connection.lose()
        await scene.sync()
        assert process.killed
        assert scene.loop.time() > connection.lease_end

    play(case, may_kill=lambda _: True)


def test_who_cannot_be_seen_cannot_promise_to_stop_with_its_process() -> None:
    async def case(scene: Scene) -> None:
        with pytest.raises(ExitRefused):
            await scene.subscribe(scene.connection(Peer(names=("vm1",))), "exit")

    play(case)


# -- holders -----------------------------------------------------------------------

HOLDER: Final = 5000


class Machine:
    """The processes that can be named as holders, and who names them."""

    def __init__(self) -> None:
        self.back_end = FakeProcess(HOLDER)
        self.processes = {HOLDER: self.back_end}

    def said(self, pid: int, teller: int) -> Process | None:
        """Stand in for `process_said`."""
        assert teller == PEER.pid
        if pid < HOLDER:
            raise NoCredentials(f"{pid} is a thread, and no process")
        process = self.processes.get(pid)
        return None if process is None or process.ended else process.another()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr("iommubus.service.proof.keeping.process_said", machine.said)
    return machine


def test_who_was_killed_counts_until_its_holder_has_ended_as_well(machine: Machine) -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        await scene.subscribe(connection, "exit", holder=HOLDER)
        connection.lose()
        ((_, early),) = await scene.missing(1.0)
        assert f"nor before {HOLDER} has" in str(early)
        process.end.set()
        await anyio.sleep(1)
        ((_, cause),) = await scene.missing(1.0)
        assert isinstance(cause, StopUnproven)
        assert cause.pid == HOLDER
        assert f"its own, {PEER.pid}, has" in cause.reason
        scene.loop.call_later(1.5, machine.back_end.end.set)
        await anyio.sleep(1.5)
        await anyio.lowlevel.checkpoint()
        assert await scene.sync() == 0
        assert machine.back_end.watchers == process.watchers == 0

    play(case)


def test_the_end_of_a_holder_alone_proves_nothing(machine: Machine) -> None:
    """What it was given its subscriber may have given to others, or may give."""

    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        watch = await scene.subscribe(connection, "exit", holder=HOLDER)
        machine.back_end.end.set()
        await anyio.sleep(1)
        connection.lose()
        assert await scene.missing(1.0) != []
        assert watch.member.state is State.UNPROVEN
        process.end.set()
        await anyio.sleep(1)
        assert await scene.sync() == 0

    play(case)


def test_a_holder_that_has_ended_before_is_in_nobodys_way(machine: Machine) -> None:
    async def case(scene: Scene) -> None:
        machine.back_end.end.set()
        process = FakeProcess()
        connection = scene.connection(process=process)
        watch = await scene.subscribe(connection, "exit", holder=HOLDER)
        assert watch.keeping is None
        process.end.set()
        connection.lose()
        await anyio.sleep(1)
        assert await scene.sync() == 0

    play(case)


def test_what_proves_without_a_process_proves_with_a_holder(machine: Machine) -> None:
    """Leaving clean, an `on_fence` that returned, and coming back; then nobody watches it any more."""

    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        clean, fenced, back = [
            await scene.subscribe(connection, "exit", has_on_fence=True, holder=HOLDER) for _ in range(3)
        ]
        assert machine.back_end.watchers == 1
        clean.member.leave()
        clean.look()
        fenced.member.abandon("fenced")
        fenced.fenced(by_client=False)
        scene.proof.replace(scene.connection(process=connection.process), back.number)
        assert await scene.sync() == 0
        assert connection.asked == [fenced.number]
        await anyio.sleep(1)
        assert machine.back_end.watchers == 0

    play(case)


def test_a_rule_has_nobody_killed_but_who_connected(machine: Machine) -> None:
    """A client could name anybody."""

    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        await scene.subscribe(connection, "exit", holder=HOLDER)
        connection.lose()
        assert await scene.missing(1.0) != []
        assert process.killed
        assert not machine.back_end.killed
        machine.back_end.end.set()
        await anyio.sleep(1)
        assert await scene.sync() == 0

    play(case, may_kill=lambda _: True)


@pytest.mark.usefixtures("machine")
def test_a_holder_that_cannot_be_seen_is_refused_and_leaves_nothing() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        with pytest.raises(ExitRefused, match="is a thread"):
            await scene.subscribe(connection, "exit", holder=17)
        await anyio.sleep(1)
        assert (len(scene.proof.watches), process.watchers) == (0, 0)
        await scene.subscribe(connection, "exit", holder=HOLDER)
        with pytest.raises(ExitRefused, match="is a thread"):
            await scene.subscribe(connection, "exit", holder=17)
        assert (len(scene.proof.watches), process.watchers) == (1, 1)

    play(case)


def test_a_peer_names_no_more_holders_than_there_are_descriptors_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iommubus.service.proof.keeping.LIMIT", 2)
    machine.processes.update({pid: FakeProcess(pid) for pid in range(HOLDER + 1, HOLDER + 3)})

    async def case(scene: Scene) -> None:
        one, other = [scene.connection(process=FakeProcess()) for _ in range(2)]
        for pid in HOLDER, HOLDER + 1, HOLDER + 1:
            await scene.subscribe(one, "exit", holder=pid)
        one.lose()
        with pytest.raises(LimitReached):
            await scene.subscribe(other, "exit", holder=HOLDER + 2)
        await scene.subscribe(other, "exit", holder=HOLDER)
        assert [process.watchers for process in machine.processes.values()] == [1, 1, 0]

    play(case)
    assert [process.watchers for process in machine.processes.values()] == [0, 0, 0]


def test_a_number_that_another_process_has_by_now_is_another_holder(machine: Machine) -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        connection = scene.connection(process=process)
        old = await scene.subscribe(connection, "exit", holder=HOLDER)
        again = machine.processes[HOLDER] = FakeProcess(HOLDER)
        again.start += 1
        new = await scene.subscribe(connection, "exit", holder=HOLDER)
        process.end.set()
        connection.lose()
        machine.back_end.end.set()
        await anyio.sleep(1)
        assert (old.member.state, new.member.state) == (State.GONE, State.UNPROVEN)
        again.end.set()
        await anyio.sleep(1)
        assert new.member.state is State.GONE

    play(case)


# -- coming back -------------------------------------------------------------------


def test_who_is_back_has_dropped_everything() -> None:
    async def case(scene: Scene) -> None:
        process = FakeProcess()
        old, new = scene.connection(process=process), scene.connection(process=process)
        lease, hardware = await scene.subscribe(old), await scene.subscribe(old, "exit")
        lease.using(1)
        old.lose()
        scene.proof.replace(new, lease.number)
        scene.proof.replace(new, hardware.number)
        scene.proof.replace(new, 4711)
        assert await scene.sync() == 0
        assert scene.proof.count(new) == 0

    play(case)


def test_nobody_speaks_for_another() -> None:
    async def case(scene: Scene) -> None:
        old = scene.connection()
        watch = await scene.subscribe(old)
        old.lose()
        for other in Peer(4712, 1000, (1000,)), Peer(4711, 1001, (1001,)), Peer():
            scene.proof.replace(scene.connection(other), watch.number)
        assert watch.member.state is State.UNPROVEN

    play(case)


def test_an_old_connection_that_is_half_dead_can_be_replaced() -> None:
    async def case(scene: Scene) -> None:
        old, new = scene.connection(), scene.connection()
        watch = await scene.subscribe(old)
        scene.proof.replace(new, watch.number)
        assert watch.member.state is State.GONE
        assert await scene.sync() == 0

    play(case)


def test_what_lost_connections_hold_counts_against_their_peer() -> None:
    async def case(scene: Scene) -> None:
        old, new = scene.connection(), scene.connection()
        other = scene.connection(Peer(4712, 1001, (1001,)))
        for connection in old, old, new, other:
            await scene.subscribe(connection)
        old.lose()
        assert [scene.proof.count(each) for each in (new, other)] == [3, 1]
        await anyio.sleep(LEASE + 1)
        assert [scene.proof.count(each) for each in (new, other)] == [1, 1]

    play(case)


# -- the record ------------------------------------------------------------------------


class FullDisk(Disk):
    """A disk that takes nothing."""

    def create(self, path: str) -> int:
        raise OSError(28, "No space left on device", path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "leases")


def test_the_record_says_who_has_to_be_waited_for_and_forgets_who_let_go(path: str) -> None:
    record = Record(path, BOOT)
    process = ExitMember(PEER.pid, 100 * PEER.pid, "2")

    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        await scene.subscribe(connection)
        assert load(path, BOOT) == Granted(BOOT, LEASE)
        hardware = await scene.subscribe(connection, "exit")
        assert load(path, BOOT) == Granted(BOOT, LEASE, (process,))
        hardware.member.leave()
        hardware.look()
        await anyio.sleep(1)
        assert load(path, BOOT) == Granted(BOOT, LEASE)
        await scene.subscribe(connection, "exit")

    play(case, record=record)
    assert load(path, BOOT) == Granted(BOOT, LEASE, (ExitMember(PEER.pid, 100 * PEER.pid, "3"),))
    record.close()


def test_the_record_does_not_name_who_was_replaced_meanwhile(path: str) -> None:
    record = Record(path, BOOT)

    async def case(scene: Scene) -> None:
        old = scene.connection(process=FakeProcess())
        hardware = await scene.subscribe(old, "exit")
        scene.proof.replace(scene.connection(process=old.process), hardware.number)
        await anyio.sleep(1)
        await scene.proof.remember(hardware)  # by a word of the old connection that comes late

    play(case, record=record)
    assert load(path, BOOT).exits == ()
    record.close()


def test_nobody_is_confirmed_whom_the_record_does_not_name(path: str) -> None:
    record = Record(path, BOOT, FullDisk())

    async def case(scene: Scene) -> None:
        assert scene.proof.health(scene.loop.time()) == []
        with pytest.raises(LeasesUnwritable):
            await scene.subscribe(scene.connection())
        assert "No space left" in scene.proof.health(scene.loop.time())[0]
        assert scene.proof.reasons(scene.loop.time()) == []

    play(case, record=record)
    record.close()


def test_a_daemon_without_a_past_has_nothing_to_wait_for(path: str) -> None:
    record = Record(path, BOOT)

    async def case(scene: Scene) -> None:
        assert scene.proof.reasons(scene.loop.time()) == []
        await scene.proof.wait_recovered()

    play(case, record=record)
    play(case)
    record.close()


def test_leases_of_before_are_waited_for_and_then_settled(path: str) -> None:
    Path(path).write_bytes(encode(Granted(BOOT, 60.0)))
    record = Record(path, BOOT)

    async def case(scene: Scene) -> None:
        start = scene.loop.time()
        await scene.proof.grant((await scene.subscribe(scene.connection())), LEASE)
        assert scene.proof.reasons(start) == ["leases of before the restart run for another 60 s"]
        await scene.proof.wait_recovered()
        assert start + 60 < scene.loop.time() < start + 60.1
        await anyio.sleep(1)
        assert load(path, BOOT) == Granted(BOOT, LEASE)
        assert scene.proof.health(scene.loop.time()) == []

    play(case, record=record)
    record.close()


def test_a_restart_waits_for_processes_that_are_neither_back_nor_gone(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but the same process can say that it is back."""
    gone, back, ended = (ExitMember(4711 + at, 100 * (4711 + at), str(at)) for at in range(3))
    also = ExitMember(back.pid, back.start, "9")
    Path(path).write_bytes(encode(Granted(BOOT, 0.0, (gone, back, ended, also))))
    record = Record(path, BOOT)
    processes: dict[int, FakeProcess] = {}
    tries: list[int] = []

    def again(pid: int, start: int) -> Process | None:
        assert start == 100 * pid
        tries.append(pid)
        if tries.count(pid) == 1:
            raise OSError(24, "Too many open files")
        return processes[pid].another() if pid in processes else None

    monkeypatch.setattr("iommubus.service.proof.recovering.process_again", again)

    async def case(scene: Scene) -> None:
        processes.update({member.pid: FakeProcess(member.pid) for member in (back, ended)})
        await anyio.sleep(5)
        assert len(scene.proof.reasons(scene.loop.time())) == 3  # one has ended while no daemon ran
        for process in None, FakeProcess(ended.pid), Process(back.pid, 1, -1):
            scene.proof.replace(scene.connection(process=process), int(back.subscription))
        assert len(scene.proof.reasons(scene.loop.time())) == 3
        scene.proof.replace(scene.connection(process=FakeProcess(back.pid)), int(back.subscription))
        assert len(scene.proof.reasons(scene.loop.time())) == 2
        processes[ended.pid].end.set()
        await anyio.sleep(1)
        assert scene.proof.reasons(scene.loop.time()) != []
        assert load(path, BOOT) == Granted(BOOT, 0.0, (also,))
        processes[back.pid].end.set()
        await scene.proof.wait_recovered()

    play(case, record=record)
    assert load(path, BOOT) == Granted(BOOT)
    record.close()


@pytest.mark.usefixtures("machine")
def test_the_record_says_the_holder_and_a_restart_waits_for_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(path, BOOT)

    async def before(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())
        left = await scene.subscribe(connection, "exit", holder=HOLDER)
        await scene.subscribe(connection, "exit", holder=HOLDER)
        left.member.leave()
        left.look()
        await anyio.sleep(1)

    play(before, record=record)
    record.close()
    kept = ExitMember(PEER.pid, 100 * PEER.pid, "2", HOLDER, 100 * HOLDER)
    assert load(path, BOOT).exits == (kept,)
    processes = {pid: FakeProcess(pid) for pid in (PEER.pid, HOLDER)}

    def again(pid: int, start: int) -> Process:
        assert start == 100 * pid
        return processes[pid].another()

    monkeypatch.setattr("iommubus.service.proof.recovering.process_again", again)
    record = Record(path, BOOT)

    async def after(scene: Scene) -> None:
        for pid in PEER.pid, HOLDER:
            await anyio.sleep(1)
            assert scene.proof.reasons(scene.loop.time()) == [f"{kept} is neither back nor gone since the restart"]
            processes[pid].end.set()
        await scene.proof.wait_recovered()

    play(after, record=record)
    assert load(path, BOOT) == Granted(BOOT)
    record.close()


def test_processes_are_let_go_of_when_nothing_needs_them() -> None:
    processes: list[FakeProcess] = []

    async def case(scene: Scene) -> None:
        process = FakeProcess()
        processes.append(process)
        connection = scene.connection(process=process)
        for _ in range(3):
            watches = [await scene.subscribe(connection, stops) for stops in ("lease", "exit")]
            assert process.watchers == 1
            for watch in watches:
                watch.member.leave()
                watch.look()
            await anyio.sleep(1)
            assert process.watchers == 0
        await scene.subscribe(connection)
        assert process.watchers == 1

    play(case)
    assert processes[0].watchers == 0


def test_an_error_that_is_no_refusal_reaches_who_needs_the_proof() -> None:
    async def case(scene: Scene) -> None:
        connection = scene.connection(process=FakeProcess())

        async def fail() -> None:
            raise ValueError("no such thing")

        connection.answer = fail
        watch = await scene.subscribe(connection, "exit", has_on_fence=True)
        watch.member.abandon("the producer fenced it")
        (_, cause), *_ = await scene.missing(1.0)
        assert isinstance(cause, ValueError)

    play(case)
