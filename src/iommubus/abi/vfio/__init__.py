"""VFIO type 1: mapping and unmapping a container.

* `structures`: what is passed to the ioctls
* `info`: what a container says of itself
* `changes`: the words of the bus

Dirty bitmaps are not read.

Source: Linux ``include/uapi/linux/vfio.h``.
"""

from .changes import maps, perm_of, range_of, unmaps
from .info import CAP_HEADER, IOVA_RANGE, CapId, capabilities, dma_avail, iova_ranges
from .structures import (
    GROUP_STATUS,
    INFO,
    MAP_DMA,
    STRUCTURES,
    UNMAP_DMA,
    Extension,
    GroupFlags,
    GroupStatus,
    Info,
    InfoFlags,
    Ioctl,
    MapDma,
    MapFlags,
    UnmapDma,
    UnmapFlags,
    decode,
    encode,
)

__all__ = [
    "CAP_HEADER",
    "GROUP_STATUS",
    "INFO",
    "IOVA_RANGE",
    "MAP_DMA",
    "STRUCTURES",
    "UNMAP_DMA",
    "CapId",
    "Extension",
    "GroupFlags",
    "GroupStatus",
    "Info",
    "InfoFlags",
    "Ioctl",
    "MapDma",
    "MapFlags",
    "UnmapDma",
    "UnmapFlags",
    "capabilities",
    "decode",
    "dma_avail",
    "encode",
    "iova_ranges",
    "maps",
    "perm_of",
    "range_of",
    "unmaps",
]
