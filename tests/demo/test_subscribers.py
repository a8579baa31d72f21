"""What a cacher shows is what its cache has, whatever that drops."""

import random

import anyio
import pytest
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Iotlb, Perm
from iommubus.bus.abc import EventBus
from iommubus.demo.pages import Pages
from iommubus.demo.subscribers import Cacher
from tests.loops import every_loop

PAGE = 0x1000


class Cramped(Cacher):
    """Has room for four entries."""

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        async with bus.subscribe(self.space, Cap.UNMAP, name=self.name) as events:
            self._subscription = events
            self.iotlb = Iotlb(events, capacity=4)
            task_status.started()
            async for event in events:
                self.apply(event)


def cached(cacher: Cacher) -> Pages:
    """Return the pages of all entries that the cache has."""
    pages = Pages(PAGE)
    for entry in cacher.iotlb:
        pages.map(entry.first, entry.last, entry.target, entry.perm)
    return pages


@pytest.mark.parametrize("seed", range(5))
@every_loop
async def test_a_cacher_shows_what_its_cache_has(seed: int) -> None:
    """Entries of several pages, evicted ones, and ones that only part of an UNMAP touches."""
    chance = random.Random(seed)  # noqa: S311 - a test, not a secret
    cacher = Cramped("s", PAGE)
    async with Bus() as bus, anyio.create_task_group() as tasks:
        space = await bus.create_space("s", straddle="split")
        await tasks.start(cacher.run, bus)
        for _ in range(300):
            first, count = PAGE * chance.randrange(1, 24), chance.randrange(1, 4)
            match chance.randrange(4):
                case 0:
                    space.unmap(first, PAGE * count)
                    await space.sync()
                case 1:
                    space.remap(first, PAGE * count, PAGE * chance.randrange(100), Perm.RW)
                    await space.sync()
                case _:
                    found = await cacher.miss(first + 0x10)
                    assert (found is not None) == (first in cacher.targets)
            assert cacher.targets == cached(cacher).targets
        assert cacher.iotlb.statistics().evictions > 0
        await bus.close()
    assert not cacher.targets
