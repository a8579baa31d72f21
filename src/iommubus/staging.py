"""Several changes of a table at once: all of them, or none.

The changes are made in the table as they are staged; the events that tell of
them wait until all went well.  If one cannot be made, `undo` puts the table back.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from .caps import Perm
from .errors import NotOffered
from .events import Event, Map, Unmap
from .mapping import PERMS, Mapping
from .plain import CheckMemory, Noted, Plain
from .ranges import IovaRange
from .shape import Shape
from .table import Table


class Staging:
    """Changes of one space on their way to be published.

    Args:
        space: Name of the space.
        seq: Its latest number; the events go on from there.
        table: Its table; `None` for a pull space, which keeps none.
        shape: What addresses it accepts.
        split: Whether an UNMAP may cut mappings.
        check_memory: Checks what a mapping leads into.

    Attributes:
        events: What is to be published.
        removed: For each UNMAP of them, its number and what it removed from the table, if there is one.
    """

    __slots__ = ("_check_memory", "_seq", "_shape", "_space", "_split", "_table", "events", "removed")

    def __init__(
        self,
        space: str,
        seq: int,
        table: Table | None,
        shape: Shape,
        *,
        split: bool,
        check_memory: CheckMemory,
    ) -> None:
        self.events: list[Event] = []
        self.removed: Noted = []
        self._space = space
        self._seq = seq
        self._table = table
        self._shape = shape
        self._split = split
        self._check_memory = check_memory

    def add_all(self, changes: Sequence[object], plain: Plain | None) -> None:
        """Make changes one after the other, as `add` does; if one raises, those before it stay made.

        Args:
            changes: A list or a tuple.
            plain: Makes those that need no more than comparisons, in the same table: nearly all do.
        """
        at = 0
        while True:
            if plain is not None:
                at = plain.change(changes, at, self._seq, self.events, self.removed)
            if at >= len(changes):
                return
            self.add(changes[at])
            at += 1

    def add(self, change: object) -> None:
        """Map a `Mapping`, or unmap an `IovaRange`.

        Raises:
            MappingError: It cannot be; the table is as it was before this change.
            TypeError: It is neither, or its values are no `int`.
        """
        if isinstance(change, Mapping):
            self._shape.check_map(change.first, change.size, change.target, change.perm)
            if change.memory is not None:
                self._check_memory(change.memory, change.target, change.size)
            self._map(change if type(change.perm) is Perm else replace(change, perm=PERMS[change.perm]))
        elif isinstance(change, IovaRange):
            self._shape.check_range(change.first, change.size)
            self._unmap(change.first, change.last)
        else:
            raise TypeError(f"a change is a Mapping or an IovaRange, got {change!r}")

    def undo(self) -> None:
        """Put the table back as it was before all changes."""
        table, removed = self._table, dict(self.removed)
        if table is None:
            return
        put_back(table, removed.get(self._next, ()))  # an interrupt came before its event
        for event in reversed(self.events):
            if isinstance(event, Map):
                table.remove(event.first, event.last)
            else:
                put_back(table, removed[event.seq])

    # -- inside ----------------------------------------------------------------

    def _map(self, mapping: Mapping) -> None:
        if self._table is None:
            raise NotOffered("MAP")
        if self._table.insert(mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory):
            self._stage_map(mapping)

    def _unmap(self, first: int, last: int) -> None:
        if self._table is None:
            self._stage_unmap(first, last, ())
        elif self._split:
            cut = self._table.cut(first, last)
            if cut.removed:
                self._stage_unmap(cut.first, cut.last, cut.removed)
            for survivor in cut.survivors:
                self._stage_map(survivor)
        elif removed := self._table.remove(first, last):
            self._stage_unmap(first, last, removed)

    def _stage_map(self, mapping: Mapping) -> None:
        self.events.append(mapping.event(self._space, self._next))

    def _stage_unmap(self, first: int, last: int, removed: Sequence[Mapping]) -> None:
        if self._table is not None:
            self.removed.append((self._next, removed))
        self.events.append(Unmap(self._space, self._next, first, last))

    @property
    def _next(self) -> int:
        return self._seq + len(self.events) + 1


def put_back(table: Table, pieces: Iterable[Mapping]) -> None:
    """Put back what was removed from a table."""
    for piece in pieces:
        table.insert(piece.first, piece.last, piece.target, piece.perm, piece.memory)
