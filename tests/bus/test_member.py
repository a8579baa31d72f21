"""What the bus keeps of a subscription."""

from collections.abc import Callable

import anyio
import pytest

from iommubus import LAST, Bus, Cap, DevIotlbUnmap, Map, Unmap
from iommubus.bus.bus import NUMBERS
from iommubus.bus.member import Member, Terms
from iommubus.contract import Contract
from iommubus.errors import MayNotSubscribe, MustShare
from tests.actors import BackendError, ask, failing_sync, map_page, member_of, open_space, settle, take, unmap_page
from tests.loops import every_loop


@every_loop
async def test_names_are_made_up_from_the_space() -> None:
    async with open_space("vtd0/0") as (bus, _):
        before = next(NUMBERS)
        assert bus.subscribe("vtd0/0", Cap.IOTLB).name == f"vtd0/0#{before + 1}"
        assert bus.subscribe("vtd0/0", Cap.IOTLB, name="vfio").name == "vfio"


@every_loop
async def test_old_pieces_of_a_failed_unmap_are_kept_through_later_acknowledgements() -> None:
    """Law 7: what was not applied stays on the list while everything after it is acknowledged and forgotten."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        held = [map_page(space, page) for page in (0, 1)]
        await take(stream, 2)
        unmap_page(space, 0)
        events.fail(await anext(stream), BackendError())
        for _ in range(3):
            unmap_page(space, 1)
            await anext(stream)
            map_page(space, 1)
            await anext(stream)
        await ask(stream)
        failed = await failing_sync(space)
        assert held[0] in list(failed.missing[0].pieces)
        assert failed.missing[0].cause is not None


@every_loop
async def test_the_cause_is_forgotten_with_the_failure() -> None:
    """Law 7: a sync that fails for another reason does not name an UNMAP that was applied since."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="vfio") as events:
        stream = aiter(events)
        for page in (0, 1):
            map_page(space, page)
        await take(stream, 2)
        unmap_page(space, 0)
        events.fail(await anext(stream), BackendError())
        await ask(stream)
        failed = await failing_sync(space)
        assert failed.missing[0].cause is not None
        await anext(stream)
        await ask(stream)
        unmap_page(space, 1)
        failed = await failing_sync(space)
        assert failed.missing[0].reason == "did not acknowledge within 0.02 s"
        assert failed.missing[0].cause is None
        await settle()


@every_loop
async def test_a_failed_unmap_comes_again_before_anything_else_there() -> None:
    """Law 7: what the producer maps there later is handed over behind the UNMAP."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        map_page(space, 0)
        await anext(stream)
        unmap_page(space, 0)
        events.fail(await anext(stream), BackendError())
        map_page(space, 0)
        assert [type(event).__name__ for event in await take(stream, 2)] == ["Unmap", "Map"]
        await ask(stream)
        await space.sync()


@every_loop
async def test_what_is_unmapped_after_the_fence_is_an_old_piece_too() -> None:
    """Laws 1 and 8: who cannot be stopped may use what it had, though it had acknowledged everything until then."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, stops="exit", name="device") as device:
        stream = aiter(device)
        held = map_page(space, 0)
        await anext(stream)
        await ask(stream)
        await space.sync()
        assert not await space.fence(device)
        unmap_page(space, 0)
        for _ in range(2):
            failed = await failing_sync(space)
            assert list(failed.missing[0].pieces) == [held]
        await device.close()


@every_loop
async def test_what_was_unmapped_before_it_was_entered_is_no_old_piece_of_its() -> None:
    """I28: a subscription counts from the moment it is entered, not from when it was made."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="slow") as slow:
        late = bus.subscribe("space", Cap.IOTLB, name="late")
        map_page(space, 0)
        await anext(aiter(slow))
        unmap_page(space, 0)
        held = map_page(space, 1)
        async with late:
            await anext(aiter(late))
            unmap_page(space, 1)
            failed = await failing_sync(space)
            assert {missing.subscriber: list(missing.pieces)[-1:] for missing in failed.missing}["late"] == [held]
            assert len(list(failed.missing[1].pieces)) == 1
            assert len(list(failed.missing[0].pieces)) == 2


@every_loop
async def test_nothing_piles_up_in_a_long_life() -> None:
    """I27: neither batches that were acknowledged nor syncs that failed or were cancelled are kept."""
    for ack in ("next", "manual"):
        async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, ack=ack) as events:
            stream = events.batches()
            for page in range(20):
                map_page(space, page)
                batch = await anext(stream)
                if ack == "manual":
                    events.ack(batch)
                unmap_page(space, page)
                await failing_sync(space, timeout=0)
            member = member_of(events)
            assert len(member.hand) <= 1
            assert member.completion._waits == []  # pyright: ignore[reportPrivateUsage]


def forbid(space: str) -> None:
    """Stand in for a rule about a space."""
    if space == "secret":
        raise MayNotSubscribe("somebody", "subscribe", space, "a rule")


def enlist(bus: Bus, endpoint: str, *, watched: bool = False) -> tuple[Member, Callable[[], None]]:
    terms = Terms("remote", Cap.IOTLB, ((0, LAST),), 16, Contract(), "exit", None, watched, forbid)
    return bus.enlist(endpoint, terms)


@every_loop
async def test_who_must_not_see_a_space_is_refused_there_and_fenced_when_moved_there() -> None:
    async with open_space("secret") as (bus, secret):
        _, register = enlist(bus, "secret")
        with pytest.raises(MayNotSubscribe):
            register()
        assert secret.statistics().subscriptions == {}
        device = await bus.create_endpoint("device")
        member, register = enlist(bus, "device")
        register()
        device.attach(secret)
        assert member.fenced
        assert "secret" in member.reason
        await secret.sync()


@every_loop
async def test_a_sync_waits_for_one_that_somebody_watches() -> None:
    async with open_space() as (bus, space), anyio.create_task_group() as tasks:
        member, register = enlist(bus, "space", watched=True)
        register()
        map_page(space, 0)
        member.take()
        member.abandon("its connection was lost")
        await failing_sync(space)
        tasks.start_soon(space.sync)
        await settle()
        assert member.hopeful
        member.stop("its process is gone")
        report = await space.sync()
        assert report.outcomes == ()
        member.stop("again")
        assert member.reason == "its connection was lost"


@every_loop
async def test_a_member_tells_when_it_is_ready_and_when_it_is_waited_for() -> None:
    async with open_space() as (bus, space), anyio.create_task_group() as tasks:
        member, register = enlist(bus, "space")
        told: list[str] = []
        map_page(space, 0)
        register()
        assert member.ready
        assert not member.waited_for
        member.take()
        assert member.turned_by(member.handed)
        member.acknowledge(member.handed)
        member.tell_ready(lambda: told.append("ready"))
        member.completion.on_wait = lambda: told.append("waited for")
        unmap_page(space, 0)
        assert told == ["ready"]
        tasks.start_soon(space.sync)
        await settle()
        assert told == ["ready", "waited for"]
        waiting = [member.waited_for]
        member.take()
        member.acknowledge(member.handed)
        waiting.append(member.waited_for)
        assert waiting == [True, False]
        member.leave()


@every_loop
async def test_a_container_elsewhere_keeps_no_endpoint_from_moving() -> None:
    async with open_space() as (bus, space):
        other = await bus.create_space("other")
        first, second = await bus.create_endpoint("first"), await bus.create_endpoint("second")
        first.attach(space)
        async with bus.subscribe(("first", "second"), Cap.IOTLB) as events:
            with pytest.raises(MustShare):
                second.attach(other)
            second.displace(other)
            assert second.space is other
            assert events.fenced


@every_loop
async def test_what_a_lost_producer_had_is_taken_from_everybody() -> None:
    async with (
        open_space(offers=Cap.ALL) as (bus, space),
        bus.subscribe("space", Cap.DEVIOTLB_UNMAP) as device,
        bus.subscribe("space", Cap.IOTLB) as events,
    ):
        map_page(space, 0)
        space.take_all()
        assert [type(event) for event in await take(aiter(events), 2)] == [Map, Unmap]
        told = await anext(aiter(device))
        assert (type(told), told.first, told.last) == (DevIotlbUnmap, 0, LAST)
        map_page(space, 1)
