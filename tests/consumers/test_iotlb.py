"""A cacher's cache: filled by misses, emptied by UNMAPs."""

from collections.abc import Callable

import anyio
import pytest

from iommubus import Bus, Cap, DevIotlbUnmap, Iotlb, Map, Mapping, Perm, Translation, Unmap
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import AccessDenied, Fenced, NotMapped, SubscriptionClosed
from tests.actors import PAGE, ask, map_page, open_space, settle, unmap_page
from tests.loops import every_loop


@every_loop
async def test_a_miss_asks_once() -> None:
    """T31: what was asked for is in the cache, whole, until it is invalidated."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        iotlb = Iotlb(events)
        held = map_page(space, 0, 4, perm=Perm.R)
        assert iotlb.lookup(0) is None
        assert await iotlb.translate(0x1234) == held
        assert iotlb.lookup(0x3FFF) == held
        assert list(iotlb) == [held]
        assert len(iotlb) == 1
        assert repr(iotlb) == f"<iotlb of {events.name}, 1 entries>"
        with pytest.raises(AccessDenied):
            iotlb.lookup(0, Perm.W)
        with pytest.raises(AccessDenied):
            await iotlb.translate(0, Perm.RW)
        with pytest.raises(NotMapped):
            await iotlb.translate(0x4000)


@every_loop
async def test_an_invalidation_drops_every_entry_it_touches() -> None:
    """T9, T41: whole entries, and none beside them."""
    async with open_space(offers=Cap.ALL) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        iotlb = Iotlb(events)
        for page in (0, 2, 4, 6):
            map_page(space, page, 2)
            await iotlb.translate(page * PAGE)
        iotlb.apply(Map("space", 9, 0, 0xFFFF, 0, Perm.R))
        assert len(iotlb) == 4
        iotlb.apply(Unmap("space", 9, 3 * PAGE, 4 * PAGE))
        assert [iotlb.lookup(page * PAGE) is None for page in (0, 2, 4, 6)] == [False, True, True, False]
        iotlb.apply(DevIotlbUnmap("space", 10, 0, 0))
        iotlb.invalidate(8 * PAGE, 9 * PAGE)
        assert [iotlb.lookup(page * PAGE) is None for page in (0, 6)] == [True, False]


@every_loop
async def test_it_follows_the_stream() -> None:
    """Law 1: after a sync it holds nothing that was unmapped before."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        iotlb = Iotlb(events)
        map_page(space, 0)
        await iotlb.translate(0)
        unmap_page(space, 0)
        iotlb.apply(await anext(aiter(events)))
        assert iotlb.lookup(0) is None
        with pytest.raises(NotMapped):
            await iotlb.translate(0)
        map_page(space, 0, perm=Perm.R)
        assert (await iotlb.translate(0)).perm == Perm.R


class Slow(StreamSubscription):
    """A subscription whose answers take their time: something happens before they arrive."""

    meanwhile: Callable[[], object] | None = None

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        answer = await super().translate(iova, perm)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return answer


def slow_subscription(bus: Bus) -> Slow:
    plain = bus.subscribe("space", Cap.UNMAP)
    return Slow(plain._seat, plain._register, lambda: None, "next", bus.memories.find)  # pyright: ignore[reportPrivateUsage]


@every_loop
async def test_a_stale_answer_is_not_installed() -> None:
    """Law 5, I22, T29: an answer that an UNMAP overtook is asked for again."""
    async with open_space() as (bus, space), slow_subscription(bus) as events:
        iotlb = Iotlb(events)
        map_page(space, 0)

        def overtake() -> None:
            space.remap(0, PAGE, 0x5000, Perm.R)
            for event in events._seat.take():  # pyright: ignore[reportPrivateUsage] - what the iterator does
                iotlb.apply(event)

        events.meanwhile = overtake
        assert await iotlb.translate(0) == Mapping(0, PAGE - 1, 0x5000, Perm.R)
        assert iotlb.lookup(0) == Mapping(0, PAGE - 1, 0x5000, Perm.R)


@every_loop
async def test_an_answer_that_outlives_its_subscription_is_not_installed() -> None:
    """Laws 5 and 8: after a fence, or a clean leave, nothing is installed or looked up through it."""
    for leave in ("fence", "close"):
        async with open_space() as (bus, space), slow_subscription(bus) as events:
            iotlb = Iotlb(events)
            map_page(space, 0)
            member = events._seat  # pyright: ignore[reportPrivateUsage]
            events.meanwhile = member.leave if leave == "close" else lambda: member.abandon("gone")  # noqa: B023 - at once
            with pytest.raises(SubscriptionClosed if leave == "close" else Fenced):
                await iotlb.translate(0)
            assert len(iotlb) == 0


@every_loop
async def test_a_view_shows_what_is_cached_until_it_is_invalidated() -> None:
    """As a mirror's, over the entries; a miss is no view."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        ram = await bus.add_memory("ram", 4 * PAGE)
        whole = bus.memory_view(ram)
        iotlb = Iotlb(events)
        space.map(0, 2 * PAGE, PAGE, Perm.R, memory=ram)
        space.map(2 * PAGE, PAGE, 3 * PAGE, Perm.RW, memory=ram)
        with pytest.raises(NotMapped):
            iotlb.view(0)
        await iotlb.translate(0)
        assert await iotlb.translate(2 * PAGE) == Mapping(2 * PAGE, 3 * PAGE - 1, 3 * PAGE, Perm.RW, ram)
        whole[3 * PAGE + 1] = 7
        read, written = iotlb.view(PAGE, 2 * PAGE), iotlb.view(2 * PAGE, perm=Perm.RW)
        assert read[PAGE + 1] == written[1] == 7
        written[1] = 9
        assert (whole[3 * PAGE + 1], read.readonly) == (9, True)
        with pytest.raises(AccessDenied):
            iotlb.view(PAGE, perm=Perm.W)

        space.unmap(0, 2 * PAGE)
        iotlb.apply(await anext(aiter(events)))

        with pytest.raises(ValueError, match="released"):
            bytes(read)
        with pytest.raises(NotMapped):
            iotlb.view(PAGE)
        assert written[1] == 9
        await space.fence(events)
        with pytest.raises(Fenced):
            iotlb.view(2 * PAGE)


@every_loop
async def test_an_invalidation_is_acknowledged_when_its_views_are_dropped() -> None:
    """The entries are dropped at once; the acknowledgement waits for who looks at the bytes."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        ram = await bus.add_memory("ram", 4 * PAGE)
        iotlb = Iotlb(events)
        space.map(0, 4 * PAGE, 0, Perm.R, memory=ram)
        await iotlb.translate(0)
        kept = iotlb.view(0, PAGE)[1:]
        apart = iotlb.view(2 * PAGE)
        space.unmap(0, 4 * PAGE)
        await anext(stream := aiter(events))
        iotlb.apply(Unmap("space", 2, 0, 2 * PAGE - 1))
        await ask(stream)
        assert iotlb.lookup(2 * PAGE) is None
        assert events.statistics().acked == 0
        assert apart.nbytes == 2 * PAGE
        kept.release()
        await space.sync()


@every_loop
async def test_an_answer_ends_no_view() -> None:
    """What it displaces is a cache entry; the view of that ends with its own UNMAP, which is on its way."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        ram = await bus.add_memory("ram", 4 * PAGE)
        iotlb = Iotlb(events)
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        await iotlb.translate(0)
        view = iotlb.view(0)
        space.unmap(0, PAGE)
        space.map(0, 2 * PAGE, 2 * PAGE, Perm.R, memory=ram)
        await iotlb.translate(PAGE)
        assert view.nbytes == PAGE
        iotlb.apply(await anext(aiter(events)))
        with pytest.raises(ValueError, match="released"):
            bytes(view)


@every_loop
async def test_a_fence_releases_the_views_of_a_cache_that_runs() -> None:
    """Law 8: it is proven stopped once it has noticed and nobody looks at the bytes."""
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", PAGE)
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        events = bus.subscribe("space", Cap.UNMAP)
        await events.__aenter__()
        iotlb = Iotlb(events)
        await iotlb.translate(0)
        view = iotlb.view(0)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                with pytest.raises(Fenced):
                    await iotlb.run()

            tasks.start_soon(run)
            await settle()
            space.unmap(0, PAGE)
            await space.fence(events)
            await space.sync()
        with pytest.raises(ValueError, match="released"):
            bytes(view)
