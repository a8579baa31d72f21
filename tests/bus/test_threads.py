"""Producers in other threads: order, results, errors, and that nobody waits for ever."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from anyio.abc import TaskStatus

from iommubus import (
    AddressSpace,
    Bus,
    Cap,
    DevIotlbUnmap,
    Event,
    Iotlb,
    IovaRange,
    Lost,
    Map,
    Mapping,
    Mirror,
    Notifier,
    NotifierFailed,
    NotMapped,
    Perm,
    PublisherClosed,
    ThreadPublisher,
    ThreadSpace,
    Unmap,
)
from iommubus.bus import threads
from iommubus.bus.soon import soon_in_this_loop
from iommubus.bus.space import LocalSpace
from iommubus.errors import (
    BusClosed,
    EndpointClosed,
    LoopThread,
    NotOffered,
    Overlap,
    SpaceClosed,
    Straddle,
    SyncFailed,
    UnknownName,
    WrongThread,
)
from tests.actors import PAGE, SOON, TARGET, ask, map_page, mappings, open_space, settle, verdict
from tests.loops import every_loop, running_loop

WAIT: Final = 30.0
"""Seconds after which a thread that has not ended never will."""

FOREVER: Final = 3600.0
"""Seconds that a `sync` gets whose deadline must not be what ends it."""

CPUS: Final = 4
PAGES: Final = 64
"""How many pages each CPU has for itself."""

LIVE: Final = 8
"""How many of them are mapped at a time, once it runs."""

EVENTS: Final = {"asyncio": 100_000, "uvloop": 10_000, "trio": 10_000}
"""Events of all CPUs together: the full number once, for it takes ten seconds."""


class Worker(threading.Thread):
    """A thread that keeps what its work returned or raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: object = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error


async def ended(worker: Worker) -> Worker:
    """Wait for a thread to end; a deadlock fails here and does not hang."""
    await anyio.to_thread.run_sync(worker.join, WAIT)
    assert not worker.is_alive()
    return worker


async def outcome(work: Callable[[], object]) -> object:
    """Return or raise what some work in another thread does."""
    worker = await ended(Worker(work))
    if worker.error is not None:
        raise worker.error
    return worker.result


@asynccontextmanager
async def open_machine(**options: Any) -> AsyncGenerator[tuple[Bus, LocalSpace, ThreadPublisher, ThreadSpace], None]:
    """Give a bus with one space, and both as threads see them."""
    async with open_space(**options) as (bus, space), bus.in_thread() as machine:
        yield bus, space, machine, machine.space("space")


def hammer(space: ThreadSpace, page: int) -> None:
    """Map and unmap a page until that is refused."""
    while True:
        space.map(page * PAGE, PAGE, TARGET, Perm.RW)
        space.unmap(page * PAGE, PAGE)


async def busy(space: LocalSpace) -> None:
    """Wait until other threads have published something."""
    while space.seq < 100:
        await settle()


def note_posts(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set once a call is on its way into the loop of a publisher that is entered later."""
    posted = threading.Event()

    def soon_and_noted() -> Callable[[Callable[[], object]], None]:
        soon = soon_in_this_loop()

        def post(step: Callable[[], object]) -> None:
            soon(step)
            posted.set()

        return post

    monkeypatch.setattr(threads, "soon_in_this_loop", soon_and_noted)
    return posted


# -- the same methods ----------------------------------------------------------


def test_a_thread_has_every_method_of_a_space_with_the_same_parameters() -> None:
    promised = {name: value for name, value in vars(AddressSpace).items() if getattr(value, "__isabstractmethod__", 0)}
    assert promised
    for name, method in promised.items():
        there = getattr(ThreadSpace, name)
        assert list(inspect.signature(there).parameters) == list(inspect.signature(method).parameters), name
        assert not inspect.iscoroutinefunction(there)


@every_loop
async def test_each_call_does_and_returns_what_the_space_does() -> None:
    async with open_machine(offers=Cap.ALL) as (bus, space, machine, threaded), bus.observe() as observer:
        assert (threaded.name, threaded.offers) == ("space", Cap.ALL)

        def produce() -> list[object]:
            threaded.map(0, PAGE, TARGET, Perm.RW)
            threaded.remap(0, PAGE, TARGET, Perm.R)
            threaded.apply(Mapping(page * PAGE, page * PAGE + PAGE - 1, TARGET, Perm.W) for page in (1, 2, 3))
            threaded.apply([IovaRange(3 * PAGE, 4 * PAGE - 1)])
            removed = threaded.unmap(0, PAGE)
            threaded.invalidate_device(0, PAGE)
            counters = threaded.statistics()
            rest = threaded.unmap_all()
            threaded.drain()
            reports = threaded.sync(), machine.sync(), machine.sync("sp*", timeout=1.0)
            return [list(removed), counters.mappings, list(rest), [report.outcomes for report in reports]]

        assert await outcome(produce) == [
            [Mapping(0, PAGE - 1, TARGET, Perm.R)],
            2,
            [Mapping(page * PAGE, page * PAGE + PAGE - 1, TARGET, Perm.W) for page in (1, 2)],
            [(), (), ()],
        ]
        assert mappings(space) == []
        seen = [await anext(aiter(observer)) for _ in range(space.seq)]
        assert [type(event) for event in seen] == [Map, Unmap, Map, Map, Map, Map, Unmap, Unmap, DevIotlbUnmap, Unmap]
        await outcome(threaded.close)
        assert bus.spaces() == ()
        with pytest.raises(SpaceClosed):
            await outcome(partial(threaded.unmap, 0, PAGE))


@every_loop
async def test_a_thread_fences_by_name_and_by_handle() -> None:
    async with open_machine() as (bus, _, _, threaded):
        for stops, proven in (("lease", True), ("exit", False)):
            subscription = bus.subscribe("space", Cap.IOTLB, stops=stops, name=stops)  # type: ignore[arg-type]
            await subscription.__aenter__()
            await outcome(partial(threaded.remap, 0, PAGE, TARGET, Perm.R))
            await anext(aiter(subscription))
            assert await outcome(partial(threaded.fence, stops if proven else subscription)) is proven
            assert subscription.fenced
            await subscription.close()


@every_loop
async def test_what_makes_changes_is_called_in_the_thread_that_gave_it() -> None:
    """So it may call the space itself, and may block."""
    async with open_machine() as (_, space, _, threaded):

        def changes() -> Any:
            threaded.map(0, PAGE, TARGET, Perm.R)
            yield IovaRange(0, PAGE - 1)

        await outcome(lambda: threaded.apply(changes()))
        assert (mappings(space), space.seq) == ([], 2)


@every_loop
async def test_a_space_is_found_by_name_in_any_thread() -> None:
    async with open_machine() as (_, _, machine, _):
        found = await outcome(partial(machine.space, "space"))
        assert isinstance(found, ThreadSpace)
        assert found.name == "space"
        with pytest.raises(UnknownName, match="no space is named 'other'; there are space"):
            machine.space("other")
        with pytest.raises(UnknownName):
            await outcome(partial(machine.space, "other"))
        with pytest.raises(UnknownName):
            await outcome(partial(machine.sync, "other"))


@every_loop
async def test_a_thread_moves_endpoints() -> None:
    async with open_machine() as (bus, space, machine, there):
        endpoint = await bus.create_endpoint("device")
        places: list[object] = []
        for move in partial(there.attach, endpoint), partial(machine.detach, endpoint):
            await outcome(move)
            places.append(endpoint.space)
        assert places == [space, None]
        await endpoint.close()
        with pytest.raises(EndpointClosed):
            await outcome(partial(there.attach, endpoint))


@every_loop
async def test_a_thread_maps_into_a_memory() -> None:
    async with open_machine() as (bus, space, _, there):
        ram = await bus.add_memory("ram", 2 * PAGE)
        await outcome(partial(there.map, 0, PAGE, PAGE, Perm.R, memory=ram))
        await outcome(partial(there.remap, 0, PAGE, 0, Perm.R, memory=ram))
        assert mappings(space) == [Mapping(0, PAGE - 1, 0, Perm.R, ram)]


# -- order, and no loss ----------------------------------------------------------


class Cpu:
    """A CPU of a guest: it maps in its own window, and unmaps the oldest pages."""

    def __init__(self, space: ThreadSpace, machine: ThreadPublisher, number: int, events: int) -> None:
        self.number = number
        self._space = space
        self._machine = machine
        self._events = events
        self.called: list[tuple[type[Event], int]] = []
        self.syncs = 0

    def run(self) -> None:
        for step in range(self._events // 2 + LIVE // 2):
            self._map(step)
            if step >= LIVE:
                self._unmap(step - LIVE)
            if step % 500 == 0:
                self._sync()
        self._sync()

    def _iova(self, step: int) -> int:
        return (self.number * PAGES + step % PAGES) * PAGE

    def _map(self, step: int) -> None:
        self._space.map(self._iova(step), PAGE, TARGET + step * PAGE, Perm.RW)
        self.called.append((Map, self._iova(step)))

    def _unmap(self, step: int) -> None:
        (piece,) = self._space.unmap(self._iova(step), PAGE)
        assert piece == Mapping(self._iova(step), self._iova(step) + PAGE - 1, TARGET + step * PAGE, Perm.RW)
        self.called.append((Unmap, self._iova(step)))

    def _sync(self) -> None:
        report = self._space.sync(WAIT) if self.number % 2 else self._machine.sync(timeout=WAIT)
        assert [entry.subscriber for entry in report.outcomes] == ["shadower", "cacher"]
        self.syncs += 1


async def shadow(bus: Bus, *, task_status: TaskStatus[Mirror]) -> None:
    async with bus.subscribe("space", Cap.IOTLB, name="shadower") as events:
        mirror = Mirror(events)
        task_status.started(mirror)
        await mirror.run()


async def cache(bus: Bus, *, task_status: TaskStatus[Iotlb]) -> None:
    """Look up, at every UNMAP, the page that the same CPU mapped after that one."""
    async with bus.subscribe("space", Cap.UNMAP, name="cacher") as events:
        iotlb = Iotlb(events)
        task_status.started(iotlb)
        async for event in events:
            iotlb.apply(event)
            with suppress(NotMapped):
                await iotlb.translate(event.iova + PAGE)


async def watch(bus: Bus, seen: list[Event], *, task_status: TaskStatus[None]) -> None:
    async with bus.observe(capacity=max(EVENTS.values()) + 1) as events:
        task_status.started()
        async for event in events:
            assert not isinstance(event, Lost)
            seen.append(event)


@every_loop
async def test_four_cpus_lose_nothing_and_keep_their_order() -> None:
    """A mirror and a cache follow meanwhile, and every `sync` counts both."""
    count = EVENTS[running_loop()]
    seen: list[Event] = []
    cpus: list[Cpu] = []
    async with anyio.create_task_group() as tasks, open_machine() as (bus, space, machine, threaded):
        mirror = await tasks.start(shadow, bus)
        iotlb = await tasks.start(cache, bus)
        await tasks.start(watch, bus, seen)
        cpus += [Cpu(threaded, machine, number, count // CPUS) for number in range(CPUS)]
        for worker in [Worker(cpu.run) for cpu in cpus]:
            await ended(worker)
            assert worker.error is None

        await space.sync()
        assert list(mirror) == mappings(space)
        assert len(mirror) == CPUS * LIVE
        for page in range(CPUS * PAGES):
            entry = iotlb.lookup(page * PAGE)
            assert entry is None or entry == mirror.lookup(page * PAGE)
        counters = space.statistics()
        assert counters.seq == count == sum(counters.published.values())
        assert (counters.syncs, counters.failed_syncs) == (sum(cpu.syncs for cpu in cpus) + 1, 0)

    assert [event.seq for event in seen] == list(range(1, count + 2))  # the last is the end of the space
    order: dict[int, list[tuple[type[Event], int]]] = {number: [] for number in range(CPUS)}
    for event in seen[:count]:
        order[event.iova // PAGE // PAGES].append((type(event), event.iova))
    for cpu in cpus:
        assert order[cpu.number] == cpu.called


# -- errors ------------------------------------------------------------------------


@every_loop
async def test_an_error_arrives_in_the_thread_that_caused_it() -> None:
    async with open_machine() as (_, space, _, threaded):
        map_page(space, 0, 2)
        good = [Worker(partial(threaded.map, page * PAGE, PAGE, TARGET, Perm.R)) for page in (4, 5)]
        with pytest.raises(Overlap) as overlap:
            await outcome(partial(threaded.map, 0, PAGE, TARGET, Perm.R))
        with pytest.raises(Straddle):
            await outcome(partial(threaded.unmap, 0, PAGE))
        with pytest.raises(NotOffered):
            await outcome(partial(threaded.invalidate_device, 0, PAGE))
        with pytest.raises(UnknownName):
            await outcome(partial(threaded.fence, "nobody"))
        assert (overlap.value.held_first, overlap.value.held_last) == (0, 2 * PAGE - 1)
        for worker in good:
            assert (await ended(worker)).error is None
        assert len(mappings(space)) == 3


@every_loop
async def test_a_notifier_that_raises_does_so_in_the_producers_thread() -> None:
    async with open_machine() as (_, space, _, threaded):
        broken = ValueError("broken")

        def notify(_: Event) -> None:
            raise broken

        registration = space.register(Notifier(notify, Cap.IOTLB))
        with pytest.raises(NotifierFailed) as failed:
            await outcome(partial(threaded.map, 0, PAGE, TARGET, Perm.R))
        assert failed.value.exceptions == (broken,)
        registration.close()


@every_loop
async def test_a_blocking_sync_fails_at_its_deadline_with_the_old_pieces() -> None:
    """Law 1: a subscriber that never acknowledges is named, with what it may still use."""
    async with open_machine() as (bus, _, machine, threaded), bus.subscribe("space", Cap.IOTLB, name="idle") as events:

        def produce() -> None:
            threaded.map(0, PAGE, TARGET, Perm.RW)

        await outcome(produce)
        assert isinstance(await anext(aiter(events)), Map)
        await outcome(partial(threaded.unmap, 0, PAGE))
        for sync in (threaded.sync, machine.sync):
            with pytest.raises(SyncFailed) as caught:
                await outcome(partial(sync, timeout=SOON))
            (missing,) = verdict(caught.value).missing
            assert missing.reason == f"did not acknowledge within {SOON:g} s"
            assert (missing.subscriber, list(missing.pieces)) == ("idle", [Mapping(0, PAGE - 1, TARGET, Perm.RW)])


@every_loop
async def test_a_blocking_sync_stops_no_other_thread_and_not_the_loop() -> None:
    async with open_machine() as (bus, space, _, threaded), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        map_page(space, 0)
        await anext(stream)
        space.unmap(0, PAGE)
        waiting = Worker(partial(threaded.sync, FOREVER))
        await outcome(partial(threaded.map, PAGE, PAGE, TARGET, Perm.R))
        assert waiting.is_alive()
        assert isinstance(await anext(stream), Unmap)
        assert isinstance(await anext(stream), Map)
        await ask(stream)
        assert (await ended(waiting)).error is None


@every_loop
async def test_the_thread_of_the_bus_is_refused_and_does_not_wait_for_itself() -> None:
    async with open_machine() as (_, space, machine, threaded):
        calls: list[Callable[[], object]] = [
            partial(threaded.map, 0, PAGE, TARGET, Perm.R),
            partial(threaded.unmap, 0, PAGE),
            threaded.unmap_all,
            partial(threaded.remap, 0, PAGE, TARGET, Perm.R),
            partial(threaded.apply, ()),
            partial(threaded.invalidate_device, 0, PAGE),
            threaded.sync,
            threaded.drain,
            partial(threaded.fence, "nobody"),
            threaded.close,
            threaded.statistics,
            machine.sync,
        ]
        for call in calls:
            with pytest.raises(LoopThread) as caught:
                call()
            assert caught.value.owner == threading.get_ident()
        assert space.seq == 0


# -- the end -------------------------------------------------------------------------


class BodyError(Exception):
    """What the body of a block raises."""


def leaving(*, fails: bool) -> AbstractContextManager[object]:
    """Expect that a block ends with its own error, with no group around it, or with none."""
    return pytest.raises(BodyError) if fails else nullcontext()


@pytest.mark.parametrize("fails", [False, True], ids=["by its last line", "by an exception"])
@every_loop
async def test_leaving_the_block_ends_every_call_and_every_later_one(fails: bool) -> None:
    """Some threads hammer, others are in a `sync` or a `drain` that nothing else would end."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=2) as events:
        for page in range(4):
            map_page(space, page)
        await anext(aiter(events))
        space.unmap(0, PAGE)
        with leaving(fails=fails):
            async with bus.in_thread() as machine:
                threaded = machine.space("space")
                workers = [Worker(partial(hammer, threaded, page)) for page in (10, 11)]
                workers += [Worker(partial(threaded.sync, FOREVER)), Worker(partial(machine.sync, timeout=FOREVER))]
                workers += [Worker(threaded.drain)]
                await busy(space)
                assert all(worker.is_alive() for worker in workers)
                if fails:
                    raise BodyError
        for worker in workers:
            assert isinstance((await ended(worker)).error, PublisherClosed)
        last = space.seq
        for late in (threaded.unmap_all, threaded.sync, machine.sync, partial(machine.space, "space")):
            with pytest.raises(PublisherClosed):
                await outcome(late)
            with pytest.raises(PublisherClosed):
                late()
        assert space.seq == last


def map_first(space: ThreadSpace) -> None:
    space.map(0, PAGE, TARGET, Perm.R)


def close_it(space: ThreadSpace) -> None:
    space.close()


@pytest.mark.parametrize("call", [map_first, close_it])
@every_loop
async def test_a_call_that_the_end_overtakes_changes_nothing(
    call: Callable[[ThreadSpace], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on its way into the loop; the loop comes to it after the block, and leaves it."""
    posted = note_posts(monkeypatch)
    async with open_space() as (bus, space):
        async with bus.in_thread() as machine:
            worker = Worker(partial(call, machine.space("space")))
            assert posted.wait(WAIT)  # in the loop's own thread, so that it does not come to it
        assert isinstance((await ended(worker)).error, PublisherClosed)
        await settle()
        assert (space.seq, bus.spaces()) == (0, (space,))


@every_loop
async def test_a_call_that_slips_past_the_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block ends at the worst moment: the thread is about to enter its call."""
    begun, over = threading.Event(), threading.Event()

    class SlowFuture(Future[None]):
        def __init__(self) -> None:
            begun.set()
            assert over.wait(WAIT)
            super().__init__()

    async with open_space() as (bus, space):
        async with bus.in_thread() as machine:
            monkeypatch.setattr(threads, "Future", SlowFuture)
            worker = Worker(partial(map_first, machine.space("space")))
            assert begun.wait(WAIT)
        over.set()
        assert isinstance((await ended(worker)).error, PublisherClosed)
        assert space.seq == 0


@every_loop
async def test_cancelling_the_block_frees_the_threads_that_it_waits_for() -> None:
    """A body that waits for its threads cannot be cancelled; they end, and so does it."""
    workers: list[Worker] = []
    async with open_space() as (bus, space), anyio.create_task_group() as tasks:

        async def host() -> None:
            async with bus.in_thread() as machine:
                threaded = machine.space("space")
                workers.extend(Worker(partial(hammer, threaded, page)) for page in range(CPUS))
                await ended(workers[0])

        tasks.start_soon(host)
        await busy(space)
        tasks.cancel_scope.cancel()
    for worker in workers:
        worker.join(WAIT)
        assert isinstance(worker.error, PublisherClosed)


@pytest.mark.asyncio
async def test_a_task_that_asyncio_cancels_leaves_and_stays_cancelled() -> None:
    async with open_space() as (bus, space):
        workers: list[Worker] = []

        async def host() -> None:
            async with bus.in_thread() as machine:
                workers.append(Worker(partial(hammer, machine.space("space"), 0)))
                await anyio.sleep_forever()

        task = asyncio.create_task(host())
        await busy(space)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await ended(workers[0])).error, PublisherClosed)


@every_loop
async def test_threads_end_first_and_the_block_is_left() -> None:
    """One of them dies of its own error; the others and the loop go on."""
    async with open_machine() as (_, space, _, threaded):

        def die() -> None:
            threaded.map(0, PAGE, TARGET, Perm.R)
            raise ZeroDivisionError

        assert isinstance((await ended(Worker(die))).error, ZeroDivisionError)
        await outcome(partial(threaded.map, PAGE, PAGE, TARGET, Perm.R))
        assert len(mappings(space)) == 2


@every_loop
async def test_a_bus_that_closes_inside_the_block_says_so() -> None:
    async with open_machine() as (bus, space, machine, threaded):
        worker = Worker(partial(hammer, threaded, 0))
        await busy(space)
        await bus.close()
        assert isinstance((await ended(worker)).error, SpaceClosed)
        with pytest.raises(BusClosed):
            await outcome(machine.sync)
        assert await outcome(threaded.sync)
        with pytest.raises(UnknownName):
            await outcome(partial(machine.space, "space"))


def test_a_loop_that_ended_with_the_block_open_answers_nobody() -> None:
    """As when a program stops its loop and walks away."""
    loop = asyncio.new_event_loop()

    async def enter() -> ThreadSpace:
        bus = await Bus().__aenter__()
        await bus.create_space("space")
        machine = await bus.in_thread().__aenter__()
        return machine.space("space")

    threaded = loop.run_until_complete(enter())
    left = asyncio.all_tasks(loop)
    loop.close()
    worker = Worker(partial(threaded.map, 0, PAGE, TARGET, Perm.R))
    worker.join(WAIT)
    assert isinstance(worker.error, PublisherClosed)
    assert len(left) == 1


@every_loop
async def test_a_publisher_that_was_not_entered_serves_nobody() -> None:
    async with open_space() as (bus, _):
        machine = bus.in_thread()
        with pytest.raises(PublisherClosed):
            machine.space("space")
        with pytest.raises(PublisherClosed):
            await outcome(machine.sync)
        with pytest.raises(WrongThread):
            await outcome(bus.in_thread)
        assert "closed, " in repr(machine)
        async with machine:
            assert "open, 0 calls" in repr(machine.space("space"))
    with pytest.raises(BusClosed):
        bus.in_thread()


@every_loop
async def test_calls_that_were_answered_are_forgotten() -> None:
    async with open_machine() as (_, _, machine, threaded):
        await outcome(threaded.sync)
        await outcome(threaded.statistics)
        with pytest.raises(UnknownName):
            await outcome(partial(threaded.fence, "nobody"))
        await settle()
        assert "open, 0 calls" in repr(machine)
