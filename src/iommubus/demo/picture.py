"""The I/O address space over time, as a grid: address down, time across.

A cell is the share of a band's pages that were mapped, averaged over its time.
The pages of a band are those that the trace ever maps there, so that a sparse
band is as readable as a dense one.  Bands are linear inside a cluster of
addresses; what lies between two clusters is left out, and `Picture.bands` says
where.  Only numbers here: characters and colours are the view's.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import log2
from typing import Final, Literal

from msgspec import Struct

from ..ranges import LAST
from .pages import Pages
from .script import Change, MapStep, Step

GAP_SHARE: Final = 16
"""A gap is left out if it is larger than a 16th of what then remains to be shown."""

Axis = Literal["seconds", "events"]


class Band(Struct, frozen=True):
    """One row.

    Attributes:
        first: First address.
        last: Last address.
        pages: Pages of it that are ever mapped.
        shares: Share of those that was mapped, 0 to 1, for each column.
    """

    first: int
    last: int
    pages: int
    shares: list[float]


class Picture(Struct, frozen=True):
    """A space over time.

    Attributes:
        space: Its name.
        axis: What the columns are made of.
        length: Seconds or events from the left to the right edge.
        bands: The rows, from the highest address down; `None` where addresses
            are left out.
    """

    space: str
    axis: Axis
    length: float
    bands: list[Band | None]


def draw(steps: Sequence[Step], space: str, granule: int, width: int, height: int) -> Picture | None:
    """Return the picture of one space, or `None` if nothing was ever mapped in it.

    Args:
        steps: What happened, in order, in any space.
        space: Name of the space.
        granule: Bytes in a page.
        width: Columns, at least 1.
        height: Most rows, gaps included; a few more if there are many clusters.
    """
    changes = [step for step in steps if isinstance(step, Change) and step.space == space]
    touched = _touched(changes, granule)
    if not touched:
        return None

    axis, moments = _moments(changes)
    edges = bands(touched, granule, height)
    counter = _Counter(edges, width, moments[-1])
    pages = Pages(granule)
    for step, moment in zip(changes, moments, strict=False):
        counter.advance(moment)
        _follow(step, pages, counter)

    counter.advance(moments[-1])
    return Picture(space, axis, moments[-1], _rows(touched, edges, counter))


def bands(touched: Sequence[int], granule: int, height: int) -> list[tuple[int, int]]:
    """Return the address ranges of the rows, in order; where they do not touch, there is a gap.

    A band is a power of two of pages and starts at a multiple of its size, so
    that addresses in the margin are round.

    Args:
        touched: Addresses of all pages that are ever mapped, in order.
        granule: Bytes in a page.
        height: Most rows, gaps included.
    """
    groups = clusters(touched, granule, max(1, height // 4))
    room = max(height - len(groups) + 1, len(groups))
    weights = [log2(1 + len(group)) for group in groups]
    ceilings = [group[0] - 1 for group in groups[1:]] + [LAST]
    found: list[tuple[int, int]] = []
    for group, weight, ceiling in zip(groups, weights, ceilings, strict=True):
        rows = max(1, int(room * weight / sum(weights)))
        floor = found[-1][1] + 1 if found else 0
        slices = _slices(group[0], group[-1], granule, rows)
        found += [(max(first, floor), min(last, ceiling)) for first, last in slices]

    return found


def clusters(touched: Sequence[int], granule: int, most: int) -> list[Sequence[int]]:
    """Return the pages in groups, cut at the largest gaps.

    Args:
        touched: Addresses of pages, in order.
        granule: Bytes in a page.
        most: Most groups.
    """
    steps = enumerate(pairwise(touched), 1)
    gaps = sorted(((after - before - granule, at) for at, (before, after) in steps), reverse=True)
    remains = touched[-1] + granule - touched[0]
    cuts: list[int] = []
    for gap, at in gaps[: most - 1]:
        if gap * GAP_SHARE <= remains - gap:
            break

        remains -= gap
        cuts.append(at)

    edges = [0, *sorted(cuts), len(touched)]
    return [touched[start:stop] for start, stop in pairwise(edges)]


# -- inside --------------------------------------------------------------------


class _Counter:
    """Mapped pages of each band, integrated over time into columns."""

    def __init__(self, edges: list[tuple[int, int]], width: int, length: float) -> None:
        self.sums = [[0.0] * width for _ in edges]
        self.column = length / width
        self._firsts = [first for first, _ in edges]
        self._counts = [0] * len(edges)
        self._since = [0.0] * len(edges)
        self._now = 0.0

    def advance(self, moment: float) -> None:
        """Let time pass; it never goes back, whatever the trace says."""
        self._now = max(self._now, moment)

    def change(self, page: int, by: int) -> None:
        """Note that a page came or went."""
        row = bisect_right(self._firsts, page) - 1
        self._settle(row)
        self._counts[row] += by

    def settle(self) -> None:
        """Integrate up to now."""
        for row in range(len(self._counts)):
            self._settle(row)

    def _settle(self, row: int) -> None:
        start, self._since[row] = self._since[row], self._now
        count, sums = self._counts[row], self.sums[row]
        at = int(start / self.column)
        while count and start < self._now and at < len(sums):
            end = min(self._now, (at + 1) * self.column)
            sums[at] += count * (end - start)
            start, at = end, at + 1


def _follow(step: Change, pages: Pages, counter: _Counter) -> None:
    for page in pages.unmap(step.first, step.last):
        counter.change(page, -1)

    if isinstance(step, MapStep):
        pages.map(step.first, step.last, step.target, step.perm)
        for page in range(step.first, step.last + 1, pages.size):
            counter.change(page, 1)


def _touched(changes: Sequence[Change], granule: int) -> list[int]:
    touched: set[int] = set()
    for step in changes:
        if isinstance(step, MapStep):
            touched.update(range(step.first, step.last + 1, granule))

    return sorted(touched)


def _moments(changes: Sequence[Change]) -> tuple[Axis, list[float]]:
    """Return when each change happened since the first, and, last, the end of it all."""
    seconds = [step.seconds for step in changes if step.seconds is not None]
    if len(seconds) == len(changes) and max(seconds) > seconds[0]:
        moments = [second - seconds[0] for second in seconds]
        return "seconds", [*moments, max(moments)]

    return "events", [float(at) for at in range(len(changes) + 1)]


def _slices(first: int, last: int, granule: int, rows: int) -> list[tuple[int, int]]:
    size = granule
    while last // size - first // size >= rows:
        size *= 2

    return [(at * size, (at + 1) * size - 1) for at in range(first // size, last // size + 1)]


def _rows(touched: Sequence[int], edges: list[tuple[int, int]], counter: _Counter) -> list[Band | None]:
    counter.settle()
    rows: list[Band | None] = []
    above: int | None = None
    for (first, last), sums in zip(reversed(edges), reversed(counter.sums), strict=True):
        if above is not None and last + 1 != above:
            rows.append(None)

        pages = bisect_right(touched, last) - bisect_right(touched, first - 1)
        shares = [min(1.0, each / (pages * counter.column)) if pages else 0.0 for each in sums]
        rows.append(Band(first, last, pages, shares))
        above = first

    return rows
