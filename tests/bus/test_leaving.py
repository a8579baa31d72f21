"""Every way to leave, at every moment, for every kind of subscriber: what `sync` says of it.

Law 1: a sync returns when each has acknowledged, left clean or is proven stopped.
Law 7: until an UNMAP is applied, each sync raises with the old targets.
Law 8: who leaves unclean is fenced, and sync raises until it is proven stopped.
"""

import gc
import itertools
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from iommubus import LAST, Bus, Cap, How, Iotlb, IovaRange, Map, Mapping, Mirror, Perm, SyncReport, Unmap
from iommubus.bus.abc import OnFence, Stops
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import Fenced, SubscriptionClosed, SyncFailed, UnknownName
from iommubus.events import KINDS
from tests.actors import (
    PAGE,
    SOON,
    BackendError,
    ask,
    failing_sync,
    forget,
    map_page,
    open_space,
    settle,
    take,
    unmap_page,
)
from tests.loops import every_loop

REPLAY: Final = 1500
"""Mappings that need more than one hand-over."""

CLEAN: Final = ("end", "break", "close")
UNCLEAN: Final = ("exception", "cancellation", "collected", "fenced")
CLOSED: Final = ("space closed", "bus closed")
MOMENTS: Final = ("before", "in hand", "between", "replay", "sync waits")
STOPPERS: Final = ("lease", "exit", "exit with on_fence")


@dataclass
class Story:
    """One subscriber that leaves in one way at one moment."""

    bus: Bus
    space: LocalSpace
    way: str
    moment: str
    stopper: str
    ready: anyio.Event = field(default_factory=anyio.Event)
    leave: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    left: anyio.Event = field(default_factory=anyio.Event)
    stopped: int = 0

    def subscription(self) -> StreamSubscription:
        async def stop() -> None:
            self.stopped += 1

        stops: Stops = "lease" if self.stopper == "lease" else "exit"
        on_fence: OnFence | None = stop if self.stopper == "exit with on_fence" else None
        return self.bus.subscribe("space", Cap.IOTLB, stops=stops, on_fence=on_fence, name="leaver")

    async def run(self) -> None:
        """Be the consumer."""
        with suppress(BackendError, Fenced), self.scope:
            if self.way == "collected":
                await self.be_collected()
            else:
                async with self.subscription() as events:
                    await self.come_to(events)
                    await self.go(events)
        self.left.set()

    async def be_collected(self) -> None:
        events = self.subscription()
        await events.__aenter__()
        await self.come_to(events)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del events
            gc.collect()

    async def come_to(self, events: StreamSubscription) -> None:
        """Come to the moment, and wait there to be told to leave."""
        stream = aiter(events)
        if self.moment != "before":
            await anext(stream)
        if self.moment == "between":
            await ask(stream)
        del stream
        self.ready.set()
        await self.leave.wait()

    async def go(self, events: StreamSubscription) -> None:
        if self.way == "break":
            async for _ in events:
                break
        elif self.way == "exception":
            raise BackendError
        elif self.way == "close":
            await events.close()
        elif self.way in {"fenced", *CLOSED}:
            async for _ in events:  # to the end, or until it is told that it is fenced
                pass

    async def make_it_leave(self) -> None:
        if self.way == "fenced":
            await self.space.fence("leaver")
        elif self.way == "space closed":
            await self.space.close()
        elif self.way == "bus closed":
            await self.bus.close()
        elif self.way == "cancellation":
            self.scope.cancel()
        self.leave.set()

    @property
    def proven(self) -> bool:
        """Whether a sync after it left is to succeed."""
        return self.way not in UNCLEAN or self.moment == "before" or self.stopper != "exit"

    @property
    def how(self) -> How:
        """How a sync that waits for it is to see it leave."""
        if self.way in CLOSED:
            return How.ACKNOWLEDGED
        return How.LEFT if self.way in CLEAN else How.STOPPED


async def tell(story: Story) -> None:
    """Map, come to the moment, unmap, leave, and ask `sync`."""
    space = story.space
    for page in range(REPLAY if story.moment == "replay" else 1):
        map_page(space, 2 * page)
    held = Mapping(0, PAGE - 1, 0x8000_0000, Perm.RW)
    outcomes: list[SyncReport | SyncFailed] = []

    async def wait_for_it() -> None:
        try:
            outcomes.append(await space.sync())
        except SyncFailed as failed:
            outcomes.append(failed)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(story.run)
        await story.ready.wait()
        unmap_page(space, 0)
        if story.moment == "sync waits":
            tasks.start_soon(wait_for_it)
            await settle()
            assert not outcomes
        if story.way == "break":
            map_page(space, 9)  # something to break at
        await story.make_it_leave()
        await story.left.wait()
        await settle()

    await judge(story, outcomes, held)


async def judge(story: Story, outcomes: list[SyncReport | SyncFailed], held: Mapping) -> None:
    """Check what the sync said that waited, if one did, and what the next ones say."""
    assert len(outcomes) == (story.moment == "sync waits")
    if story.proven:
        for waited in outcomes:
            assert isinstance(waited, SyncReport)
            assert [outcome.how for outcome in waited.outcomes] == [story.how]
        await story.space.sync()
    else:
        assert all(isinstance(waited, SyncFailed) for waited in outcomes)
        for _ in range(2):  # again and again
            failed = await failing_sync(story.space)
            assert [missing.subscriber for missing in failed.missing] == ["leaver"]
            assert list(failed.missing[0].pieces) == [held]
            assert "not proven stopped" in failed.text
    runs_it = story.stopper == "exit with on_fence" and story.way in UNCLEAN and story.moment != "before"
    assert story.stopped == runs_it


@pytest.mark.parametrize("stopper", STOPPERS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", [*CLEAN, *UNCLEAN, *CLOSED])
@every_loop
async def test_leaving(way: str, moment: str, stopper: str) -> None:
    """Laws 1, 7 and 8: clean is an acknowledgement; unclean needs proof, unless nothing live was handed over."""
    async with open_space() as (bus, space):
        await tell(Story(bus, space, way, moment, stopper))


def test_the_table_of_stories_is_complete() -> None:
    stories = list(itertools.product((*CLEAN, *UNCLEAN, *CLOSED), MOMENTS, STOPPERS))

    assert len(stories) == 9 * 5 * 3


# -- what stops it -----------------------------------------------------------------


async def leave_unclean(bus: Bus, *, on_fence: OnFence | None = None, stops: Stops = "exit") -> StreamSubscription:
    """Take what is mapped, and leave by an exception."""
    subscription = bus.subscribe("space", Cap.IOTLB, stops=stops, on_fence=on_fence, name="leaver")
    with suppress(BackendError):
        async with subscription as events:
            await anext(aiter(events))
            raise BackendError
    return subscription


@every_loop
async def test_on_fence_that_raises_is_named() -> None:
    """Law 8: proof that failed is no proof; its exception is the cause, and the next sync tries again."""
    attempts: list[int] = []

    async def stop() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise BackendError("busy")

    async with open_space() as (bus, space):
        map_page(space, 0)
        await leave_unclean(bus, on_fence=stop)
        for count in (1, 2):
            failed = await failing_sync(space, timeout=5)
            assert isinstance(failed.missing[0].cause, BackendError)
            assert len(attempts) == count
        report = await space.sync()
        assert [outcome.how for outcome in report.outcomes] == [How.STOPPED]
        await space.sync()
        assert len(attempts) == 3


@every_loop
async def test_on_fence_that_hangs_is_cut_off_at_the_deadline() -> None:
    """Law 1: at its deadline at the latest it raises; the next sync runs it again."""
    entered: list[bool] = []
    hang = True

    async def stop() -> None:
        entered.append(hang)
        if hang:
            await anyio.sleep_forever()

    async with open_space() as (bus, space):
        map_page(space, 0)
        await leave_unclean(bus, on_fence=stop)
        failed = await failing_sync(space)
        assert failed.missing[0].subscriber == "leaver"
        hang = False
        await space.sync()
        assert entered == [True, False]


@every_loop
async def test_two_syncs_that_need_on_fence_run_it_once() -> None:
    """Law 8: it is run by the sync that needs it; who needs it too waits for that one."""
    runs: list[str] = []
    go_on = anyio.Event()

    async def stop() -> None:
        runs.append("stop")
        await go_on.wait()

    async with open_space() as (bus, space):
        map_page(space, 0)
        await leave_unclean(bus, on_fence=stop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            tasks.start_soon(space.sync)
            tasks.start_soon(space.fence, "leaver")
            await settle()
            go_on.set()
        assert runs == ["stop"]
        assert space.statistics().syncs == 2


@every_loop
async def test_a_cancelled_sync_leaves_the_proof_to_the_next_one() -> None:
    """Law 8: on_fence that was cancelled proves nothing and is run again, at once by who waits for it."""
    runs: list[str] = []
    hang = True

    async def stop() -> None:
        runs.append("begun")
        if hang:
            await anyio.sleep_forever()
        runs.append("done")

    async with open_space() as (bus, space):
        map_page(space, 0)
        await leave_unclean(bus, on_fence=stop)
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as first:
            first.start_soon(space.sync)
            await settle()
            tasks.start_soon(space.sync)
            await settle()
            hang = False
            first.cancel_scope.cancel()
        assert runs == ["begun", "begun", "done"]


@every_loop
async def test_the_one_who_hangs_hides_nobody() -> None:
    """Law 10: of two who left unclean one cannot be stopped; the other is, and only the first is named."""

    async def stop() -> None:
        await settle()

    async with open_space() as (bus, space):
        map_page(space, 0)
        await leave_unclean(bus, on_fence=anyio.sleep_forever)
        good = bus.subscribe("space", Cap.IOTLB, stops="exit", on_fence=stop, name="good")
        with suppress(BackendError):
            async with good as events:
                await anext(aiter(events))
                raise BackendError
        failed = await failing_sync(space)
        assert [missing.subscriber for missing in failed.missing] == ["leaver"]
        assert space.statistics().unproven == ("leaver",)


@every_loop
async def test_close_mends_an_unclean_leave() -> None:
    """Law 8: whoever calls close() vouches that nothing is in use; also while a sync waits."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        leaver = await leave_unclean(bus)
        async with bus.subscribe("space", Cap.UNMAP) as other:
            stream = aiter(other)
            unmap_page(space, 0)
            await failing_sync(space)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(space.sync)
                await settle()
                await leaver.close()
                await anext(stream)
                await ask(stream)
        assert space.statistics().unproven == ()
        assert space.statistics().syncs == 1


@every_loop
async def test_close_is_harmless_twice_and_before_entering() -> None:
    async with open_space() as (bus, space):
        never = bus.subscribe("space", Cap.IOTLB)
        await never.close()
        await never.close()
        with pytest.raises(SubscriptionClosed):
            await never.__aenter__()
        assert space.statistics().subscriptions == {}


@every_loop
async def test_close_while_it_is_iterated_ends_the_iteration() -> None:
    """Law 1: a closed subscription gets nothing more; who waits for events is told."""
    told: list[str] = []

    async with open_space() as (bus, space):
        map_page(space, 0)
        subscription = bus.subscribe("space", Cap.IOTLB)

        async def consume() -> None:
            try:
                async with subscription as events:
                    async for event in events:
                        told.append(type(event).__name__)  # noqa: PERF401 - one by one
            except SubscriptionClosed:
                told.append("closed")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await settle()
            await subscription.close()
        map_page(space, 1)
        assert told == ["Map", "closed"]
        await space.sync()


@every_loop
async def test_what_is_in_hand_goes_with_the_fence_and_with_close() -> None:
    """Law 8: once fenced it gets no more events, not even those that were handed over already."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        map_page(space, 1)
        async with bus.subscribe("space", Cap.IOTLB) as fenced, bus.subscribe("space", Cap.IOTLB) as closed:
            streams = [aiter(fenced), aiter(closed)]
            for stream in streams:
                await anext(stream)
            assert await space.fence(fenced)
            await closed.close()
            with pytest.raises(Fenced):
                await anext(streams[0])
            with pytest.raises(SubscriptionClosed):
                await anext(streams[1])


# -- fencing by the producer -------------------------------------------------------


@every_loop
async def test_a_fenced_mirror_and_iotlb_refuse_use() -> None:
    """Law 8: what a lease covers is software that asks before each use; from the fence on, it is refused."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        async with bus.subscribe("space", Cap.IOTLB) as shadower, bus.subscribe("space", Cap.UNMAP) as cacher:
            mirror, iotlb = Mirror(shadower), Iotlb(cacher)
            mirror.apply(await anext(aiter(shadower)))
            assert mirror.lookup(0x10).target == 0x8000_0000
            assert (await iotlb.translate(0x10)).target == 0x8000_0000
            answer = await cacher.translate(0x10)

            assert await space.fence(shadower)
            assert await space.fence(cacher.name)

            assert shadower.fenced
            assert cacher.fenced
            assert answer.valid is False
            with pytest.raises(Fenced):
                mirror.lookup(0x10)
            with pytest.raises(Fenced):
                iotlb.lookup(0x10)
            with pytest.raises(Fenced):
                await iotlb.translate(0x10)
            with pytest.raises(Fenced):
                await cacher.translate(0x10)
            with pytest.raises(Fenced, match="the producer fenced it"):
                aiter(shadower)
        unmap_page(space, 0)
        await space.sync()


@every_loop
async def test_fence_wakes_the_sync_that_waits_for_it() -> None:
    """Laws 1 and 8: a sync ends when the one that it waits for is fenced."""
    reports: list[SyncReport] = []

    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="slow") as slow:
        map_page(space, 0)
        await anext(aiter(slow))
        unmap_page(space, 0)

        async def wait() -> None:
            reports.append(await space.sync())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            assert not reports
            assert await space.fence("slow")
        assert [(outcome.subscriber, outcome.how) for outcome in reports[0].outcomes] == [("slow", How.STOPPED)]


@every_loop
async def test_fence_wakes_the_consumer() -> None:
    """Law 8: an iterator that waits for events raises when its subscription is fenced."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="idle") as idle:

        async def consume() -> None:
            with pytest.raises(Fenced, match="the producer fenced it"):
                await anext(aiter(idle))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await settle()
            assert await space.fence(idle)


@every_loop
async def test_fence_says_whether_it_is_proven() -> None:
    """Law 8: without a way to stop it, fence() says no, and nobody else is touched."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, stops="exit", name="device") as device,
        bus.subscribe("space", Cap.IOTLB, name="other") as other,
    ):
        stream = aiter(other)
        map_page(space, 0)
        await anext(aiter(device))
        await anext(stream)
        assert not await space.fence("device")
        assert not await space.fence("device")
        unmap_page(space, 0)
        assert isinstance(await anext(stream), Unmap)
        await ask(stream)
        failed = await failing_sync(space)
        assert [missing.subscriber for missing in failed.missing] == ["device"]
        await device.close()
        await space.sync()
        with pytest.raises(UnknownName):
            await space.fence("device")


@every_loop
async def test_fence_of_a_handle_spares_its_namesake() -> None:
    """Law 10: names need not be unique; a handle means itself, a name means all of that name."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, name="twin") as first,
        bus.subscribe("space", Cap.IOTLB, name="twin") as second,
        bus.subscribe("space", Cap.IOTLB, name="twin") as third,
    ):
        await space.fence(first)
        assert (first.fenced, second.fenced, third.fenced) == (True, False, False)
        await space.fence("twin")
        assert (second.fenced, third.fenced) == (True, True)
        with pytest.raises(UnknownName):
            await space.fence(second)


@every_loop
async def test_wait_current_ends_when_it_is_fenced() -> None:
    """Law 8: who waits for the first replay learns that it will not come."""
    async with open_space() as (bus, space):
        for page in range(REPLAY):
            map_page(space, 2 * page)
        async with bus.subscribe("space", Cap.IOTLB, stops="exit", name="joiner") as joiner:
            await anext(aiter(joiner))

            async def wait() -> None:
                with pytest.raises(Fenced):
                    await joiner.wait_current()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                assert not await space.fence(joiner)
        await joiner.close()


# -- the garbage collector ---------------------------------------------------------


async def hold(subscription: StreamSubscription) -> None:
    await anext(aiter(subscription))


@every_loop
async def test_a_collected_subscription_is_fenced_even_if_warnings_are_errors() -> None:
    """Law 8: the warning is for people; the fence does not depend on it."""
    unraisable: list[object] = []
    async with open_space() as (bus, space):
        map_page(space, 0)
        subscription = bus.subscribe("space", Cap.IOTLB, stops="exit", name="lost")
        await subscription.__aenter__()
        await hold(subscription)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr("sys.unraisablehook", unraisable.append)
            warnings.simplefilter("error")
            del subscription
        assert len(unraisable) == 1
        failed = await failing_sync(space)
        assert "garbage" in failed.missing[0].reason


@every_loop
async def test_a_subscription_collected_in_another_thread_is_abandoned_in_ours() -> None:
    """Law 8: the collector may run in any thread; the bus hears of it in its own, without a call."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        held = [bus.subscribe("space", Cap.IOTLB, stops="exit", name="lost")]
        await held[0].__aenter__()
        await hold(held[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await anyio.to_thread.run_sync(held.clear)
        await settle()
        assert space.statistics().unproven == ("lost",)


@every_loop
async def test_collected_before_anything_was_handed_over_is_no_harm() -> None:
    """Law 8: unless nothing live was ever handed to it."""

    async def nothing(_: StreamSubscription) -> None:
        await checkpoint()

    async with open_space() as (bus, space):
        map_page(space, 0)
        await forget(bus, nothing, stops="exit")
        unmap_page(space, 0)
        await space.sync()


@every_loop
async def test_translations_count_as_handed_over() -> None:
    """Law 8: a cacher is handed translations by asking; leaving unclean it is not forgotten."""

    async def translate(subscription: StreamSubscription) -> None:
        await subscription.translate(0)

    async with open_space() as (bus, space):
        held = map_page(space, 0)
        await forget(bus, translate, caps=Cap.UNMAP, stops="exit", name="cacher")
        unmap_page(space, 0)
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == [held]


@every_loop
async def test_a_translation_ends_with_its_subscription() -> None:
    """Law 5: after leaving, nobody would hand over the UNMAP that ends it; so it is not valid any more."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        async with bus.subscribe("space", Cap.UNMAP) as cacher:
            answer = await cacher.translate(0)
            assert answer.valid
        assert not answer.valid


# -- the bus and the space close ----------------------------------------------------


@every_loop
async def test_a_closed_bus_ends_every_stream_after_the_unmap() -> None:
    """Law 8 and `close`: everyone sees the UNMAP and then the end; DEVIOTLB-only ones a device invalidation."""
    seen: dict[str, list[object]] = {"shadower": [], "device": [], "observer": []}

    async def follow(bus: Bus, name: str, caps: Cap) -> None:
        async with bus.subscribe("space", caps, name=name) as events:
            async for event in events:
                seen[name].append((type(event).__name__, event.first, event.last))

    async def observe(bus: Bus) -> None:
        async with bus.observe("*") as observer:
            seen["observer"] += [type(event).__name__ async for event in observer]

    async with anyio.create_task_group() as tasks, Bus() as bus:
        space = await bus.create_space("space", last=0xFFFF, offers=Cap.ALL)
        map_page(space, 1)
        tasks.start_soon(follow, bus, "shadower", Cap.IOTLB)
        tasks.start_soon(follow, bus, "device", Cap.DEVIOTLB_UNMAP)
        tasks.start_soon(observe, bus)
        await settle()

    assert seen == {
        "shadower": [("Map", PAGE, 2 * PAGE - 1), ("Unmap", 0, 0xFFFF)],
        "device": [("DevIotlbUnmap", 0, 0xFFFF)],
        "observer": ["Unmap"],
    }


@pytest.mark.parametrize("capacity", [1, 100])
@pytest.mark.parametrize("caps", [Cap.UNMAP, Cap.IOTLB, Cap.DEVIOTLB_UNMAP, Cap.ALL])
@every_loop
async def test_closing_tells_nobody_of_a_kind_that_it_did_not_ask_for(caps: Cap, capacity: int) -> None:
    """I4: whether it is behind or not, and alone or not, when the space closes."""
    async with open_space(offers=Cap.ALL) as (bus, space):
        map_page(space, 0)
        async with (
            bus.subscribe("space", caps, capacity=capacity) as idle,
            bus.subscribe("space", caps, capacity=capacity) as busy,
        ):
            stream = aiter(busy)
            await ask(stream)
            for page in (1, 2, 3):
                map_page(space, page)
                unmap_page(space, page)
                space.invalidate_device(0, PAGE)
            await space.close()
            for events in (busy, idle):
                seen = [event async for batch in events.batches() for event in batch]
                assert {KINDS[type(event)] & ~caps for event in seen} <= {Cap(0)}
                if not caps & Cap.MAP:  # a shadower that was given nothing has nothing to let go
                    assert any(event.first == 0 and event.last == LAST for event in seen)


@every_loop
async def test_a_closed_space_can_still_be_synced() -> None:
    """`close`: the memory must not be used again before a sync that succeeds."""
    async with open_space() as (bus, space):
        held = map_page(space, 0)
        async with bus.subscribe("space", Cap.IOTLB, name="slow") as events:
            stream = aiter(events)
            await anext(stream)
            await space.close()
            failed = await failing_sync(space)
            assert list(failed.missing[0].pieces) == [held]
            assert isinstance(await anext(stream), Unmap)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await space.sync()


@every_loop
async def test_a_sync_in_flight_outlives_the_space() -> None:
    """Law 1: closing the space settles nobody; the acknowledgement does."""
    reports: list[SyncReport] = []

    async with open_space() as (bus, space):
        map_page(space, 0)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            stream = aiter(events)
            await anext(stream)
            unmap_page(space, 0)

            async def wait() -> None:
                reports.append(await space.sync())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                await space.close()
                await settle()
                assert not reports
                await anext(stream)
                await ask_to_the_end(stream.__anext__)
        assert [outcome.how for outcome in reports[0].outcomes] == [How.ACKNOWLEDGED]


async def ask_to_the_end(following: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(StopAsyncIteration):
        await following()


@every_loop
async def test_a_space_of_the_same_name_begins_anew() -> None:
    """A closed space's subscribers stay its own; the new one starts empty, and observers see both."""
    async with open_space() as (bus, old), bus.observe("sp*") as observer:
        async with bus.subscribe("space", Cap.IOTLB, name="old") as events:
            stream = aiter(events)
            map_page(old, 0)
            await anext(stream)
            await old.close()
            new = await bus.create_space("space")
            map_page(new, 7)
            await new.sync()
            await failing_sync(old)
            assert [type(event) for event in await take(aiter(observer), 3)] == [Map, Unmap, Map]
            assert isinstance(await anext(stream), Unmap)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert new.statistics().seq == 1
        await old.sync()


@every_loop
async def test_leaving_by_an_error_of_another_task_is_unclean() -> None:
    """Law 8: a sibling's failure cancels the consumer; that is no promise of anything."""
    async with open_space() as (bus, space):
        map_page(space, 0)

        async def consume() -> None:
            async with bus.subscribe("space", Cap.IOTLB, stops="exit", name="sibling") as events:
                async for _ in events:
                    pass

        async def fail() -> None:
            await settle()
            raise BackendError

        with pytest.raises(BaseExceptionGroup):  # noqa: PT012 - the group is what raises
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consume)
                tasks.start_soon(fail)
        space.apply([IovaRange(0, PAGE - 1)])
        failed = await failing_sync(space, SOON)
        assert failed.missing[0].subscriber == "sibling"


@every_loop
async def test_a_sync_knows_at_once_who_was_collected() -> None:
    """Law 8: one that was collected just before is fenced already, also for a sync that must not wait."""
    async with open_space() as (bus, space):
        map_page(space, 0)

        async def hold_what_goes(subscription: StreamSubscription) -> None:
            await hold(subscription)
            unmap_page(space, 0)

        await forget(bus, hold_what_goes)
        await space.sync(timeout=0)
