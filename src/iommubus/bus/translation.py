"""Answers to IOTLB misses, and how long they may be believed.

A translation that is asked for races with the UNMAP that ends it: the answer
may be installed in a cache after the UNMAP was handed over, and would then stay
for ever.  So each answer remembers how many removals had been handed over when
the question was asked, and is no longer valid once one after that overlaps it.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from ..events import Event, Map
from ..mapping import Mapping
from .abc import Translation

RECENT: Final = 1024
"""Removals remembered for a subscription; an older answer counts as invalid.
An answer is installed within microseconds, so this is ample; forgetting costs
one more miss."""


class RecentRemovals:
    """The ranges of the removals last handed over to one subscription."""

    __slots__ = ("_asked", "_count", "_ranges", "_stopped")

    def __init__(self) -> None:
        self._asked = False
        self._stopped = False
        self._count = 0
        self._ranges: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def stamp(self) -> int:
        """Return the moment, to be given to `any_since` later."""
        self._asked = True
        return self._count

    def note(self, events: Iterable[Event]) -> None:
        """Note a hand-over; it costs nothing until a first question was asked."""
        if not self._asked:
            return
        for event in events:
            if type(event) is not Map:
                self._count += 1
                self._ranges.append((event.first, event.last))

    def stop(self) -> None:
        """Make every answer invalid: the subscription is fenced."""
        self._stopped = True

    def any_since(self, stamp: int, first: int, last: int) -> bool:
        """Say whether a removal since ``stamp`` overlaps, or may do so."""
        behind = self._count - stamp
        if self._stopped or behind > len(self._ranges):
            return True
        recent = islice(reversed(self._ranges), behind)
        return any(low <= last and high >= first for low, high in recent)


class LocalTranslation(Translation):
    """A mapping as it stood when it was asked for."""

    __slots__ = ("_removals", "_stamp", "mapping", "seq")

    def __init__(self, mapping: Mapping, seq: int, removals: RecentRemovals, stamp: int) -> None:
        self.mapping = mapping
        self.seq = seq
        self._removals = removals
        self._stamp = stamp

    @property
    def valid(self) -> bool:
        """Whether no overlapping removal was handed over since the question."""
        return not self._removals.any_since(self._stamp, self.mapping.first, self.mapping.last)

    def __repr__(self) -> str:
        return f"<translation {self.mapping} at {self.seq}, {'valid' if self.valid else 'stale'}>"
