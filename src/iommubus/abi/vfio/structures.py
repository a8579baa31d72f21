"""What is passed to the ioctls of a VFIO container, type 1.

A structure is named by its ioctl: `decode` takes both, `encode` needs the value
alone.  Ranges are not checked here, because what an UNMAP returns in ``size``
is what was really removed, which may be 0; `changes` does that.

Source: Linux ``include/uapi/linux/vfio.h``.  Numbers of ioctls are those of the
generic encoding (x86, Arm, RISC-V, s390).
"""

from enum import IntEnum, IntFlag
from typing import Any, Final

from msgspec import Struct

from ..fields import Bytes, Layout, by_kind, raw, u32, u64


class Ioctl(IntEnum):
    """The requests to a container and a group, ``VFIO_*``."""

    GET_API_VERSION = 0x3B64
    CHECK_EXTENSION = 0x3B65
    SET_IOMMU = 0x3B66
    GROUP_GET_STATUS = 0x3B67
    GROUP_SET_CONTAINER = 0x3B68
    GROUP_UNSET_CONTAINER = 0x3B69
    GROUP_GET_DEVICE_FD = 0x3B6A
    IOMMU_GET_INFO = 0x3B70
    IOMMU_MAP_DMA = 0x3B71
    IOMMU_UNMAP_DMA = 0x3B72


class Extension(IntEnum):
    """What CHECK_EXTENSION is asked for."""

    TYPE1_IOMMU = 1
    TYPE1V2_IOMMU = 3
    UNMAP_ALL = 9


class GroupFlags(IntFlag):
    """What is known of a group, ``VFIO_GROUP_FLAGS_*``."""

    VIABLE = 1
    """All its devices are bound to VFIO's drivers, or to none."""

    CONTAINER_SET = 2


class InfoFlags(IntFlag):
    """What `Info` has, ``VFIO_IOMMU_INFO_*``."""

    PGSIZES = 1
    CAPS = 2


class MapFlags(IntFlag):
    """How a device may use a mapping, ``VFIO_DMA_MAP_FLAG_*``."""

    READ = 1
    WRITE = 2
    VADDR = 4
    """Only give an old mapping a new address in the process."""


class UnmapFlags(IntFlag):
    """What an UNMAP does, ``VFIO_DMA_UNMAP_FLAG_*``."""

    GET_DIRTY_BITMAP = 1
    ALL = 2
    """Everything; ``iova`` and ``size`` are 0."""

    VADDR = 4
    """Only forget the address in the process."""


# -- structures --------------------------------------------------------------


class MapDma(Struct, frozen=True, gc=False):
    """``struct vfio_iommu_type1_dma_map``: ``size`` bytes at ``iova`` lead to ``vaddr`` of this process."""

    argsz: int
    flags: MapFlags
    vaddr: int
    iova: int
    size: int


class UnmapDma(Struct, frozen=True, gc=False):
    """``struct vfio_iommu_type1_dma_unmap``, without a bitmap; afterwards ``size`` is what was removed."""

    argsz: int
    flags: UnmapFlags
    iova: int
    size: int


class Info(Struct, frozen=True, gc=False):
    """``struct vfio_iommu_type1_info``: page sizes as a bitmap, and where the capabilities begin.

    Attributes:
        argsz: Bytes that the kernel has to say; with fewer, ask again.
        flags: `InfoFlags`, and what newer kernels add.
        padding: What C adds, as it came.
    """

    argsz: int
    flags: int
    iova_pgsizes: int
    cap_offset: int
    padding: bytes = bytes(4)


class GroupStatus(Struct, frozen=True, gc=False):
    """``struct vfio_group_status``.

    Attributes:
        argsz: Bytes of it.
        flags: `GroupFlags`, and what newer kernels add.
    """

    argsz: int
    flags: int


MAP_DMA: Final = Layout(
    MapDma,
    "vfio_iommu_type1_dma_map",
    u32("argsz"),
    u32("flags", MapFlags),
    u64("vaddr"),
    u64("iova"),
    u64("size"),
)

UNMAP_DMA: Final = Layout(
    UnmapDma,
    "vfio_iommu_type1_dma_unmap",
    u32("argsz"),
    u32("flags", UnmapFlags),
    u64("iova"),
    u64("size"),
)

GROUP_STATUS: Final = Layout(GroupStatus, "vfio_group_status", u32("argsz"), u32("flags"))

INFO: Final = Layout(
    Info,
    "vfio_iommu_type1_info",
    u32("argsz"),
    u32("flags"),
    u64("iova_pgsizes"),
    u32("cap_offset"),
    raw("padding", 4),
)

STRUCTURES: Final[dict[Ioctl, Layout[Any]]] = {
    Ioctl.IOMMU_GET_INFO: INFO,
    Ioctl.IOMMU_MAP_DMA: MAP_DMA,
    Ioctl.IOMMU_UNMAP_DMA: UNMAP_DMA,
}
"""What is passed to each ioctl."""

BY_KIND: Final = by_kind(STRUCTURES.values())
"""The same, by the value."""


def decode(ioctl: Ioctl, data: Bytes) -> MapDma | UnmapDma | Info:
    """Read what is passed to an ioctl, before or after it.

    Raises:
        BadLength: Not as long as the structure.
        BadField: Flags that mean nothing.
    """
    value: MapDma | UnmapDma | Info = STRUCTURES[ioctl].decode(data)
    return value


def encode(value: MapDma | UnmapDma | Info) -> bytes:
    """Write what is passed to an ioctl.

    Raises:
        BadField: Flags that mean nothing, or a number that does not fit.
    """
    return BY_KIND[type(value)].encode(value)
