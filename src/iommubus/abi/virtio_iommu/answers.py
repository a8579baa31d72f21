"""What a virtio-iommu writes: the tail of a request, the properties of a PROBE, and faults.

Source: virtio specification, "IOMMU Device", "Device operations".
"""

from typing import Final

from msgspec import Struct

from .. import extents
from ..fields import LITTLE, Layout, fixed, raw, u8, u32, u64
from .bits import ZEROES, FaultFlags, FaultReason, ReservedKind, Status

PROBE_RESV_MEM: Final = 1
"""``VIRTIO_IOMMU_PROBE_T_RESV_MEM``, the type of a property."""


class Tail(Struct, frozen=True):
    """``struct virtio_iommu_req_tail``."""

    status: Status
    reserved: bytes = ZEROES


class ResvMem(Struct, frozen=True):
    """``struct virtio_iommu_probe_resv_mem``: ``start..end`` cannot be mapped."""

    subtype: ReservedKind
    start: int
    end: int
    reserved: bytes = ZEROES


class Fault(Struct, frozen=True):
    """``struct virtio_iommu_fault``, of the event queue."""

    reason: FaultReason
    flags: FaultFlags
    endpoint: int
    address: int
    reserved: bytes = ZEROES
    reserved2: bytes = bytes(4)


def _check_reserved(value: ResvMem) -> None:
    extents.ends(RESV_MEM.name, "end", value.start, value.end)


TAIL: Final = Layout(Tail, "virtio_iommu_req_tail", u8("status", Status), raw("reserved", 3), order=LITTLE)
RESV_MEM: Final = Layout(
    ResvMem,
    "virtio_iommu_probe_resv_mem",
    fixed("type", "H", PROBE_RESV_MEM),
    fixed("length", "H", 20),  # of what follows
    u8("subtype", ReservedKind),
    raw("reserved", 3),
    u64("start"),
    u64("end"),
    order=LITTLE,
    check=_check_reserved,
)
FAULT: Final = Layout(
    Fault,
    "virtio_iommu_fault",
    u8("reason", FaultReason),
    raw("reserved", 3),
    u32("flags", FaultFlags),
    u32("endpoint"),
    raw("reserved2", 4),
    u64("address"),
    order=LITTLE,
)
