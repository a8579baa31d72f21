"""What must be mapped: an array of pages that is too simple to be wrong.

`PageArray` has one entry for each mapped granule, which is the mapping that the
granule belongs to.  A table, whatever it is made of, must say the same after
the same calls, refuse what this refuses, and be left as it was then.

It is for small spaces: a mapping costs as much as it has pages.  It knows
nothing of events, numbers or subscribers.  Units are bytes, ranges inclusive.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from ..bus.abc import Straddling
from ..caps import Perm
from ..errors import MappingError, Overlap, Straddle
from ..mapping import Mapping
from ..ranges import LAST, IovaRange

Ranges = Sequence[tuple[int, int]]
"""Disjoint ranges, both ends inclusive."""

WHOLE: Final[Ranges] = ((0, LAST),)
"""Every address there is."""


class PageArray:
    """The mappings of one space, granule by granule.

    Args:
        granule: Bytes in a page; every range is a multiple of it.
        straddle: What an UNMAP does that cuts a mapping.
    """

    def __init__(self, granule: int = 0x1000, straddle: Straddling = "refuse") -> None:
        self.granule = granule
        self.straddle: Straddling = straddle
        self._pages: dict[int, Mapping] = {}

    def copy(self) -> "PageArray":
        """Return an array of its own that says the same."""
        twin = PageArray(self.granule, self.straddle)
        twin._pages = dict(self._pages)
        return twin

    def map(self, iova: int, size: int, target: int, perm: Perm) -> None:
        """Add a mapping; the very same again changes nothing.

        Raises:
            Overlap: Another mapping is in the way.
        """
        mapping = Mapping(iova, iova + size - 1, target, perm)
        there = self._touching(mapping.first, mapping.last)
        if there == [mapping]:
            return
        if there:
            raise Overlap(mapping.first, mapping.last, there[0].first, there[0].last)
        self._enter(mapping)

    def unmap(self, iova: int, size: int) -> list[Mapping]:
        """Remove what is mapped in a range.

        Returns:
            The pieces removed, in order.

        Raises:
            Straddle: A mapping reaches out of the range, and is not to be split.
        """
        first, last = iova, iova + size - 1
        there = self._touching(first, last)
        for mapping in there:
            if (mapping.first < first or mapping.last > last) and self.straddle == "refuse":
                raise Straddle(first, last, mapping.first, mapping.last)
        for mapping in there:
            for page in range(mapping.first, mapping.last + 1, self.granule):
                del self._pages[page]
            for rest in without(mapping, first, last):
                self._enter(rest)
        return [mapping.clip(first, last) for mapping in there]

    def unmap_all(self) -> list[Mapping]:
        """Remove everything; return it in order."""
        return self.unmap(0, LAST + 1)

    def remap(self, iova: int, size: int, target: int, perm: Perm) -> None:
        """Put a mapping in the place of what is there.

        Raises:
            Straddle: As for `unmap`.
        """
        if self.lookup(iova) != Mapping(iova, iova + size - 1, target, perm):
            self.unmap(iova, size)
            self.map(iova, size, target, perm)

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        """Make many changes, all or none.

        Raises:
            Overlap, Straddle: One of them cannot be; nothing was changed.
        """
        before = dict(self._pages)
        try:
            for change in changes:
                if isinstance(change, Mapping):
                    self.map(change.first, change.size, change.target, change.perm)
                else:
                    self.unmap(change.first, change.size)
        except MappingError:
            self._pages = before
            raise

    def lookup(self, iova: int) -> Mapping | None:
        """Return the mapping at an address."""
        return self._pages.get(iova - iova % self.granule)

    def mappings(self, ranges: Ranges = WHOLE) -> list[Mapping]:
        """Return what is mapped in the ranges, in order of address, each piece cropped."""
        return [mapping.clip(first, last) for first, last in sorted(ranges) for mapping in self._touching(first, last)]

    def __len__(self) -> int:
        return len(self._pages)

    def __repr__(self) -> str:
        return f"<{len(self)} pages of {self.granule:#x} bytes>"

    # -- inside ----------------------------------------------------------------

    def _enter(self, mapping: Mapping) -> None:
        for page in range(mapping.first, mapping.last + 1, self.granule):
            self._pages[page] = mapping

    def _touching(self, first: int, last: int) -> list[Mapping]:
        """Return the mappings that share an address with the range, in order."""
        return sorted({mapping for mapping in self._pages.values() if mapping.first <= last and mapping.last >= first})


def without(mapping: Mapping, first: int, last: int) -> list[Mapping]:
    """Return what is left of a mapping outside ``first..last``, which must overlap it."""
    rest: list[Mapping] = []
    if mapping.first < first:
        rest.append(mapping.clip(mapping.first, first - 1))
    if mapping.last > last:
        rest.append(mapping.clip(last + 1, mapping.last))
    return rest


def joined(mappings: Iterable[Mapping]) -> list[Mapping]:
    """Return the same translations in as few mappings as there can be, in order.

    Two copies say the same if and only if this is equal: one may keep in pieces
    what the other keeps whole.  Mappings that overlap stay as they are.
    """
    whole: list[Mapping] = []
    for mapping in sorted(mappings):
        if whole and continues(whole[-1], mapping):
            before = whole.pop()
            mapping = Mapping(before.first, mapping.last, before.target, before.perm)  # noqa: PLW2901 - grows
        whole.append(mapping)
    return whole


def continues(before: Mapping, after: Mapping) -> bool:
    """Say whether ``after`` goes on where ``before`` ends, here and at the target."""
    return (before.last + 1, before.target + before.size, before.perm) == (after.first, after.target, after.perm)


def beyond(held: Iterable[Mapping], table: Iterable[Mapping]) -> list[Mapping]:
    """Return what is held and is not in the table: other addresses, targets, or more permission."""
    there = joined(table)
    return [entry for entry in held if not any(contains(mapping, entry) for mapping in there)]


def contains(mapping: Mapping, entry: Mapping) -> bool:
    """Say whether ``entry`` says nothing that ``mapping`` does not say."""
    return (
        mapping.first <= entry.first
        and entry.last <= mapping.last
        and mapping.clip(entry.first, entry.last).target == entry.target
        and not int(entry.perm) & ~int(mapping.perm)
    )
