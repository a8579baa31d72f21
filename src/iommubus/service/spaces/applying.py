"""The changes of a producer's table, made in the daemon's.

The two are alike: whatever happened there happens here, in the same order.  Where
they are not (a MAP failed here), an UNMAP takes away rather more than less.

After a lost connection the producer names all that it has, with `Named` taking
notes; what was not named is swept away at the end.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ...bus.space import LocalSpace
from ...errors import BadMessage, LimitReached, MappingError, Straddle
from ...events import Event, Map, Unmap
from ...mapping import Mapping
from ...ranges import IovaRange
from ...rangeset import RangeSet

PIECE: Final = 1024
"""Mappings that are looked at in one go when a space is swept: half a millisecond."""

MANY: Final = 256
"""Mappings that go at once after which a space is made to forget what nobody uses: by itself it does so after
so many removals, each of which may have had a million."""

NOTES: Final = 2
"""How many ranges may be noted for each mapping that a space may have.  What is named and
gone again is forgotten, but for crumbs of what an UNMAP would have cut."""


def apply(space: LocalSpace, event: Event, limit: int) -> None:
    """Make an event of the producer's table happen.

    Args:
        space: The space.
        event: The event.
        limit: Most mappings that the space may have.

    Raises:
        MappingError: It cannot be.  What an UNMAP names is gone nevertheless.
        LimitReached: It would have too many mappings.
        BadMessage: An event that no table makes.
    """
    size = event.last - event.first + 1
    if type(event) is Map:
        if space.mappings >= limit:
            raise LimitReached("limits.mappings", limit)
        space.map(event.first, size, event.target, event.perm, memory=event.memory)
    elif type(event) is Unmap:
        take_away(space, event)
    else:
        space.invalidate_device(event.first, size)


def take_away(space: LocalSpace, event: Event) -> None:
    """Unmap whatever an UNMAP touches; raises as `apply`."""
    try:
        removed = space.unmap(event.first, event.last - event.first + 1)
        if len(removed) >= MANY:
            space.forget_old()
    except Straddle:
        take_whole(space, event.first, event.last)
        raise
    except MappingError as wrong:
        raise BadMessage("Publish", "rows", str(event), str(wrong)) from wrong


def take_whole(space: LocalSpace, first: int, last: int) -> None:
    """Unmap every mapping that overlaps a range, the whole of it."""
    for head in space.walk(first, last, 1):
        tail = space.lookup(last) or head
        low, high = min(first, head.first), max(last, tail.last)
        space.unmap(low, high - low + 1)


class Named:
    """What a producer that is back has named of its space."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges = RangeSet()

    def apply(self, space: LocalSpace, event: Event, limit: int) -> None:
        """Make an event happen, as `apply` does; a MAP of what is there changes nothing.

        One that differs from what is there takes the place of all that it
        overlaps, and an UNMAP takes what it would cut: that is not the producer's any more.
        """
        if type(event) is Map:
            self._map(space, event, limit)
            return
        with suppress(Straddle):
            apply(space, event, limit)
        if type(event) is Unmap:
            self._ranges.discard(event.first, event.last)

    def sweep(self, space: LocalSpace) -> Iterator[None]:
        """Unmap what was not named, a piece of the table between two yields."""
        at: int | None = 0
        while at is not None:
            at = self._sweep_piece(space, at)
            yield

    def _map(self, space: LocalSpace, event: Map, limit: int) -> None:
        """Name a mapping, and make it if it is not there."""
        if len(self._ranges) > NOTES * limit:
            raise LimitReached("limits.mappings", limit)
        space.shape.check_map(event.first, event.last - event.first + 1, event.target, event.perm)
        wanted = Mapping(event.first, event.last, event.target, event.perm, event.memory)
        if space.lookup(event.first) != wanted:
            take_whole(space, event.first, event.last)
            apply(space, event, limit)
        self._ranges.add(event.first, event.last, mark=False)

    def _sweep_piece(self, space: LocalSpace, first: int) -> int | None:
        """Sweep a piece from an address on; return where the next one begins, `None` if that was the last."""
        found = space.walk(first, space.shape.last, PIECE)
        gone = [mapping for mapping in found if not self._ranges.covers(mapping.first, mapping.last)]
        if gone:
            space.apply(IovaRange(mapping.first, mapping.last) for mapping in gone)
        if len(found) < PIECE or found[-1].last >= space.shape.last:
            return None
        return found[-1].last + 1
