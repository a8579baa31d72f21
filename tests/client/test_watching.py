"""Observers at a real daemon, in virtual time: what they lose they are told of."""

from typing import Final

import anyio
import pytest

from iommubus.caps import Perm
from iommubus.client.watching import RemoteObserver, Watchers
from iommubus.errors import BadCapacity, UnknownName
from iommubus.events import Lost, Map, Observed
from iommubus.wire.messages.heard import ObservedHeard
from tests.client.rig import Rig, rigged

PAGE: Final = 0x1000


def map_of(space: str, seq: int) -> Map:
    return Map(space, seq, seq * PAGE, (seq + 1) * PAGE - 1, 0, Perm.R)


async def taken(observer: RemoteObserver, count: int) -> list[Observed]:
    return [await anext(aiter(observer)) for _ in range(count)]


@rigged
async def test_an_observer_sees_every_number_and_how_many_a_lost_connection_cost(rig: Rig) -> None:
    async with rig.serve(), rig.bus("producer") as producer, rig.bus("watcher") as watcher:
        space = await producer.create_space("space")
        async with watcher.observe("sp*") as observer:
            for page in range(3):
                space.map(page * PAGE, PAGE, 0, Perm.R)
            assert [event.seq for event in [await anext(aiter(observer)) for _ in range(3)]] == [1, 2, 3]
            list(rig.network.links)[1].cut_off()
            for page in range(3, 5):
                space.map(page * PAGE, PAGE, 0, Perm.R)
            await space.sync()
            await anyio.sleep(10)
            space.map(5 * PAGE, PAGE, 0, Perm.R)
            stream = aiter(observer)
            assert await anext(stream) == Lost("space", 5, 2)
            assert (await anext(stream)).seq == 6
            assert observer.statistics().lost == 2


@rigged
async def test_an_observer_that_cannot_be_is_refused(rig: Rig) -> None:
    async with rig.serve(), rig.bus() as bus:
        with pytest.raises(BadCapacity):
            bus.observe(capacity=0)
        with pytest.raises(UnknownName):
            async with bus.observe("space"):
                raise AssertionError("it is observed")
        assert not bus._watchers._observers  # pyright: ignore[reportPrivateUsage]


@rigged
async def test_the_stream_ends_with_the_bus_and_nothing_is_left_of_it(rig: Rig) -> None:
    async with rig.serve() as daemon, rig.bus() as bus:
        async with bus.observe():
            assert len(daemon.bus.statistics().observers) == 1
        await bus.create_space("space")
        assert daemon.bus.statistics().observers == ()
        async with bus.observe() as observer:
            await bus.close()
            assert [event async for event in observer] == []


@pytest.mark.asyncio
async def test_what_is_missing_is_counted_space_by_space() -> None:
    observer = RemoteObserver(("*",), 8, lambda: None, Watchers())
    observer._detach = lambda: None  # pyright: ignore[reportPrivateUsage]

    def see(*events: Observed) -> None:
        observer.take(ObservedHeard(1, list(events)))

    see(map_of("a", 3), map_of("b", 9), map_of("c", 2), map_of("d", 4))
    await taken(observer, 4)
    observer.lost()
    see(map_of("a", 4), map_of("b", 1), Lost("c", 7, 3), map_of("d", 2), map_of("e", 5))
    observer.lost()
    observer.take(ObservedHeard(1, [], end=True))
    assert [event async for event in observer] == [
        map_of("a", 4),
        map_of("b", 1),  # another space of the name
        Lost("c", 7, 5),
        Lost("d", 1, 1),
        map_of("d", 2),
        map_of("e", 5),  # how many it had before is not known
    ]
