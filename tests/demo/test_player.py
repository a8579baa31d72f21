"""Whole traces on the bus: right ones, and seeded faults that must be found."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from anyio.abc import TaskStatus
from msgspec import structs

from iommubus.abi.qemu_trace import Family, Trace
from iommubus.bus.abc import EventBus
from iommubus.demo.casting import Crew
from iommubus.demo.counters import Counter, Watcher
from iommubus.demo.player import SYNC_EVERY, play
from iommubus.demo.result import Progress, Result
from iommubus.demo.script import Script, write_script
from iommubus.demo.source import SHIPPED, Shipped
from iommubus.demo.subscribers import Cacher, Shadower, SlowShadower
from iommubus.errors import Overlap
from iommubus.events import Event, Lost, Map, Observed, Unmap
from tests.loops import every_loop

PAGES = 400
VICTIM = 0x10_0000 + 0x1000 * 7
"""The page on which the faulty subscribers below fail; `story` unmaps it in line 421."""


def script(*lines: str, family: Family | None = None) -> Script:
    return write_script(Trace.read(lines, path="log", family=family), "log")


def map_line(page: int, target: int, size: int = 0x1000) -> str:
    return (
        f"virtio_iommu_map domain=0 virt_start={page:#x} virt_end={page + size - 1:#x} phys_start={target:#x} flags=3"
    )


def unmap_line(page: int, size: int = 0x1000) -> str:
    return f"virtio_iommu_unmap_done domain=0 virt_start={page:#x} virt_end={page + size - 1:#x}"


def story() -> Iterator[str]:
    """Tell of 400 pages that are mapped, looked up now and then, and half of them unmapped."""
    yield "virtio_iommu_attach domain=0 endpoint=16"
    for at in range(PAGES):
        yield map_line(0x10_0000 + 0x1000 * at, 0x8000_0000 + 0x1000 * at)
        if at % 32 == 7:
            page = 0x10_0000 + 0x1000 * at
            yield f"virtio_iommu_translate_out {page + 4:#x} -> {page - 0x10_0000 + 0x8000_0004:#x} for sid=16"

    for at in range(0, PAGES, 2):
        yield unmap_line(0x10_0000 + 0x1000 * (at + 7) % (0x1000 * PAGES))


STORY = list(story())
UNMAP_OF_VICTIM = STORY.index(unmap_line(VICTIM)) + 1


@every_loop
async def test_a_short_trace_is_played_on_every_loop() -> None:
    seen: list[Progress] = []

    result = await play(script(*STORY), watch=seen.append)

    assert result.reasons == []
    assert (result.maps, result.unmaps) == (400, 200)
    assert result.lookups.asked == result.lookups.answered == result.lookups.agreed == 13
    assert len(result.sync_seconds) == len(seen) == 600 // SYNC_EVERY + 3  # one at the end, two for the endpoint
    assert seen[-1].steps == seen[-1].total
    assert [(one.subscriber, one.conflations) for one in result.received if one.conflations] == [
        ("vfio-slow", result.received[1].conflations)
    ]
    assert (result.received[1].conflations or 0) >= 1


@every_loop
async def test_a_space_without_a_table_is_played_to_cachers_alone() -> None:
    result = await play(
        script(
            "vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x1 addr 0x1000 mask 0x0",
            "vtd_inv_desc_iotlb_global iotlb invalidate global",
        )
    )

    assert result.reasons == []
    assert [(one.subscriber, one.maps, one.unmaps) for one in result.received] == [
        ("vhost", None, 2),
        ("notifier", None, 2),
        ("observer", 0, 2),
    ]
    assert (result.published[0].pull, result.lookups.asked) == (True, 0)


@every_loop
async def test_mappings_over_live_ones_across_the_msi_window_and_in_two_spaces_are_played() -> None:
    result = await play(
        script(
            map_line(0xFED0_0000, 0x8000_0000, size=0x40_0000),
            map_line(0xFEDF_F000, 0x1000, size=0x2000),
            map_line(0xFED0_0000, 0x8000_0000),
            unmap_line(0xFEEF_F000, size=0x2000),
            map_line(0x1000, 0x2000).replace("domain=0", "domain=1"),
            "virtio_iommu_put_domain Free domain=0",
        )
    )

    assert result.reasons == []
    assert result.remaps == 2
    assert [(one.space, one.pages) for one in result.published] == [
        ("virtio-iommu/domain-0", 0),
        ("virtio-iommu/domain-1", 1),
    ]


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.family)
@every_loop
async def test_the_shipped_traces_come_out_exactly(shipped: Shipped) -> None:
    result = await play(shipped.load(), expected=shipped.expected)

    assert result.reasons == []
    assert (result.maps, result.unmaps, result.pages) == (
        shipped.expected.maps,
        shipped.expected.unmaps,
        shipped.expected.pages,
    )
    conflations = {one.subscriber: one.conflations for one in result.received if one.conflations is not None}
    assert conflations.pop("vfio-slow") >= 1
    assert set(conflations.values()) == {0}
    assert result.lookups.agreed == result.lookups.asked == shipped.expected.lookups


# -- seeded faults -------------------------------------------------------------


class Forgetful(Shadower):
    """Ignores one UNMAP."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first == VICTIM):
            super().apply(event)


class Careless(Shadower):
    """Maps one page to a wrong target."""

    def apply(self, event: Event) -> None:
        if isinstance(event, Map) and event.first == VICTIM:
            event = Map(event.space, event.seq, event.first, event.last, event.target + 0x1000, event.perm)
        super().apply(event)


class SlowAndForgetful(SlowShadower):
    """Ignores the UNMAPs that a conflated mailbox makes."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first <= VICTIM <= event.last):
            super().apply(event)


class Hoarder(Cacher):
    """Ignores one UNMAP."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first <= VICTIM <= event.last):
            super().apply(event)


class Refuser(Shadower):
    """Cannot apply one MAP."""

    def apply(self, event: Event) -> None:
        if isinstance(event, Map) and event.first == VICTIM:
            raise Overlap(event.first, event.last, event.first, event.last)
        super().apply(event)


class Untidy(Shadower):
    """Keeps a right copy page by page, and a wrong table."""

    def apply(self, event: Event) -> None:
        super().apply(event)
        if isinstance(event, Map) and event.first == VICTIM + 0x1000:
            self.mirror.apply(Unmap(event.space, event.seq, event.first, event.last))


class Clinging(Shadower):
    """Keeps everything when its space is closed."""

    async def empty(self) -> None:
        raise AssertionError

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.size > 0x1000):
            super().apply(event)


class Crash(Exception):
    pass


class Crashing(Shadower):
    """Leaves unclean, so that it has to be proven stopped."""

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        with suppress(Crash):
            await super().run(bus, task_status=task_status)

    def apply(self, event: Event) -> None:
        if event.first == VICTIM:
            raise Crash
        super().apply(event)


class Miscounting(Counter):
    """Does not count one UNMAP."""

    def notify(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first == VICTIM):
            super().notify(event)


class Losing(Watcher):
    """Loses an event and is not told."""

    def count(self, event: Observed) -> None:
        if not (isinstance(event, Unmap) and event.first == VICTIM):
            super().count(event)


async def play_with(crew: Crew) -> Result:
    return await play(script(*STORY), crew=crew)


@every_loop
async def test_a_shadower_that_ignores_an_unmap_is_found_with_the_line() -> None:
    result = await play_with(Crew(shadower=Forgetful))

    (violation,) = result.violations
    assert (violation.subscriber, violation.page, violation.event) == ("vfio", VICTIM, UNMAP_OF_VICTIM)
    assert violation.after < violation.event <= violation.until
    assert (violation.should, violation.holds) == ("unmapped", "-> 0x80007000 RW")
    assert result.reasons[0] == str(violation)


@every_loop
async def test_a_shadower_that_maps_a_wrong_target_is_found_with_the_line() -> None:
    result = await play_with(Crew(shadower=Careless))

    (violation,) = result.violations
    assert (violation.page, violation.event) == (VICTIM, STORY.index(map_line(VICTIM, 0x8000_7000)) + 1)
    assert (violation.should, violation.holds) == ("-> 0x80007000 RW", "-> 0x80008000 RW")


@every_loop
async def test_a_slow_shadower_that_ignores_an_unmap_is_found() -> None:
    result = await play_with(Crew(slow=SlowAndForgetful))

    assert [one.subscriber for one in result.violations] == ["vfio-slow"]
    assert result.violations[0].page == VICTIM


@every_loop
async def test_a_cacher_that_ignores_an_unmap_is_found_with_the_line() -> None:
    result = await play_with(Crew(cacher=Hoarder))

    (violation,) = result.violations
    assert (violation.subscriber, violation.page, violation.event) == ("vhost", VICTIM, UNMAP_OF_VICTIM)
    assert violation.should == f"dropped (unmapped in line {UNMAP_OF_VICTIM})"
    assert violation.holds == f"-> 0x80007000 RW, asked for at line {STORY.index(map_line(VICTIM, 0x8000_7000)) + 2}"


@every_loop
async def test_a_shadower_that_cannot_map_fails_the_sync() -> None:
    result = await play_with(Crew(shadower=Refuser))

    (failure,) = result.failures
    assert failure.startswith("the sync after line ")
    assert f"could not map {VICTIM:#x}" in failure
    assert not result.violations


@every_loop
async def test_a_table_that_differs_from_the_pages_beside_it_is_found_at_the_end() -> None:
    result = await play_with(Crew(shadower=Untidy))

    (violation,) = result.violations
    assert (violation.subscriber, violation.page, violation.holds) == ("vfio's table", VICTIM + 0x1000, "unmapped")


@every_loop
async def test_a_shadower_that_keeps_what_a_closed_space_had_is_found() -> None:
    result = await play_with(Crew(shadower=Clinging))

    (violation,) = result.violations
    assert (violation.subscriber, violation.should) == ("vfio", "gone with the space")


@every_loop
async def test_a_shadower_that_crashed_is_stopped_by_its_fence_and_holds_nothing() -> None:
    result = await play_with(Crew(shadower=Crashing))

    (violation,) = result.violations
    assert (violation.subscriber, violation.page, violation.holds) == ("vfio", 0x10_0000, "unmapped")
    assert len(result.sync_seconds) == 1


@every_loop
async def test_a_notifier_that_was_not_called_is_found() -> None:
    result = await play_with(Crew(counter=Miscounting))

    assert "the notifier on virtio-iommu/domain-0 was called 599 times, not as often as published" in result.reasons


@pytest.mark.parametrize("count", [0, 1])
@every_loop
async def test_an_observer_is_told_of_what_it_lost(count: int) -> None:
    watcher = Watcher()

    watcher.count(Lost("s", 5, count))

    received = await watcher.received()
    assert (received.seen, received.lost) == (count, count)


@every_loop
async def test_an_observer_that_misses_an_event_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.demo.player.OBSERVER_TIMEOUT", 0.01)

    result = await play_with(Crew(watcher=Losing))

    assert result.reasons == ["the observer saw or lost 599 of 600 events"]


@every_loop
async def test_a_change_that_the_bus_refuses_is_named_by_its_line() -> None:
    right = script(*STORY)

    result = await play(structs.replace(right, granule=0x2000))

    assert result.reasons[0].startswith("line 2 could not be published on virtio-iommu/domain-0: ")


@every_loop
async def test_lookups_in_a_space_without_a_table_are_not_asked() -> None:
    result = await play(
        script(
            "virtio_iommu_attach domain=0 endpoint=16",
            unmap_line(0x1000),
            "virtio_iommu_translate_out 0x1000 -> 0x8000 for sid=16",
        )
    )

    assert (result.reasons, result.lookups.asked) == ([], 0)


@every_loop
async def test_a_lookup_that_leads_nowhere_is_not_answered() -> None:
    result = await play(
        script(
            "virtio_iommu_attach domain=0 endpoint=16",
            map_line(0x1000, 0x8000),
            "virtio_iommu_translate_out 0x2000 -> 0x9000 for sid=16",
            "virtio_iommu_translate_out 0x1000 -> 0x9000 for sid=16",
        )
    )

    assert (result.lookups.asked, result.lookups.answered, result.lookups.agreed) == (2, 1, 0)
