"""The memory table of a back end: which memories it has, and what stands for their addresses.

An UPDATE leads to an address in the front end's process.  This one maps nothing
and makes addresses up: each memory gets a range of its own, and none is used twice.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from ...abi.vhost_user import MemRegion, Region
from ...events import Memory
from ...ranges import LAST

USER_BASE: Final = 1 << 40
"""The first address that is made up.  It looks like none of a process that would be
mapped by mistake: above the heap, below libraries."""

USER_STEP: Final = 1 << 30
"""Addresses of memories begin at multiples of this: as large pages as there are fit,
and what is added to the end of one memory never leads into the next."""


class Table:
    """The memories that a back end has, the one longest unused first.

    Args:
        limit: Most that it takes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._regions: OrderedDict[Memory, Region] = OrderedDict()
        self._next = USER_BASE

    @property
    def memories(self) -> tuple[Memory, ...]:
        """Those that are in it."""
        return tuple(self._regions)

    @property
    def regions(self) -> tuple[Region, ...]:
        """What the back end is told of each, in the same order."""
        return tuple(self._regions.values())

    def find(self, memory: Memory) -> int | None:
        """Return the address that stands for the first byte of a memory, which is used now; `None` if it is not in."""
        region = self._regions.get(memory)
        if region is None:
            return None
        self._regions.move_to_end(memory)
        return region.user_address

    def make_room(self, gone: Collection[Memory], room: int = 1) -> list[Region]:
        """Take out what is gone, and what was not used for longest until so many more fit.

        Returns:
            What was taken out.
        """
        out = [self._regions.pop(memory) for memory in gone]
        while len(self._regions) + room > self._limit:
            out.append(self._regions.popitem(last=False)[1])
        return out

    def draw(self, memory: Memory) -> Region | None:
        """Return a region for a memory that is not in it, with new addresses; `None` if none are left."""
        address = self._next
        if address + memory.size - 1 > LAST:
            return None
        self._next += -(-memory.size // USER_STEP) * USER_STEP
        return Region(address, memory.size, address, 0)

    def add(self, memory: Memory, region: Region) -> None:
        """Take it that the back end has a memory."""
        self._regions[memory] = region


def one_region(region: Region) -> MemRegion:
    """Return a region as it is told alone."""
    return MemRegion(region.guest_address, region.size, region.user_address, region.mmap_offset)
