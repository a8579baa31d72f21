"""An acknowledgement means drained: what is pinned holds it back, through every way to leave."""

from collections.abc import Callable
from threading import Thread

import anyio
import pytest

from iommubus import Cap, Iotlb, Map, Mirror, SyncFailed
from iommubus.bus.abc import Stops
from iommubus.bus.uses import Uses
from iommubus.completion import How
from tests.actors import PAGE, apply_all, failing_sync, map_page, open_space, settle, take, unmap_page
from tests.loops import every_loop

# -- the record by itself ---------------------------------------------------------------------


def soon(callback: Callable[[], object]) -> object:
    """Run a callback now: there is no loop."""
    return callback()


class Thing:
    """Something that is used, and may be dropped."""


def test_a_use_ends_with_its_thing() -> None:
    """Also where nobody says so: whoever looks next sees it, and is called."""
    told: list[int] = []
    uses = Uses(lambda: told.append(1), soon)
    thing = Thing()
    uses.begin(thing).revoke()
    uses.say(3)
    assert uses.acknowledgeable() == 0
    del thing
    assert told == [1]
    assert (len(uses), uses.holding, uses.acknowledgeable()) == (0, 0, 3)


def test_what_is_revoked_holds_back_all_that_was_not_let_go_of_before() -> None:
    uses = Uses(lambda: None, soon)
    uses.say(3)
    use = uses.begin()
    uses.say(4)
    assert uses.acknowledgeable() == 4
    use.revoke()
    uses.say(9)
    assert uses.acknowledgeable() == 4
    use.revoke()
    assert uses.acknowledgeable() == 4
    use.end()
    assert uses.acknowledgeable() == 9


def test_the_oldest_of_several_holds_back_most() -> None:
    uses = Uses(lambda: None, soon)
    first, second = uses.begin(), uses.begin()
    uses.say(1)
    first.revoke()
    uses.say(2)
    second.revoke()
    uses.say(3)
    assert (uses.holding, len(uses)) == (2, 2)
    first.end()
    assert uses.acknowledgeable() == 2
    second.end()
    assert uses.acknowledgeable() == 3


def test_an_end_is_told_once() -> None:
    told: list[int] = []
    uses = Uses(lambda: told.append(1), soon)
    use = uses.begin()
    use.end()
    use.end()
    use.revoke()
    assert told == [1]
    assert uses.holding == 0


def test_an_end_in_another_thread_goes_through_the_loop() -> None:
    told: list[int] = []
    posted: list[Callable[[], object]] = []
    uses = Uses(lambda: told.append(1), posted.append)
    use = uses.begin()
    thread = Thread(target=use.end)
    thread.start()
    thread.join()
    assert (told, len(uses), len(posted)) == ([], 1, 1)
    posted[0]()
    assert (told, len(uses)) == ([1], 0)


def test_hand_overs_of_nothing_need_no_word() -> None:
    uses = Uses(lambda: None, soon)
    uses.skip(2)
    uses.skip(3)
    assert uses.acknowledgeable() == 0
    uses.say(1)
    assert uses.acknowledgeable() == 3
    uses.skip(4)
    assert uses.acknowledgeable() == 4
    assert uses._skipped == set()  # pyright: ignore[reportPrivateUsage] - nobody outside can see it


# -- in a bus -----------------------------------------------------------------------------------


@every_loop
async def test_a_pin_of_a_cache_holds_back_the_acknowledgement() -> None:
    """T32: the cache has dropped the entry, and whoever copies from the old page is waited for."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP, name="vhost") as events:
        cache = Iotlb(events)
        stream = aiter(events)
        held = map_page(space, 0)
        pin = await cache.pin(5)
        assert (pin.mapping, pin.revoked) == (held, False)
        unmap_page(space, 0)
        await apply_all(stream, cache.apply)
        assert pin.revoked
        assert len(cache) == 0
        failed = await failing_sync(space)
        assert failed.missing[0].reason == "did not end 1 uses within 0.02 s"
        assert list(failed.missing[0].pieces) == [held]
        pin.release()
        assert [outcome.how for outcome in (await space.sync(timeout=0)).outcomes] == [How.ACKNOWLEDGED]


@every_loop
async def test_a_pin_of_a_copy_does_the_same() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        mirror = Mirror(events)
        map_page(space, 0)
        map_page(space, 1)
        stream = aiter(events)
        await apply_all(stream, mirror.apply)
        with mirror.pin(0), mirror.pin(PAGE):
            unmap_page(space, 0)
            await apply_all(stream, mirror.apply)
            await failing_sync(space)
        await space.sync(timeout=0)


@every_loop
async def test_what_came_after_the_removal_is_pinned_freely() -> None:
    """A ring that is pinned for long holds back nothing of before it was mapped."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        map_page(space, 0)
        await cache.translate(0)
        space.remap(0, PAGE, 0x5000, map_page(space, 9).perm)
        (event,) = await take(stream := aiter(events), 1)
        cache.apply(event)
        pin = await cache.pin(0)
        assert pin.mapping.target == 0x5000
        await apply_all(stream, cache.apply)
        await space.sync(timeout=0)
        assert not pin.revoked
        pin.release()


@every_loop
async def test_a_pin_holds_back_a_batch_acknowledged_by_hand() -> None:
    """Batches taken before do not slip through because later ones were taken, too."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack="manual") as events:
        mirror = Mirror(events)
        stream = events.batches()
        map_page(space, 0)
        batches = [await anext(stream)]
        for event in batches[0]:
            mirror.apply(event)
        pin = mirror.pin(0)
        for _ in range(2):
            unmap_page(space, 0)
            batches.append(await anext(stream))
            map_page(space, 0)
            batches.append(await anext(stream))
        events.ack(batches[0])
        for batch in batches[1:]:
            for event in batch:
                mirror.apply(event)
            events.ack(batch)
        assert events.statistics().acked == 1
        assert events.statistics().pinned == 1
        pin.release()
        assert events.statistics().acked == len(batches)


@every_loop
async def test_a_sync_that_waits_is_woken_by_the_release() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        cache = Iotlb(events)
        map_page(space, 0)
        pin = await cache.pin(0)
        unmap_page(space, 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            await apply_all(aiter(events), cache.apply)
            await settle()
            pin.release()


@pytest.mark.parametrize("stops", ["lease", "exit"])
@pytest.mark.parametrize("how", ["fence", "close", "leave"])
@every_loop
async def test_who_goes_with_a_pin_is_not_stopped_before_it_ends(how: str, stops: Stops) -> None:
    """Law 8: who checks before each use has stopped when it is fenced *and* its pins are gone."""
    async with open_space() as (bus, space):
        events = bus.subscribe("space", Cap.IOTLB, stops=stops)
        await events.__aenter__()
        mirror = Mirror(events)
        held = map_page(space, 0)
        await apply_all(aiter(events), mirror.apply)
        pin = mirror.pin(0)
        unmap_page(space, 0)
        if how == "fence":
            assert not await space.fence(events)
        elif how == "close":
            await events.close()
        else:
            await events.__aexit__(None, None, None)
        assert events.fenced
        failed = await failing_sync(space)
        assert list(failed.missing[0].pieces) == [held]
        assert "not proven stopped" in failed.missing[0].reason
        pin.release()
        if how == "fence" and stops == "exit":
            await failing_sync(space)
            await events.close()
        await space.sync(timeout=0)


@every_loop
async def test_a_sync_waits_for_the_pins_of_who_was_fenced() -> None:
    """It does not give up at once, for its pins may end any moment; at its deadline it does."""
    async with open_space() as (bus, space):
        events = bus.subscribe("space", Cap.IOTLB)
        await events.__aenter__()
        mirror = Mirror(events)
        map_page(space, 0)
        await apply_all(aiter(events), mirror.apply)
        pin = mirror.pin(0)
        await space.fence(events)
        with pytest.raises(SyncFailed):
            await space.sync(timeout=0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(space.sync)
            await settle()
            pin.release()


@every_loop
async def test_after_the_proof_pins_count_no_longer() -> None:
    """Hardware that was stopped uses nothing, whatever its driver forgot to release."""
    async with open_space() as (bus, space):
        stopped: list[int] = []

        async def stop() -> None:
            await anyio.lowlevel.checkpoint()
            stopped.append(1)

        events = bus.subscribe("space", Cap.IOTLB, stops="exit", on_fence=stop)
        await events.__aenter__()
        mirror = Mirror(events)
        map_page(space, 0)
        event = await anext(aiter(events))
        assert isinstance(event, Map)
        mirror.apply(event)
        pin = mirror.pin(0)
        assert await space.fence(events)
        await space.sync(timeout=0)
        pin.release()
        assert stopped == [1]
