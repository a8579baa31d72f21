"""The suite for a producer passes for those that are right, and finds each mistake of others."""

from contextlib import suppress
from typing import Final

import anyio
import pytest

from iommubus import Cap, EventBus, IovaRange, Mapping, Perm
from iommubus.errors import ConformanceFailed, SyncFailed
from iommubus.testing import Producer, check_producer, producer_cases
from tests.faulty import FAULTS, failing
from tests.loops import every_loop

PATIENCE: Final = 0.5
"""Seconds for a case that has to fail."""

PAGE: Final = 0x1000
TARGET: Final = 0x10_0000


# -- producers that are right ------------------------------------------------------


async def careful(bus: EventBus) -> None:
    """Reuse a page after a sync, in another place and another space."""
    first = await bus.create_space("vtd0/a")
    second = await bus.create_space("vtd0/b", straddle="split")
    for page in range(20):
        first.map(page * PAGE, PAGE, TARGET + page * PAGE, Perm.RW)
    first.unmap(0, 4 * PAGE)
    first.map(0, PAGE, 2 * TARGET, Perm.RW)
    await first.sync()
    second.map(0, 4 * PAGE, TARGET, Perm.R)
    second.unmap(PAGE, PAGE)
    second.remap(0, PAGE, 4 * TARGET, Perm.RW)
    second.remap(0, PAGE, 4 * TARGET, Perm.RW)
    second.apply([IovaRange(2 * PAGE, 4 * PAGE - 1), Mapping(0x8000, 0x8FFF, 5 * TARGET, Perm.R)])
    await bus.sync("vtd0/*")
    first.map(40 * PAGE, PAGE, TARGET + PAGE, Perm.RW)
    first.unmap_all()
    await bus.sync()
    await second.close()
    await second.sync()


async def changes_permission(bus: EventBus) -> None:
    """Map the same pages in the same place again, at once: nobody gets what was another's."""
    space = await bus.create_space("vtd0")
    for perm in (Perm.RW, Perm.R, Perm.W):
        space.remap(0, 4 * PAGE, TARGET, perm)
    space.unmap(0, 4 * PAGE)
    space.map(0, 4 * PAGE, TARGET, Perm.R)
    await space.sync()


async def pulls(bus: EventBus) -> None:
    space = await bus.create_space("vtd0", offers=Cap.UNMAP | Cap.DEVIOTLB_UNMAP)
    space.unmap(0, 16 * PAGE)
    space.invalidate_device(0, 16 * PAGE)
    await space.sync()


async def tries_again(bus: EventBus) -> None:
    """Sync until it succeeds, and reuse then."""
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.unmap(0, PAGE)
    for _ in range(3):
        with suppress(SyncFailed):
            await space.sync()
            break
    space.map(PAGE, PAGE, TARGET, Perm.RW)


async def has_no_use_for_shadowers(bus: EventBus) -> None:
    def refuse(_: Cap, new: Cap) -> None:
        if new & Cap.MAP:
            raise ValueError("caching mode is off")

    space = await bus.create_space("vtd0", demand_changed=refuse)
    space.map(0, PAGE, TARGET, Perm.RW)
    space.unmap(0, PAGE)
    await space.sync()


async def looks_for_its_space(bus: EventBus) -> None:
    await bus.create_space("vtd0")
    space = await bus.wait_space("vtd0")
    assert bus.spaces() == (space,)
    space.map(0, PAGE, TARGET, Perm.RW)
    await bus.close()
    await space.sync()


GOOD: Final[dict[str, Producer]] = {
    producer.__name__: producer
    for producer in (careful, changes_permission, pulls, tries_again, has_no_use_for_shadowers, looks_for_its_space)
}


# -- producers with one mistake each -------------------------------------------------


async def reuses_at_once(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, 2 * PAGE, TARGET, Perm.RW)
    space.unmap(0, 2 * PAGE)
    space.map(4 * PAGE, PAGE, TARGET + PAGE, Perm.RW)
    await space.sync()


async def reuses_in_another_space(bus: EventBus) -> None:
    spaces = [await bus.create_space(name) for name in ("vtd0", "vtd1")]
    spaces[0].map(0, PAGE, TARGET, Perm.RW)
    spaces[0].unmap(0, PAGE)
    spaces[1].map(0, PAGE, TARGET, Perm.RW)
    await bus.sync()


async def reuses_by_remap(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.map(PAGE, PAGE, 2 * TARGET, Perm.RW)
    space.remap(0, PAGE, 3 * TARGET, Perm.RW)
    space.remap(PAGE, PAGE, TARGET, Perm.RW)
    await space.sync()


async def reuses_by_apply(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.apply([IovaRange(0, PAGE - 1), Mapping(PAGE, 2 * PAGE - 1, TARGET, Perm.RW)])
    await space.sync()


async def syncs_before(bus: EventBus) -> None:
    """Begin to sync, and unmap while that is on its way."""
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.map(PAGE, PAGE, 2 * TARGET, Perm.RW)
    space.unmap(PAGE, PAGE)
    begun = anyio.Event()

    async def sync() -> None:
        begun.set()
        await space.sync()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sync)
        await begun.wait()
        space.unmap(0, PAGE)
    space.map(4 * PAGE, PAGE, TARGET, Perm.RW)
    await space.sync()


async def syncs_another_space(bus: EventBus) -> None:
    spaces = [await bus.create_space(name) for name in ("vtd0", "vtd1")]
    spaces[0].map(0, PAGE, TARGET, Perm.RW)
    spaces[0].unmap(0, PAGE)
    await bus.sync("vtd1")
    spaces[0].map(PAGE, PAGE, TARGET, Perm.RW)
    await bus.sync("vtd0")


async def reuses_after_a_sync_that_failed(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.unmap(0, PAGE)
    with suppress(SyncFailed):
        await space.sync()
    space.map(PAGE, PAGE, TARGET, Perm.RW)
    await space.sync()


async def never_syncs(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.unmap(0, PAGE)


async def closes_without_a_sync(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    await space.close()


async def invalidates_without_a_sync(bus: EventBus) -> None:
    space = await bus.create_space("vtd0", offers=Cap.ALL)
    space.invalidate_device(0, PAGE)


async def pulls_without_a_sync(bus: EventBus) -> None:
    space = await bus.create_space("vtd0", offers=Cap.UNMAP)
    space.unmap(0, PAGE)


async def syncs_a_closed_space_by_the_bus(bus: EventBus) -> None:
    """Close a space, and sync those that are open."""
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    await space.close()
    await bus.sync()


async def overlaps(bus: EventBus) -> None:
    space = await bus.create_space("vtd0")
    space.map(0, PAGE, TARGET, Perm.RW)
    space.map(0, PAGE, 2 * TARGET, Perm.RW)


async def does_nothing(bus: EventBus) -> None:
    await bus.create_space("vtd0")


async def never_ends(bus: EventBus) -> None:
    await bus.create_space("vtd0")
    await anyio.sleep_forever()


UNSYNCED: Final = {"what_it_unmapped_is_synced", "it_reuses_nothing_after_a_sync_that_failed"}
EARLY: Final = {"it_reuses_nothing_before_a_sync", "it_reuses_nothing_after_a_sync_that_failed"}

WRONG: Final[list[tuple[Producer, set[str]]]] = [
    (reuses_at_once, EARLY),
    (reuses_in_another_space, EARLY),
    (reuses_by_remap, EARLY),
    (reuses_by_apply, EARLY),
    (syncs_before, {"it_reuses_nothing_before_a_sync"}),
    (syncs_another_space, EARLY),
    (reuses_after_a_sync_that_failed, {"it_reuses_nothing_after_a_sync_that_failed"}),
    (never_syncs, UNSYNCED),
    (closes_without_a_sync, UNSYNCED),
    (invalidates_without_a_sync, UNSYNCED),
    (pulls_without_a_sync, UNSYNCED),
    (syncs_a_closed_space_by_the_bus, UNSYNCED),
    (does_nothing, {"it_makes_a_space"}),
]
"""Mistakes, and the cases that find them: those and no others."""


@pytest.mark.parametrize("name", GOOD)
@every_loop
async def test_a_producer_that_is_right_passes(name: str) -> None:
    report = await check_producer(GOOD[name])

    assert report.role == "producer"
    assert report.cases == tuple(case.name for case in producer_cases(GOOD[name]))


@pytest.mark.parametrize(("producer", "names"), WRONG, ids=[producer.__name__ for producer, _ in WRONG])
@every_loop
async def test_a_mistake_is_found(producer: Producer, names: set[str]) -> None:
    assert await failing(producer_cases(producer)) == names


@pytest.mark.parametrize("producer", [overlaps, never_ends])
def test_one_that_raises_or_hangs_fails_everywhere(producer: Producer) -> None:
    cases = producer_cases(producer, patience=0.05)

    assert anyio.run(failing, cases) == {case.name for case in cases}


@pytest.mark.parametrize(
    ("mistake", "names"),
    [
        ("TellsTwice", {"a_shadower_can_follow_it", "a_slow_shadower_can_follow_it"}),
        ("LosesUnmaps", {"a_shadower_can_follow_it", "a_slow_shadower_can_follow_it"}),
        ("ObserverTellsTwice", {"numbers_rise"}),
    ],
)
def test_it_finds_what_the_bus_between_does(mistake: str, names: set[str]) -> None:
    """A producer brings its own bus, perhaps: then what comes out of that has to be right, too."""
    cases = producer_cases(careful, make_bus=FAULTS[mistake], patience=PATIENCE)

    assert anyio.run(failing, [case for case in cases if case.name in names]) == names


def test_every_case_finds_a_mistake() -> None:
    """Where nobody attends is what each that raises fails in."""
    found = {name for _, names in WRONG for name in names}
    others = {
        "numbers_rise",
        "a_shadower_can_follow_it",
        "a_slow_shadower_can_follow_it",
        "it_runs_where_nobody_attends",
    }

    assert found | others == {case.name for case in producer_cases(careful)}


def test_one_that_knows_better_may_reuse_at_once() -> None:
    async def reuse(bus: EventBus) -> None:
        await reuses_at_once(bus)

    report = anyio.run(lambda: check_producer(reuse, reuse=False))

    assert "it_reuses_nothing_before_a_sync" not in report.cases


def test_what_was_reused_is_said() -> None:
    with pytest.raises(ConformanceFailed) as caught:
        anyio.run(lambda: check_producer(reuses_at_once))

    assert (
        "0x4000..0x4fff -> 0x101000 <Perm.RW: 3> in vtd0 reuses 0x0..0x1fff -> 0x100000 <Perm.RW: 3> of vtd0, "
        "which no sync has covered" in str(caught.value)
    )
