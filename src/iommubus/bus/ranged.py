"""Who is told of parts of a space, found by address.

There may be hundreds who follow a part each, and a change concerns a few of them.
The edges of all parts cut the space into cells.  Who follows a part that contains
one address of a cell follows all of it, so an event inside a cell is put to
whom the cell belongs, and needs no cropping.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from ..events import Event
from ..ranges import LAST
from .attachment import Ranges

Put = Callable[[Event], None]

CELL_LIMIT: Final = 65_536
"""Most places in cells that are remembered: one for each who follows each cell that was met,
half a megabyte each.  Past it they are found anew."""


class Part(Struct, frozen=True, eq=False):
    """Somebody who is told of a part of a space.

    Attributes:
        ranges: The part.
        put: Takes an event that lies in one of the ranges.
        offer: Takes any event, and crops it.
    """

    ranges: Ranges
    put: Put
    offer: Put

    def has(self, address: int) -> bool:
        """Say whether an address lies in the part."""
        at = bisect_right(self.ranges, (address, LAST)) - 1
        return at >= 0 and self.ranges[at][1] >= address


class Ranged:
    """Those who are told of one kind of event in parts of a space.

    Args:
        edges: Where cells begin: the first address of each range, and the one behind its last, in order.
        parts: Who they are.
    """

    __slots__ = ("_cells", "_count", "_edges", "_parts", "_puts")

    def __init__(self, edges: Sequence[int] = (), parts: Sequence[Part] = ()) -> None:
        self._edges = edges
        self._parts = parts
        self._forget()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, event: Event) -> None:
        """Tell whom an event concerns of as much as does."""
        edges = self._edges
        at = bisect_right(edges, event.first)
        if at < len(edges) and edges[at] <= event.last:
            self._offer(event, at)
            return
        puts = self._puts[at]
        if puts is None:
            puts = self._puts[at] = tuple(part.put for part in self._cell(at))
        for put in puts:
            put(event)

    def concerns(self, first: int, last: int) -> bool:
        """Say whether anything in ``first..last`` may concern anybody; it may be said of what does not."""
        at = bisect_right(self._edges, first)
        return (at < len(self._edges) and self._edges[at] <= last) or bool(self._cell(at))

    # -- inside ----------------------------------------------------------------

    def _forget(self) -> None:
        """Find all cells anew."""
        cells = len(self._edges) + 1
        self._puts: list[tuple[Put, ...] | None] = [None] * cells
        self._cells: list[tuple[Part, ...] | None] = [None] * cells
        self._count = 0

    def _cell(self, at: int) -> tuple[Part, ...]:
        """Return whom a cell belongs to, which begins at the edge before ``at``."""
        cell = self._cells[at]
        if cell is None:
            if self._count > CELL_LIMIT:
                self._forget()
            begin = self._edges[at - 1] if at else 0
            cell = self._cells[at] = tuple(part for part in self._parts if part.has(begin))
            self._count += len(cell)
        return cell

    def _offer(self, event: Event, at: int) -> None:
        """Tell of an event that lies in several cells, the first of them cell ``at``."""
        stop = bisect_right(self._edges, event.last)
        met: Iterable[Part] = self._parts
        if stop - at < len(self._parts):  # else most of them are concerned
            met = dict.fromkeys(part for cell in range(at, stop + 1) for part in self._cell(cell))
        for part in met:
            part.offer(event)
