"""Log lines: one for what happened to somebody, never one an event."""

import logging

import pytest

from iommubus import Cap
from iommubus.bus.logs import BURST, INTERVAL, Lines
from tests.actors import PAGE, failing_sync, map_page, open_space, unmap_page
from tests.loops import every_loop


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_of_a_kind_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """T43: a guest can provoke them as fast as it likes; the next one says how many were left out."""
    clock = Clock()
    lines = Lines(clock)
    with caplog.at_level(logging.INFO, "iommubus"):
        for number in range(BURST + 7):
            lines.warn("kind", f"subject {number}", "text")
        lines.info("other", "subject", "text")
        assert len(caplog.messages) == BURST + 1
        clock.now += INTERVAL
        lines.warn("kind", "subject", "again")
        lines.warn("kind", "subject", "once more")
    assert caplog.messages[-2:] == ["subject: again (7 lines like this were left out)", "subject: once more"]
    assert [record.levelno for record in caplog.records].count(logging.INFO) == 1


def test_a_kind_starts_anew_after_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = Lines(clock)
    with caplog.at_level(logging.INFO, "iommubus"):
        for _ in range(3):
            lines.warn("kind", "subject", "text")
            clock.now += INTERVAL
    assert caplog.messages == ["subject: text"] * 3


@every_loop
async def test_the_bus_writes_no_line_for_each_event(caplog: pytest.LogCaptureFixture) -> None:
    """T43: not for a map, not for an unmap, and for device invalidations of what is mapped at most a burst."""
    with caplog.at_level(logging.DEBUG, "iommubus"):
        async with open_space(offers=Cap.ALL) as (_, space):
            for page in range(100):
                map_page(space, page)
                unmap_page(space, page)
            assert caplog.messages == []
            map_page(space, 0)
            for _ in range(100):
                space.invalidate_device(0, PAGE)
    assert 1 <= len(caplog.messages) <= BURST
    assert "device TLB invalidated at 0x0, which is still mapped" in caplog.messages[0]


@every_loop
async def test_a_sync_that_failed_and_a_fence_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Law 7: never log-only, but logged too."""
    with caplog.at_level(logging.INFO, "iommubus"):
        async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, stops="exit", name="vfio") as events:
            map_page(space, 0)
            await anext(aiter(events))
            unmap_page(space, 0)
            await failing_sync(space)
            await space.fence(events)
            await events.close()
    assert "space: sync failed: vfio on space did not acknowledge" in caplog.messages[0]
    assert "vfio: fenced and not proven stopped: the producer fenced it" in caplog.text
