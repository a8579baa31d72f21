"""Subscriptions of a client at a real daemon, in virtual time."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import pytest

from iommubus.caps import Cap, Perm
from iommubus.client.remote import RemoteBus
from iommubus.client.spaces import RemoteSpace
from iommubus.consumers.iotlb import Iotlb
from iommubus.consumers.mirror import Mirror
from iommubus.errors import Fenced, LeaseRunOut, NotMapped, SyncFailed, Unreachable
from iommubus.events import Event, Unmap
from iommubus.mapping import Mapping
from iommubus.service.settings.config import Leases
from tests.client.rig import Rig, rigged

PAGE: Final = 0x1000
SECONDS: Final = 4.0
"""Of a lease."""


@asynccontextmanager
async def both(rig: Rig) -> AsyncGenerator[tuple[RemoteSpace, RemoteBus]]:
    """Give a space of one client, and the bus of another."""
    async with (
        rig.serve(leases=Leases(seconds=SECONDS)),
        rig.bus("producer") as producer,
        rig.bus("consumer") as consumer,
    ):
        yield await producer.create_space("space", last=2**32 - 1), consumer


def map_pages(space: RemoteSpace, *pages: int) -> list[Mapping]:
    for page in pages:
        space.map(page * PAGE, PAGE, page * PAGE, Perm.RW)
    return [Mapping(page * PAGE, (page + 1) * PAGE - 1, page * PAGE, Perm.RW) for page in pages]


@asynccontextmanager
async def following(bus: RemoteBus, **options: Any) -> AsyncGenerator[tuple[Any, Mirror]]:
    """Give a subscription that a copy follows, which is current."""
    async with bus.subscribe("space", Cap.IOTLB, **options) as subscription, anyio.create_task_group() as tasks:
        mirror = Mirror(subscription)
        tasks.start_soon(mirror.run)
        await subscription.wait_current()
        yield subscription, mirror
        tasks.cancel_scope.cancel()


@rigged
async def test_a_copy_is_equal_after_each_lost_connection(rig: Rig) -> None:
    """Laws 1 and 4: whatever happened meanwhile."""
    async with both(rig) as (space, bus), following(bus) as (_, mirror):
        held = map_pages(space, 1, 2)
        for page in (5, 6, 7):
            await space.sync()
            assert list(mirror) == held
            rig.cut()
            held += map_pages(space, page)
            space.unmap(held.pop(0).first, PAGE)
        await space.sync(SECONDS)
        assert list(mirror) == held


@rigged
async def test_everything_is_dropped_before_the_lease_ends(rig: Rig) -> None:
    """Law 8: a daemon that is not heard of any more takes it after the lease that nothing is in use."""
    async with both(rig) as (space, bus), following(bus) as (subscription, mirror):
        map_pages(space, 1)
        await space.sync()
        begin = rig.loop.time()
        rig.network.stop_listening("unix:/daemon")
        list(rig.network.links)[1].stall(10 * SECONDS)
        while list(mirror):
            subscription.check_use()
            await anyio.sleep(0.1)
        assert rig.loop.time() < begin + SECONDS
        await anyio.sleep(SECONDS)
        assert subscription.fenced
        with pytest.raises(LeaseRunOut):
            mirror.lookup(PAGE)
        space.unmap(PAGE, PAGE)
        await space.sync(SECONDS)


@rigged
async def test_a_sync_waits_for_a_lost_consumer_until_its_lease_has_run_out(rig: Rig) -> None:
    async with both(rig) as (space, bus), bus.subscribe("space", Cap.IOTLB, name="slow") as subscription:
        map_pages(space, 1)
        event = await anext(aiter(subscription))
        list(rig.network.links)[1].cut_off()
        space.unmap(PAGE, PAGE)
        with pytest.raises(SyncFailed, match="slow"):
            await space.sync(SECONDS / 4)
        while not subscription.fenced:
            subscription.check_use()
            await anyio.sleep(0.01)
        with pytest.raises(LeaseRunOut):
            subscription.check_use()
        await space.sync(SECONDS)
        assert event.first == PAGE


@rigged
async def test_a_cache_is_empty_after_a_lost_connection(rig: Rig) -> None:
    async with both(rig) as (space, bus), bus.subscribe("space", Cap.UNMAP) as subscription:
        iotlb = Iotlb(subscription)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iotlb.run)
            held = map_pages(space, 1)
            await space.sync()
            assert await iotlb.translate(PAGE) == held[0]
            list(rig.network.links)[1].cut_off()
            while len(iotlb):  # noqa: ASYNC110 - virtual time
                await anyio.sleep(0.001)
            with pytest.raises(Unreachable):
                await subscription.translate(PAGE)
            space.unmap(PAGE, PAGE)
            await space.sync(SECONDS)
            assert len(iotlb) == 0
            await subscription.wait_current()
            with pytest.raises(NotMapped):
                await iotlb.translate(PAGE)
            tasks.cancel_scope.cancel()


@rigged
async def test_who_is_registered_while_the_daemon_is_away_waits_for_it(rig: Rig) -> None:
    async with both(rig) as (space, bus):
        held = map_pages(space, 1)
        await space.sync()
        rig.cut()
        async with following(bus, name="late") as (subscription, mirror):
            assert (subscription.name, list(mirror)) == ("late", held)


@rigged
async def test_names_stay_across_connections(rig: Rig) -> None:
    async with both(rig) as (space, bus), following(bus) as (subscription, mirror):
        name = subscription.name
        rig.cut()
        map_pages(space, 1)
        report = await space.sync(SECONDS)
        assert [outcome.subscriber for outcome in report.outcomes] == [name]
        assert len(list(mirror)) == 1


async def fenced_in_its_block(subscription: Any, space: RemoteSpace) -> None:
    async with subscription:
        async for _ in subscription:
            assert await space.fence(subscription.name)


@rigged
async def test_a_fence_is_final(rig: Rig) -> None:
    async with both(rig) as (space, bus):
        subscription = bus.subscribe("space", Cap.IOTLB, name="mirror")
        map_pages(space, 1)
        with pytest.raises(Fenced, match="the producer fenced it"):
            await fenced_in_its_block(subscription, space)
        rig.cut()
        space.unmap(PAGE, PAGE)
        await space.sync(SECONDS)
        assert subscription.fenced


@rigged
async def test_acknowledgements_of_a_consumer_precede_the_sync_of_the_same_client(rig: Rig) -> None:
    """So it need not be asked for them."""
    async with rig.serve(), rig.bus() as bus:
        space = await bus.create_space("space")
        async with bus.subscribe("space", Cap.IOTLB) as subscription:
            stream = aiter(subscription)
            space.map(0, PAGE, 0, Perm.R)
            seen: list[Event] = [await anext(stream)]
            space.unmap(0, PAGE)
            seen.append(await anext(stream))
            with anyio.move_on_after(0.1):
                await anext(stream)
            await space.sync()
            assert seen[1] == Unmap("space", 2, 0, PAGE - 1)


@rigged
async def test_nothing_is_left_of_subscriptions_that_are_over(rig: Rig) -> None:
    """I27: neither of those that left, however they did, nor of those that were interrupted."""
    async with both(rig) as (space, bus):
        map_pages(space, 1)
        for cut in (False, True):
            for crash in (False, True):
                with suppress(ZeroDivisionError):
                    async with bus.subscribe("space", Cap.IOTLB) as subscription:
                        await anext(aiter(subscription))
                        if cut:
                            rig.cut()
                        assert 1 // (not crash)
            with anyio.move_on_after(0.001):
                async with bus.subscribe("space", Cap.IOTLB):
                    await anyio.sleep(1)
        await space.sync(SECONDS)
        await anyio.sleep(SECONDS)
        assert not bus._seats._seats  # pyright: ignore[reportPrivateUsage]
        assert not bus._seats._numbers  # pyright: ignore[reportPrivateUsage]
        assert rig.daemon is not None
        assert not rig.daemon.proof.names
