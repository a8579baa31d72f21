"""virtio-iommu: what a guest's driver asks for, and what the device answers.

A request is a chain of two parts.  The driver writes the first, which is read
here without its tail; the device writes the second, a `Tail`, after the
properties if it was a PROBE.  Everything is little endian, on any machine.

* `bits`: types, flags, statuses
* `requests`: the driver's part, and the words of the bus
* `answers`: the device's part, and faults

A request that does not decode is answered with INVAL, as its unknown flags have
to be; an unknown type is not answered at all: nothing is written, and the used
length is 0.  `BadField` says which it was.

Source: virtio specification, "IOMMU Device"; Linux
``include/uapi/linux/virtio_iommu.h``.
"""

from .answers import FAULT, RESV_MEM, TAIL, Fault, ResvMem, Tail
from .bits import (
    AttachFlags,
    FaultFlags,
    FaultReason,
    Features,
    MapFlags,
    RequestType,
    ReservedKind,
    Status,
)
from .requests import (
    REQUESTS,
    Attach,
    Detach,
    Map,
    Probe,
    Request,
    Unmap,
    decode,
    encode,
    perm_of,
    range_of,
)

__all__ = [
    "FAULT",
    "REQUESTS",
    "RESV_MEM",
    "TAIL",
    "Attach",
    "AttachFlags",
    "Detach",
    "Fault",
    "FaultFlags",
    "FaultReason",
    "Features",
    "Map",
    "MapFlags",
    "Probe",
    "Request",
    "RequestType",
    "ReservedKind",
    "ResvMem",
    "Status",
    "Tail",
    "Unmap",
    "decode",
    "encode",
    "perm_of",
    "range_of",
]
