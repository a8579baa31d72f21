"""What was removed and may still be in use: the old translations by number.

When a `sync` fails, the producer has to keep the old targets out of use; this
is where they are remembered until every subscriber has let go of them.  Up to
`PIECE_LIMIT` they are the very pieces cut out of the table; past it only merged
ranges are kept and the answer says that it is truncated.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice
from operator import itemgetter
from typing import Final

from msgspec import Struct

from .mapping import Mapping
from .rangeset import RangeSet

Entry = tuple[int, Sequence[Mapping]]
"""The number of a removal, and the pieces that it removed."""

first_of = itemgetter(0)

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


class Block(Struct):
    """Removals one after the other, which are forgotten together.

    Attributes:
        count: How many pieces they removed.
        entries: The number of each, and its pieces.
    """

    count: int
    entries: list[Entry]

    @classmethod
    def of(cls, entries: list[Entry]) -> "Block":
        """Count the pieces of removals."""
        return cls(sum([len(pieces) for _, pieces in entries]), entries)

    def split(self, at: int) -> "tuple[Block, Block]":
        """Return the first ``at`` removals, and the others."""
        head = Block.of(self.entries[:at])
        return head, Block(self.count - head.count, self.entries[at:])

    def reaching(self, count: int) -> int:
        """Return how many of the first removals have together at least ``count`` pieces."""
        sums = accumulate([len(pieces) for _, pieces in self.entries])
        return next(at for at, so_far in enumerate(sums, start=1) if so_far >= count)


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
        self.fresh: list[Entry] = []
        self._limit = limit
        self._kept: deque[Block] = deque()  # what `trim` takes in is one: nothing is done for each removal
        self._count = 0  # pieces in what is kept
        self._merged = RangeSet()
        self._loose: list[tuple[int, int]] = []  # to be merged, many at a time
        self._merged_seq = 0  # number of the last removal in both
        self._copy: tuple[int, Sequence[int], Sequence[Sequence[Mapping]]] = (0, (), ())  # of all, for a failing sync

    def __len__(self) -> int:
        return self._count + sum([len(pieces) for _, pieces in self.fresh])

    @property
    def merged(self) -> bool:
        """Whether ranges are remembered of which no target is known."""
        return bool(self._loose or self._merged)

    def add_range(self, seq: int, first: int, last: int) -> None:
        """Remember that something was removed there, of which no more is known."""
        self._add_ranges(seq, [(first, last)])

    def trim(self, seq: int) -> None:
        """Forget what was removed up to number ``seq``: nobody uses it any more.

        If there is more left than the limit, the oldest lose their targets.
        """
        if self.fresh and self.fresh[-1][0] > seq:
            block = Block.of(self.fresh.copy())
            self._kept.append(block)
            self._count += block.count
        self.fresh.clear()
        self._copy = (0, (), ())
        while self._kept and self._kept[0].entries[0][0] <= seq:
            block = self._kept[0]
            self._take(
                len(block.entries) if block.entries[-1][0] <= seq else bisect_right(block.entries, seq, key=first_of)
            )
        while self._count > self._limit:
            lost = self._take(self._kept[0].reaching(min(self._count - self._limit, self._kept[0].count)))
            self._add_ranges(lost[-1][0], [(pieces[0].first, pieces[-1].last) for _, pieces in lost])
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

    def _take(self, count: int) -> list[Entry]:
        """Remove and return the oldest removals that are kept, at most one block."""
        block = self._kept.popleft()
        if count < len(block.entries):
            block, rest = block.split(count)
            self._kept.appendleft(rest)
        self._count -= block.count
        return block.entries

    def _add_ranges(self, seq: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Remember ranges of which no more is known; ``seq`` is the number of the last."""
        self._loose += ranges
        if len(self._loose) >= RANGE_LIMIT:
            self._merge()
        self._merged_seq = max(self._merged_seq, seq)

    def _copied(self) -> tuple[Sequence[int], Sequence[Sequence[Mapping]]]:
        """Return the numbers of all removals and their pieces: one copy for a thousand subscribers that are missing."""
        count, numbers, pieces = self._copy
        if count != len(self.fresh) or not numbers:
            entries = [*chain.from_iterable([block.entries for block in self._kept]), *self.fresh]
            numbers, pieces = [number for number, _ in entries], [each for _, each in entries]
            self._copy = len(self.fresh), numbers, pieces
        return numbers, pieces
