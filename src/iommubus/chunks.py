"""Chunks: neighbouring mappings as columns of machine words, and what was cut out of them."""

from array import array
from collections.abc import Iterator, MutableSequence, Sequence
from itertools import chain
from typing import overload

from msgspec import Struct

from .kinds import PLAIN, Kind
from .mapping import PERMS, Mapping

Column = MutableSequence[int]


class Chunk:
    """Some neighbouring mappings, one column for each of their fields.

    Columns are arrays, which are small, or lists, which are quicker to change.
    An attribute is an index of a kind, in `Kinds.each` of the table; a chunk that
    was cut out refers to that list still.
    """

    __slots__ = ("attrs", "firsts", "kinds", "lasts", "targets")

    def __init__(self, firsts: Column, lasts: Column, targets: Column, attrs: Column, kinds: list[Kind]) -> None:
        self.firsts = firsts
        self.lasts = lasts
        self.targets = targets
        self.attrs = attrs
        self.kinds = kinds

    def __len__(self) -> int:
        return len(self.firsts)

    def __iter__(self) -> Iterator[Mapping]:
        return map(self.__getitem__, range(len(self.firsts)))

    def __getitem__(self, at: int) -> Mapping:
        attr = self.attrs[at]
        if attr < PLAIN:
            return Mapping(self.firsts[at], self.lasts[at], self.targets[at], PERMS[attr])
        perm, memory = self.kinds[attr]
        return Mapping(self.firsts[at], self.lasts[at], self.targets[at], perm, memory)

    def thaw(self) -> None:
        """Turn the columns into lists."""
        self.firsts, self.lasts = list(self.firsts), list(self.lasts)
        self.targets, self.attrs = list(self.targets), list(self.attrs)

    def freeze(self) -> None:
        """Turn the columns into arrays."""
        self.firsts, self.lasts = array("Q", self.firsts), array("Q", self.lasts)
        self.targets, self.attrs = array("Q", self.targets), array("I", self.attrs)

    def extend(self, other: "Chunk") -> None:
        """Append the mappings of the chunk that follows."""
        self.firsts.extend(other.firsts)
        self.lasts.extend(other.lasts)
        self.targets.extend(other.targets)
        self.attrs.extend(other.attrs)

    def copy(self) -> "Chunk":
        """Return the same mappings, which do not change with these."""
        return Chunk(self.firsts[:], self.lasts[:], self.targets[:], self.attrs[:], self.kinds)

    def cut(self, start: int, stop: int) -> "Chunk":
        """Remove the mappings ``start`` to ``stop`` (exclusive); return them."""
        columns = self.firsts[start:stop], self.lasts[start:stop], self.targets[start:stop], self.attrs[start:stop]
        del self.firsts[start:stop], self.lasts[start:stop], self.targets[start:stop], self.attrs[start:stop]
        return Chunk(*columns, self.kinds)


class Pieces(Sequence[Mapping]):
    """Mappings that were cut out of a table; each is made when looked at."""

    __slots__ = ("_chunks", "_count")

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self._count = sum(map(len, chunks))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Mapping: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping]: ...
    def __getitem__(self, index: int | slice) -> Mapping | Sequence[Mapping]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        if index == -1:
            return self._chunks[-1][-1]  # without a search: the end of a large removal is asked for
        at = index % self._count
        chunks = iter(self._chunks)
        chunk = next(chunks)
        while at >= len(chunk):
            at -= len(chunk)
            chunk = next(chunks)
        return chunk[at]

    def __iter__(self) -> Iterator[Mapping]:
        return chain.from_iterable(self._chunks)

    def __repr__(self) -> str:
        return f"<{self._count} pieces>"


class Cut(Struct, frozen=True, gc=False):
    """What a range removal with cutting did to the table.

    Attributes:
        first: First address of the whole mappings removed and the range.
        last: Last address of them.
        removed: The whole mappings, as they were.
        survivors: What was put back of the ones that straddled.
    """

    first: int
    last: int
    removed: Sequence[Mapping]
    survivors: Sequence[Mapping]
