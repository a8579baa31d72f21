"""What was removed and may still be in use: the old translations by number.

When a `sync` fails, the producer has to keep the old targets out of use; this
is where they are remembered until every subscriber has let go of them.  Up to
`PIECE_LIMIT` they are the very pieces cut out of the table; past it only merged
ranges are kept and the answer says that it is truncated.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from .mapping import Mapping
from .rangeset import RangeSet

PIECE_LIMIT: Final = 65_536
"""Most removed pieces remembered in one space: some 13 MiB if each was removed
alone, and as many as VFIO type1 allows mappings in a container."""

RANGE_LIMIT: Final = 4096
"""Most merged ranges past that; then gaps are bridged, smallest first."""

TRIM_EVERY: Final = 256
"""Additions after which it is worth asking who has let go: often enough that what
is remembered stays in the processor's cache, too rarely to cost anything."""


class OldPieces(Iterable[Mapping]):
    """Removed pieces with their old targets, made when they are looked at.

    Attributes:
        ranges: Where pieces were removed whose targets are no longer known.
        truncated: Whether there are such; keep *everything* out of use then.
    """

    __slots__ = ("_entries", "_parts", "_present", "_start", "ranges")

    def __init__(
        self,
        entries: Sequence[Sequence[Mapping]],
        parts: Sequence[tuple[int, int]],
        ranges: Sequence[tuple[int, int]],
        *,
        start: int = 0,
        present: Sequence[Mapping] = (),
    ) -> None:
        self._entries = entries  # shared by all who may still use the end of it, from `start` on
        self._start = start
        self._present = present
        self._parts = parts
        self.ranges = ranges

    def beside(self, ranges: Sequence[tuple[int, int]]) -> "OldPieces":
        """Return the same with more ranges of which no target is known."""
        more = [*self.ranges, *ranges]
        return OldPieces(self._entries, self._parts, more, start=self._start, present=self._present)

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last address where pieces can be, without looking at any."""
        edges = (*self._parts, *self.ranges)
        return min(first for first, _ in edges), max(last for _, last in edges)

    def among(self, present: Sequence[Mapping], rest: tuple[int, int] | None) -> "OldPieces":
        """Return the same with what is still mapped, and may be in use by one who left.

        Args:
            present: Mappings.
            rest: Where there are more, of which no copy was made.
        """
        more = [] if rest is None else [(max(rest[0], low), min(rest[1], high)) for low, high in self._parts]
        ranges = [*self.ranges, *(edges for edges in more if edges[0] <= edges[1])]
        return OldPieces(self._entries, self._parts, ranges, start=self._start, present=present)

    @property
    def truncated(self) -> bool:
        """Whether targets are missing."""
        return bool(self.ranges)

    def __iter__(self) -> Iterator[Mapping]:
        for pieces in (*islice(self._entries, self._start, None), self._present):
            for piece in pieces:
                for first, last in self._parts:
                    if piece.first <= last and piece.last >= first:
                        yield piece.clip(first, last)

    def __bool__(self) -> bool:
        return self.truncated or any(True for _ in self)

    def __repr__(self) -> str:
        """Count without looking at the pieces, of which there may be very many."""
        more = f", and unknown ones in {len(self.ranges)} ranges" if self.truncated else ""
        count = sum(map(len, islice(self._entries, self._start, None))) + len(self._present)
        return f"<up to {count} old pieces{more}>"


class Ledger:
    """The removed pieces of one space, oldest first.

    Attributes:
        fresh: Where publishing appends the number of an UNMAP and the pieces it
            removed; `trim` takes them in, so call it when there are `TRIM_EVERY`.

    Args:
        limit: Most pieces remembered by `trim`.
    """

    __slots__ = ("_copy", "_count", "_kept", "_limit", "_loose", "_merged", "_merged_seq", "fresh")

    def __init__(self, limit: int = PIECE_LIMIT) -> None:
        self.fresh: list[tuple[int, Sequence[Mapping]]] = []
        self._limit = limit
        self._kept: deque[tuple[int, Sequence[Mapping]]] = deque()
        self._count = 0  # pieces in what is kept
        self._merged = RangeSet()
        self._loose: list[tuple[int, int]] = []  # to be merged, many at a time
        self._merged_seq = 0  # number of the last removal in both
        self._copy: tuple[Sequence[int], Sequence[Sequence[Mapping]]] = ((), ())  # of all, for a failing sync

    def __len__(self) -> int:
        return self._count + sum([len(pieces) for _, pieces in self.fresh])

    @property
    def merged(self) -> bool:
        """Whether ranges are remembered of which no target is known."""
        return bool(self._loose or self._merged)

    def add_range(self, seq: int, first: int, last: int) -> None:
        """Remember that something was removed there, of which no more is known."""
        self._loose.append((first, last))
        if len(self._loose) >= RANGE_LIMIT:
            self._merge()
        self._merged_seq = max(self._merged_seq, seq)

    def trim(self, seq: int) -> None:
        """Forget what was removed up to number ``seq``: nobody uses it any more.

        If there is more left than the limit, the oldest lose their targets.
        """
        if self.fresh and self.fresh[-1][0] > seq:
            self._count = len(self)
            self._kept += self.fresh
        self.fresh.clear()
        self._copy = ((), ())
        while self._kept and self._kept[0][0] <= seq:
            self._count -= len(self._kept.popleft()[1])
        while self._count > self._limit:
            number, pieces = self._kept.popleft()
            self._count -= len(pieces)
            self.add_range(number, pieces[0].first, pieces[-1].last)  # one, however many they are
        if self._merged_seq <= seq:
            self._merged.clear()
            self._loose.clear()

    def since(self, seq: int, parts: Sequence[tuple[int, int]]) -> OldPieces:
        """Return what was removed after number ``seq`` inside the ranges ``parts``."""
        numbers, entries = self._copied()
        merged: list[tuple[int, int]] = []
        if self._merged_seq > seq:
            self._merge()
            for first, last, _ in self._merged:
                merged += [(max(first, low), min(last, high)) for low, high in parts if first <= high and last >= low]
        return OldPieces(entries, parts, merged, start=bisect_right(numbers, seq))

    def _merge(self) -> None:
        """Put the loose ranges to the others: each by itself would cost more than all the rest of an UNMAP."""
        self._merged.add_all(self._loose, mark=False)
        self._loose.clear()
        if len(self._merged) > RANGE_LIMIT:
            self._merged.close_gaps(RANGE_LIMIT // 2)

    def _copied(self) -> tuple[Sequence[int], Sequence[Sequence[Mapping]]]:
        """Return the numbers of all removals and their pieces: one copy for a thousand subscribers that are missing."""
        if len(self._copy[0]) != len(self._kept) + len(self.fresh):
            entries = (*self._kept, *self.fresh)
            self._copy = [number for number, _ in entries], [pieces for _, pieces in entries]
        return self._copy
