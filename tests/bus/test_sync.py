"""What `sync` promises, and what it says when it cannot."""

from collections.abc import AsyncIterator

import anyio
import pytest

from iommubus import LAST, Bus, Cap, DevIotlbUnmap, Event, How, Map, Mapping, Perm, SyncReport, Unmap
from iommubus.bus.abc import Straddling
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import MappingFailed, SyncFailed, UnknownName
from iommubus.ledger import TRIM_EVERY
from iommubus.mailbox import PIECE
from tests.actors import (
    PAGE,
    SOON,
    BackendError,
    Verdict,
    ask,
    failing_sync,
    map_page,
    open_space,
    settle,
    take,
    unmap_page,
    verdict,
)
from tests.loops import every_loop


def failures_of(failed: Verdict) -> list[tuple[str, int, int]]:
    """Return who could not map what."""
    return [(failure.subscriber, failure.first, failure.last) for failure in failed.failures]


async def hold(space: LocalSpace, stream: AsyncIterator[Event], *pages: int) -> list[Mapping]:
    """Map pages, and have them applied."""
    held = [map_page(space, page) for page in pages]
    await take(stream, len(pages))
    await ask(stream)
    return held


@every_loop
async def test_a_sync_of_nobody_returns_at_once() -> None:
    async with open_space() as (bus, space):
        map_page(space, 0)
        unmap_page(space, 0)
        assert (await space.sync()).outcomes == ()
        assert (await bus.sync("*")).outcomes == ()
        assert space.statistics().old_pieces == 0


@every_loop
async def test_a_sync_ends_with_the_last_acknowledgement() -> None:
    """Law 1, I16: it returns when all have acknowledged, never before, and says who counted."""
    reports: list[SyncReport] = []
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, name="first") as first,
        bus.subscribe("space", Cap.UNMAP, name="second") as second,
    ):
        streams = [aiter(first), aiter(second)]
        await hold(space, streams[0], 0)
        unmap_page(space, 0)

        async def wait() -> None:
            reports.append(await space.sync())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            for stream in streams:
                await settle()
                assert not reports
                assert type(await anext(stream)) is Unmap
                await settle()
                assert not reports
                await ask(stream)
        outcomes = {outcome.subscriber: outcome for outcome in reports[0].outcomes}
        assert set(outcomes) == {"first", "second"}
        assert {outcome.how for outcome in outcomes.values()} == {How.ACKNOWLEDGED}
        assert 0 <= outcomes["first"].seconds <= outcomes["second"].seconds <= reports[0].seconds


@every_loop
async def test_a_sync_names_the_missing_with_the_old_targets() -> None:
    """Law 1, I28: at its deadline it raises, with the pieces removed and where they led to, inside the ranges."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, name="low", last=0xFFFF) as low,
        bus.subscribe("space", Cap.IOTLB, name="high", first=0x1_0000) as high,
    ):
        low_stream, high_stream = aiter(low), aiter(high)
        (held_low,) = await hold(space, low_stream, 1)
        (held_high,) = await hold(space, high_stream, 0x11)
        across = Mapping(0xF000, 0x1_0FFF, 0x5000, Perm.R)
        space.map(across.first, across.size, across.target, across.perm)
        for stream in (low_stream, high_stream):
            await anext(stream)
            await ask(stream)
        space.unmap_all()
        await anext(high_stream)
        await ask(high_stream)

        failed = await failing_sync(space)

        assert [missing.subscriber for missing in failed.missing] == ["low"]
        assert list(failed.missing[0].pieces) == [held_low, Mapping(0xF000, 0xFFFF, 0x5000, Perm.R)]
        assert not failed.missing[0].pieces.truncated
        assert "low on space did not acknowledge within 0.02 s, <up to 3 old pieces>" in failed.text
        assert held_high not in list(failed.missing[0].pieces)

        (again,) = (await failing_sync(space)).missing
        assert list(again.pieces) == list(failed.missing[0].pieces)
        await anext(low_stream)
        await ask(low_stream)
        await space.sync()
        statistics = space.statistics()
        assert (statistics.old_pieces, statistics.syncs, statistics.failed_syncs) == (0, 1, 2)


@every_loop
async def test_only_what_was_not_acknowledged_is_an_old_piece() -> None:
    """I28: what went before the last acknowledgement is nobody's any more."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        _, later = await hold(space, stream, 0, 1)
        unmap_page(space, 0)
        await anext(stream)
        await ask(stream)
        unmap_page(space, 1)
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == [later]


@pytest.mark.parametrize("straddle", ["refuse", "split"])
@every_loop
async def test_every_removal_is_an_old_piece(straddle: Straddling) -> None:
    """Law 1: also the one at which the bus looks who has let go, of somebody who had nothing in hand before."""
    for count in range(TRIM_EVERY - 1, TRIM_EVERY + 2):
        async with open_space(straddle=straddle) as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
            stream = aiter(events)
            held: list[Mapping] = []
            for _ in range(count):
                held = await hold(space, stream, 0)
                unmap_page(space, 0)
                await take(stream, 1)
            failed = await failing_sync(space, timeout=0)
            assert [list(missing.pieces) for missing in failed.missing] == [held]


@every_loop
async def test_pieces_of_a_pull_space_are_ranges() -> None:
    """Law 1: a pull space has ranges only, and says that targets are missing."""
    async with open_space(offers=Cap.UNMAP) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        space.unmap(0x1000, 0x2000)
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == []
        assert failed.missing[0].pieces.ranges == [(0x1000, 0x2FFF)]
        assert failed.missing[0].pieces.truncated
        assert await anext(aiter(events)) == Unmap("space", 1, 0x1000, 0x2FFF)


@every_loop
async def test_device_invalidations_count() -> None:
    """Law 1, I2: for DEVIOTLB_UNMAP subscribers, what was device-invalidated before the call is out of use."""
    async with (
        open_space(offers=Cap.ALL) as (bus, space),
        bus.subscribe("space", Cap.DEVIOTLB_UNMAP, name="device") as device,
    ):
        stream = aiter(device)
        space.invalidate_device(0x1000, 0x1000)
        failed = await failing_sync(space)
        assert failed.missing[0].pieces.ranges == [(0x1000, 0x1FFF)]
        assert type(await anext(stream)) is DevIotlbUnmap
        await ask(stream)
        await space.sync()


@every_loop
async def test_a_device_invalidation_is_nothing_to_who_was_not_told() -> None:
    """Law 1: what a shadower may still use is what was unmapped, with its targets, and no more."""
    async with (
        open_space(offers=Cap.ALL) as (bus, space),
        bus.subscribe("space", Cap.IOTLB, name="shadower") as shadower,
        bus.subscribe("space", Cap.ALL, name="both") as both,
    ):
        (held,) = await hold(space, aiter(shadower), 1)
        await anext(aiter(both))
        unmap_page(space, 1)
        space.invalidate_device(0x5000, 0x1000)

        failed = await failing_sync(space)

        missing = {one.subscriber: one.pieces for one in failed.missing}
        assert list(missing["shadower"]) == list(missing["both"]) == [held]
        assert not missing["shadower"].truncated
        assert missing["both"].ranges == [(0x5000, 0x5FFF)]


@every_loop
async def test_what_a_closed_space_took_away_is_an_old_piece_to_everybody() -> None:
    """Law 1: also to a subscriber of device invalidations, which is not told of removals before."""
    async with open_space(offers=Cap.ALL) as (bus, space), bus.subscribe("space", Cap.DEVIOTLB_UNMAP):
        map_page(space, 0)
        unmap_page(space, 0)
        await space.sync(timeout=0)
        held = map_page(space, 1)
        await space.close()
        (missing,) = (await failing_sync(space, timeout=0)).missing
        assert list(missing.pieces) == [held]


@every_loop
async def test_any_number_of_syncs_at_once() -> None:
    """Law 1: each waits for what was unmapped before it, no more."""
    done: list[int] = []
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        await hold(space, stream, 0, 1, 2)

        async def wait(number: int) -> None:
            await space.sync()
            done.append(number)

        async with anyio.create_task_group() as tasks:
            for page in range(3):
                unmap_page(space, page)
                for copy in range(20):
                    tasks.start_soon(wait, 100 * page + copy)
                await settle()
                await anext(stream)
                assert len(done) == 20 * page
                await ask(stream)
                await settle()
        assert sorted(done) == [100 * page + copy for page in range(3) for copy in range(20)]
        assert space.statistics().syncs == 60


@every_loop
async def test_a_sync_that_waits_holds_up_nobody() -> None:
    """Law 10, I21: meanwhile others join, ask and acknowledge, the space goes on, and the slow one may ask too."""
    reports: list[SyncReport] = []
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.UNMAP, name="slow") as slow,
        anyio.create_task_group() as tasks,
    ):
        map_page(space, 0)
        held = map_page(space, 1)
        unmap_page(space, 0)

        async def wait() -> None:
            reports.append(await space.sync())

        tasks.start_soon(wait)
        stream = aiter(slow)
        await anext(stream)
        await settle()
        async with bus.subscribe("space", Cap.IOTLB, name="joiner") as joiner:
            joining = aiter(joiner)
            assert (await anext(joining)).first == held.first
            later = map_page(space, 2)
            assert (await anext(joining)).first == later.first
            await ask(joining)
            await joiner.wait_current()
        assert (await slow.translate(held.first)).mapping == held
        assert not reports
        await ask(stream)
    assert [outcome.subscriber for outcome in reports[0].outcomes] == ["slow"]


@every_loop
async def test_a_sync_can_be_cancelled() -> None:
    """A cancelled sync leaves nothing behind, fails nobody else, and takes no failure with it."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        await hold(space, stream, 0)
        map_page(space, 1)
        events.fail(await anext(stream), BackendError())
        unmap_page(space, 0)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(space.sync)
            await settle()
            tasks.cancel_scope.cancel()
        statistics = space.statistics()
        assert (statistics.syncs, statistics.failed_syncs) == (0, 0)
        await anext(stream)
        await ask(stream)
        assert failures_of(await failing_sync(space)) == [(events.name, PAGE, 2 * PAGE - 1)]
        await space.sync()


# -- what could not be applied ------------------------------------------------------


@every_loop
async def test_a_map_that_failed_is_raised_once() -> None:
    """Law 7: the next sync raises it with range and cause, once; the subscriber goes on without it."""
    cause = BackendError("ENOSPC")
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="full") as events:
        stream = aiter(events)
        await events.wait_current()
        map_page(space, 3)
        events.fail(await anext(stream), cause)
        await ask(stream)
        failed = await failing_sync(space, timeout=5)
        assert failed.missing == []
        assert failures_of(failed) == [("full", 3 * PAGE, 4 * PAGE - 1)]
        assert "full on space could not map 0x3000..0x3fff: BackendError('ENOSPC')" in failed.text
        await space.sync()
        assert len(space.statistics().subscriptions) == 1


@every_loop
async def test_a_map_that_failed_in_the_first_replay_is_the_joiners_own() -> None:
    """Law 7: during its own replay the error goes to the joiner, and the producer's sync is not disturbed."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        async with bus.subscribe("space", Cap.IOTLB, name="joiner") as events:
            stream = aiter(events)
            events.fail(await anext(stream), BackendError())
            await ask(stream)
            await space.sync()
            with pytest.raises(MappingFailed, match=r"joiner on space could not map 0x0\.\.0xfff"):
                await events.wait_current()
            await events.wait_current()


@every_loop
async def test_wait_current_does_not_take_what_is_the_producers() -> None:
    """Law 7: a MAP that fails after the first replay goes to the sync, whoever asks before."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        await events.wait_current()
        map_page(space, 0)
        events.fail(await anext(stream), BackendError())
        await events.wait_current()
        await ask(stream)
        assert len((await failing_sync(space)).failures) == 1


@every_loop
async def test_an_unmap_that_failed_is_raised_until_it_is_applied() -> None:
    """Law 7: it is handed over again by each sync, and each raises with the old targets until it was applied."""
    cause = BackendError("EBUSY")
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="stuck") as events:
        stream = aiter(events)
        (held,) = await hold(space, stream, 0)
        attempts: list[bool] = []

        async def consume() -> None:
            async for event in stream:
                attempts.append(len(attempts) < 3)
                if attempts[-1]:
                    events.fail(event, cause)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            unmap_page(space, 0)
            for count in (1, 2, 3):
                await settle()
                assert len(attempts) == count
                if count < 3:
                    failed = await failing_sync(space, timeout=5)
                    (missing,) = failed.missing
                    assert (missing.subscriber, missing.cause) == ("stuck", cause)
                    assert missing.reason == "could not unmap 0x0..0xfff"
                    assert list(missing.pieces) == [held]
            await space.sync()
            assert attempts == [True, True, True, False]
            await space.sync()
            assert len(attempts) == 4
            tasks.cancel_scope.cancel()
        assert space.statistics().old_pieces == 0


@every_loop
async def test_an_unmap_that_failed_beside_other_events_there_is_not_forgotten() -> None:
    """Law 7: a MAP that came in the same hand-over is taken back with the UNMAP, and the sync still raises."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        (held,) = await hold(space, stream, 0)
        unmap_page(space, 0)
        space.map(0, PAGE, 0, Perm.R)
        outcomes: list[Verdict] = []

        async def wait() -> None:
            outcomes.append(await failing_sync(space, timeout=5))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            unmap = await anext(stream)
            assert type(unmap) is Unmap
            events.fail(unmap, BackendError())
            await ask(stream)
        assert list(outcomes[0].missing[0].pieces) == [held]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            assert [type(event) for event in await take(stream, 2)] == [Unmap, Map]
            await ask(stream)


@every_loop
async def test_a_second_sync_does_not_excuse_the_first() -> None:
    """Law 7: asking again for a failed UNMAP does not make the sync succeed that it failed in."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        await hold(space, stream, 0)
        unmap_page(space, 0)
        outcomes: list[str] = []

        async def first() -> None:
            await failing_sync(space, timeout=5)
            outcomes.append("first failed")

        async def second() -> None:
            await space.sync()
            outcomes.append("second succeeded")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await settle()
            events.fail(await anext(stream), BackendError())
            await ask(stream)  # settles what the first one waits for; it has not looked yet
            space.map(0, PAGE, 0, Perm.R)  # comes behind the UNMAP, which is due again
            tasks.start_soon(second)
            await settle()
            assert outcomes == ["first failed"]
            await take(stream, 2)
            await ask(stream)
        assert outcomes == ["first failed", "second succeeded"]


@every_loop
async def test_one_who_failed_and_left_is_not_missing() -> None:
    """Law 7: until the subscriber is proven stopped, or promised that all was dropped; also in a sync in flight."""
    for how in (How.LEFT, How.STOPPED):
        reports: list[SyncReport] = []
        async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="gives up") as events:
            stream = aiter(events)
            await hold(space, stream, 0)
            unmap_page(space, 0)

            async def wait(space: LocalSpace, reports: list[SyncReport]) -> None:
                reports.append(await space.sync())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, space, reports)
                await settle()
                events.fail(await anext(stream), BackendError())
                await (events.close() if how is How.LEFT else space.fence(events))
            assert [outcome.how for outcome in reports[0].outcomes] == [how]


@every_loop
async def test_a_device_invalidation_that_failed_comes_again_as_one() -> None:
    """Law 7, I4: it is handed over again in its own kind."""
    async with (
        open_space(offers=Cap.ALL) as (bus, space),
        bus.subscribe("space", Cap.DEVIOTLB_UNMAP, name="device") as device,
    ):
        stream = aiter(device)
        space.invalidate_device(0x1000, 0x1000)
        first = await anext(stream)
        device.fail(first, BackendError())
        await ask(stream)

        async def wait() -> None:
            await space.sync()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            again = await anext(stream)
            assert (type(again), again.first, again.last) == (DevIotlbUnmap, 0x1000, 0x1FFF)
            await ask(stream)


@every_loop
async def test_no_map_passes_an_unmap_that_was_taken_back() -> None:
    """Law 6: what waits behind a failed UNMAP, and behind that, is taken back together."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        await hold(space, stream, 0, 4)
        unmap_page(space, 0)
        space.unmap(0, 8 * PAGE)  # removes page 4, and overlaps the first
        map_page(space, 4)  # overlaps the second alone
        failing = await anext(stream)
        events.fail(failing, BackendError())
        held = {0, 4}

        async def consume() -> None:
            async for event in stream:
                page = event.first // PAGE
                if isinstance(event, Map):
                    assert page not in held
                    held.add(page)
                else:
                    held.difference_update({page for page in held if event.first <= page * PAGE <= event.last})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await settle()
            assert held == {0, 4}
            await space.sync()
            tasks.cancel_scope.cancel()
        assert held == {4}


# -- joiners, several spaces, drain -------------------------------------------------


@every_loop
async def test_a_joiner_in_its_replay_holds_up_no_sync() -> None:
    """Law 4: a subscription counts for MAP once it is current."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="old") as old:
        stream = aiter(old)
        pages = range(PIECE + 100)
        await hold(space, stream, *(2 * page for page in pages))
        async with bus.subscribe("space", Cap.IOTLB, name="joiner") as joiner:
            await space.sync()
            joining = aiter(joiner)
            await take(joining, PIECE)
            await ask(joining)
            await space.sync()
            assert not joiner.statistics().current
            await take(joining, 100)
            await ask(joining)
            await joiner.wait_current()
            assert joiner.statistics().current


@every_loop
async def test_a_joiner_counts_for_what_it_was_given() -> None:
    """Law 1: what was handed over in the replay and unmapped since has to be let go of."""
    async with open_space() as (bus, space):
        for page in range(PIECE + 100):
            map_page(space, 2 * page)
        async with bus.subscribe("space", Cap.IOTLB, name="joiner") as joiner:
            stream = aiter(joiner)
            await take(stream, PIECE)
            held = unmap_page(space, 0)
            failed = await failing_sync(space)
            assert list(failed.missing[0].pieces) == held
            assert type(await anext(stream)) is Unmap


@every_loop
async def test_a_sync_over_globs() -> None:
    """Law 1: over many spaces at once; each missing one is named with its space."""
    async with Bus() as bus:
        names = ["vtd0/00:03.0", "vtd0/00:04.0", "smmu/1"]
        spaces = [await bus.create_space(name) for name in names]
        handles = [bus.subscribe(name, Cap.IOTLB, name=f"vfio {name}") for name in names]
        for space, handle in zip(spaces, handles, strict=True):
            await handle.__aenter__()
            stream = aiter(handle)
            await hold(space, stream, 0)
            del stream
            unmap_page(space, 0)

        with pytest.raises(SyncFailed) as caught:
            await bus.sync("vtd0/*", "smmu/2*", timeout=SOON)
        assert [(missing.subscriber, missing.space) for missing in verdict(caught.value).missing] == [
            ("vfio vtd0/00:03.0", "vtd0/00:03.0"),
            ("vfio vtd0/00:04.0", "vtd0/00:04.0"),
        ]
        for handle in handles[:2]:
            await handle.close()
        await bus.sync("vtd0/*")
        with pytest.raises(SyncFailed):
            await bus.sync("*", timeout=SOON)
        await handles[2].close()
        await bus.sync("vtd0/00:03.0", "smmu/1")
        with pytest.raises(UnknownName):
            await bus.sync("vtd0/*", "vtd1")


@every_loop
async def test_drain_waits_for_half_full_mailboxes() -> None:
    """Law 2: drain returns when every mailbox is at most half full; it needs no acknowledgement."""
    done: list[bool] = []
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=4) as events:
        await space.drain()
        for page in range(3):
            map_page(space, page)

        async def wait() -> None:
            await space.drain()
            done.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await settle()
            assert not done
            await anext(aiter(events))
        assert done == [True, True]


@every_loop
async def test_drain_ends_when_a_hand_over_turns_out_to_be_empty() -> None:
    """Law 2: what overflowed and was unmapped again leaves nothing to hand over, and room."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=1) as events:
        stream = aiter(events)
        await ask(stream)
        for page in (0, 2):
            map_page(space, page)
        space.unmap_all()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.drain)
            await settle()
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancel_later, scope)
                await anext(stream)
        assert events.statistics().delivered[Cap.MAP] == 0


async def cancel_later(scope: anyio.CancelScope) -> None:
    await settle()
    scope.cancel()


@every_loop
async def test_drain_ends_when_what_waits_is_set_aside() -> None:
    """Law 2: what waits behind an UNMAP that failed is in no mailbox's way, though nobody took it out."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=2) as events:
        stream = aiter(events)
        await hold(space, stream, 0)
        unmap_page(space, 0)
        (failed,) = await take(stream, 1)
        map_page(space, 0)
        unmap_page(space, 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.drain)
            await settle()
            events.fail(failed, BackendError())


@every_loop
async def test_drain_does_not_wait_for_one_who_left() -> None:
    """Law 10: a slow subscriber that is fenced holds up the producer no longer."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, capacity=2, name="slow") as slow,
        anyio.create_task_group() as tasks,
    ):
        for page in range(2):
            map_page(space, page)
        tasks.start_soon(space.drain)
        await settle()
        await space.fence(slow)


@every_loop
async def test_a_slow_turn_of_the_cursor_covers_the_maps() -> None:
    """Section 3: the MAP part of a sync is covered by one turn of the cursor, in pieces."""
    reports: list[SyncReport] = []
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, capacity=1) as events:
        stream = aiter(events)
        await ask(stream)
        count = PIECE + 10
        for page in range(count):
            map_page(space, 2 * page)

        async def wait() -> None:
            reports.append(await space.sync())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            seen = 0
            while seen < count:
                await settle()
                assert not reports
                await anext(stream)
                seen += 1
            await ask(stream)
        assert reports


@every_loop
async def test_the_whole_space_has_a_last_byte() -> None:
    """I13: a mapping that ends at 2^64-1 is published, synced and reported like any other."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        space.map(0, 2**64, 0, Perm.R)
        assert await anext(stream) == Map("space", 1, 0, LAST, 0, Perm.R)
        await ask(stream)
        space.unmap_all()
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == [Mapping(0, LAST, 0, Perm.R)]
        assert await anext(stream) == Unmap("space", 2, 0, LAST)


@every_loop
async def test_acknowledging_twice_and_backwards_is_no_harm() -> None:
    """An acknowledgement is cumulative: an older one, or the same again, says nothing new."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
        stream = events.batches()
        held = [map_page(space, 0)]
        first = await anext(stream)
        held += [map_page(space, 1)]
        second = await anext(stream)
        unmap_page(space, 0)
        third = await anext(stream)
        events.ack(second)
        events.ack(first)
        events.ack(second)
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == held[:1]
        events.ack(third)
        events.ack(third)
        await space.sync()
        assert events.statistics().acked == 3


async def lost_consumer(subscription: StreamSubscription) -> None:
    await anext(aiter(subscription))


@every_loop
async def test_a_sync_in_flight_ends_when_the_consumer_is_collected() -> None:
    """Law 8: a lease member is proven stopped once it is fenced; the sync does not wait for its deadline."""
    reports: list[SyncReport] = []
    async with open_space() as (bus, space):
        map_page(space, 0)
        held = [bus.subscribe("space", Cap.IOTLB, name="lost")]
        await held[0].__aenter__()
        await lost_consumer(held[0])
        unmap_page(space, 0)

        async def wait() -> None:
            reports.append(await space.sync(timeout=1000))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            with pytest.warns(ResourceWarning):
                held.clear()
        assert [outcome.how for outcome in reports[0].outcomes] == [How.STOPPED]


@every_loop
async def test_what_waits_behind_a_failed_unmap_is_taken_out_of_its_batch() -> None:
    """Laws 6 and 7: a MAP over what is still held is taken back unread, and comes again behind the UNMAP."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = events.batches()
        map_page(space, 1)
        await anext(stream)
        unmap_page(space, 1)
        map_page(space, 0, 3)
        map_page(space, 7)
        seen: list[tuple[str, int]] = []
        for event in await anext(stream):
            seen.append((type(event).__name__, event.first // PAGE))
            if isinstance(event, Unmap):
                events.fail(event, BackendError())
        assert seen == [("Unmap", 1), ("Map", 7)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            await settle()
            again = await anext(stream)
            assert [(type(event).__name__, event.first // PAGE) for event in again] == [("Unmap", 0), ("Map", 0)]
            await ask(stream)


@every_loop
async def test_what_waits_behind_a_failed_unmap_is_taken_out_of_later_batches() -> None:
    """Laws 6 and 7: with manual acknowledgement, several batches may be in hand."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
        stream = events.batches()
        map_page(space, 1)
        events.ack(await anext(stream))
        unmap_page(space, 1)
        first = await anext(stream)
        map_page(space, 1)
        map_page(space, 7)
        second = await anext(stream)
        events.fail(first[0], BackendError())
        assert [event.first // PAGE for event in second] == [7]
        events.ack(second)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            await settle()
            again = await anext(stream)
            assert [type(event) for event in again] == [Unmap, Map]
            events.ack(again)


@every_loop
async def test_mappings_in_the_hand_of_a_joiner_hold_up_no_sync() -> None:
    """Nothing was taken away, so there is nothing that it would have to let go of."""
    async with open_space() as (bus, space):
        for page in range(3):
            map_page(space, page)
        async with bus.subscribe("space", Cap.IOTLB) as joiner:
            stream = aiter(joiner)
            await take(stream, 2)
            await space.sync(timeout=0)
            unmap_page(space, 0)
            await failing_sync(space)
            assert space.statistics().old_pieces == 1
            await take(stream, 2)
            await failing_sync(space)
            await ask(stream)
            await space.sync(timeout=0)
        async with bus.subscribe("space", Cap.IOTLB) as other, bus.subscribe("space", Cap.UNMAP) as cacher:
            await take(aiter(other), 1)
            unmap_page(space, 1)
            await take(clearing := aiter(cacher), 1)
            await ask(clearing)
            await take(acknowledging := aiter(other), 2)
            await ask(acknowledging)
            await space.sync(timeout=0)
            assert space.statistics().old_pieces == 0


@every_loop
async def test_what_failed_is_tried_once_more_at_the_end() -> None:
    """Law 7: the end of the space comes behind the UNMAP that could not be applied."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        map_page(space, 0)
        await take(stream, 1)
        unmap_page(space, 0)
        events.fail(await anext(stream), BackendError())
        await ask(stream)
        await space.close()
        assert [type(event) async for event in stream] == [Unmap]
        await space.sync(timeout=0)
