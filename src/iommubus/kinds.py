"""The kinds of mappings in one table: what they allow, and what they lead into.

There are few kinds, each of many mappings, so a table keeps a number for each
mapping, its *attribute*, and here what the number stands for.  Those below
`PLAIN` are the permissions themselves, for mappings to bare addresses.
"""

from collections.abc import Collection
from typing import Final

from .caps import Perm
from .events import Memory

Kind = tuple[Perm, Memory | None]

PLAIN: Final = 4
"""Attributes below this are permissions: the bits R and W."""

KINDS: Final = 1024
"""Kinds that are kept before those of no mapping are looked for: far more than
a machine has memories, and little to keep."""


class Kinds:
    """The kinds of one table, by attribute.

    Args:
        limit: Kinds after which those of no mapping should be forgotten.

    Attributes:
        each: The kinds; an attribute is an index.  The list is added to and never
            changed: mappings that were cut out of the table refer to it.
    """

    __slots__ = ("_attrs", "_limit", "each")

    def __init__(self, limit: int = KINDS) -> None:
        self.each: list[Kind] = [(Perm(bits), None) for bits in range(PLAIN)]
        self._attrs: dict[Kind, int] = {}  # of those that have a memory
        self._limit = limit

    @property
    def crowded(self) -> bool:
        """Whether `keep` should be called before another is added."""
        return len(self.each) >= self._limit

    def attr(self, perm: int, memory: Memory) -> int:
        """Return the attribute of a kind, which is added if it is new."""
        kind = Perm(perm), memory
        attr = self._attrs.setdefault(kind, len(self.each))
        if attr == len(self.each):
            self.each.append(kind)
        return attr

    def of(self, memory: Memory) -> list[int]:
        """Return the attributes of all kinds that have this memory."""
        return [attr for (_, held), attr in self._attrs.items() if held == memory]

    def keep(self, present: Collection[int]) -> dict[int, int]:
        """Forget all other attributes, but not the plain ones; return the new one of each that is kept.

        ``each`` is another list afterwards.  The next time comes when there are
        twice as many, so that each kind added costs a constant share of it.
        """
        kept = [attr for attr in range(len(self.each)) if attr < PLAIN or attr in present]
        self.each = [self.each[attr] for attr in kept]
        self._attrs = {kind: attr for attr, kind in enumerate(self.each) if attr >= PLAIN}
        self._limit = max(self._limit, 2 * len(kept))
        return {old: new for new, old in enumerate(kept)}
