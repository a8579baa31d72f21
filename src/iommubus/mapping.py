"""A mapping: what the table, events, translations and reports have in common."""

from typing import Final

from msgspec import Struct

from .caps import Perm
from .errors import span
from .events import Map, Memory, place

PERMS: Final = (Perm(0), Perm.R, Perm.W, Perm.RW)
"""Permissions by their value: an index is cheaper than a call of the enum."""


class Mapping(Struct, frozen=True, order=True, array_like=True, gc=False):
    """A linear piece of the table: ``first..last`` leads to ``target``.

    Attributes:
        first: First I/O virtual address.
        last: Last I/O virtual address, inclusive.
        target: Where ``first`` leads to; later addresses follow linearly.
        perm: What a device may do there.
        memory: What ``target`` is an offset into; `None` for a bare address.
    """

    first: int
    last: int
    target: int
    perm: Perm
    memory: Memory | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.last - self.first + 1

    def clip(self, first: int, last: int) -> "Mapping":
        """Return the part inside ``first..last``, which must overlap it."""
        low, high = max(self.first, first), min(self.last, last)
        if low == self.first and high == self.last:
            return self
        return Mapping(low, high, self.target + low - self.first, self.perm, self.memory)

    def event(self, space: str, seq: int) -> Map:
        """Return the event that tells of this mapping."""
        return Map(space, seq, self.first, self.last, self.target, self.perm, self.memory)

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} -> {place(self.target, self.memory)} {self.perm!r}"
