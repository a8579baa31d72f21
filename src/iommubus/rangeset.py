"""Disjoint ranges, each with a mark: what a mailbox knows to be dirty.

Ranges that overlap or touch become one; a gap is never bridged unless
`close_gaps` is told to.  A mark, once set, stays with whatever the range grows
into.  Both ends are inclusive.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import compress
from operator import not_, sub


class RangeSet:
    """Disjoint, marked ranges in order of address."""

    __slots__ = ("_firsts", "_lasts", "_marks")

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._lasts = array("Q")
        self._marks = bytearray()

    def __len__(self) -> int:
        return len(self._firsts)

    def __iter__(self) -> Iterator[tuple[int, int, bool]]:
        return zip(self._firsts, self._lasts, map(bool, self._marks), strict=True)

    def __repr__(self) -> str:
        ranges = (f"{first:#x}..{last:#x}{'*' if mark else ''}" for first, last, mark in self)
        return f"<{', '.join(ranges) or 'empty'}>"

    def overlaps(self, first: int, last: int) -> bool:
        """Say whether some range shares an address with ``first..last``."""
        at = bisect_left(self._lasts, first)
        return at < len(self._firsts) and self._firsts[at] <= last

    def covers(self, first: int, last: int) -> bool:
        """Say whether one range contains all of ``first..last``."""
        at = bisect_left(self._lasts, first)
        return at < len(self._firsts) and self._firsts[at] <= first and self._lasts[at] >= last

    def add(self, first: int, last: int, *, mark: bool) -> tuple[int, int]:
        """Add a range, joined with those it overlaps or touches.

        Returns:
            The edges of the range that came out of it.
        """
        start = bisect_left(self._lasts, first - 1)
        stop = bisect_right(self._firsts, last + 1)
        if start < stop:
            first = min(first, self._firsts[start])
            last = max(last, self._lasts[stop - 1])
            mark = mark or any(self._marks[start:stop])
        self._firsts[start:stop] = array("Q", (first,))
        self._lasts[start:stop] = array("Q", (last,))
        self._marks[start:stop] = bytes((mark,))
        return first, last

    def add_all(self, ranges: Iterable[tuple[int, int]], *, mark: bool) -> None:
        """Add many ranges, as `add` adds each: it pays where there are about as many as are there already."""
        firsts, lasts, marks = array("Q"), array("Q"), bytearray()
        end = -2  # of what was put together last
        for first, last, marked in sorted([*self, *((first, last, mark) for first, last in ranges)]):
            if first > end + 1:
                firsts.append(first)
                lasts.append(last)
                marks.append(marked)
                end = last
                continue
            marks[-1] |= marked
            if last > end:
                lasts[-1] = end = last
        self._firsts, self._lasts, self._marks = firsts, lasts, marks

    def discard(self, first: int, last: int) -> None:
        """Remove ``first..last``; what reaches out of it stays, marks and all."""
        start = bisect_left(self._lasts, first)
        stop = bisect_right(self._firsts, last)
        if start >= stop:
            return
        rest: list[tuple[int, int, int]] = []
        if self._firsts[start] < first:
            rest.append((self._firsts[start], first - 1, self._marks[start]))
        if self._lasts[stop - 1] > last:
            rest.append((last + 1, self._lasts[stop - 1], self._marks[stop - 1]))
        self._firsts[start:stop] = array("Q", [edge for edge, _, _ in rest])
        self._lasts[start:stop] = array("Q", [edge for _, edge, _ in rest])
        self._marks[start:stop] = bytes(mark for _, _, mark in rest)

    def pop_overlapping(self, first: int, last: int) -> list[tuple[int, int]]:
        """Remove and return the whole ranges that overlap ``first..last``."""
        start = bisect_left(self._lasts, first)
        stop = bisect_right(self._firsts, last)
        found = list(zip(self._firsts[start:stop], self._lasts[start:stop], strict=True))
        del self._firsts[start:stop], self._lasts[start:stop], self._marks[start:stop]
        return found

    def at_or_after(self, address: int) -> tuple[int, int] | None:
        """Return what lies at ``address`` and above in the first range that ends there or later."""
        at = bisect_left(self._lasts, address)
        if at == len(self._firsts):
            return None
        return max(self._firsts[at], address), self._lasts[at]

    def take_marked(self) -> list[tuple[int, int]]:
        """Return the marked ranges, and clear their marks."""
        marked = [(first, last) for first, last, mark in self if mark]
        self._marks = bytearray(len(self._firsts))
        return marked

    def clear(self) -> None:
        """Remove every range."""
        del self._firsts[:], self._lasts[:], self._marks[:]

    def close_gaps(self, count: int) -> None:
        """Bridge the smallest gaps until at most ``count`` ranges are left.

        What lies in a bridged gap counts as part of the range from then on, so
        this is for cachers, who must bear invalidations larger than needed.
        """
        surplus = len(self) - count
        if surplus <= 0:
            return
        firsts, lasts, marks = self._firsts, self._lasts, self._marks
        gaps = list(map(sub, firsts[1:], lasts))
        joined = bytearray(len(firsts) + 1)  # with the range before
        for at in sorted(range(len(gaps)), key=gaps.__getitem__)[:surplus]:
            joined[at + 1] = True
        self._marks = bytearray()
        for mark, join in zip(marks, joined, strict=False):
            if join:
                self._marks[-1] |= mark
            else:
                self._marks.append(mark)
        self._firsts = array("Q", compress(firsts, map(not_, joined)))
        self._lasts = array("Q", compress(lasts, map(not_, joined[1:])))
