"""What ``/metrics`` and ``/healthz`` say, from the counters of a bus and of its daemon.

A counter never goes down while it is shown.  So what a subscription was given is
shown for that subscription, and is gone with it, rather than taken back from a sum.

Source: the Prometheus text format, and its rules for names: base units, counters
end in ``_total``.
"""

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ...bus.reports import BusStatistics, SpaceStatistics, SubscriptionStatistics
from ...caps import Cap
from .counts import Counts
from .http import Page, Pages

SPACE_GAUGES: Final[Sequence[tuple[str, str, Callable[[SpaceStatistics], int]]]] = (
    ("iommubus_mappings", "Live mappings.", lambda space: space.mappings),
    ("iommubus_subscriptions", "Subscriptions that count in a sync.", lambda space: len(space.subscriptions)),
    ("iommubus_leaving", "Subscriptions that have not let go of this space yet.", lambda space: len(space.leaving)),
    ("iommubus_unproven", "Subscriptions that left and are not proven stopped.", lambda space: len(space.unproven)),
    ("iommubus_old_pieces", "Removed pieces that may still be in use.", lambda space: space.old_pieces),
)
"""What a space has now: name, text, and how it is read."""

KINDS: Final = (Cap.MAP, Cap.UNMAP, Cap.DEVIOTLB_UNMAP)


class Snapshot(Collector):
    """Counters as Prometheus takes them.

    Args:
        statistics: Those of the bus.
        counts: Those of the daemon.
    """

    def __init__(self, statistics: BusStatistics, counts: Counts) -> None:
        self._statistics = statistics
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its values."""
        yield from of_spaces(self._statistics)
        yield from of_subscriptions(self._statistics)
        yield from of_observers(self._statistics)
        yield from of_daemon(self._counts)


def metrics_page(statistics: BusStatistics, counts: Counts) -> Page:
    """Return ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot(statistics, counts))
    return Page(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)


def health_page(reasons: Sequence[str]) -> Page:
    """Return ``/healthz``: that all is well, or why no `sync` can complete."""
    if reasons:
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{reason}\n" for reason in reasons).encode())
    return Page(HTTPStatus.OK, b"ok\n")


def pages(statistics: Callable[[], BusStatistics], counts: Counts, reasons: Callable[[], Sequence[str]]) -> Pages:
    """Return both pages for `serve_pages`.

    Args:
        statistics: Gives the counters of the bus.
        counts: Those of the daemon.
        reasons: Gives why no `sync` can complete, if none can.
    """
    return {
        "/metrics": lambda: metrics_page(statistics(), counts),
        "/healthz": lambda: health_page(reasons()),
    }


def of_spaces(statistics: BusStatistics) -> Iterator[Metric]:
    """Yield what is counted by space."""
    events = CounterMetricFamily("iommubus_events", "Events published.", labels=["space", "kind"])
    syncs = CounterMetricFamily("iommubus_syncs", "Syncs by how they ended.", labels=["space", "outcome"])
    for name, space in statistics.spaces.items():
        for kind in KINDS:
            events.add_metric([name, word(kind)], space.published.get(kind, 0))
        syncs.add_metric([name, "completed"], space.syncs)
        syncs.add_metric([name, "failed"], space.failed_syncs)
    yield from (events, syncs)
    for name, text, read in SPACE_GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=["space"])
        for label, space in statistics.spaces.items():
            gauge.add_metric([label], read(space))
        yield gauge


def of_subscriptions(statistics: BusStatistics) -> Iterator[Metric]:
    """Yield what is counted by subscription."""
    labels = ["space", "subscription"]
    deliveries = CounterMetricFamily("iommubus_deliveries", "Events handed over.", labels=[*labels, "kind"])
    conflations = CounterMetricFamily("iommubus_conflations", "Times a mailbox was full.", labels=labels)
    lag = GaugeMetricFamily("iommubus_lag", "Events and dirty ranges that wait.", labels=labels)
    for space, name, subscription in subscriptions_of(statistics):
        for kind in KINDS:
            deliveries.add_metric([space, name, word(kind)], subscription.delivered.get(kind, 0))
        conflations.add_metric([space, name], subscription.conflations)
        lag.add_metric([space, name], subscription.lag)
    yield from (deliveries, conflations, lag)


def of_observers(statistics: BusStatistics) -> Iterator[Metric]:
    """Yield what is known of observers, all together."""
    observers = statistics.observers
    yield GaugeMetricFamily("iommubus_observers", "Live observers.", len(observers))
    yield GaugeMetricFamily("iommubus_observers_lag", "Events that wait for observers.", sum(o.lag for o in observers))


def of_daemon(counts: Counts) -> Iterator[Metric]:
    """Yield what the daemon counts."""
    seconds = counts.sync_seconds
    text = "How long syncs took that completed."
    yield HistogramMetricFamily("iommubus_sync_seconds", text, seconds.buckets(), seconds.total)
    yield CounterMetricFamily("iommubus_map_failures", "MAPs that could not be applied.", counts.map_failures)
    yield CounterMetricFamily("iommubus_fences", "Subscriptions that were fenced.", counts.fences)
    refusals = CounterMetricFamily("iommubus_refusals", "Requests without a rule.", labels=["action"])
    for action, count in sorted(counts.refusals.items()):
        refusals.add_metric([action], count)
    yield refusals
    yield CounterMetricFamily("iommubus_protocol_errors", "Broken connections.", counts.protocol_errors)
    yield GaugeMetricFamily("iommubus_connections", "Open connections.", counts.connections)


def subscriptions_of(statistics: BusStatistics) -> Iterator[tuple[str, str, SubscriptionStatistics]]:
    """Yield each subscription with the names of its space and its own."""
    for space, counters in statistics.spaces.items():
        for name, subscription in counters.subscriptions.items():
            yield space, name, subscription


def word(kind: Cap) -> str:
    """Return a kind as a label."""
    return (kind.name or "").lower()
