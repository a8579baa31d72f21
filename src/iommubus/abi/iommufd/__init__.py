"""iommufd: mapping and unmapping an I/O address space (IOAS).

* `structures`: what is passed to the ioctls
* `changes`: the words of the bus, and arrays of ranges

Source: Linux ``include/uapi/linux/iommufd.h``.
"""

from .changes import IOVA_RANGE, decode_ranges, encode_ranges, maps, perm_of, range_of, unmaps
from .structures import (
    STRUCTURES,
    Destroy,
    IoasAlloc,
    IoasAllowIovas,
    IoasCopy,
    IoasIovaRanges,
    IoasMap,
    IoasMapFile,
    IoasUnmap,
    Ioctl,
    MapFlags,
    Structure,
    decode,
    encode,
)

__all__ = [
    "IOVA_RANGE",
    "STRUCTURES",
    "Destroy",
    "IoasAlloc",
    "IoasAllowIovas",
    "IoasCopy",
    "IoasIovaRanges",
    "IoasMap",
    "IoasMapFile",
    "IoasUnmap",
    "Ioctl",
    "MapFlags",
    "Structure",
    "decode",
    "decode_ranges",
    "encode",
    "encode_ranges",
    "maps",
    "perm_of",
    "range_of",
    "unmaps",
]
