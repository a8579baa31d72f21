"""Law 1 where misses, UNMAPs, pins, `gather`, `wait_for` and cancellation meet, in every order that counts.

One producer with a page table, two caches, and a few tasks that use them.  Each
case ends by asking: when the `sync` returned, was anything left of what had been
unmapped before it, in a cache or under a pin?
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from iommubus import Bus, Cap, Iotlb, Mapping, Perm, Pin, SyncFailed, TranslationFault
from iommubus.bus.space import LocalSpace
from tests.explorer import ChoosingLoop, explore

PAGE: Final = 0x1000

Actor = Callable[["World"], Coroutine[Any, Any, object]]


class World:
    """A producer of a pull space, or of a table, and the caches of two devices.

    Attributes:
        pages: The producer's page table: target by page.
        caches: The caches.
        pins: What is pinned right now.
    """

    def __init__(self, bus: Bus, *, pull: bool) -> None:
        self.bus = bus
        self.pull = pull
        self.pages = {0: 0xA000, 1: 0xB000}
        self.caches: list[Iotlb] = []
        self.pins: list[Pin] = []
        self.space: LocalSpace

    async def answer(self, iova: int, _: Perm) -> Mapping | None:
        """Walk the page table as a producer does: look, and take a while to say so."""
        target = self.pages.get(iova // PAGE)
        await asyncio.sleep(0)
        if target is None:
            return None
        first = iova // PAGE * PAGE
        return Mapping(first, first + PAGE - 1, target, Perm.RW)

    def change(self, page: int, target: int | None) -> None:
        """Change the page table first, and then tell."""
        if target is None:
            del self.pages[page]
        else:
            self.pages[page] = target
        self.space.unmap(page * PAGE, PAGE)
        if not self.pull and target is not None:
            self.space.map(page * PAGE, PAGE, target, Perm.RW)

    def check(self) -> None:
        """Nothing in a cache or under a pin contradicts the page table."""
        for mapping in [*self.caches[0], *self.caches[1], *(pin.mapping for pin in self.pins)]:
            assert self.pages.get(mapping.first // PAGE) == mapping.target, mapping


@asynccontextmanager
async def running(loop: ChoosingLoop, *, pull: bool) -> AsyncGenerator[World, None]:
    """Give a world whose consumers follow; schedules are explored from here on."""
    async with Bus() as bus:
        world = World(bus, pull=pull)
        world.space = await bus.create_space(
            "space", offers=Cap.UNMAP if pull else Cap.IOTLB, translate=world.answer if pull else None
        )
        for page, target in () if pull else world.pages.items():
            world.space.map(page * PAGE, PAGE, target, Perm.RW)
        async with bus.subscribe("space", Cap.UNMAP) as one, bus.subscribe("space", Cap.UNMAP, capacity=1) as two:
            world.caches = [Iotlb(one), Iotlb(two, capacity=1)]
            followers = [asyncio.ensure_future(cache.run()) for cache in world.caches]
            loop.choosing = True
            yield world
            loop.choosing = False
            await bus.close()
            await asyncio.gather(*followers)


async def sync_and_check(world: World) -> None:
    """Wait until nobody uses what went, and look; a `sync` that came to its deadline promises nothing."""
    with suppress(SyncFailed):
        await world.space.sync()
        world.check()


async def unmap_and_sync(world: World) -> None:
    """Take a page away."""
    world.change(0, None)
    await sync_and_check(world)


async def remap_and_sync(world: World) -> None:
    """Give a page another target."""
    world.change(0, 0xC000)
    await sync_and_check(world)


async def change_twice(world: World) -> None:
    """Take it away, and put another there while the first sync is on its way."""
    world.change(0, 0xC000)
    first = asyncio.ensure_future(world.space.sync())
    await asyncio.sleep(0)
    world.change(0, 0xD000)
    await sync_and_check(world)
    with suppress(SyncFailed):
        await first


async def use(world: World, cache: int = 0, page: int = 0) -> None:
    """Translate one address, wherever it leads."""
    with suppress(TranslationFault):
        await world.caches[cache].translate(page * PAGE)


async def use_other(world: World) -> None:
    await use(world, cache=1)


async def use_together(world: World) -> None:
    """Ask the same from two devices at once: the producer is asked once."""
    await asyncio.gather(use(world), use_other(world), use(world, page=1))


async def use_in_time(world: World) -> None:
    """Ask, and give up after a while."""
    with suppress(TimeoutError):
        await asyncio.wait_for(use(world), 0.5)


async def use_and_give_up(world: World) -> None:
    """Ask, and be cancelled at some point."""
    task = asyncio.ensure_future(use(world))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def pin_for_a_while(world: World) -> None:
    """Use what an address leads to across some turns of the loop."""
    with suppress(TranslationFault), await world.caches[0].pin(0) as pin:
        world.pins.append(pin)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            world.pins.remove(pin)


async def pin_and_give_up(world: World) -> None:
    """Be cancelled with a pin in hand, or on the way to one."""
    task = asyncio.ensure_future(pin_for_a_while(world))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


CASES: Final[list[tuple[Actor, ...]]] = [
    (unmap_and_sync, use),
    (unmap_and_sync, use, use_other),
    (remap_and_sync, use, use_other),
    (remap_and_sync, use_together),
    (change_twice, use, use_other),
    (unmap_and_sync, use_in_time),
    (remap_and_sync, use_in_time, use_other),
    (remap_and_sync, use_and_give_up, use_other),
    (remap_and_sync, pin_for_a_while),
    (change_twice, pin_for_a_while, use_other),
    (unmap_and_sync, pin_and_give_up, use_other),
]


def name_of(actors: tuple[Actor, ...]) -> str:
    return "+".join(actor.__name__ for actor in actors)


@pytest.mark.timeout(180)  # some ten thousand schedules, on a machine that may be busy
@pytest.mark.parametrize("actors", CASES, ids=name_of)
def test_no_interleaving_leaves_a_stale_entry_after_a_sync(actors: tuple[Actor, ...]) -> None:
    """Laws 1 and 5, I22, T29, T32: every schedule that deviates at most twice from first come, first served."""

    async def case(loop: ChoosingLoop) -> None:
        async with running(loop, pull=True) as world:
            await asyncio.gather(*(actor(world) for actor in actors))
            await sync_and_check(world)
            assert not world.pins

    assert explore(case, deviations=2) > 100


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pull", [True, False], ids=["pull", "table"])
@pytest.mark.parametrize("actor", [use, pin_for_a_while], ids=lambda actor: actor.__name__)
def test_one_user_of_a_page_that_is_replaced_by_three_deviations(actor: Actor, *, pull: bool) -> None:
    """The smallest cases, with three deviations, in a space that keeps a table, too."""

    async def case(loop: ChoosingLoop) -> None:
        async with running(loop, pull=pull) as world:
            await asyncio.gather(remap_and_sync(world), actor(world))
            world.check()

    assert explore(case, deviations=3) > 500
