"""Answers to IOTLB misses, and how long they may be believed.

A translation that is asked for races with the UNMAP that ends it: the answer
may be installed in a cache after the UNMAP was handed over, and would then stay
for ever.  So each answer remembers the last hand-over that was made before the
question was asked, and is no longer valid once a removal in a later one overlaps it.
"""

from collections import deque
from collections.abc import Iterable
from itertools import takewhile
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

    __slots__ = ("_asked", "_forgotten", "_ranges", "_stopped")

    def __init__(self) -> None:
        self._asked = False
        self._stopped = False
        self._forgotten = 0  # hand-over of the last removal that is not remembered
        self._ranges: deque[tuple[int, int, int]] = deque()  # hand-over, and what was removed in it

    def watch(self) -> None:
        """Remember removals from now on: somebody is about to ask."""
        self._asked = True

    def note(self, number: int, events: Iterable[Event]) -> None:
        """Note hand-over ``number``; it costs nothing until a first question was asked."""
        if not self._asked:
            return
        self._ranges += [(number, event.first, event.last) for event in events if type(event) is not Map]
        while len(self._ranges) > RECENT:
            self._forgotten = self._ranges.popleft()[0]

    def stop(self) -> None:
        """Make every answer invalid: the subscription is fenced."""
        self._stopped = True

    def any_since(self, number: int, first: int, last: int) -> bool:
        """Say whether a removal in a hand-over after ``number`` overlaps, or may do so."""
        if self._stopped or number < self._forgotten:
            return True
        recent = takewhile(lambda removal: removal[0] > number, reversed(self._ranges))
        return any(low <= last and high >= first for _, low, high in recent)


class StampedTranslation(Translation):
    """A mapping as it stood when it was asked for.

    Args:
        mapping: The mapping.
        seq: Number of the space's latest event at that moment.
        removals: What was handed over to the subscription.
        number: Number of the last hand-over that was made before.
    """

    __slots__ = ("_number", "_removals", "mapping", "seq")

    def __init__(self, mapping: Mapping, seq: int, removals: RecentRemovals, number: int) -> None:
        self.mapping = mapping
        self.seq = seq
        self._removals = removals
        self._number = number

    @property
    def valid(self) -> bool:
        """Whether no overlapping removal was handed over since the question."""
        return not self._removals.any_since(self._number, self.mapping.first, self.mapping.last)

    def __repr__(self) -> str:
        return f"<translation {self.mapping} at {self.seq}, {'valid' if self.valid else 'stale'}>"
