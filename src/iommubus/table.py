"""The table of one space: which address leads where, now.

Disjoint mappings in order of address, kept as chunked arrays of machine words:
a million of them cost tens of megabytes and next to nothing in garbage
collection, and a whole chunk is cut out without looking into it.

The table decides what is legal (overlap, straddling); it knows nothing of
events, subscribers or numbers.  Units are bytes, ranges are inclusive, and
whoever calls has checked that ``0 <= first <= last <= 2**64 - 1``.

`Table` is the compiled table, where there is one; `PureTable` does the same
without, and is what says how it is done.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from .chunks import Chunk, Cut, Pieces
from .compiled import load
from .errors import Overlap, Straddle
from .events import Memory
from .kinds import KINDS, PLAIN, Kinds
from .mapping import PERMS, Mapping
from .ranges import LAST

CHUNK: Final = 128
"""Most mappings in one chunk.  Small enough that a chunk is searched, and turned
into lists and back, in microseconds; large enough that a million mappings need
only 8,000 to 16,000 chunks."""

STAY: Final = 8
"""Changes in a row in one chunk after which it is worth turning its columns into
lists: that costs as much as it saves in some forty changes, and a guest that
works in one place makes hundreds."""


class Place:
    """Where changes of one kind are being made: a chunk, found without a search.

    Attributes:
        chunk: The chunk; it stays the last one where there is none.
        index: Its index in the table.
        low: What begins here or later belongs into it ...
        high: ... if it ends before this; 0 where a search is needed.
        stay: Changes made there in a row.
    """

    __slots__ = ("chunk", "high", "index", "low", "stay")

    chunk: Chunk
    index: int
    low: int

    def __init__(self) -> None:
        self.high = self.stay = 0


class PureTable:
    """Disjoint mappings in order of address, in Python.

    Args:
        chunk: Most mappings in one chunk; tests make it small.
        stay: Changes in a row in one chunk that make it worth thawing.
        kinds: Kinds after which those of no mapping are looked for.
    """

    __slots__ = ("_chunk", "_chunks", "_count", "_kinds", "_lows", "_mapping", "_patience", "_sparse", "_unmapping")

    def __init__(self, chunk: int = CHUNK, stay: int = STAY, kinds: int = KINDS) -> None:
        self._chunk = chunk
        self._patience = stay
        self._sparse = chunk // 8  # fewer mappings than this are worth joining with a neighbour
        self._chunks: list[Chunk] = []
        self._count = 0
        self._lows = array("Q")  # first address of each chunk
        self._kinds = Kinds(kinds)
        self._mapping = Place()
        self._unmapping = Place()  # a guest maps at one end of its addresses and unmaps at the other

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping]:
        return chain.from_iterable(self._chunks)

    def insert(self, first: int, last: int, target: int, perm: int, memory: Memory | None = None) -> bool:
        """Add a mapping; ``target`` is an offset into ``memory``, or a bare address.

        Returns:
            `False` if this very mapping was there already; nothing changed.

        Raises:
            Overlap: A different mapping is in the way.
        """
        attr = perm if memory is None else self._attr(perm, memory)
        place = self._mapping
        if not (last < place.high and place.low <= first):
            if not self._chunks:
                return self._open(first, last, target, attr)
            if last >= self._approach(place, first):
                return self._refuse(Mapping(first, last, target, PERMS[perm], memory))
        chunk = place.chunk
        firsts = chunk.firsts
        at = bisect_right(firsts, last)
        if at and chunk.lasts[at - 1] >= first:
            return self._refuse(Mapping(first, last, target, PERMS[perm], memory))
        firsts.insert(at, first)
        chunk.lasts.insert(at, last)
        chunk.targets.insert(at, target)
        chunk.attrs.insert(at, attr)
        self._count += 1
        if not at:
            self._lows[place.index] = first
        if len(firsts) > self._chunk:
            self._divide(place.index, at)
        return True

    def remove(self, first: int, last: int) -> Sequence[Mapping]:
        """Remove every mapping in the range.

        Returns:
            What was removed, in order; nothing if nothing was mapped there.

        Raises:
            Straddle: A mapping reaches out of the range; nothing changed.
        """
        place = self._unmapping
        if not (last < place.high and place.low <= first):
            if not self._chunks:
                return ()
            self._approach(place, first)
        chunk = place.chunk
        firsts = chunk.firsts
        at = bisect_right(firsts, first) - 1
        if chunk.lasts[at] != last or firsts[at] != first:
            return self._remove_range(first, last)
        attr = chunk.attrs[at]
        removed = Mapping(first, last, chunk.targets[at], PERMS[attr]) if attr < PLAIN else chunk[at]
        self._count -= 1
        if len(firsts) == 1:
            self._close(chunk)
            return (removed,)
        del firsts[at], chunk.lasts[at], chunk.targets[at], chunk.attrs[at]
        if not at:
            self._lows[place.index] = firsts[0]
        if len(firsts) < self._sparse and len(self._lows) > 1:
            self._merge(place.index)
        return (removed,)

    def cut(self, first: int, last: int) -> Cut:
        """Remove the range, and put back what reaches out of it.

        Mappings that straddle an edge are removed whole; the parts of them
        outside the range come back as mappings of their own, with the target
        moved to match.
        """
        head, tail = self.lookup(first), self.lookup(last)
        low = head.first if head else first
        high = tail.last if tail else last
        removed = self._remove_range(low, high)
        survivors: list[Mapping] = []
        if head and head.first < first:
            survivors.append(head.clip(head.first, first - 1))
        if tail and tail.last > last:
            survivors.append(tail.clip(last + 1, tail.last))
        for piece in survivors:
            self.insert(piece.first, piece.last, piece.target, piece.perm, piece.memory)
        return Cut(low, high, removed, survivors)

    def lookup(self, iova: int) -> Mapping | None:
        """Return the mapping that contains the address, if there is one."""
        index = bisect_right(self._lows, iova) - 1
        if index < 0:
            return None
        chunk = self._chunks[index]
        at = bisect_right(chunk.firsts, iova) - 1
        return chunk[at] if chunk.lasts[at] >= iova else None

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Return the first ``limit`` mappings that overlap the range, whole."""
        index, at = self._seek(first)
        found: list[Mapping] = []
        while index < len(self._chunks):
            chunk = self._chunks[index]
            stop = min(bisect_right(chunk.firsts, last), at + limit - len(found))
            found.extend(map(chunk.__getitem__, range(at, stop)))
            if stop < len(chunk):
                break
            index, at = index + 1, 0
        return found

    def snapshot(self, limit: int) -> tuple[Sequence[Mapping], tuple[int, int] | None]:
        """Return some ``limit`` mappings as they are now, and where there are more."""
        chunks: list[Chunk] = []
        count = 0
        for chunk in self._chunks:
            if count >= limit:
                return Pieces(chunks), (chunk.firsts[0], self._chunks[-1].lasts[-1])
            chunks.append(chunk.copy())
            count += len(chunk)
        return Pieces(chunks), None

    def leading_to(self, memory: Memory) -> Mapping | None:
        """Return a mapping that leads into the memory, if there is one."""
        for attr in self._kinds.of(memory):
            for chunk in self._chunks:
                if attr in chunk.attrs:
                    return chunk[chunk.attrs.index(attr)]
        return None

    # -- inside ----------------------------------------------------------------

    def _attr(self, perm: int, memory: Memory) -> int:
        """Return the attribute of mappings into a memory."""
        if self._kinds.crowded:
            self._forget_kinds()
        return self._kinds.attr(perm, memory)

    def _forget_kinds(self) -> None:
        """Keep the kinds of present mappings alone: memories come and go, and a table outlives many."""
        self._settle()
        new = self._kinds.keep(set[int]().union(*(chunk.attrs for chunk in self._chunks)))
        for chunk in self._chunks:
            chunk.attrs, chunk.kinds = array("I", map(new.__getitem__, chunk.attrs)), self._kinds.each

    def _refuse(self, wanted: Mapping) -> bool:
        (held,) = self.walk(wanted.first, wanted.last, 1)
        if held == wanted:
            return False
        raise Overlap(wanted.first, wanted.last, held.first, held.last)

    def _open(self, first: int, last: int, target: int, attr: int) -> bool:
        columns = array("Q", (first,)), array("Q", (last,)), array("Q", (target,)), array("I", (attr,))
        self._chunks.append(Chunk(*columns, self._kinds.each))
        self._lows.append(first)
        self._count += 1
        return True

    def _close(self, chunk: Chunk) -> None:
        """Take out a chunk that has one mapping, which goes: a guest with one buffer does so all the time."""
        self._settle()
        index = bisect_right(self._lows, chunk.firsts[0]) - 1
        del self._chunks[index], self._lows[index]

    def _approach(self, place: Place, first: int) -> int:
        """Go to the chunk that takes what begins at ``first``; return where the next one begins.

        Whoever stays there for a while finds its columns turned into lists.
        """
        index = bisect_right(self._lows, first, 1) - 1
        end = self._lows[index + 1] if index + 1 < len(self._lows) else LAST + 1
        if not place.stay or self._chunks[index] is not place.chunk:
            self._leave(place)
            place.chunk, place.index = self._chunks[index], index
        place.stay += 1
        if place.stay >= self._patience:
            if not place.high:
                place.chunk.thaw()
            place.low = index and self._lows[index]  # all that is below the first chunk belongs into it
            place.high = end
        return end

    def _leave(self, place: Place) -> None:
        """Turn the chunk of a place back into arrays, unless it is the other place's too."""
        if place.high:
            place.high = 0
            if not any(other.high and other.chunk is place.chunk for other in (self._mapping, self._unmapping)):
                place.chunk.freeze()
        place.stay = 0

    def _settle(self) -> None:
        """Leave both places: the chunks are going to be others."""
        self._leave(self._mapping)
        self._leave(self._unmapping)

    def _seek(self, first: int) -> tuple[int, int]:
        """Return chunk and index of the first mapping that ends at or behind ``first``."""
        index = bisect_right(self._lows, first) - 1
        if index < 0:
            return 0, 0
        at = bisect_left(self._chunks[index].lasts, first)
        if at == len(self._chunks[index]):
            return index + 1, 0
        return index, at

    def _divide(self, index: int, at: int) -> None:
        """Halve a full chunk; where the whole table grows at an end, leave more behind."""
        self._settle()
        chunk = self._chunks[index]
        half = len(chunk) // 2
        if at == len(chunk) - 1 and index == len(self._chunks) - 1:
            half += half // 2
        elif at == 0 and index == 0:
            half -= half // 2
        upper = chunk.cut(half, len(chunk))
        self._chunks.insert(index + 1, upper)
        self._lows.insert(index + 1, upper.firsts[0])

    def _merge(self, index: int) -> None:
        """Join a sparse chunk with a neighbour, if both fit in half a chunk."""
        left = index if index + 1 < len(self._chunks) else index - 1
        lower, upper = self._chunks[left], self._chunks[left + 1]
        if len(lower) + len(upper) <= self._chunk // 2:
            self._settle()
            lower.extend(upper)
            del self._chunks[left + 1], self._lows[left + 1]

    def _remove_range(self, first: int, last: int) -> Sequence[Mapping]:
        self._settle()
        start, low = self._seek(first)
        stop = bisect_right(self._lows, last) - 1
        if stop < start:
            return ()
        high = bisect_right(self._chunks[stop].firsts, last)
        self._check_edges(first, last, self._chunks[start], low, self._chunks[stop], high)
        removed = Pieces(self._take_out(start, low, stop, high))
        self._count -= len(removed)
        return removed

    def _check_edges(self, first: int, last: int, start: Chunk, low: int, stop: Chunk, high: int) -> None:
        if start.firsts[low] < first:
            raise Straddle(first, last, start.firsts[low], start.lasts[low])
        if stop.lasts[high - 1] > last:
            raise Straddle(first, last, stop.firsts[high - 1], stop.lasts[high - 1])

    def _take_out(self, start: int, low: int, stop: int, high: int) -> list[Chunk]:
        """Cut from mapping ``low`` of chunk ``start`` up to ``high`` (exclusive) of ``stop``."""
        head, tail = self._chunks[start], self._chunks[stop]
        if head is tail:
            pieces, edges = [head.cut(low, high)], [head]
        else:
            middle = self._chunks[start + 1 : stop]
            pieces, edges = [head.cut(low, len(head)), *middle, tail.cut(0, high)], [head, tail]
        keep = [chunk for chunk in edges if len(chunk)]
        self._chunks[start : stop + 1] = keep
        self._lows[start : stop + 1] = array("Q", [chunk.firsts[0] for chunk in keep])
        if keep and len(keep[0]) < self._sparse and len(self._chunks) > 1:
            self._merge(start)
        return pieces


if TYPE_CHECKING:
    from .compiled.table import Table as Table  # noqa: PLC0414 -- mypy knows by this that it is for others
else:
    Table = getattr(load("table"), "Table", PureTable)
