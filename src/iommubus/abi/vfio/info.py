"""What a VFIO container says of itself: the capabilities behind an `Info`.

Source: Linux ``include/uapi/linux/vfio.h``, ``VFIO_IOMMU_GET_INFO``.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from msgspec import Struct

from ...errors import BadField
from ...ranges import IovaRange
from .. import extents
from ..fields import Bytes, Layout, u16, u32, u64
from .structures import INFO, InfoFlags


class CapId(IntEnum):
    """The capabilities behind `Info`, ``VFIO_IOMMU_TYPE1_INFO_*``."""

    IOVA_RANGE = 1
    MIGRATION = 2
    DMA_AVAIL = 3


class _CapHeader(Struct, frozen=True, gc=False):
    id: int
    version: int
    next: int


class _Ends(Struct, frozen=True, gc=False):
    start: int
    end: int


class _RangesHead(Struct, frozen=True, gc=False):
    nr_iovas: int
    reserved: int


class _Avail(Struct, frozen=True, gc=False):
    avail: int


CAP_HEADER: Final = Layout(_CapHeader, "vfio_info_cap_header", u16("id"), u16("version"), u32("next"))
IOVA_RANGE: Final = Layout(_Ends, "vfio_iova_range", u64("start"), u64("end"))
_RANGES_HEAD: Final = Layout(_RangesHead, "vfio_iommu_type1_info_cap_iova_range", u32("nr_iovas"), u32("reserved"))
_AVAIL: Final = Layout(_Avail, "vfio_iommu_type1_info_dma_avail", u32("avail"))


def capabilities(data: Bytes) -> dict[int, bytes]:
    """Return the capabilities behind an `Info`, each without its header, by their numbers.

    Args:
        data: All that GET_INFO wrote.

    Raises:
        BadField: One that lies outside, or before the one that leads to it.
        BadLength: There is no whole `Info`.
    """
    info = INFO.decode(data[: INFO.size])
    offset = info.cap_offset if info.flags & InfoFlags.CAPS else 0
    starts = dict(_chain(bytes(data), offset))
    behind = [*list(starts)[1:], len(data)]
    return {
        header.id: bytes(data[start + CAP_HEADER.size : end])
        for (start, header), end in zip(starts.items(), behind, strict=False)
    }


def iova_ranges(data: Bytes) -> tuple[IovaRange, ...]:
    """Return the ranges that can be mapped; none if the kernel does not say.

    Raises:
        AbiError: As for `capabilities`, or the ranges are cut off or inverted.
    """
    found = capabilities(data).get(CapId.IOVA_RANGE)
    if found is None:
        return ()
    count = _RANGES_HEAD.decode(found[: _RANGES_HEAD.size]).nr_iovas
    room = (len(found) - _RANGES_HEAD.size) // IOVA_RANGE.size
    if count > room:
        raise BadField(_RANGES_HEAD.name, "nr_iovas", count, f"0x0..{room:#x}")
    places = range(_RANGES_HEAD.size, _RANGES_HEAD.size + count * IOVA_RANGE.size, IOVA_RANGE.size)
    edges = [IOVA_RANGE.decode(found[at : at + IOVA_RANGE.size]) for at in places]
    return tuple(extents.ends(IOVA_RANGE.name, "end", edge.start, edge.end) for edge in edges)


def dma_avail(data: Bytes) -> int | None:
    """Return how many more mappings the container takes, or `None` if the kernel does not say.

    Raises:
        AbiError: As for `capabilities`, or the number is cut off.
    """
    found = capabilities(data).get(CapId.DMA_AVAIL)
    return None if found is None else _AVAIL.decode(found[: _AVAIL.size]).avail


def _chain(data: bytes, offset: int) -> Iterator[tuple[int, _CapHeader]]:
    """Yield where each capability is, with its header; the kernel lays them out in order."""
    least = INFO.size
    while offset:
        most = len(data) - CAP_HEADER.size
        if not least <= offset <= most:
            raise BadField(CAP_HEADER.name, "next", offset, f"{least:#x}..{max(most, 0):#x}, or 0 for the end")
        header = CAP_HEADER.decode(data[offset : offset + CAP_HEADER.size])
        yield offset, header
        least, offset = offset + CAP_HEADER.size, header.next
