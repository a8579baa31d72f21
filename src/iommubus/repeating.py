"""Events of one table made to happen in another one, as long as they are plain.

What a producer publishes in another process arrives as events, and nearly all of
them can be passed on as they are once the table has changed.  What is written out
here in one loop is what `Shape.check_map`, `Shape.check_range` and `Staging` do;
whatever needs more than a comparison, or fails, is left for them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from .caps import Perm
from .errors import IommubusError
from .events import Event, Map, Memory, Unmap
from .mapping import Mapping
from .shape import HALF, Shape
from .table import Table

CheckMemory = Callable[[Memory, int, int], None]
"""Raises unless a target and a size lie in a memory that there is."""


class Repeating:
    """Plain events of one space on their way to be published.

    Args:
        space: Name of the space; that of the events.
        seq: Its latest number; the events go on from there.
        table: Its table.
        shape: What addresses it accepts.
        split: Whether an UNMAP may cut mappings, so that none is plain.
        check_memory: Checks what a mapping leads into.

    Attributes:
        events: What is in the table and has to be published.
        removed: For each UNMAP of them, its number and what it removed from the table.
    """

    __slots__ = ("_check_memory", "_map_last", "_mask", "_seq", "_space", "_table", "_unmap_last", "events", "removed")

    def __init__(
        self,
        space: str,
        seq: int,
        table: Table,
        shape: Shape,
        *,
        split: bool,
        check_memory: CheckMemory,
    ) -> None:
        self.events: list[Event] = []
        self.removed: list[tuple[int, Sequence[Mapping]]] = []
        self._space = space
        self._seq = seq
        self._table = table
        self._map_last = shape.plain_last
        self._unmap_last = -1 if split else shape.last
        self._mask = shape.granule - 1
        self._check_memory = check_memory

    def run(self, events: Iterator[Event], room: int) -> tuple[int, Event | None]:
        """Make events happen up to the first that is not plain, or cannot be.

        Args:
            events: What is to happen; all that is returned is taken from it.
            room: How many mappings may come at most.

        Returns:
            How many happened, and the first that did not: that one changed nothing.
        """
        space, seq, count, mask = self._space, self._seq + len(self.events), 0, self._mask
        insert, remove, keep, note = self._table.insert, self._table.remove, self.events.append, self.removed.append
        read, write, both = Perm.R, Perm.W, Perm.RW
        event = None
        with suppress(IommubusError):  # who tries it again is told
            for event in events:
                first, last = event.first, event.last
                if type(event) is Map:
                    target, perm, memory = event.target, event.perm, event.memory
                    if (
                        not 0 <= first <= last <= self._map_last
                        or (first | last + 1 | target) & mask
                        or not 0 <= target <= HALF
                        or not (perm is both or perm is read or perm is write)
                        or room <= 0
                    ):
                        return count, event
                    if memory is not None:
                        self._check_memory(memory, target, last - first + 1)
                    if insert(first, last, target, perm, memory):
                        room -= 1
                        seq += 1
                        keep(event if event.seq == seq else Map(space, seq, first, last, target, perm, memory))
                elif (
                    type(event) is not Unmap or not 0 <= first <= last <= self._unmap_last or (first | last + 1) & mask
                ):
                    return count, event
                elif removed := remove(first, last):
                    room += 1
                    seq += 1
                    note((seq, removed))
                    keep(event if event.seq == seq else Unmap(space, seq, first, last))
                count += 1
            return count, None
        return count, event
