"""What is passed to the ioctls of ``/dev/iommu``, for an I/O address space (IOAS).

A structure is named by its ioctl: `decode` takes both, `encode` needs the value
alone.  Each begins with its own size, which is written and checked here and is
no attribute; fields that have to be zero neither.

Ranges are not checked here, because what an UNMAP returns in ``length`` is what
was really removed, which may be 0; `changes` does that.

Source: Linux ``include/uapi/linux/iommufd.h`` (since 6.2; MAP_FILE since
6.13).  Numbers of ioctls are those of the generic encoding.
"""

from enum import IntEnum, IntFlag
from typing import Any, Final

from msgspec import Struct

from ..fields import Bytes, Field, Layout, by_kind, fixed, s32, u32, u64


class Ioctl(IntEnum):
    """The requests to ``/dev/iommu``, ``IOMMU_*``."""

    DESTROY = 0x3B80
    IOAS_ALLOC = 0x3B81
    IOAS_ALLOW_IOVAS = 0x3B82
    IOAS_COPY = 0x3B83
    IOAS_IOVA_RANGES = 0x3B84
    IOAS_MAP = 0x3B85
    IOAS_UNMAP = 0x3B86
    OPTION = 0x3B87
    VFIO_IOAS = 0x3B88
    HWPT_ALLOC = 0x3B89
    GET_HW_INFO = 0x3B8A
    HWPT_SET_DIRTY_TRACKING = 0x3B8B
    HWPT_GET_DIRTY_BITMAP = 0x3B8C
    HWPT_INVALIDATE = 0x3B8D
    FAULT_QUEUE_ALLOC = 0x3B8E
    IOAS_MAP_FILE = 0x3B8F
    VIOMMU_ALLOC = 0x3B90
    VDEVICE_ALLOC = 0x3B91
    IOAS_CHANGE_PROCESS = 0x3B92
    VEVENTQ_ALLOC = 0x3B93
    HW_QUEUE_ALLOC = 0x3B94


class MapFlags(IntFlag):
    """How a mapping is made, ``IOMMU_IOAS_MAP_*``; not the bits of `Perm`."""

    FIXED_IOVA = 1
    """At the address that is given; otherwise the kernel finds one."""

    WRITEABLE = 2
    READABLE = 4


# -- structures --------------------------------------------------------------


class Destroy(Struct, frozen=True, gc=False):
    """``struct iommu_destroy``: an object of any kind goes."""

    id: int


class IoasAlloc(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_alloc``: a new space; the kernel writes its number."""

    out_ioas_id: int = 0


class IoasIovaRanges(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_iova_ranges``: what can be mapped now; see `iommubus.abi.iommufd.decode_ranges`.

    Attributes:
        num_iovas: Room in the array; afterwards, how many ranges there are.
        allowed_iovas: Address of the array.
        out_iova_alignment: What addresses and their ends are multiples of.
    """

    ioas_id: int
    num_iovas: int
    allowed_iovas: int
    out_iova_alignment: int = 0


class IoasAllowIovas(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_allow_iovas``: what has to stay mappable; see `iommubus.abi.iommufd.encode_ranges`."""

    ioas_id: int
    num_iovas: int
    allowed_iovas: int


class IoasMap(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_map``: ``length`` bytes at ``iova`` lead to ``user_va`` of this process."""

    flags: MapFlags
    ioas_id: int
    user_va: int
    length: int
    iova: int


class IoasMapFile(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_map_file``: the same, to the bytes from ``start`` in a memory file."""

    flags: MapFlags
    ioas_id: int
    fd: int
    start: int
    length: int
    iova: int


class IoasCopy(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_copy``: one mapping of another space is made in this one, too."""

    flags: MapFlags
    dst_ioas_id: int
    src_ioas_id: int
    length: int
    dst_iova: int
    src_iova: int


class IoasUnmap(Struct, frozen=True, gc=False):
    """``struct iommu_ioas_unmap``; afterwards ``length`` is what was removed."""

    ioas_id: int
    iova: int
    length: int


def _sized(size: int) -> Field:
    return fixed("size", "I", size)


_RESERVED: Final = fixed("__reserved", "I")

DESTROY: Final = Layout(Destroy, "iommu_destroy", _sized(8), u32("id"))
IOAS_ALLOC: Final = Layout(IoasAlloc, "iommu_ioas_alloc", _sized(12), fixed("flags", "I"), u32("out_ioas_id"))
IOAS_IOVA_RANGES: Final = Layout(
    IoasIovaRanges,
    "iommu_ioas_iova_ranges",
    _sized(32),
    u32("ioas_id"),
    u32("num_iovas"),
    _RESERVED,
    u64("allowed_iovas"),
    u64("out_iova_alignment"),
)
IOAS_ALLOW_IOVAS: Final = Layout(
    IoasAllowIovas,
    "iommu_ioas_allow_iovas",
    _sized(24),
    u32("ioas_id"),
    u32("num_iovas"),
    _RESERVED,
    u64("allowed_iovas"),
)
IOAS_MAP: Final = Layout(
    IoasMap,
    "iommu_ioas_map",
    _sized(40),
    u32("flags", MapFlags),
    u32("ioas_id"),
    _RESERVED,
    u64("user_va"),
    u64("length"),
    u64("iova"),
)
IOAS_MAP_FILE: Final = Layout(
    IoasMapFile,
    "iommu_ioas_map_file",
    _sized(40),
    u32("flags", MapFlags),
    u32("ioas_id"),
    s32("fd"),
    u64("start"),
    u64("length"),
    u64("iova"),
)
IOAS_COPY: Final = Layout(
    IoasCopy,
    "iommu_ioas_copy",
    _sized(40),
    u32("flags", MapFlags),
    u32("dst_ioas_id"),
    u32("src_ioas_id"),
    u64("length"),
    u64("dst_iova"),
    u64("src_iova"),
)
IOAS_UNMAP: Final = Layout(IoasUnmap, "iommu_ioas_unmap", _sized(24), u32("ioas_id"), u64("iova"), u64("length"))

STRUCTURES: Final[dict[Ioctl, Layout[Any]]] = {
    Ioctl.DESTROY: DESTROY,
    Ioctl.IOAS_ALLOC: IOAS_ALLOC,
    Ioctl.IOAS_ALLOW_IOVAS: IOAS_ALLOW_IOVAS,
    Ioctl.IOAS_COPY: IOAS_COPY,
    Ioctl.IOAS_IOVA_RANGES: IOAS_IOVA_RANGES,
    Ioctl.IOAS_MAP: IOAS_MAP,
    Ioctl.IOAS_UNMAP: IOAS_UNMAP,
    Ioctl.IOAS_MAP_FILE: IOAS_MAP_FILE,
}
"""What is passed to each ioctl that is understood here."""

Structure = Destroy | IoasAlloc | IoasAllowIovas | IoasCopy | IoasIovaRanges | IoasMap | IoasUnmap | IoasMapFile
"""Anything that is passed to an ioctl."""

BY_KIND: Final = by_kind(STRUCTURES.values())
"""The same, by the value."""


def decode(ioctl: Ioctl, data: Bytes) -> Structure:
    """Read what is passed to an ioctl, before or after it.

    Raises:
        BadLength: Not as long as the structure.
        BadField: Another size, unknown flags, or a reserved field that is not zero.
        KeyError: The ioctl is none of `STRUCTURES`.
    """
    value: Structure = STRUCTURES[ioctl].decode(data)
    return value


def encode(value: Structure) -> bytes:
    """Write what is passed to an ioctl.

    Raises:
        BadField: Unknown flags, or a number that does not fit.
    """
    return BY_KIND[type(value)].encode(value)
