"""What is mapped, page by page: the plainest reading there is of MAP and UNMAP.

A dictionary, so that two readings are compared by ``==``.  It is no page table
for use: a mapping costs as much as it has pages, and `PAGES_LIMIT` bounds that.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final

from ..caps import Perm
from ..errors import span

# Most pages mapped at once: 4 GiB of 4 KiB pages, some 250 MiB here.  Every
# recorded guest stays below 100,000; an identity map of the whole memory does not.
PAGES_LIMIT: Final = 1 << 20

Target = tuple[int, Perm]
"""Where a page leads to, and what is allowed there."""

Ranges = tuple[tuple[int, int], ...]
"""Disjoint ranges, both ends inclusive."""


class TooManyPages(Exception):
    """A mapping is too large to be kept page by page."""


class Pages:
    """Pages by address, and where each leads.

    Args:
        size: Bytes in a page; a power of two that every range is a multiple of.
    """

    __slots__ = ("_pages", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._pages: MutableMapping[int, Target] = {}

    def keep_in(self, store: MutableMapping[int, Target]) -> None:
        """Keep them there from now on; there must be none yet."""
        self._pages = store

    def map(self, first: int, last: int, target: int, perm: Perm) -> None:
        """Have a range lead to ``target``, whatever was there.

        Raises:
            TooManyPages: There would be more than `PAGES_LIMIT`.
        """
        if len(self._pages) + (last - first) // self.size >= PAGES_LIMIT:
            raise TooManyPages(f"{span(first, last)} makes more than {PAGES_LIMIT:,} pages of {self.size:#x} bytes")

        for page in range(first, last + 1, self.size):
            self._pages[page] = (target + page - first, perm)

    def unmap(self, first: int, last: int) -> list[int]:
        """Remove the pages of a range; return their addresses."""
        gone = list(self.within(first, last))
        for page in gone:
            del self._pages[page]

        return gone

    def within(self, first: int, last: int) -> Iterator[int]:
        """Yield the mapped pages of a range; it costs no more than there are."""
        if (last - first) // self.size < len(self._pages):
            yield from (page for page in range(first, last + 1, self.size) if page in self._pages)
        else:
            yield from (page for page in self._pages if first <= page <= last)

    @property
    def targets(self) -> Mapping[int, Target]:
        """Where each page leads, by its address."""
        return self._pages

    def __len__(self) -> int:
        return len(self._pages)

    def __repr__(self) -> str:
        return f"<{len(self)} pages of {self.size:#x} bytes>"


def crop(first: int, last: int, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """Yield the parts of a range that lie in ``ranges``."""
    for low, high in ranges:
        if first <= high and last >= low:
            yield max(first, low), min(last, high)
