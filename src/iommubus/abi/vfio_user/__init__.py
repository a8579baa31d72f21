"""vfio-user: a device in another process, and the memory that it may reach.

* `bits`: commands and flags
* `bodies`: VERSION, DMA_MAP, DMA_UNMAP, and the words of the bus
* `messages`: the whole, with errors; streams; descriptors

Every other command is passed on as a header and an opaque payload.

Source: QEMU ``docs/interop/vfio-user.rst``.
"""

from ..payloads import Empty, Opaque
from .bits import Command, Flags, MapFlags, UnmapFlags
from .bodies import (
    DATA_LIMIT,
    DMA_ACCESS,
    DMA_MAP,
    DMA_UNMAP,
    MAJOR,
    MINOR,
    VERSION_LIMIT,
    Capabilities,
    DmaAccess,
    DmaMap,
    DmaUnmap,
    TwinSocket,
    Version,
    capabilities_of,
    maps,
    perm_of,
    range_of,
    unmaps,
    version,
)
from .messages import (
    HEADER,
    OVERHEAD,
    SHAPES,
    UNLISTED,
    Body,
    Header,
    Message,
    Shape,
    check_descriptors,
    decode,
    encode,
    failure,
    splitter,
)

__all__ = [
    "DATA_LIMIT",
    "DMA_ACCESS",
    "DMA_MAP",
    "DMA_UNMAP",
    "HEADER",
    "MAJOR",
    "MINOR",
    "OVERHEAD",
    "SHAPES",
    "UNLISTED",
    "VERSION_LIMIT",
    "Body",
    "Capabilities",
    "Command",
    "DmaAccess",
    "DmaMap",
    "DmaUnmap",
    "Empty",
    "Flags",
    "Header",
    "MapFlags",
    "Message",
    "Opaque",
    "Shape",
    "TwinSocket",
    "UnmapFlags",
    "Version",
    "capabilities_of",
    "check_descriptors",
    "decode",
    "encode",
    "failure",
    "maps",
    "perm_of",
    "range_of",
    "splitter",
    "unmaps",
    "version",
]
