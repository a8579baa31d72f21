"""What a daemon counts beside its bus, whether or not anybody reads it."""

from bisect import bisect_left
from collections import Counter
from typing import Final

BOUNDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds that separate syncs: from what two processes on one machine need, a
hundred microseconds, to the longest deadline; three a decade show a change of a
factor of two to three."""


class Histogram:
    """How many durations there were of each length."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one; a duration that is a bound belongs below it."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many were at most each bound, and at last all."""
        found: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], self._counts, strict=True):
            below += count
            found.append((bound, below))
        return found


class Counts:
    """What a daemon counts beside its bus; whoever sees it happen counts it here.

    Attributes:
        sync_seconds: How long syncs took that succeeded.
        map_failures: MAPs that subscribers could not apply.
        fences: Subscriptions that were fenced.
        refusals: What was refused, by the key of the rule that was missing.
        protocol_errors: Connections that broke the protocol.
        connections: Connections that are open.
    """

    __slots__ = ("connections", "fences", "map_failures", "protocol_errors", "refusals", "sync_seconds")

    def __init__(self) -> None:
        self.sync_seconds = Histogram()
        self.map_failures = 0
        self.fences = 0
        self.refusals: Counter[str] = Counter()
        self.protocol_errors = 0
        self.connections = 0
