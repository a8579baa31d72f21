"""Observers see all that matches, delay nobody, and are told what they lost."""

import anyio
import pytest

from iommubus import Bus, Cap, Lost, Map, Observed, Unmap
from iommubus.errors import AlreadyIterated, NotEntered
from tests.actors import ask, map_page, open_space, settle, take, unmap_page
from tests.loops import every_loop


@every_loop
async def test_it_sees_every_kind_of_every_space_that_matches() -> None:
    """Names and globs; spaces that are there and spaces that come."""
    async with Bus() as bus:
        first = await bus.create_space("vtd0/a", offers=Cap.ALL)
        other = await bus.create_space("smmu/a")
        async with bus.observe("vtd0/*", "smmu/b*") as observer:
            late = await bus.create_space("smmu/b1")
            map_page(await bus.create_space("smmu/c1"), 0)
            map_page(first, 0)
            map_page(other, 0)
            map_page(late, 0)
            unmap_page(first, 0)
            first.invalidate_device(0, 0x1000)
            seen = await take(aiter(observer), 4)
            assert [(event.space, event.seq, type(event).__name__) for event in seen] == [
                ("vtd0/a", 1, "Map"),
                ("smmu/b1", 1, "Map"),
                ("vtd0/a", 2, "Unmap"),
                ("vtd0/a", 3, "DevIotlbUnmap"),
            ]
            assert observer.statistics() == (0, 4, 0)


@every_loop
async def test_it_is_not_replayed_to() -> None:
    """An observer sees what happens while it is there."""
    async with open_space() as (bus, space):
        map_page(space, 0)
        async with bus.observe("space") as observer:
            map_page(space, 1)
            assert (await anext(aiter(observer))).seq == 2
        map_page(space, 2)
        assert observer.statistics().lag == 0
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(observer))


@every_loop
async def test_it_is_told_how_many_it_lost() -> None:
    """Law 3: only an observer may lose events, and it is told how many, of which space, up to which number."""
    async with Bus() as bus:
        one, two = await bus.create_space("one"), await bus.create_space("two")
        async with bus.observe("*", capacity=2) as observer:
            for page in range(5):
                map_page(one, page)
                map_page(two, page)
            stream = aiter(observer)
            assert [(event.space, event.seq) for event in await take(stream, 2)] == [("one", 1), ("two", 1)]
            assert await take(stream, 2) == [Lost("one", 5, 4), Lost("two", 5, 4)]
            map_page(one, 5)
            assert (await anext(stream)).seq == 6
            assert observer.statistics().lost == 8


@every_loop
async def test_what_is_lost_stands_where_it_was_lost() -> None:
    """Law 3: what was lost is told before what came after it."""
    async with open_space() as (bus, space), bus.observe("*", capacity=2) as observer:
        stream = aiter(observer)
        for page in range(3):
            map_page(space, page)
        assert (await anext(stream)).seq == 1
        map_page(space, 3)
        seen: list[Observed] = await take(stream, 3)
        assert [type(event) for event in seen] == [Map, Lost, Map]
        assert [event.seq for event in seen] == [2, 3, 4]


@every_loop
async def test_it_delays_nobody() -> None:
    """Law 10: one that never reads holds up neither sync nor drain, and its memory is bounded (I27)."""
    async with open_space() as (bus, space), bus.observe("*", capacity=3) as observer:
        for page in range(100):
            map_page(space, page)
        unmap_page(space, 0)
        await space.sync()
        await space.drain()
        assert observer.statistics().lag == 3
        assert repr(observer) == "<observer of *, lag 3, lost 98>"


@every_loop
async def test_it_waits_for_what_comes_and_for_the_end() -> None:
    seen: list[Observed] = []

    async def follow(bus: Bus) -> None:
        async with bus.observe("*") as observer:
            async for event in observer:
                seen.append(event)  # noqa: PERF401 - one by one
        seen.append(Unmap("the end", 0, 0, 0))

    async with anyio.create_task_group() as tasks, Bus() as bus:
        tasks.start_soon(follow, bus)
        await settle()
        space = await bus.create_space("space")
        map_page(space, 0)
        await settle()
        assert len(seen) == 1
    assert [event.space for event in seen] == ["space", "space", "the end"]
    assert bus.statistics().observers == ()


@every_loop
async def test_a_cancelled_wait_loses_nothing() -> None:
    async with open_space() as (bus, space), bus.observe("*", capacity=1) as observer:
        stream = aiter(observer)
        await ask(stream)
        map_page(space, 0)
        map_page(space, 1)
        assert (await anext(stream)).seq == 1
        await ask(stream)
        assert await anext(stream) == Lost("space", 2, 1)


@every_loop
async def test_it_has_to_be_entered() -> None:
    async with open_space() as (bus, _):
        with pytest.raises(NotEntered):
            await anext(aiter(bus.observe("*")))


@every_loop
async def test_a_second_task_is_refused() -> None:
    """Neither of two who wait for one stream would know which events it has seen."""
    async with open_space() as (bus, space), bus.observe("*") as observer:
        seen: list[Observed] = []

        async def first() -> None:
            seen.append(await anext(aiter(observer)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await settle()
            with pytest.raises(AlreadyIterated):
                await anext(aiter(observer))
            map_page(space, 0)
            with pytest.raises(AlreadyIterated):
                await anext(aiter(observer))
        map_page(space, 1)
        seen.append(await anext(aiter(observer)))
        assert [event.seq for event in seen] == [1, 2]
