"""The events of an I/O address space: what every other module speaks.

Events are plain immutable values, written here in the order of a mapping's
life.  They hold no socket, no task and no callback, and encode as arrays; a
`Memory` is a name and a size, and neither a descriptor nor an address.
`Map` adds access; `Unmap` and `DevIotlbUnmap` take it away and are therefore
never lost.  `Lost` is told to observers alone.

Units are bytes; ``first..last`` is inclusive.  Whoever makes an event has
checked it: constructors check nothing, because they run once per change.

Source: QEMU ``IOMMUTLBEvent`` and ``IOMMUTLBEntry``
(``include/system/memory.h``), with a length instead of a mask.
"""

from typing import Final

from msgspec import Struct

from .caps import Cap, Perm
from .errors import span


class Memory(Struct, frozen=True, array_like=True, gc=False):
    """What a target is an offset into: a named backing, added to a bus.

    Attributes:
        name: Its name on the bus.
        generation: How often the bus has had a memory of this name, from 1; what
            was said of an older one does not hold for this one.
        size: Length in bytes.
    """

    name: str
    generation: int
    size: int

    def __str__(self) -> str:
        return f"{self.name}@{self.generation}"


def place(target: int, memory: Memory | None) -> str:
    """Return a target as people read it."""
    return f"{target:#x}" if memory is None else f"{memory}+{target:#x}"


class Change(Struct, frozen=True, array_like=True, gc=False):
    """What every event of a space says.

    Attributes:
        space: Name of the space that changed.
        seq: Number of the change in its space, from 1.
        first: First address.
        last: Last address.
    """

    space: str
    seq: int
    first: int
    last: int

    @property
    def iova(self) -> int:
        """First address, under the name that ioctls use."""
        return self.first

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.last - self.first + 1


class Map(Change, frozen=True, array_like=True, tag="map", gc=False):
    """Translations that came: ``first..last`` now leads to ``target``.

    Attributes:
        target: Where ``first`` leads to; later addresses follow linearly.
        perm: What a device may do there.
        memory: What ``target`` is an offset into; without one it is a bare
            address, which only those who share the address space can use.
    """

    target: int
    perm: Perm
    memory: Memory | None = None

    def __str__(self) -> str:
        where = place(self.target, self.memory)
        return f"{self.space}#{self.seq} MAP {span(self.first, self.last)} -> {where} {self.perm!r}"


class Unmap(Change, frozen=True, array_like=True, tag="unmap", gc=False):
    """Translations that went: nothing in ``first..last`` is mapped.

    Stop every use of it before acknowledging.  The range may be larger than
    what was mapped, and for a cacher larger than what went.
    """

    def __str__(self) -> str:
        return f"{self.space}#{self.seq} UNMAP {span(self.first, self.last)}"


class DevIotlbUnmap(Change, frozen=True, array_like=True, tag="deviotlb_unmap", gc=False):
    """A device's own TLB must forget ``first..last``.

    Stop every use of cached translations there before acknowledging; the
    address may still be mapped, and may be asked for again.
    """

    def __str__(self) -> str:
        return f"{self.space}#{self.seq} DEVIOTLB_UNMAP {span(self.first, self.last)}"


class Lost(Struct, frozen=True, array_like=True, tag="lost", gc=False):
    """Events an observer was too slow for.

    Attributes:
        space: Name of the space they came from.
        seq: Number of the last one that is missing.
        count: How many are missing.
    """

    space: str
    seq: int
    count: int

    def __str__(self) -> str:
        return f"{self.space}#{self.seq} LOST {self.count} events"


Event = Map | Unmap | DevIotlbUnmap
"""What a subscription may yield."""

Observed = Map | Unmap | DevIotlbUnmap | Lost
"""What an observer may yield."""

KINDS: Final[dict[type[Event], Cap]] = {
    Map: Cap.MAP,
    Unmap: Cap.UNMAP,
    DevIotlbUnmap: Cap.DEVIOTLB_UNMAP,
}
"""The capability that a subscriber needs for each kind of event."""


def crop(event: Event, first: int, last: int) -> Event | None:
    """Return the part of ``event`` inside ``first..last``, or `None`.

    A `Map` that loses bytes at its front has its target moved by as many.
    An event that lies inside comes back as it is.
    """
    if event.first >= first and event.last <= last:
        return event
    low, high = max(event.first, first), min(event.last, last)
    if low > high:
        return None
    if isinstance(event, Map):
        target = event.target + low - event.first
        return Map(event.space, event.seq, low, high, target, event.perm, event.memory)
    return type(event)(event.space, event.seq, low, high)
