"""The suite for a consumer passes for those there are, and finds each mistake of others."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import pytest
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from iommubus import (
    LAST,
    Cap,
    DevIotlbUnmap,
    Event,
    EventBus,
    Iotlb,
    IovaRange,
    Map,
    Mapping,
    Mirror,
    Subscription,
    Unmap,
)
from iommubus.errors import ConformanceFailed
from iommubus.testing import Consumer, Holds, Usage, check_consumer, consumer_cases
from tests.faulty import FaultyBus, failing, maker
from tests.loops import every_loop

PATIENCE: Final = 0.5
"""Seconds for a case that has to fail."""

Status = TaskStatus[Holds | Usage]

WINDOW: Final = [(0, 0x2FFF), (0x5000, 0x1_FFFF), (0x2_8000, LAST)]
"""Ranges of a consumer that leaves something out."""


# -- consumers that are right ------------------------------------------------------


async def shadow(bus: EventBus, endpoint: str, *, task_status: Status, caps: Cap = Cap.IOTLB, **options: Any) -> None:
    async with bus.subscribe(endpoint, caps, **options) as events:
        mirror = Mirror(events)
        task_status.started(lambda: mirror)
        await mirror.run()


async def split_shadow(bus: EventBus, endpoint: str, *, task_status: Status) -> None:
    """Keep each mapping in aligned powers of two, as an IOMMU with masks does."""
    held: dict[int, Mapping] = {}
    async with bus.subscribe(endpoint, Cap.IOTLB, ranges=iter(WINDOW)) as events:
        task_status.started(held.values)
        async for event in events:
            if isinstance(event, Map):
                mapping = Mapping(event.first, event.last, event.target, event.perm)
                for block in IovaRange(event.first, event.last).split_pow2():
                    held[block.first] = mapping.clip(block.first, block.last)
            else:
                drop(held, event.first, event.last)


async def hardware(bus: EventBus, endpoint: str, *, task_status: Status) -> None:
    async def stop() -> None:
        await checkpoint()

    await shadow(bus, endpoint, task_status=task_status, stops="exit", on_fence=stop)


async def cache(
    bus: EventBus, endpoint: str, *, task_status: Status, caps: Cap = Cap.UNMAP, kind: type[Iotlb] = Iotlb
) -> None:
    async with bus.subscribe(endpoint, caps) as events:
        iotlb = kind(events)
        task_status.started(Usage(lambda: iotlb, iotlb.translate))
        async for event in events:
            iotlb.apply(event)


async def asking_cache(bus: EventBus, endpoint: str, *, task_status: Status) -> None:
    """Ask of its own accord, in another task."""
    async with bus.subscribe(endpoint, Cap.UNMAP) as events, anyio.create_task_group() as tasks:
        iotlb = Iotlb(events)

        async def ask() -> None:
            page = 0
            while True:
                await translate(iotlb, page % 64 * 0x1000)
                page += 7
                await checkpoint()

        task_status.started(lambda: iotlb)
        tasks.start_soon(ask)
        async for event in events:
            iotlb.apply(event)
        tasks.cancel_scope.cancel()


async def translate(iotlb: Iotlb, iova: int) -> None:
    try:
        await iotlb.translate(iova)
    except Exception:  # noqa: BLE001 - a fault is an answer
        await checkpoint()


def drop(held: dict[int, Mapping], first: int, last: int) -> None:
    for mapping in list(held.values()):
        if mapping.first <= last and mapping.last >= first:
            del held[mapping.first]


GOOD: Final[dict[str, tuple[Consumer, Cap]]] = {
    "mirror": (shadow, Cap.IOTLB),
    "mirror of everything": (partial(shadow, caps=Cap.ALL), Cap.ALL),
    "mirror of a window": (partial(shadow, first=0x1000, last=0xFFFF), Cap.IOTLB),
    "split mirror of several windows": (split_shadow, Cap.IOTLB),
    "hardware": (hardware, Cap.IOTLB),
    "iotlb": (cache, Cap.UNMAP),
    "iotlb that asks": (asking_cache, Cap.UNMAP),
    "device iotlb": (partial(cache, caps=Cap.DEVIOTLB_UNMAP), Cap.DEVIOTLB_UNMAP),
    "iotlb of both": (partial(cache, caps=Cap.UNMAP | Cap.DEVIOTLB_UNMAP), Cap.UNMAP | Cap.DEVIOTLB_UNMAP),
}


# -- consumers with one mistake each -------------------------------------------------

Follow = Callable[[Subscription, dict[int, Mapping]], Awaitable[None]]


def broken(follow: Follow, caps: Cap = Cap.IOTLB, **options: Any) -> Consumer:
    """Return a consumer that follows in a way of its own."""

    async def consume(bus: EventBus, endpoint: str, *, task_status: Status) -> None:
        held: dict[int, Mapping] = {}
        async with bus.subscribe(endpoint, caps, **options) as events:
            task_status.started(held.values)
            await follow(events, held)

    return consume


def each(apply: Callable[[Event, dict[int, Mapping]], object]) -> Consumer:
    """Return a consumer that applies each event in a way of its own."""

    async def follow(events: Subscription, held: dict[int, Mapping]) -> None:
        async for event in events:
            apply(event, held)

    return broken(follow)


def apply(event: Event, held: dict[int, Mapping]) -> None:
    """Apply an event as it should be, and check nothing."""
    if isinstance(event, Map):
        held[event.first] = Mapping(event.first, event.last, event.target, event.perm)
    elif isinstance(event, Unmap):
        drop(held, event.first, event.last)


def ignores_unmap(event: Event, held: dict[int, Mapping]) -> None:
    if isinstance(event, Map):
        apply(event, held)


def keeps_what_ends_last(event: Event, held: dict[int, Mapping]) -> None:
    """Take the last address for the first one behind the range."""
    if isinstance(event, Unmap):
        for mapping in list(held.values()):
            if event.first <= mapping.first and mapping.last < event.last:
                del held[mapping.first]
    else:
        apply(event, held)


def drops_exact_ranges(event: Event, held: dict[int, Mapping]) -> None:
    """Look for the very range that is unmapped, as if none was ever larger than needed."""
    if isinstance(event, Unmap):
        held.pop(event.first, None)
    else:
        apply(event, held)


def has_32_bits(event: Event, held: dict[int, Mapping]) -> None:
    if isinstance(event, Unmap):
        drop(held, event.first, event.first + (event.size & 0xFFFF_FFFF) - 1)
    else:
        apply(event, held)


def wraps_at_64_bits(event: Event, held: dict[int, Mapping]) -> None:
    """Keep the size in 64 bits: that of the whole space is 0."""
    if isinstance(event, Unmap):
        drop(held, event.first, event.first + (event.size & LAST) - 1)
    else:
        apply(event, held)


def makes_everything_writable(event: Event, held: dict[int, Mapping]) -> None:
    if isinstance(event, Map):
        held[event.first] = Mapping(event.first, event.last, event.target, event.perm | 2)
    else:
        apply(event, held)


def moves_no_target(event: Event, held: dict[int, Mapping]) -> None:
    """Take a piece of a mapping for the beginning of one."""
    if isinstance(event, Map):
        held[event.first] = Mapping(event.first, event.last, event.target & ~0xF_FFFF, event.perm)
    else:
        apply(event, held)


async def maps_before_unmaps(events: Subscription, held: dict[int, Mapping]) -> None:
    async for batch in events.batches():
        for event in sorted(batch, key=lambda event: isinstance(event, Unmap)):
            apply(event, held)


async def acknowledges_early(events: Subscription, held: dict[int, Mapping]) -> None:
    async for batch in events.batches():
        events.ack(batch)
        for _ in range(20):
            await checkpoint()
        for event in batch:
            apply(event, held)


async def acknowledges_never(events: Subscription, held: dict[int, Mapping]) -> None:
    async for batch in events.batches():
        for event in batch:
            apply(event, held)


async def knows_numbers_once(events: Subscription, held: dict[int, Mapping]) -> None:
    """Forget, when it overflows, all events of a number but one."""
    seen: set[int] = set()
    async for event in events:
        if event.seq not in seen:
            apply(event, held)
        seen.add(event.seq)


async def ends_at_the_first_unmap(events: Subscription, held: dict[int, Mapping]) -> None:
    async for event in events:
        if isinstance(event, Unmap):
            held.clear()
            return
        apply(event, held)


async def crashes_at_a_change_in_place(events: Subscription, held: dict[int, Mapping]) -> None:
    before: Event | None = None
    async for event in events:
        if before is not None and isinstance(event, Map) and before.first == event.first:
            raise NotImplementedError
        apply(event, held)
        before = event


async def fails_every_map(events: Subscription, held: dict[int, Mapping]) -> None:
    async for event in events:
        if isinstance(event, Map):
            events.fail(event, OSError("no memory"))
        else:
            apply(event, held)


async def keeps_what_was_replayed(events: Subscription, held: dict[int, Mapping]) -> None:
    """Map nothing that comes after it was current."""
    async for event in events:
        if not (isinstance(event, Map) and events.statistics().current):
            apply(event, held)


async def never_starts(bus: EventBus, endpoint: str, *, task_status: Status) -> None:  # noqa: ARG001 - the mistake
    async with bus.subscribe(endpoint, Cap.IOTLB):
        """Say nothing."""


async def subscribes_elsewhere(bus: EventBus, _: str, *, task_status: Status) -> None:
    await bus.create_space("elsewhere")
    await shadow(bus, "elsewhere", task_status=task_status)


class InstallsStale(Iotlb):
    """Installs every answer, whatever has happened since the question."""

    async def translate(self, iova: int, perm: Any = 1) -> Mapping:
        answer = await self._subscription.translate(iova, perm)
        for _ in range(3):
            await checkpoint()
        mapping = answer.mapping
        self.invalidate(mapping.first, mapping.last)
        self._table.insert(mapping.first, mapping.last, mapping.target, mapping.perm)
        return mapping


class DropsOnePage(Iotlb):
    """Drops what is at the first address of an invalidation alone."""

    def invalidate(self, first: int, last: int) -> None:
        super().invalidate(first, first if last - first < LAST else last)


class KeepsMost(Iotlb):
    """Drops only entries that lie inside an invalidation."""

    def invalidate(self, first: int, last: int) -> None:
        for entry in list(self):
            if first <= entry.first and entry.last < last:
                super().invalidate(entry.first, entry.last)


class Deaf(Iotlb):
    """Follows UNMAPs, where a DEVIOTLB_UNMAP is what it is told."""

    def apply(self, event: Event) -> None:
        if not isinstance(event, DevIotlbUnmap):
            super().apply(event)


class Empty(Iotlb):
    """Never holds anything, so that nothing can be wrong."""

    async def translate(self, iova: int, perm: Any = 1) -> Mapping:
        return (await self._subscription.translate(iova, perm)).mapping


WRONG: Final[dict[str, tuple[Consumer, Cap, tuple[str, ...]]]] = {
    "ignores UNMAP": (each(ignores_unmap), Cap.IOTLB, ("it_follows_map_and_unmap", "it_follows_unmap_all")),
    "applies MAPs before UNMAPs": (
        broken(maps_before_unmaps), Cap.IOTLB, ("it_follows_a_change_in_place", "it_follows_changes_that_come_at_once"),
    ),
    "acknowledges early": (
        broken(acknowledges_early, ack="manual"), Cap.IOTLB, ("it_follows_map_and_unmap", "it_follows_unmap_all"),
    ),
    "acknowledges never": (broken(acknowledges_never, ack="manual"), Cap.IOTLB, ("it_follows_map_and_unmap",)),
    "is wrong by one at the end": (
        each(keeps_what_ends_last), Cap.IOTLB, ("it_follows_map_and_unmap",),
    ),
    "looks for exact ranges": (
        each(drops_exact_ranges), Cap.IOTLB, ("it_takes_an_unmap_that_is_larger_than_what_it_holds",),
    ),
    "has 32 bits": (each(has_32_bits), Cap.IOTLB, ("it_knows_the_last_byte",)),
    "wraps at 64 bits": (each(wraps_at_64_bits), Cap.IOTLB, ("it_knows_the_last_byte",)),
    "makes everything writable": (each(makes_everything_writable), Cap.IOTLB, ("it_follows_a_change_in_place",)),
    "moves no target": (
        each(moves_no_target), Cap.IOTLB, ("it_follows_a_split", "it_follows_random_scripts_that_split"),
    ),
    "forgets when it overflows": (
        broken(knows_numbers_once), Cap.IOTLB,
        (
            "it_is_given_what_is_there", "it_keeps_what_did_not_change", "it_follows_random_scripts_in_a_small_mailbox",
        ),
    ),
    "ends at the first UNMAP": (broken(ends_at_the_first_unmap), Cap.IOTLB, ("it_follows_unmap_all",)),
    "crashes at a change in place": (
        broken(crashes_at_a_change_in_place), Cap.IOTLB, ("it_follows_a_change_in_place", "it_follows_random_scripts"),
    ),
    "fails every MAP": (broken(fails_every_map), Cap.IOTLB, ("it_holds_what_it_can_get",)),
    "keeps what was replayed": (broken(keeps_what_was_replayed), Cap.IOTLB, ("it_follows_map_and_unmap",)),
    "is hardware that nobody stops": (partial(shadow, stops="exit"), Cap.IOTLB, ("it_can_be_cancelled",)),
    "never says that it has started": (never_starts, Cap.IOTLB, ("it_follows_map_and_unmap",)),
    "subscribes elsewhere": (subscribes_elsewhere, Cap.IOTLB, ("it_follows_map_and_unmap",)),
    "subscribes with another mask": (shadow, Cap.ALL, ("it_follows_map_and_unmap",)),
    "installs stale answers": (partial(cache, kind=InstallsStale), Cap.UNMAP, ("it_follows_random_scripts",)),
    "drops one page": (
        partial(cache, kind=DropsOnePage), Cap.UNMAP, ("it_takes_an_unmap_that_is_larger_than_what_it_holds",),
    ),
    "keeps entries at the edge": (
        partial(cache, kind=KeepsMost), Cap.UNMAP, ("it_follows_map_and_unmap", "it_follows_a_split"),
    ),
    "is deaf to device invalidations": (
        partial(cache, caps=Cap.DEVIOTLB_UNMAP, kind=Deaf), Cap.DEVIOTLB_UNMAP, ("it_follows_map_and_unmap",),
    ),
    "never holds anything": (partial(cache, kind=Empty), Cap.UNMAP, ("it_holds_what_it_can_get",)),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
@every_loop
async def test_a_consumer_that_is_right_passes(name: str) -> None:
    consumer, caps = GOOD[name]

    report = await check_consumer(consumer, caps)

    assert report.role == "consumer"
    assert report.cases == tuple(case.name for case in consumer_cases(consumer, caps))


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_found(mistake: str) -> None:
    consumer, caps, names = WRONG[mistake]
    cases = [case for case in consumer_cases(consumer, caps, patience=PATIENCE) if case.name in names]

    assert anyio.run(failing, cases) == set(names)


def test_every_case_finds_a_mistake() -> None:
    """A case that no mistake makes fail would prove nothing; one is about the space, and is seen below."""
    found = {name for _, _, names in WRONG.values() for name in names}

    assert found | {"it_ends_with_its_space"} == {case.name for case in consumer_cases(shadow)}


def test_one_that_keeps_everything_when_its_space_is_closed_is_found() -> None:
    async def keep(events: Subscription, held: dict[int, Mapping]) -> None:
        async for event in events:
            if not (isinstance(event, Unmap) and event.size == 64 * 0x1000):
                apply(event, held)

    failed = anyio.run(failing, consumer_cases(broken(keep), patience=PATIENCE))

    assert "it_ends_with_its_space" in failed
    assert "it_follows_a_change_in_place" not in failed


@every_loop
async def test_a_consumer_is_looked_at_on_any_bus() -> None:
    await check_consumer(shadow, make_bus=maker(FaultyBus))


def test_what_was_found_is_said() -> None:
    with pytest.raises(ConformanceFailed) as caught:
        anyio.run(lambda: check_consumer(each(ignores_unmap), patience=PATIENCE))

    assert "it_follows_unmap_all" in caught.value.cases
    assert "expected nothing, found 0x0..0x3fff -> 0x80000000" in str(caught.value)
