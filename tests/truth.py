"""What is really mapped, by those who map it; and what nobody may use when a `sync` has returned.

Each page that is ever mapped leads to a page of its own, so that what somebody
holds says by itself when it was mapped.  Everything that happens is numbered in one
order: what ended before the number that a `sync` was called at must not be in use
when that has returned (law 1).
"""

from collections.abc import Iterator
from math import inf
from typing import Final, NamedTuple

from iommubus import Mapping

PAGE: Final = 0x1000


class Held(NamedTuple):
    """Something that a consumer can use.

    Attributes:
        endpoint: The endpoint it came from.
        mapping: The mapping.
        asked: When it was asked for, if only device invalidations end it; else `None`.
    """

    endpoint: str
    mapping: Mapping
    asked: int | None = None


class Truth:
    """Everything that was ever mapped, and when it ended."""

    def __init__(self) -> None:
        self._order = 0
        self._pages: list[tuple[str, int]] = [("", 0)]  # space and page, by the number of the page it leads to
        self._first: dict[str, int] = {}  # number of the first page that the space there is now could have
        self._live: dict[str, dict[int, int]] = {}  # that number, by page, by space
        self._ended: dict[int, int] = {}
        self._invalidated: dict[tuple[str, int], int] = {}
        self._space_of: dict[str, str] = {}
        self._left: dict[tuple[str, str], int] = {}

    def now(self) -> int:
        """Return a number that is higher than all before."""
        self._order += 1
        return self._order

    # -- what producers do --------------------------------------------------------

    def create(self, space: str, *, another: bool = False) -> None:
        """Have a space made, or taken over: whatever was in one of this name has ended.

        Args:
            space: Its name.
            another: Whether it has nothing to do with the one before, which was closed and is synced by itself.
        """
        self.unmap_all(space)
        self._live[space] = {}
        if another:
            self._first[space] = len(self._pages)
        self.attach(space, space)

    def map(self, space: str, page: int, count: int) -> int:
        """Have pages mapped; return the target of the first."""
        number = len(self._pages)
        for each in range(page, page + count):
            self._live[space][each] = len(self._pages)
            self._pages.append((space, each))
        return number * PAGE

    def unmap(self, space: str, page: int, count: int) -> None:
        """Have pages unmapped."""
        live, now = self._live.get(space, {}), self.now()
        for each in range(page, page + count):
            if each in live:
                self._ended[live.pop(each)] = now

    def unmap_all(self, space: str) -> None:
        """Have everything unmapped."""
        for page in list(self._live.get(space, ())):
            self.unmap(space, page, 1)

    def invalidate(self, space: str, page: int, count: int) -> None:
        """Have device TLBs invalidated."""
        now = self.now()
        for each in range(page, page + count):
            self._invalidated[space, each] = now

    def attach(self, endpoint: str, space: str | None) -> None:
        """Have an endpoint moved."""
        before = self._space_of.pop(endpoint, None)
        if before is not None:
            self._left[endpoint, before] = self.now()
        if space is not None:
            self._left.pop((endpoint, space), None)
            self._space_of[endpoint] = space

    # -- what is asked -------------------------------------------------------------

    def space_of(self, endpoint: str) -> str | None:
        """Return the space that an endpoint is in."""
        return self._space_of.get(endpoint)

    def is_free(self, space: str, page: int, count: int) -> bool:
        """Say whether nothing is mapped there."""
        return self._live[space].keys().isdisjoint(range(page, page + count))

    def pages(self, space: str | None) -> dict[int, int]:
        """Return the targets of everything mapped, by page."""
        return {} if space is None else {page: PAGE * number for page, number in self._live.get(space, {}).items()}

    def wrong(self, held: Held, since: int, spaces: frozenset[str] | None = None) -> Iterator[str]:
        """Say what is wrong with what somebody can use, after a `sync` of some spaces, or all, called at ``since``."""
        for number in numbers(held.mapping):
            if not 0 < number < len(self._pages):
                yield f"{held} leads to where nothing ever led"
                continue
            space, page = self._pages[number]
            if (number - held.mapping.target // PAGE) != page - held.mapping.first // PAGE:
                yield f"{held} leads to where page {page} of {space} led"
            elif number >= self._first.get(space, 0) and (spaces is None or space in spaces):
                yield from self._late(held, number, since)

    def _late(self, held: Held, number: int, since: int) -> Iterator[str]:
        space, page = self._pages[number]
        if held.asked is not None:
            end = self._invalidated.get((space, page), -inf)
            if held.asked < end < since:
                yield f"{held}: page {page} of {space} was invalidated at {end}"
            return
        if self._ended.get(number, inf) < since:
            yield f"{held}: page {page} of {space} was unmapped at {self._ended[number]}"
        left = self._left.get((held.endpoint, space), inf)
        if left < since:
            yield f"{held}: {held.endpoint} has left {space} at {left}"


def numbers(mapping: Mapping) -> range:
    """Return the numbers of the pages that a mapping leads to; a piece of a page counts as one."""
    return range(mapping.target // PAGE, (mapping.target + mapping.last - mapping.first) // PAGE + 1)


def by_page(mappings: Iterator[Mapping]) -> dict[int, int]:
    """Return the targets of whole pages, by page."""
    found: dict[int, int] = {}
    for mapping in mappings:
        for at in range(mapping.first, mapping.last + 1, PAGE):
            found[at // PAGE] = (mapping.target + at - mapping.first) // PAGE * PAGE
    return found
