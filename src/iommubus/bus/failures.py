"""What a subscriber could not apply, until whoever can act was told of it.

A MAP that failed is told once.  A removal that failed stays until it was handed
over again and acknowledged.
"""

from typing import Final

from msgspec import structs

from ..events import Event
from ..rangeset import RangeSet
from .reports import MapFailure

FAILURE_LIMIT: Final = 1024
"""Most failed MAPs that are told of one by one; what fails beyond that, before
anybody asks, is told of as one range.  A subscriber that is full fails at the
pace of the guest."""


class MapFailures:
    """MAPs that failed and that nobody was told of yet, by space."""

    __slots__ = ("_by_space",)

    def __init__(self) -> None:
        self._by_space: dict[str, list[MapFailure]] = {}

    def add(self, subscriber: str, event: Event, error: Exception) -> None:
        """Note one more; where there are too many of a space, it is joined with the last one."""
        self.put(MapFailure(subscriber, event.space, event.first, event.last, error))

    def put(self, failure: MapFailure) -> None:
        """Note one more that is put into words already."""
        failures = self._by_space.setdefault(failure.space, [])
        if len(failures) < FAILURE_LIMIT:
            failures.append(failure)
            return
        merged = failures[-1]
        first, last = min(merged.first, failure.first), max(merged.last, failure.last)
        failures[-1] = structs.replace(merged, first=first, last=last, count=merged.count + failure.count)

    def pop(self, space: str) -> list[MapFailure]:
        """Return those of a space that were added since this was last asked."""
        return self._by_space.pop(space, [])

    def pop_all(self) -> list[MapFailure]:
        """Return those of all spaces."""
        failures = [failure for each in self._by_space.values() for failure in each]
        self._by_space.clear()
        return failures


class Setback:
    """Removals that could not be applied, all of them together.

    Attributes:
        cause: Why the last one could not be.
    """

    __slots__ = ("_ranges", "_retried_in", "cause")

    def __init__(self) -> None:
        self._ranges = RangeSet()
        self._retried_in: int | None = None
        self.cause: Exception | None = None

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, event: Event, error: Exception) -> None:
        """Note a removal that failed."""
        self._ranges.add(event.first, event.last, mark=True)
        self._retried_in = None
        self.cause = error

    def retried(self, number: int) -> None:
        """Note that hand-over ``number`` gives all of them again."""
        if self._ranges and self._retried_in is None:
            self._retried_in = number

    def acknowledge(self, number: int) -> bool:
        """Forget them if they were given again by hand-over ``number``; say whether."""
        if self._retried_in is None or self._retried_in > number:
            return False
        self._ranges.clear()
        self._retried_in = self.cause = None
        return True

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Where they are."""
        return [(first, last) for first, last, _ in self._ranges]
