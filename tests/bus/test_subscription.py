"""A subscription is an ordered, acknowledged stream that loses nothing its consumer relies on."""

from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from iommubus import LAST, Batch, Cap, Event, Map, Mirror, Perm, Unmap
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import AlreadyIterated
from iommubus.mailbox import PIECE
from tests.actors import PAGE, ask, failing_sync, map_page, mappings, member_of, open_space, settle, take, unmap_page
from tests.loops import every_loop


def pages(events: Sequence[Event]) -> list[int]:
    return [event.first // PAGE for event in events]


@every_loop
async def test_replay_then_follow() -> None:
    """Law 4, I17: every present mapping and every change, without gap or duplicate; nobody else notices."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as old:
        for page in range(PIECE + 3):
            map_page(space, 2 * page)
        stream = aiter(old)
        await take(stream, PIECE + 3)
        await ask(stream)
        async with bus.subscribe("space", Cap.IOTLB) as new:
            joining = aiter(new)
            assert pages(await take(joining, PIECE)) == [2 * page for page in range(PIECE)]
            unmap_page(space, 0)
            map_page(space, 1)
            map_page(space, 2 * PIECE + 5)
            rest = await take(joining, 6)
            assert [(type(event).__name__, event.first // PAGE) for event in rest] == [
                ("Unmap", 0),
                ("Map", 1),
                ("Map", 2 * PIECE),
                ("Map", 2 * PIECE + 2),
                ("Map", 2 * PIECE + 4),
                ("Map", 2 * PIECE + 5),
            ]
            assert new.statistics().lag == 0
            assert old.statistics().lag == 3


@every_loop
async def test_each_replay_is_its_own_and_changes_nothing() -> None:
    """I18, T18: two on one device, around a hole, and one who comes again, are each given their part, and no more."""
    hole = (2 * PAGE, 3 * PAGE - 1)
    async with open_space(last=6 * PAGE - 1) as (bus, space):
        for page in range(6):
            map_page(space, page)
        before = space.statistics().seq, mappings(space)
        async with (
            bus.subscribe("space", Cap.IOTLB, last=hole[0] - 1) as low,
            bus.subscribe("space", Cap.IOTLB, first=hole[1] + 1) as high,
        ):
            for part, present in ((low, [0, 1]), (high, [3, 4, 5])):
                stream = aiter(part)
                assert pages(await take(stream, len(present))) == present
                await ask(stream)
            for _ in range(2):
                async with bus.subscribe("space", Cap.IOTLB) as again:
                    stream = aiter(again)
                    assert pages(await take(stream, 6)) == list(range(6))
                    await ask(stream)
                    await space.sync()
                    assert again.statistics().lag == 0
            await space.sync()
            assert (low.statistics().handed, high.statistics().handed) == (1, 1)
            assert (low.statistics().lag, high.statistics().lag) == (0, 0)
        assert (space.statistics().seq, mappings(space)) == before


@every_loop
async def test_it_counts_from_the_moment_it_is_entered() -> None:
    """`subscribe`: made is not registered; what it would have been told before comes as the replay."""
    async with open_space() as (bus, space):
        subscription = bus.subscribe("space", Cap.IOTLB, name="device")
        assert repr(subscription) == "<subscription device <Cap.IOTLB: 3>, not entered, lag 0>"
        map_page(space, 0)
        await space.sync()
        assert space.statistics().subscriptions == {}
        async with subscription as events:
            assert set(space.statistics().subscriptions) == {"device"}
            assert pages([await anext(aiter(events))]) == [0]
            assert repr(events) == "<subscription device <Cap.IOTLB: 3>, joined, lag 0>"
        assert repr(subscription) == "<subscription device <Cap.IOTLB: 3>, gone, lag 0>"


@every_loop
async def test_wait_current_ends_with_the_acknowledged_replay() -> None:
    """Law 4: it says when the first replay is through; with nothing to replay, that is at once."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as empty:
        await empty.wait_current()
        map_page(space, 0)
        reached: list[bool] = []
        async with bus.subscribe("space", Cap.IOTLB) as events, anyio.create_task_group() as tasks:

            async def wait() -> None:
                await events.wait_current()
                reached.append(True)

            tasks.start_soon(wait)
            stream = aiter(events)
            await anext(stream)
            await settle()
            assert not reached
            await ask(stream)
        assert reached


@every_loop
async def test_break_loses_nothing() -> None:
    """`__aiter__`: iterate again to go on, event by event or by batches, in the middle of a hand-over or not."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        for page in range(6):
            map_page(space, page)
        seen: list[Event] = []
        async for event in events:
            seen.append(event)
            break
        async for event in events:
            seen.append(event)
            if len(seen) == 3:
                break
        assert events.statistics().acked == 0
        async for batch in events.batches():
            assert batch.number == 1
            seen += batch
            break
        assert events.statistics().acked == 0
        map_page(space, 6)
        async for batch in events.batches():
            assert batch.number == 2
            seen += batch
            break
        assert events.statistics().acked == 1
        assert pages(seen) == list(range(7))


@every_loop
async def test_break_in_a_hand_over_acknowledges_nothing() -> None:
    """Law 1: asking for the rest of a hand-over does not say that its UNMAP is applied."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        map_page(space, 0)
        await anext(stream)
        del stream
        unmap_page(space, 0)
        map_page(space, 1)
        async for event in events:
            assert type(event) is Unmap
            break
        await failing_sync(space)
        async for batch in events.batches():
            assert pages(batch) == [1]
            break
        await failing_sync(space)
        await ask(events.batches())
        await space.sync()


@every_loop
async def test_a_cancelled_wait_loses_nothing_and_can_be_taken_up() -> None:
    """Cancelling whoever waits for the next event is no leave; another iterator may go on, or the same one."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        for page in range(3):
            await ask(stream)
            map_page(space, page)
            await ask(stream)
            assert pages([await anext(stream)]) == [page]
        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                async for _ in events:
                    raise AssertionError

            del stream
            tasks.start_soon(consume)
            await settle()
            with pytest.raises(AlreadyIterated):
                aiter(events)
            tasks.cancel_scope.cancel()
        map_page(space, 7)
        assert pages([await anext(aiter(events))]) == [7]
        await ask(aiter(events))
        await space.sync()


@every_loop
async def test_an_iterator_kept_by_a_traceback_does_not_block_the_next() -> None:
    """Whoever handles the cancellation may iterate again right there."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        with pytest.raises(TimeoutError) as kept, anyio.fail_after(0):  # noqa: PT012 - a loop that waits
            async for _ in events:
                raise AssertionError
        map_page(space, 0)
        assert pages([await anext(aiter(events))]) == [0]
        assert kept.value.__traceback__ is not None


@every_loop
async def test_an_iterator_that_was_taken_over_is_refused() -> None:
    """One consumer: who was cancelled and replaced cannot acknowledge for the other."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        first = aiter(events)
        await ask(first)
        second = aiter(events)
        with pytest.raises(AlreadyIterated):
            await anext(first)
        map_page(space, 0)
        assert pages([await anext(second)]) == [0]


@every_loop
async def test_batches_are_sequences() -> None:
    """A batch is what one hand-over gave, in order."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
        for page in range(3):
            map_page(space, page)
        batch = await anext(events.batches())
        assert isinstance(batch, Batch)
        assert (len(batch), batch[0].first, batch[-1].first, pages(batch[1:])) == (3, 0, 2 * PAGE, [1, 2])
        assert pages(list(batch)) == [0, 1, 2]
        assert repr(batch) == "<batch 1 of 3 events>"


@every_loop
async def test_manual_acknowledgement_is_the_only_one() -> None:
    """Law 1: with ack="manual" asking for the next batch says nothing about the one before."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
        stream = events.batches()
        map_page(space, 0)
        events.ack(await anext(stream))
        unmap_page(space, 0)
        unmapping = await anext(stream)
        map_page(space, 1)
        await anext(stream)
        failed = await failing_sync(space)
        assert len(list(failed.missing[0].pieces)) == 1
        events.ack(unmapping)
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == []
        map_page(space, 2)
        events.ack(await anext(stream))
        await space.sync()


@every_loop
async def test_several_ranges_leave_out_the_hole() -> None:
    """T18, I4, I5: events come cropped to each range, with the target moved; joined where ranges touch."""
    async with (
        open_space(last=0xFFFF) as (bus, space),
        bus.subscribe("space", Cap.IOTLB, ranges=[(0xC000, LAST), (0, 0x3FFF), (0x4000, 0x7FFF)]) as events,
    ):
        stream = aiter(events)
        space.map(0, 0x1_0000, 0x10_0000, Perm.RW)
        assert await take(stream, 2) == [
            Map("space", 1, 0, 0x7FFF, 0x10_0000, Perm.RW),
            Map("space", 1, 0xC000, 0xFFFF, 0x10_C000, Perm.RW),
        ]
        space.unmap_all()
        assert await take(stream, 2) == [Unmap("space", 2, 0, 0x7FFF), Unmap("space", 2, 0xC000, 0xFFFF)]
        space.map(0x8000, 0x4000, 0, Perm.R)
        space.unmap(0x8000, 0x4000)
        await ask(stream)
        assert events.statistics().lag == 0
        await space.sync()


@every_loop
async def test_what_is_merged_is_cropped_too() -> None:
    """I5: device invalidations of a slow subscriber may be merged over a hole, and are not told of inside it."""
    ranges = [(0, 2 * PAGE - 1), (8 * PAGE, 12 * PAGE - 1)]
    for caps in (Cap.DEVIOTLB_UNMAP, Cap.ALL):
        async with (
            open_space(offers=Cap.ALL) as (bus, space),
            bus.subscribe("space", caps, ranges=ranges, capacity=2) as events,
        ):
            for page in (0, 8, 10) * 3:
                space.invalidate_device(page * PAGE, PAGE)
            told = await anext(events.batches())
            assert [event for event in told if event.first < 8 * PAGE and event.last >= 2 * PAGE] == []
            assert {event.first for event in told} >= {0, 8 * PAGE}


@every_loop
async def test_the_replay_is_cropped_like_the_live_events() -> None:
    """T20: the two ways a mapping can come give the same pieces."""
    async with open_space(last=0xFFFF) as (bus, space):
        space.map(0, 0x1_0000, 0x10_0000, Perm.RW)
        async with bus.subscribe("space", Cap.IOTLB, ranges=[(0, 0x3FFF), (0xC000, LAST)]) as events:
            assert await take(aiter(events), 2) == [
                Map("space", 1, 0, 0x3FFF, 0x10_0000, Perm.RW),
                Map("space", 1, 0xC000, 0xFFFF, 0x10_C000, Perm.RW),
            ]


@every_loop
async def test_an_overflow_conflates_and_ends_equal() -> None:
    """Law 3, I23: the final state is the same, and what did not change is not disturbed."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=2) as events:
        mirror = Mirror(events)
        stream = aiter(events)
        for page in (0, 10, 20):
            map_page(space, page)
            mirror.apply(await anext(stream))
        for page in range(4, 9):
            map_page(space, page)
        unmap_page(space, 10)
        space.remap(0, PAGE, 0, Perm.R)
        seen: list[Event] = []
        await ask(stream)
        while list(mirror) != mappings(space):
            seen.append(await anext(stream))
            mirror.apply(seen[-1])
        assert pages(seen) == [0, 0, 10, 4, 5, 6, 7, 8]
        assert events.statistics().conflations > 0
        assert events.statistics().lag == 0


@every_loop
async def test_ranges_with_nothing_in_them_do_not_stop_the_loop() -> None:
    """Law 4: a consumer looks through many empty ranges in pieces, and others run between."""
    turns = 0
    count = 8 * PIECE

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=1) as events:
        stream = aiter(events)
        fill_and_empty(space, count)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await settle()
            before = turns
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_when_idle, events, scope)
                await anext(stream)
            assert turns - before >= count // PIECE
            tasks.cancel_scope.cancel()
        assert events.statistics().lag == 0


def fill_and_empty(space: LocalSpace, count: int) -> None:
    for page in range(count):
        map_page(space, 2 * page)
    for page in range(count):
        unmap_page(space, 2 * page)


async def cancel_when_idle(events: StreamSubscription, scope: anyio.CancelScope) -> None:
    while events.statistics().lag:
        await checkpoint()
    scope.cancel()


@every_loop
async def test_a_subscriber_past_its_limit_is_fenced() -> None:
    """Section 3: the dirty set is bounded; past the limit the subscriber is fenced, and the publisher goes on."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=1, name="slow") as slow:
        member_of(slow).mailbox._limit = 10  # pyright: ignore[reportPrivateUsage] - a small one
        for page in range(30):
            map_page(space, 2 * page)
        assert slow.fenced
        assert space.statistics().subscriptions == {}
        assert "more ranges dirty than its limit" in repr(slow)
        await space.sync()


@every_loop
async def test_statistics_count_by_kind() -> None:
    async with open_space(offers=Cap.ALL) as (bus, space), bus.subscribe("space", Cap.ALL) as events:
        stream = aiter(events)
        map_page(space, 0)
        unmap_page(space, 0)
        space.invalidate_device(0, PAGE)
        assert events.statistics().lag == 3
        await take(stream, 3)
        assert events.statistics() == (0, {Cap.UNMAP: 1, Cap.MAP: 1, Cap.DEVIOTLB_UNMAP: 1}, 1, 0, 0, True, 0)
        await ask(stream)
        assert events.statistics().acked == 1
