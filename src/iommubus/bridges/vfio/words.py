"""What a container's answers mean: how a space has to fit into it, and why a call was refused."""

import errno
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from ...abi.vfio import MapDma, UnmapDma, UnmapFlags
from ...bridging.telling import Lack, Negotiated
from ...ranges import LAST, IovaRange

PAGE: Final = 0x1000
"""Bytes of a page where the kernel does not say what pages the IOMMU has: the smallest that any has."""

OPEN_HINTS: Final = {
    errno.ENOENT: "a group is there while a device of it is bound to vfio-pci, the container while vfio is loaded",
    errno.EBUSY: "another process has it; a group can be had once",
    errno.EACCES: "this user may not",
}
"""What it means that a group or the container cannot be opened."""

ATTACH_HINTS: Final = {
    errno.EINVAL: "another process has it, or this container's IOMMU cannot serve it",
    errno.ENODEV: "no device of it is bound to a VFIO driver",
    errno.EPERM: "the platform does not isolate interrupts; allow_unsafe_interrupts of vfio_iommu_type1 allows it",
    errno.EBUSY: "it is in a container already",
}
"""What it means that a group cannot be put into a container."""

MAP_HINTS: Final = {
    errno.EEXIST: "something is mapped there that the bus does not know of: somebody else uses this container",
    errno.EINVAL: "it does not fit the IOMMU's pages, or lies outside what it can map",
    errno.ENOSPC: "the container is full: dma_entry_limit of vfio_iommu_type1",
    errno.ENOMEM: "no more memory may be pinned: RLIMIT_MEMLOCK, `ulimit -l`",
    errno.EFAULT: "what it leads to cannot be pinned",
}
"""What it means that a MAP was refused."""

UNMAP_HINTS: Final = {
    errno.EINVAL: "it would cut a mapping, which is never done: somebody else uses this container",
}
"""What it means that an UNMAP was refused."""


class Traits(Struct, frozen=True):
    """What a container says of itself.

    Attributes:
        pagesizes: The sizes of the IOMMU's pages, as a bitmap; 0 if it does not say.
        ranges: What can be mapped, in order; nothing if it does not say.
        room: How many mappings it takes, `None` if it does not say.
        unmap_all: Whether one call can take away everything.
    """

    pagesizes: int
    ranges: tuple[IovaRange, ...]
    room: int | None
    unmap_all: bool

    @property
    def granule(self) -> int:
        """The smallest page, in bytes."""
        return self.pagesizes & -self.pagesizes or PAGE

    @property
    def usable(self) -> tuple[IovaRange, ...]:
        """What can be mapped, in whole pages; everything, if the container does not say."""
        if not self.ranges:
            return (IovaRange(0, LAST),)
        inside = ((_up(each.first, self.granule), _down(each.last + 1, self.granule) - 1) for each in self.ranges)
        return tuple(IovaRange(first, last) for first, last in inside if first <= last)


def negotiated(peer: str, traits: Traits) -> Negotiated:
    """Return what is said of a container before it is used."""
    agreed = [
        "TYPE1v2",
        *(["UNMAP_ALL"] if traits.unmap_all else []),
        *([f"pages of {', '.join(map(hex, _bits(traits.pagesizes)))}"] if traits.pagesizes else []),
        *([f"{traits.room:,} mappings"] if traits.room is not None else []),
        *(f"IOVA {each}" for each in traits.ranges),
    ]
    return Negotiated(peer, tuple(agreed), tuple(_lacks(traits)))


def gaps(ranges: Sequence[IovaRange]) -> Iterator[IovaRange]:
    """Yield what lies between and behind ranges that are in order."""
    first = 0
    for each in ranges:
        if first < each.first:
            yield IovaRange(first, each.first - 1)
        first = each.last + 1
    if first <= LAST:
        yield IovaRange(first, LAST)


def naming(call: MapDma | UnmapDma) -> str:
    """Return a call with its values, as people read it."""
    if isinstance(call, MapDma):
        return f"VFIO_IOMMU_MAP_DMA {IovaRange.sized(call.iova, call.size)} at {call.vaddr:#x}, {call.flags!r}"
    if call.flags & UnmapFlags.ALL:
        return "VFIO_IOMMU_UNMAP_DMA of everything"
    return f"VFIO_IOMMU_UNMAP_DMA {IovaRange.sized(call.iova, call.size)}"


def _lacks(traits: Traits) -> Iterator[Lack]:
    if not traits.pagesizes:
        yield Lack("INFO_PGSIZES", f"the kernel does not say what pages there are; {PAGE:#x} is taken for the smallest")
    if traits.room is None:
        yield Lack("INFO_DMA_AVAIL", "the kernel does not say how much fits; a MAP too many is refused by it")
    if not traits.unmap_all:
        yield Lack("UNMAP_ALL", "the kernel is older; everything is unmapped in two halves")
    if not traits.ranges:
        yield Lack("INFO_CAP_IOVA_RANGE", "the kernel does not say what can be mapped; what cannot is refused by it")
        return
    for gap in gaps(traits.usable):
        what = "the IOMMU does not reach there" if gap.last == LAST else "the machine keeps it, as for interrupts"
        yield Lack(f"IOVA {gap}", f"{what}; what is mapped there does not reach the device")


def _bits(bitmap: int) -> Iterator[int]:
    while bitmap:
        yield bitmap & -bitmap
        bitmap &= bitmap - 1


def _up(value: int, unit: int) -> int:
    return value + -value % unit


def _down(value: int, unit: int) -> int:
    return value - value % unit
