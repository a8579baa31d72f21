"""What is published on its way to a daemon: in a virtual loop, over links that are cut."""

# pyright: reportPrivateUsage=false

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from iommubus import LAST, Cap, IovaRange, Mapping, Perm, SyncFailed
from iommubus.bus.reports import MapFailure, Missing
from iommubus.client.link import DAEMON, LINK_WINDOW
from iommubus.client.spaces import RemoteSpace
from iommubus.errors import LimitReached, NameTaken
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Limits
from iommubus.wire.messages import Message
from iommubus.wire.messages.heard import PublishHeard
from iommubus.wire.messages.publishing import BeginResume, EndResume, Publish
from iommubus.wire.messages.syncing import Sync
from tests.client.rig import Rig, rigged
from tests.client.scripted import until

PAGE = 0x1000
GRACE = 30.0


def held(daemon: Daemon, name: str = "vtd0") -> list[Mapping]:
    """Return what the daemon's table has."""
    return daemon.spaces.open[name].space.walk(0, LAST, 1 << 20)


def own(space: RemoteSpace) -> list[Mapping]:
    """Return what the client's table has."""
    return space.walk(0, LAST, 1 << 20)


def overhear(rig: Rig, number: int = -1) -> list[Message]:
    """Return a list that fills with what the daemon hears on a connection."""
    heard: list[Message] = []
    session = rig.sessions[number]

    def hear(handler: Callable[[Any], None], message: Message) -> None:
        heard.append(message)
        handler(message)

    for kind, handler in list(session._handlers.items()):
        session._handlers[kind] = partial(hear, handler)
    return heard


def missing_of(failed: SyncFailed) -> Missing:
    (entry,) = failed.missing
    assert isinstance(entry, Missing)
    return entry


def change(space: RemoteSpace, dice: Random, pages: int = 64) -> None:
    """Map a page, or unmap it if it is mapped."""
    page = dice.randrange(pages)
    if space.lookup(page * PAGE) is None:
        space.map(page * PAGE, PAGE, dice.randrange(1 << 20) * PAGE, Perm.RW)
    else:
        space.unmap(page * PAGE, PAGE)


@rigged
async def test_what_is_published_arrives(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0", last=2**40 - 1, straddle="split", reserved=(IovaRange(0, 0xFFF),))
        heard = overhear(rig)
        space.map(0x1000, 0x4000, 0x8000, Perm.RW)
        space.unmap(0x2000, 0x1000)
        space.apply([Mapping(0x10_0000, 0x1F_FFFF, 0, Perm.R), IovaRange(0x1000, 0x1FFF)])
        await space.sync()

        assert held(daemon) == own(space) != []
        assert [type(message) for message in heard if not isinstance(message, Sync)][:1] == [PublishHeard]
        assert daemon.spaces.open["vtd0"].space.shape == space.shape


@rigged
async def test_events_of_one_turn_are_one_message(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0")
        heard = overhear(rig)
        for page in range(100):
            space.map(page * PAGE, PAGE, page * PAGE, Perm.R)
        await until(lambda: len(held(daemon)) == 100)

        assert [len(message.events) for message in heard if isinstance(message, PublishHeard)] == [100]


@rigged
async def test_a_daemon_that_takes_nothing_in_is_told_no_more_than_a_window(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0", last=2**40 - 1)
        channel = space.link.channel
        assert channel is not None
        sent = 0
        send = channel.send

        def counted(message: Any) -> int:
            nonlocal sent
            size = send(message)
            sent += size * isinstance(message, Publish)
            return size

        vars(channel)["send"] = counted
        assert channel._transport is not None
        channel._transport.set_write_buffer_limits(high=1 << 30)
        next(iter(rig.network.links)).stall(0.2)
        for page in range(60_000):
            space.map(page * PAGE, PAGE, page * PAGE, Perm.R)
            if page % 500 == 0:
                await asyncio.sleep(0)
        assert LINK_WINDOW <= sent <= LINK_WINDOW + 200_000
        assert space.link.member.mailbox.lag <= 4096 + 10
        await space.sync()
        assert len(held(daemon)) == 60_000
        assert not space.link._said


@rigged
async def test_a_connection_that_comes_back_within_the_grace_disturbs_nothing(rig: Rig) -> None:
    async with rig.serve(producer_grace=GRACE) as daemon, rig.bus("qemu") as bus, rig.bus("vfio") as other:
        space = await bus.create_space("vtd0", last=2**32 - 1)
        for page in range(3000):
            space.map(page * PAGE, PAGE, page * PAGE, Perm.RW)
        await space.sync()
        seen: list[Any] = []
        async with other.subscribe("vtd0", Cap.IOTLB) as events, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(events, seen))
            await until(lambda: len(seen) == 3000)
            del seen[:]
            rig.sessions[0]._transport.abort()  # type: ignore[union-attr]
            await until(lambda: space.link.channel is None)
            space.unmap(5 * PAGE, PAGE)  # while nobody hears it
            space.remap(7 * PAGE, PAGE, 0x5000_0000, Perm.R)
            space.map(1 << 28, PAGE, 0, Perm.R)
            await until(lambda: space.link.channel)
            space.unmap(9 * PAGE, PAGE)  # while it is resumed
            space.unmap(2999 * PAGE, PAGE)
            space.map(2999 * PAGE, PAGE, 0x6000_0000, Perm.R)
            await space.sync()
            assert held(daemon) == own(space)
            await until(lambda: len(seen) == 7)
            following.cancel()
        touched = {(event.first, event.last) for event in seen}
        assert touched == {(at, at + PAGE - 1) for at in (5 * PAGE, 7 * PAGE, 9 * PAGE, 2999 * PAGE, 1 << 28)}


@rigged
async def test_of_a_pull_space_everything_is_to_be_forgotten_after_a_loss(rig: Rig) -> None:
    async def answer(iova: int, _: Perm) -> Mapping | None:
        return Mapping(iova, iova + PAGE - 1, iova, Perm.R)

    async with rig.serve(producer_grace=GRACE), rig.bus("qemu") as bus, rig.bus("vhost") as other:
        space = await bus.create_space("vtd0", last=2**32 - 1, offers=Cap.UNMAP, translate=answer)
        space.unmap(PAGE, PAGE)
        await space.sync()
        seen: list[Any] = []
        async with other.subscribe("vtd0", Cap.UNMAP) as events, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(events, seen))
            rig.sessions[0]._transport.abort()  # type: ignore[union-attr]
            await until(lambda: space.link.channel is None)
            await space.sync()
            following.cancel()
        assert [(event.first, event.last) for event in seen] == [(0, 2**32 - 1)]


async def follow(events: Any, seen: list[Any]) -> None:
    async for event in events:
        seen.append(event)  # noqa: PERF401 - it has no end


def step(rig: Rig, space: RemoteSpace, dice: Random) -> None:
    """Do something to a space, or to its connection."""
    chance = dice.randrange(12)
    if chance == 0:
        rig.cut()
    elif chance == 1 and space.offers & Cap.DEVIOTLB_UNMAP:
        space.invalidate_device(0, PAGE)
    elif space.offers & Cap.MAP:
        change(space, dice)
    else:
        space.unmap(dice.randrange(64) * PAGE, PAGE)


@pytest.mark.parametrize("grace", [0.0, GRACE])
@pytest.mark.parametrize("offers", [Cap.IOTLB, Cap.ALL, Cap.UNMAP, Cap.UNMAP | Cap.DEVIOTLB_UNMAP])
def test_however_often_it_is_lost_both_tables_end_equal(grace: float, offers: Cap) -> None:
    @rigged
    async def case(rig: Rig) -> None:
        dice = Random(f"{grace} {offers}")  # noqa: S311
        async with rig.serve(producer_grace=grace) as daemon, rig.bus() as bus:
            space = await bus.create_space("vtd0", offers=offers)
            for number in range(200):
                step(rig, space, dice)
                if number % 20 == 19:
                    await space.sync(60)
                    assert held(daemon) == own(space)
                elif number % 3 == 0:
                    await asyncio.sleep(dice.random() * 0.1)

    case()


@rigged
async def test_a_producer_follows_a_daemon_that_is_started_anew(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0", last=2**32 - 1)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(space)
        for page in range(10):
            space.map(page * PAGE, PAGE, page * PAGE, Perm.RW)
        await space.sync()
        await first.aclose()
        space.unmap(0, PAGE)
        async with rig.serve() as daemon:
            report = await space.sync(60)
            assert report.outcomes == ()
            assert held(daemon) == own(space)
            assert daemon.spaces.endpoints["device"].endpoint.space is daemon.spaces.open["vtd0"].space


# -- syncs over lost connections ---------------------------------------------------------


@rigged
async def test_a_sync_fails_at_its_deadline_while_the_daemon_is_away(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0", last=2**32 - 1)
        space.map(0, PAGE, 0x8000, Perm.RW)
        space.map(PAGE, PAGE, 0xA000, Perm.RW)
        space.unmap(PAGE, PAGE)
        await space.sync()
        await first.aclose()
        space.unmap(0, PAGE)
        for _ in range(2):
            start = rig.loop.time()
            with pytest.raises(SyncFailed, match="the daemon on vtd0 is not connected: ") as caught:
                await space.sync(2)
            assert rig.loop.time() - start == pytest.approx(2)
            entry = missing_of(caught.value)
            assert (entry.subscriber, entry.space) == (DAEMON, "vtd0")
            assert list(entry.pieces) == [Mapping(0, PAGE - 1, 0x8000, Perm.RW)]
        assert space.statistics().failed_syncs == 2
        async with rig.serve():
            await space.sync(60)
        with pytest.raises(SyncFailed) as caught:
            await space.sync(1)
        assert not list(missing_of(caught.value).pieces)


@rigged
async def test_what_a_sync_that_failed_named_is_remembered_when_the_daemon_is_away(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0")
        space.map(0, PAGE, 0x8000, Perm.R)
        async with bus.subscribe("vtd0", Cap.IOTLB, ack="manual", name="slow") as events:
            events.ack(await anext(events.batches()))
            space.unmap(0, PAGE)
            with pytest.raises(SyncFailed, match="slow on vtd0"):
                await space.sync(0.1)
            await first.aclose()
            with pytest.raises(SyncFailed) as caught:
                await space.sync(1)
        assert list(missing_of(caught.value).pieces) == [Mapping(0, PAGE - 1, 0x8000, Perm.R)]


@rigged
async def test_what_is_unmapped_while_the_daemon_is_away_is_named(rig: Rig) -> None:
    """Law 1: who was given it before may use it for as long as its lease lasts."""
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0", last=2**32 - 1)
        for page in range(4):
            space.map(page * PAGE, PAGE, 0x8000 + page * PAGE, Perm.RW)
        space.unmap(0, PAGE)
        await space.sync()
        await first.aclose()
        with pytest.raises(SyncFailed) as caught:
            await space.sync(2)
        assert not list(missing_of(caught.value).pieces)
        for page in (1, 2):
            space.unmap(page * PAGE, PAGE)
            with pytest.raises(SyncFailed) as caught:
                await space.sync(2)
            gone = [Mapping(at * PAGE, at * PAGE + PAGE - 1, 0x8000 + at * PAGE, Perm.RW) for at in range(1, page + 1)]
            assert list(missing_of(caught.value).pieces) == gone
        async with rig.serve():
            await space.sync(60)
            space.unmap(3 * PAGE, PAGE)
            await space.sync()
        with pytest.raises(SyncFailed) as caught:
            await space.sync(1)
        assert not list(missing_of(caught.value).pieces)


@rigged
async def test_a_sync_whose_connection_breaks_is_asked_again(rig: Rig) -> None:
    async with rig.serve(producer_grace=GRACE), rig.bus() as bus, rig.bus("vfio") as other:
        space = await bus.create_space("vtd0")
        async with other.subscribe("vtd0", Cap.UNMAP, ack="manual", name="slow") as events:
            batches = events.batches()
            space.map(0, PAGE, 0, Perm.R)
            space.unmap(0, PAGE)
            batch = await anext(batches)
            waiting = asyncio.create_task(space.sync(60))
            await asyncio.sleep(1)
            rig.sessions[0]._transport.abort()  # type: ignore[union-attr]
            await asyncio.sleep(5)
            assert not waiting.done()
            events.ack(batch)
            report = await waiting
            assert [outcome.subscriber for outcome in report.outcomes] == ["slow"]


@rigged
async def test_a_sync_counts_from_before_the_connection_was_lost(rig: Rig) -> None:
    """Law 1: what was removed before a `sync` is out of use after it, whatever became of the connection meanwhile."""
    async with rig.serve(producer_grace=GRACE), rig.bus() as bus, rig.bus("vfio") as other:
        space = await bus.create_space("vtd0")
        space.map(0, PAGE, 0x8000, Perm.R)
        await space.sync()
        async with other.subscribe("vtd0", Cap.IOTLB, ack="manual", name="slow") as events:
            batches = events.batches()
            events.ack(await anext(batches))
            rig.sessions[0]._transport.abort()  # type: ignore[union-attr]
            space.unmap(0, PAGE)
            with pytest.raises(SyncFailed) as caught:
                await space.sync(20)
            entry = missing_of(caught.value)
            assert entry.subscriber == "slow"
            assert list(entry.pieces) == [Mapping(0, PAGE - 1, 0x8000, Perm.R)]
            events.ack(await anext(batches))
            await space.sync()


@rigged
async def test_a_sync_is_not_held_up_by_who_goes_on_publishing(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus:
        space = await bus.create_space("vtd0")
        dice = Random(5)  # noqa: S311

        async def storm() -> None:
            while True:
                for _ in range(50):
                    change(space, dice)
                await asyncio.sleep(0.0001)

        publishing = asyncio.create_task(storm())
        for _ in range(5):
            await space.sync(5)
        publishing.cancel()


@rigged
async def test_a_sync_that_is_cancelled_leaves_nothing(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus, rig.bus("vfio") as other:
        space = await bus.create_space("vtd0")
        async with other.subscribe("vtd0", Cap.UNMAP, ack="manual"):
            space.map(0, PAGE, 0, Perm.R)
            space.unmap(0, PAGE)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await space.sync(100)
            await asyncio.sleep(1)
            assert space.link._waiting == []
            assert space.link.channel is not None
            assert not space.link.channel._asked
            assert len(rig.sessions[0]._running) == 0


# -- what the daemon cannot do -----------------------------------------------------------


@rigged
async def test_what_the_daemon_cannot_map_is_raised_once(rig: Rig) -> None:
    async with rig.serve(limits=Limits(mappings=2)) as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0")
        for page in range(3):
            space.map(page * PAGE, PAGE, 0, Perm.R)
        with pytest.raises(SyncFailed) as caught:
            await space.sync()
        (failure,) = caught.value.failures
        assert isinstance(failure, MapFailure)
        assert (failure.subscriber, failure.space, failure.first, failure.last) == (
            DAEMON,
            "vtd0",
            2 * PAGE,
            3 * PAGE - 1,
        )
        assert isinstance(failure.cause, LimitReached)
        assert caught.value.missing == []
        await space.sync()
        assert len(held(daemon)) == 2


@rigged
async def test_a_space_that_others_took_meanwhile_is_an_error_until_it_is_free(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        space = await bus.create_space("vtd0")
        space.map(0, PAGE, 0, Perm.R)
        await space.sync()
        bus._keeper._failed = 16  # so that the other is quicker
        await first.aclose()
        async with rig.serve() as daemon:
            async with rig.bus("thief") as thief:
                await thief.create_space("vtd0")
                await until(lambda: len(rig.sessions) == 2)
                for _ in range(2):
                    with pytest.raises(SyncFailed, match="the daemon on vtd0 does not take it") as caught:
                        await space.sync(60)
                    assert isinstance(missing_of(caught.value).cause, NameTaken)
            await until(lambda: "vtd0" not in daemon.spaces.open)
            await space.sync(60)
            assert held(daemon) == own(space)


@rigged
async def test_more_changes_than_can_be_remembered_are_said_anew(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus, rig.bus("vfio") as other:
        space = await bus.create_space("vtd0")
        for page in range(0, 6000, 2):
            space.map(page * PAGE, PAGE, page * PAGE, Perm.R)
        await space.sync()
        heard = overhear(rig, 0)
        seen: list[Any] = []
        async with other.subscribe("vtd0", Cap.IOTLB) as events, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(events, seen))
            await until(lambda: len(seen) == 3000)
            del seen[:]
            space.link.member.mailbox._limit = 3
            space.unmap(0, PAGE)
            for page in range(1, 12_000, 2):  # more than the FIFO takes
                space.map(page * PAGE, PAGE, page * PAGE, Perm.W)
            await space.sync()
            assert [type(one) for one in heard if isinstance(one, BeginResume | EndResume)] == [BeginResume, EndResume]
            assert held(daemon) == own(space)
            await until(lambda: len(seen) == 6001)
            following.cancel()
        assert {event.first // PAGE % 2 for event in seen if event.first} == {1}
