"""A cacher's cache: filled by misses, emptied by UNMAPs."""

from collections.abc import Callable

import pytest

from iommubus import Bus, Cap, DevIotlbUnmap, Iotlb, Map, Mapping, Perm, Translation, Unmap
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import LocalSubscription
from iommubus.errors import AccessDenied, Fenced, NotMapped, SubscriptionClosed
from tests.actors import PAGE, map_page, open_space, unmap_page
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


class Slow(LocalSubscription):
    """A subscription whose answers take their time: something happens before they arrive."""

    meanwhile: Callable[[], object] | None = None

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:  # type: ignore[override]
        answer = await super().translate(iova, perm)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return answer


def slow_subscription(bus: Bus, space: LocalSpace) -> Slow:
    plain = bus.subscribe("space", Cap.UNMAP)
    return Slow(plain._member, space.enroll, lambda: None, "next")  # pyright: ignore[reportPrivateUsage]


@every_loop
async def test_a_stale_answer_is_not_installed() -> None:
    """Law 5, I22, T29: an answer that an UNMAP overtook is asked for again."""
    async with open_space() as (bus, space), slow_subscription(bus, space) as events:
        iotlb = Iotlb(events)
        map_page(space, 0)

        def overtake() -> None:
            space.remap(0, PAGE, 0x5000, Perm.R)
            for event in events._member.take():  # pyright: ignore[reportPrivateUsage] - what the iterator does
                iotlb.apply(event)

        events.meanwhile = overtake
        assert await iotlb.translate(0) == Mapping(0, PAGE - 1, 0x5000, Perm.R)
        assert iotlb.lookup(0) == Mapping(0, PAGE - 1, 0x5000, Perm.R)


@every_loop
async def test_an_answer_that_outlives_its_subscription_is_not_installed() -> None:
    """Laws 5 and 8: after a fence, or a clean leave, nothing is installed or looked up through it."""
    for leave in ("fence", "close"):
        async with open_space() as (bus, space), slow_subscription(bus, space) as events:
            iotlb = Iotlb(events)
            map_page(space, 0)
            member = events._member  # pyright: ignore[reportPrivateUsage]
            events.meanwhile = member.leave if leave == "close" else lambda: member.abandon("gone")  # noqa: B023 - at once
            with pytest.raises(SubscriptionClosed if leave == "close" else Fenced):
                await iotlb.translate(0)
            assert len(iotlb) == 0
