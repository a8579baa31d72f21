"""The plain changes of one space: made in its table, and told of by events.

Nearly every change of a table needs no more than comparisons before it is made,
and is told of by one event.  Those are made here, whether they come one by one,
several at once, or as the events of a table in another process.  What needs more
than that, or might fail, is not plain: it is left, and nothing has changed, to
who knows all checks (`Shape.check_map`, `Shape.check_range` and `Staging`).

Numbers are plain only as `int` itself, permissions as `Perm` itself.

`Plain` is compiled where the table is; `PurePlain` does the same without, and is
what says how it is done.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from .caps import Perm
from .compiled import load
from .errors import IommubusError
from .events import Event, Map, Memory, Unmap
from .mapping import Mapping
from .ranges import IovaRange
from .shape import HALF, Shape
from .table import Table

CheckMemory = Callable[[Memory, int, int], None]
"""Raises unless a target and a size lie in a memory that there is."""

Noted = list[tuple[int, Sequence[Mapping]]]
"""For each UNMAP its number, and what it removed from the table."""


class PurePlain:
    """The plain changes of one space, in Python.

    Args:
        space: Name of the space.
        table: Its table.
        shape: What addresses it accepts.
        split: Whether an UNMAP may cut mappings, so that none is plain.
    """

    __slots__ = ("_map_last", "_mask", "_space", "_table", "_unmap_last")

    def __init__(self, space: str, table: Table, shape: Shape, *, split: bool) -> None:
        self._space = space
        self._table = table
        self._map_last = shape.plain_last
        self._unmap_last = -1 if split else shape.last
        self._mask = shape.granule - 1

    def map(self, iova: int, size: int, target: int, perm: Perm, seq: int, /) -> Map | Literal[False] | None:
        """Add a mapping to a bare address.

        Args:
            iova: First address.
            size: Length in bytes.
            target: Where it leads to.
            perm: What it allows.
            seq: Number of the event.

        Returns:
            The event; `False` if this very mapping was there already; `None` if it is not plain.

        Raises:
            Overlap: A different mapping is in the way.
        """
        if type(size) is not int or type(iova) is not int:
            return None
        last = iova + size - 1
        if not self._may_map(iova, last, target, perm):
            return None
        return self._table.insert(iova, last, target, perm) and Map(self._space, seq, iova, last, target, perm)

    def unmap(self, iova: int, size: int, seq: int, /) -> tuple[Unmap, Sequence[Mapping]] | Literal[False] | None:
        """Remove every mapping in a range.

        Args:
            iova: First address.
            size: Length in bytes.
            seq: Number of the event.

        Returns:
            The event and what was removed; `False` if nothing was there; `None` if it is not plain.

        Raises:
            Straddle: A mapping reaches out of the range; nothing changed.
        """
        if type(size) is not int or type(iova) is not int:
            return None
        last = iova + size - 1
        if not self._may_unmap(iova, last):
            return None
        removed = self._table.remove(iova, last)
        return bool(removed) and (Unmap(self._space, seq, iova, last), removed)

    def repeat(
        self,
        events: Iterator[Event],
        seq: int,
        room: int,
        check_memory: CheckMemory,
        keep: list[Event],
        note: Noted,
        /,
    ) -> tuple[int, Event | None]:
        """Make events of another table happen up to the first that is not plain, or cannot be.

        Args:
            events: What is to happen; all that is returned is taken from it.
            seq: Latest number of the space; the events go on from there.
            room: How many mappings may come at most.
            check_memory: Checks what a mapping leads into.
            keep: Takes what is in the table and has to be published.
            note: Takes what was removed.

        Returns:
            How many happened, and the first that did not: that one changed nothing.
        """
        count = 0
        for event in events:
            try:
                change = self._repeat(event, seq + 1, room, check_memory, keep, note)
            except IommubusError:  # who tries it again is told
                return count, event
            if change is None:
                return count, event
            count += 1
            room -= change
            seq += change != 0
        return count, None

    def change(self, changes: Sequence[object], at: int, seq: int, keep: list[Event], note: Noted, /) -> int:
        """Make changes up to the first that is not plain.

        Args:
            changes: A list or a tuple: a `Mapping` is mapped, an `IovaRange` unmapped.
            at: Index of the first that is to be made.
            seq: Number after which those of ``keep`` begin.
            keep: Takes the events.
            note: Takes what was removed.

        Returns:
            The index of the first that was not made; that one is not plain.

        Raises:
            Overlap, Straddle: One cannot be made; those before it stay.
        """
        while at < len(changes) and self._change(changes[at], seq + len(keep) + 1, keep, note):
            at += 1
        return at

    # -- inside ----------------------------------------------------------------

    def _may_map(self, first: int, last: int, target: int, perm: Perm) -> bool:
        return (
            type(first) is int
            and type(last) is int
            and type(target) is int
            and 0 <= first <= last <= self._map_last
            and 0 <= target <= HALF
            and not (first | last + 1 | target) & self._mask
            and (perm is Perm.RW or perm is Perm.R or perm is Perm.W)
        )

    def _may_unmap(self, first: int, last: int) -> bool:
        return (
            type(first) is int
            and type(last) is int
            and 0 <= first <= last <= self._unmap_last
            and not (first | last + 1) & self._mask
        )

    def _repeat(
        self, event: Event, seq: int, room: int, check_memory: CheckMemory, keep: list[Event], note: Noted
    ) -> int | None:
        """Make one event happen; return how many mappings more there are, or `None` if it is not plain."""
        if type(event) is Map and room > 0:
            return self._repeat_map(event, seq, check_memory, keep)
        if type(event) is not Unmap or not self._may_unmap(event.first, event.last):
            return None
        removed = self._table.remove(event.first, event.last)
        if not removed:
            return 0
        note.append((seq, removed))
        keep.append(event if event.seq == seq else Unmap(self._space, seq, event.first, event.last))
        return -1

    def _repeat_map(self, event: Map, seq: int, check_memory: CheckMemory, keep: list[Event]) -> int | None:
        first, last, target, perm, memory = event.first, event.last, event.target, event.perm, event.memory
        if not self._may_map(first, last, target, perm):
            return None
        if memory is not None:
            check_memory(memory, target, last - first + 1)
        if not self._table.insert(first, last, target, perm, memory):
            return 0
        keep.append(event if event.seq == seq else Map(self._space, seq, first, last, target, perm, memory))
        return 1

    def _change(self, change: object, seq: int, keep: list[Event], note: Noted) -> bool:
        """Make one change, and say whether it is plain."""
        if type(change) is Mapping:
            first, last, target, perm = change.first, change.last, change.target, change.perm
            if change.memory is not None or not self._may_map(first, last, target, perm):
                return False
            if self._table.insert(first, last, target, perm):
                keep.append(Map(self._space, seq, first, last, target, perm))
            return True
        if type(change) is not IovaRange or not self._may_unmap(change.first, change.last):
            return False
        removed = self._table.remove(change.first, change.last)
        if removed:
            note.append((seq, removed))
            keep.append(Unmap(self._space, seq, change.first, change.last))
        return True


if TYPE_CHECKING:
    from .compiled.table import Plain as Plain  # noqa: PLC0414 -- mypy knows by this that it is for others
else:
    Plain = getattr(load("table"), "Plain", PurePlain)
