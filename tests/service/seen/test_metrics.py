"""Metrics of a real bus, read back by Prometheus' own parser."""

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iommubus import Bus, Cap
from iommubus.bus.reports import BusStatistics
from iommubus.service.seen.counts import BOUNDS, Counts, Histogram
from iommubus.service.seen.metrics import health_page, metrics_page, pages
from tests.actors import PAGE, apply_all, failing_sync, map_page, open_space, unmap_page
from tests.loops import every_loop

Sample = tuple[str, frozenset[tuple[str, str]]]


def read(body: bytes) -> dict[Sample, float]:
    """Return the values of an exposition by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def at(name: str, **labels: str) -> Sample:
    return f"iommubus_{name}", frozenset(labels.items())


@every_loop
async def test_the_counters_of_a_bus_are_shown() -> None:
    async with open_space(offers=Cap.ALL) as (bus, space), bus.observe("*"):
        async with bus.subscribe("space", Cap.ALL, name="vfio") as events, bus.subscribe("space", Cap.IOTLB, name="b"):
            for page in range(3):
                map_page(space, page)
            unmap_page(space, 0)
            space.invalidate_device(0, PAGE)
            await apply_all(aiter(events), lambda _: None)
            await failing_sync(space)
            values = read(metrics_page(bus.statistics(), Counts()).body)
        assert at("lag", space="space", subscription="vfio") not in read(metrics_page(bus.statistics(), Counts()).body)

    assert {key: values[key] for key in EXPECTED} == EXPECTED


EXPECTED = {
    at("events_total", space="space", kind="map"): 3.0,
    at("events_total", space="space", kind="unmap"): 1.0,
    at("events_total", space="space", kind="deviotlb_unmap"): 1.0,
    at("syncs_total", space="space", outcome="completed"): 0.0,
    at("syncs_total", space="space", outcome="failed"): 1.0,
    at("mappings", space="space"): 2.0,
    at("subscriptions", space="space"): 2.0,
    at("leaving", space="space"): 0.0,
    at("unproven", space="space"): 0.0,
    at("deliveries_total", space="space", subscription="vfio", kind="map"): 3.0,
    at("deliveries_total", space="space", subscription="vfio", kind="unmap"): 1.0,
    at("deliveries_total", space="space", subscription="vfio", kind="deviotlb_unmap"): 1.0,
    at("deliveries_total", space="space", subscription="b", kind="map"): 0.0,
    at("conflations_total", space="space", subscription="vfio"): 0.0,
    at("lag", space="space", subscription="vfio"): 0.0,
    at("observers"): 1.0,
}


def test_what_the_daemon_counts_is_shown() -> None:
    counts = Counts()
    counts.map_failures, counts.fences, counts.protocol_errors, counts.connections = 1, 2, 3, 4
    counts.refusals.update(["publish", "publish", "admin"])
    counts.sync_seconds.observe(0.002)
    counts.sync_seconds.observe(99.0)
    values = read(metrics_page(anyio.run(empty_statistics), counts).body)
    assert [values[at(f"{name}_total")] for name in ("map_failures", "fences", "protocol_errors")] == [1, 2, 3]
    assert values[at("connections")] == 4
    assert values[at("refusals_total", action="publish")] == 2
    assert values[at("refusals_total", action="admin")] == 1
    assert values[at("sync_seconds_bucket", le="0.001")] == 0
    assert values[at("sync_seconds_bucket", le="0.003")] == 1
    assert values[at("sync_seconds_bucket", le="10.0")] == 1
    assert values[at("sync_seconds_bucket", le="+Inf")] == values[at("sync_seconds_count")] == 2
    assert values[at("sync_seconds_sum")] == pytest.approx(99.002)


async def empty_statistics() -> BusStatistics:
    async with Bus() as bus:
        return bus.statistics()


def test_a_name_with_anything_in_it_is_one_label() -> None:
    counts = Counts()
    evil = 'a"} 7\niommubus_fences_total 9\\'
    counts.refusals[evil] = 1
    values = read(metrics_page(anyio.run(empty_statistics), counts).body)
    assert values[at("refusals_total", action=evil)] == 1
    assert values[at("fences_total")] == 0


def test_a_duration_that_is_a_bound_belongs_below_it() -> None:
    for place, bound in enumerate(BOUNDS):
        histogram = Histogram()
        histogram.observe(bound)
        assert [count for _, count in histogram.buckets()] == [0] * place + [1] * (len(BOUNDS) + 1 - place)


def test_health_is_ok_or_says_why_not() -> None:
    assert health_page([]) == (200, b"ok\n", "text/plain; charset=utf-8")
    assert health_page(["one", "two"])[:2] == (503, b"one\ntwo\n")


def test_pages_are_made_when_they_are_asked_for() -> None:
    reasons: list[str] = []
    statistics = anyio.run(empty_statistics)
    counts = Counts()
    found = pages(lambda: statistics, counts, lambda: reasons)
    before = found["/metrics"]()
    counts.fences = 5
    reasons.append("later")
    assert set(found) == {"/metrics", "/healthz"}
    assert read(found["/metrics"]().body) != read(before.body)
    assert before.kind.startswith("text/plain; version=")
    assert found["/healthz"]().status == 503
