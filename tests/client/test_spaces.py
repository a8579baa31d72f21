"""Spaces and endpoints of a bus in a daemon: own ones and those of others."""

# pyright: reportPrivateUsage=false

import asyncio
from collections.abc import Callable

import pytest

from iommubus import AddressSpace, Cap, IovaRange, Mapping, Perm, SyncFailed
from iommubus.client.spaces import ForeignSpace, RemoteSpace
from iommubus.errors import (
    Disconnected,
    MustShare,
    NameTaken,
    NotProducer,
    SpaceClosed,
    UnknownName,
)
from tests.client.rig import Rig, rigged
from tests.client.scripted import until

PAGE = 0x1000
GRACE = 30.0

PUBLISHING: dict[str, Callable[[AddressSpace], object]] = {
    "map": lambda space: space.map(0, PAGE, 0, Perm.R),
    "unmap": lambda space: space.unmap(0, PAGE),
    "unmap_all": lambda space: space.unmap_all(),
    "remap": lambda space: space.remap(0, PAGE, 0, Perm.R),
    "apply": lambda space: space.apply([IovaRange(0, PAGE - 1)]),
    "invalidate_device": lambda space: space.invalidate_device(0, PAGE),
}


@rigged
async def test_a_space_of_another_can_be_waited_for_and_not_changed(rig: Rig) -> None:
    async with rig.serve(), rig.bus("qemu") as bus, rig.bus("tool") as other:
        space = await bus.create_space("vtd0")
        foreign = await other.wait_space("vtd0")
        assert isinstance(foreign, ForeignSpace)
        assert (foreign.name, foreign.offers, foreign.statistics().mappings) == ("vtd0", Cap.IOTLB, 0)
        for call in PUBLISHING.values():
            with pytest.raises(NotProducer, match="vtd0"):
                call(foreign)
        with pytest.raises(NotProducer):
            await foreign.close()
        endpoint = await other.create_endpoint("device")
        with pytest.raises(NotProducer):
            endpoint.attach(foreign)

        async with bus.subscribe("vtd0", Cap.UNMAP, ack="manual", name="slow") as events:
            space.map(0, PAGE, 0x8000, Perm.R)
            space.unmap(0, PAGE)
            batch = await anext(events.batches())
            for waiting in (foreign.sync(0.1), other.sync("vtd0", timeout=0.1)):
                with pytest.raises(SyncFailed, match="slow on vtd0"):
                    await waiting
            await foreign.drain()
            events.ack(batch)
            assert [one.subscriber for one in (await foreign.sync()).outcomes] == ["slow"]
            assert await foreign.fence("slow")
            await until(lambda: events.fenced)
            with pytest.raises(UnknownName):
                await foreign.fence("nobody")


@rigged
async def test_the_list_of_spaces_follows_what_is_made_and_closed(rig: Rig) -> None:
    async with rig.serve(), rig.bus("qemu") as bus:
        first = await bus.create_space("a")
        async with rig.bus("tool") as other:
            own = await other.create_space("b")
            waiting = asyncio.create_task(other.wait_space("c"))
            await bus.create_space("c")
            foreign = await waiting
            assert [space.name for space in other.spaces()] == ["a", "b", "c"]
            assert other.spaces()[1:] == (own, foreign)
            await first.close()
            await until(lambda: len(other.spaces()) == 2)
            again = await bus.create_space("a")
            await until(lambda: len(other.spaces()) == 3)
            assert isinstance(again, RemoteSpace)
            await own.close()
            assert [space.name for space in other.spaces()] == ["c", "a"]
            assert set(other.statistics().spaces) == {"c", "a"}


@rigged
async def test_the_list_is_had_again_after_a_lost_connection(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        async with rig.bus("qemu") as other:
            await other.create_space("gone")
            await other.create_space("stays")
            stays = await bus.wait_space("stays")
            await first.aclose()
            assert len(bus.spaces()) == 2
        async with rig.serve(), rig.bus("qemu") as other:
            await other.create_space("stays")
            await until(lambda: [space.name for space in bus.spaces()] == ["stays"])
            assert bus.spaces()[0] is not stays


# -- making and closing ------------------------------------------------------------------


@rigged
async def test_nothing_is_made_while_the_daemon_is_away(rig: Rig) -> None:
    async with rig.bus_outliving() as (bus, first):
        await first.aclose()
        await until(lambda: bus._keeper.channel is None)
        for make in (bus.create_space, bus.create_endpoint):
            with pytest.raises(Disconnected):
                await make("vtd0")
        with pytest.raises(Disconnected):
            await bus.add_memory("ram", PAGE)
        async with rig.serve():
            await until(lambda: bus._keeper.channel)
            await bus.create_space("vtd0")


@rigged
async def test_what_another_client_has_is_taken(rig: Rig) -> None:
    async with rig.serve(), rig.bus("one") as one, rig.bus("two") as two:
        await one.create_space("vtd0")
        await one.create_endpoint("device")
        for name in ("vtd0", "device"):
            with pytest.raises(NameTaken, match=name):
                await two.create_space(name)
            with pytest.raises(NameTaken, match=name):
                await two.create_endpoint(name)
        assert two._links == {}
        assert two._own.spaces() == ()


@rigged
async def test_making_that_is_cancelled_is_undone(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        for name, make in (("vtd0", bus.create_space), ("device", bus.create_endpoint)):
            task = asyncio.create_task(make(name))
            await until(lambda: bus._keeper.channel is not None and bus._keeper.channel._asked)
            task.cancel()
            await asyncio.sleep(1)
            assert name not in daemon.spaces.open
            assert name not in daemon.spaces.endpoints
            await make(name)
        memory = asyncio.create_task(bus.add_memory("ram", PAGE))
        await until(lambda: bus._keeper.channel is not None and bus._keeper.channel._asked)
        memory.cancel()
        await asyncio.sleep(1)
        assert (await bus.add_memory("ram", PAGE)).generation == 2


@rigged
async def test_a_space_closed_while_the_daemon_is_away_is_closed_there_too(rig: Rig) -> None:
    async with rig.serve(producer_grace=GRACE) as daemon, rig.bus() as bus:
        space = await bus.create_space("vtd0")
        space.map(0, PAGE, 0, Perm.R)
        await space.sync()
        rig.cut()
        await until(lambda: space.link.channel is None)
        await space.close()
        with pytest.raises(SpaceClosed):
            space.map(0, PAGE, 0, Perm.R)
        with pytest.raises(Disconnected):
            await bus.create_space("vtd0")
        await space.sync(30)
        assert "vtd0" not in daemon.spaces.open
        await until(lambda: space.link.gone)
        await bus.create_space("vtd0")
        await space.sync()


@rigged
async def test_a_name_is_free_at_once_when_its_space_is_closed(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus:
        for _ in range(3):
            space = await bus.create_space("vtd0")
            closing = asyncio.create_task(space.close())
            await asyncio.sleep(0)
            await bus.create_space("other")
            await closing
            await bus._own.spaces()[0].close()
        assert bus._links == {}


# -- endpoints ---------------------------------------------------------------------------


@rigged
async def test_endpoints_are_where_they_were_put_while_the_daemon_was_away(rig: Rig) -> None:
    async with rig.serve(producer_grace=GRACE) as daemon, rig.bus() as bus:
        old, new = await bus.create_space("old"), await bus.create_space("new")
        moved, left, closed = [await bus.create_endpoint(name) for name in ("moved", "left", "closed")]
        for endpoint in (moved, left, closed):
            endpoint.attach(old)
        await bus.sync()
        rig.cut()
        await until(lambda: old.link.channel is None)
        moved.attach(new)
        left.detach()
        await bus.sync(timeout=30)

        def places() -> dict[str, str | None]:
            held = daemon.spaces.endpoints
            return {name: None if (at := held[name].endpoint.space) is None else at.name for name in held}

        assert places() == {"moved": "new", "left": None, "closed": "old"}
        await closed.close()
        await until(lambda: set(places()) == {"moved", "left"})
        assert repr(moved).startswith("<<endpoint moved, in new")


@rigged
async def test_a_container_of_this_client_keeps_its_endpoints_together(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus:
        old, new = await bus.create_space("old"), await bus.create_space("new")
        one, two = await bus.create_endpoint("one"), await bus.create_endpoint("two")
        async with bus.subscribe(("one", "two"), Cap.IOTLB, name="group"):
            one.attach(old)
            with pytest.raises(MustShare, match="group"):
                two.attach(new)
            assert two.space is None
            two.attach(old)
        two.attach(new)
        one.detach()
        async with bus.subscribe(("one", "new"), Cap.IOTLB), bus.subscribe("two", Cap.IOTLB):
            with pytest.raises(MustShare):
                one.attach(old)
            one.attach(new)


# -- what the daemon asks ----------------------------------------------------------------


@rigged
async def test_a_demand_is_told_once_whatever_becomes_of_the_connection(rig: Rig) -> None:
    told: list[tuple[Cap, Cap]] = []
    async with rig.serve(producer_grace=GRACE), rig.bus("qemu") as bus, rig.bus("vhost") as other:
        space = await bus.create_space("vtd0", demand_changed=lambda old, new: told.append((old, new)))
        async with other.subscribe("vtd0", Cap.UNMAP):
            await until(lambda: told)
            assert space.statistics().demand == Cap.UNMAP
            rig.sessions[0]._transport.abort()  # type: ignore[union-attr]
            await until(lambda: space.link.channel is None)
            await space.sync(30)
        await until(lambda: len(told) == 2)
        async with other.subscribe("vtd0", Cap.UNMAP):
            await until(lambda: len(told) == 3)
            rig.sessions[0]._transport = None
            rig.sessions[-1]._transport.abort()  # type: ignore[union-attr]
            await until(lambda: space.link.channel is None)
        await space.sync(30)
        await until(lambda: len(told) == 4)
    assert told == [(Cap(0), Cap.UNMAP), (Cap.UNMAP, Cap(0))] * 2


@rigged
async def test_a_miss_is_answered_by_its_producer(rig: Rig) -> None:
    asked: list[int] = []
    gate = asyncio.Event()

    async def translate(iova: int, _: Perm) -> Mapping:
        asked.append(iova)
        await gate.wait()
        return Mapping(iova, iova + PAGE - 1, 0x8000, Perm.R)

    async with rig.serve(producer_grace=GRACE), rig.bus("qemu") as bus, rig.bus("vhost") as other:
        await bus.create_space("vtd0", offers=Cap.UNMAP, translate=translate)
        async with other.subscribe("vtd0", Cap.UNMAP) as events:
            gone = asyncio.create_task(events.translate(0))
            await until(lambda: asked == [0])
            gone.cancel()
            await until(lambda: not bus._asked)
            gate.set()
            answer = await events.translate(PAGE)
            assert answer.mapping == Mapping(PAGE, 2 * PAGE - 1, 0x8000, Perm.R)
    assert asked == [0, PAGE]
