"""The memory table of a vhost-user front end: where its addresses are in memories of the bus.

An UPDATE leads to an address in the front end's process.  The table says which
region has that, and so which memory and where in it.

Source: QEMU ``docs/interop/vhost-user.rst``, "Memory region description" and "IOMMU support".
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from ..abi.vhost_user import Region
from ..errors import BadField
from ..events import Memory

SLOTS: Final = 32
"""Most regions of one front end.  QEMU sends 2 to 4, and one more for each module of memory that is plugged in;
DPDK takes 8.  Each holds a descriptor."""

NAME: Final = "memory table"
"""What errors call it."""


class Backed(Struct, frozen=True):
    """A region, and the memory that its descriptor stands for.

    Attributes:
        region: As the front end described it.
        memory: What ``region.mmap_offset`` is an offset into.
    """

    region: Region
    memory: Memory


class Regions:
    """A memory table, which does not change: `added` and `removed` return others.

    Args:
        backed: Its regions.

    Raises:
        BadField: Too many regions, two of which overlap, or one that its file does not have.
    """

    def __init__(self, backed: Iterable[Backed] = ()) -> None:
        self._backed = sorted(backed, key=_user_address)
        self._starts = list(map(_user_address, self._backed))
        _check(self._backed)

    def __len__(self) -> int:
        return len(self._backed)

    def __iter__(self) -> Iterator[Backed]:
        """Iterate the regions by the front end's addresses."""
        return iter(self._backed)

    def find(self, user_address: int, size: int) -> tuple[Memory, int] | None:
        """Return where so many bytes are: a memory, and an offset in it; `None` if no region has all of them.

        Args:
            user_address: First address in the front end's process.
            size: Length in bytes, at least 1.
        """
        place = bisect_right(self._starts, user_address) - 1
        if place < 0:
            return None
        region = self._backed[place].region
        offset = user_address - region.user_address
        if offset + size > region.size:
            return None
        return self._backed[place].memory, region.mmap_offset + offset

    def added(self, backed: Backed) -> "Regions":
        """Return the table with one more region; raises as the class does."""
        return Regions([*self._backed, backed])

    def removed(self, region: Region) -> "tuple[Regions, Backed]":
        """Return the table without a region, and what was removed.

        Args:
            region: Its addresses and its size tell which; its ``mmap_offset`` means nothing.

        Raises:
            BadField: There is none like it.
        """
        for place, backed in enumerate(self._backed):
            if _identity(backed.region) == _identity(region):
                return Regions(self._backed[:place] + self._backed[place + 1 :]), backed
        raise BadField(NAME, "userspace address", region.user_address, "that of a region there is")


def _user_address(backed: Backed) -> int:
    return backed.region.user_address


def _identity(region: Region) -> tuple[int, int, int]:
    return region.guest_address, region.user_address, region.size


def _check(backed: list[Backed]) -> None:
    """Check regions that are in the order of their addresses."""
    if len(backed) > SLOTS:
        raise BadField(NAME, "regions", len(backed), f"at most {SLOTS:#x}")
    end = 0
    for region, memory in ((each.region, each.memory) for each in backed):
        if region.user_address < end:
            raise BadField(NAME, "userspace address", region.user_address, f"{end:#x} or more: regions are disjoint")
        if region.mmap_offset + region.size > memory.size:
            raise BadField(NAME, "size", region.size, f"at most what its file has behind {region.mmap_offset:#x}")
        end = region.user_address + region.size
