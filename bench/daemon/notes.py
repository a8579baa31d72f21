"""What was measured, repetition by repetition, and the rows that come of it."""

from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import NamedTuple

from ..rows import Row


class Key(NamedTuple):
    """What was measured.

    Attributes:
        case: What was done.
        subject: Who did it.
        unit: Of the value.
        subscribers: How many listened.
        batch: Events in a call or a message.
    """

    case: str
    subject: str
    unit: str
    subscribers: int | None = None
    batch: int | None = None


class Notes:
    """All values, by what was measured and in which repetition."""

    def __init__(self) -> None:
        self.repetition = 0
        self._values: dict[Key, dict[int, float]] = {}

    def note(self, key: Key, value: float) -> None:
        """Keep a value of this repetition."""
        self._values.setdefault(key, {})[self.repetition] = value

    def keys(self) -> Iterator[Key]:
        """Return everything that was measured, in order."""
        return iter(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def value(self, key: Key) -> float:
        """Return the median over the repetitions."""
        return median(self._values[key].values())

    def ratio(self, key: Key, reference: Key) -> float:
        """Return the median of the ratios inside each repetition."""
        own, other = self._values[key], self._values[reference]
        return median(own[at] / other[at] for at in own if at in other)

    def row(self, key: Key, reference: Key | None = None, called: str | None = None) -> Row:
        """Return a row without a target.

        Args:
            key: What was measured.
            reference: What it is compared with, if that was measured.
            called: What that is called in the row; by default its subject.
        """
        known = reference is not None and reference in self
        return Row(
            case=key.case,
            subject=key.subject,
            subscribers=key.subscribers,
            batch=key.batch,
            value=rounded(self.value(key)),
            unit=key.unit,
            ratio=round(self.ratio(key, reference), 4) if known and reference is not None else None,
            reference=(called or reference.subject) if known and reference is not None else None,
        )

    def rows(self, reference: Callable[[Key], tuple[Key, str] | None]) -> Iterable[Row]:
        """Return a row for all that was measured, compared with what ``reference`` says."""
        for key in self._values:
            found = reference(key)
            yield self.row(key) if found is None else self.row(key, *found)


def rounded(value: float) -> float:
    """Return a value in five digits or so."""
    return float(f"{value:.5g}")
