"""Consumers that cannot take everything, over a real bus, with mailboxes that overflow and events that fail."""

import random
from collections.abc import Iterator
from contextlib import suppress

import anyio
import pytest

from iommubus import Bus, Cap, Event, Map, Perm, Unmap
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import MappingFailed, SyncFailed, TooManyMappings
from tests.actors import BackendError, apply_all, ask, failing_sync, map_page, open_space, take, unmap_page
from tests.loops import every_loop

END = 63
"""Last address of the space of the random tests."""


@every_loop
async def test_a_full_subscriber_fails_alone() -> None:
    """T39: the producer hears of it once, from the next sync; the others have the mapping."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB) as other,
        bus.subscribe("space", Cap.IOTLB, limit=2, name="vfio") as events,
    ):
        mine, others = aiter(events), aiter(other)
        pages = [map_page(space, page) for page in (0, 2, 4)]
        assert [event.first for event in await take(mine, 2)] == [pages[0].first, pages[1].first]
        assert len(await take(others, 3)) == 3
        await ask(others)
        await ask(mine)
        failed = await failing_sync(space)
        assert failed.missing == []
        assert [(failure.subscriber, failure.first) for failure in failed.failures] == [("vfio", pages[2].first)]
        assert isinstance(failed.failures[0].cause, TooManyMappings)
        await space.sync(timeout=0)


@every_loop
async def test_a_joiner_that_is_full_hears_of_it_itself() -> None:
    """Law 7: during its own replay the error goes to the joiner."""
    async with open_space() as (bus, space):
        for page in range(3):
            map_page(space, 2 * page)
        async with bus.subscribe("space", Cap.IOTLB, limit=2) as events:
            stream = aiter(events)
            await take(stream, 2)
            await ask(stream)
            with pytest.raises(MappingFailed):
                await events.wait_current()
            await space.sync(timeout=0)


@every_loop
async def test_failed_mappings_are_bounded() -> None:
    """I27: a subscriber that is full, and a producer that never syncs."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, limit=1) as events:
        stream = aiter(events)
        map_page(space, 0)
        await take(stream, 1)
        for page in range(1, 2001):
            map_page(space, page)
        await apply_all(stream, lambda _: None)
        failed = await failing_sync(space)
        assert len(failed.failures) == 1024
        assert sum(failure.count for failure in failed.failures) == 2000
        last = failed.failures[-1]
        assert (last.first, last.last) == (1024 * 0x1000, 2001 * 0x1000 - 1)


@every_loop
async def test_a_cacher_with_a_large_granule_forgets_enough() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP, granule=0x1_0000) as events:
        map_page(space, 17)
        unmap_page(space, 17)
        (event,) = await take(aiter(events), 1)
        assert (event.first, event.last) == (0x1_0000, 0x1_FFFF)


class Strict:
    """A consumer whose back end refuses whatever its contract excludes, and fails now and then besides."""

    def __init__(self, events: StreamSubscription, dice: random.Random, *, pow2: bool, exact: bool, limit: int) -> None:
        self.events = events
        self.stream = aiter(events)
        self.held: dict[tuple[int, int], int] = {}
        self.lost: set[tuple[int, int, int]] = set()
        self.failing = True
        self._dice = dice
        self._pow2, self._exact, self._limit = pow2, exact, limit

    def apply(self, event: Event) -> None:
        """Check one event, and apply it or fail."""
        if self._pow2:
            assert event.size & (event.size - 1) == 0
            assert event.first % event.size == 0
        fails = self.failing and self._dice.random() < 0.15
        if isinstance(event, Map):
            self._map(event, fails=fails)
        else:
            assert isinstance(event, Unmap)
            self._unmap(event, fails=fails)

    def _map(self, event: Map, *, fails: bool) -> None:
        assert not list(self._touched(event))
        if fails:
            self.lost.add((event.first, event.last, event.target))
            self.events.fail(event, BackendError())
        else:
            self.held[event.first, event.last] = event.target
            assert len(self.held) <= self._limit

    def _unmap(self, event: Unmap, *, fails: bool) -> None:
        touched = list(self._touched(event))
        assert all(event.first <= first and last <= event.last for first, last in touched)
        if self._exact:
            assert touched == [(event.first, event.last)]
        if fails:
            self.events.fail(event, BackendError())
        else:
            for edges in touched:
                del self.held[edges]

    def _touched(self, event: Event) -> Iterator[tuple[int, int]]:
        return (edges for edges in self.held if edges[0] <= event.last and edges[1] >= event.first)


@pytest.mark.parametrize("limit", [1000, 12])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("pow2", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_a_strict_consumer_is_never_given_what_it_cannot_take(
    seed: int, *, pow2: bool, exact: bool, limit: int
) -> None:
    """Contracts hold through replay, conflation, failures and what is handed over again."""

    async def play() -> None:
        dice = random.Random(f"{seed}{pow2}{exact}{limit}")  # noqa: S311 - the same every time
        async with Bus() as bus:
            space = await bus.create_space("space", granule=1, last=END, straddle=dice.choice(("refuse", "split")))
            change(space, dice)
            async with bus.subscribe(
                "space", Cap.IOTLB, pow2=pow2, exact=exact, limit=limit, capacity=dice.choice((1, 3, 50))
            ) as events:
                device = Strict(events, dice, pow2=pow2, exact=exact, limit=limit)
                for _ in range(60):
                    change(space, dice)
                    if dice.random() < 0.3:
                        await apply_all(device.stream, device.apply)
                    if dice.random() < 0.1:
                        await sync_quietly(space)
                device.failing = False
                for _ in range(3):
                    await sync_quietly(space)
                    await apply_all(device.stream, device.apply)
                await space.sync(timeout=0)
                judge(space, device)

    anyio.run(play)


async def sync_quietly(space: LocalSpace) -> None:
    """Have what failed handed over again."""
    with suppress(SyncFailed):
        await space.sync(timeout=0)


def change(space: LocalSpace, dice: random.Random) -> None:
    """Map or unmap something."""
    first = dice.randrange(END + 1)
    last = min(END, first + dice.choice((0, 1, 2, 5, 20)))
    touched = space.walk(first, last, END)
    first, last = min([first, *(one.first for one in touched)]), max([last, *(one.last for one in touched)])
    if dice.random() < 0.6:
        space.remap(first, last - first + 1, dice.randrange(100) * 1000, Perm.RW)
    else:
        space.unmap(first, last - first + 1)


def judge(space: LocalSpace, device: Strict) -> None:
    """What it holds is in the table, byte by byte."""
    table = {
        iova: mapping.target + iova - mapping.first
        for mapping in space.walk(0, END, END + 1)
        for iova in range(mapping.first, mapping.last + 1)
    }
    held = {
        iova: target + iova - first for (first, last), target in device.held.items() for iova in range(first, last + 1)
    }
    assert held.items() <= table.items()
