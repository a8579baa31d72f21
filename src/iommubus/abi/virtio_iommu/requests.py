"""What a guest's driver asks of a virtio-iommu: the driver's part of each request, without the tail.

Ranges are checked when they are read: ends are inclusive, none is inverted, and
what is mapped does not wrap.

Source: virtio specification, "IOMMU Device", "Device operations".
"""

from typing import Any, Final

from msgspec import Struct

from ...caps import Perm
from ...errors import BadField, BadLength
from ...ranges import LAST, IovaRange
from .. import extents
from ..fields import LITTLE, Bytes, Layout, by_kind, fixed, raw, u32, u64
from .bits import ZEROES, AttachFlags, MapFlags, RequestType


class Attach(Struct, frozen=True):
    """``struct virtio_iommu_req_attach``: an endpoint sees what a domain maps."""

    domain: int
    endpoint: int
    flags: AttachFlags = AttachFlags(0)
    head_reserved: bytes = ZEROES


class Detach(Struct, frozen=True):
    """``struct virtio_iommu_req_detach``: an endpoint sees nothing of a domain any more."""

    domain: int
    endpoint: int
    reserved: bytes = bytes(8)
    head_reserved: bytes = ZEROES


class Map(Struct, frozen=True):
    """``struct virtio_iommu_req_map``: ``virt_start..virt_end`` leads to ``phys_start``."""

    domain: int
    virt_start: int
    virt_end: int
    phys_start: int
    flags: MapFlags
    head_reserved: bytes = ZEROES


class Unmap(Struct, frozen=True):
    """``struct virtio_iommu_req_unmap``: whatever is mapped in ``virt_start..virt_end`` goes."""

    domain: int
    virt_start: int
    virt_end: int
    reserved: bytes = bytes(4)
    head_reserved: bytes = ZEROES


class Probe(Struct, frozen=True):
    """``struct virtio_iommu_req_probe``: what an endpoint cannot do."""

    endpoint: int
    reserved: bytes = bytes(64)
    head_reserved: bytes = ZEROES


Request = Attach | Detach | Map | Unmap | Probe
"""Anything that a driver asks."""


# -- how they are read -------------------------------------------------------


def _check_map(value: Map) -> None:
    where = range_of(value)
    if where.size == 1:  # "strictly greater"
        raise BadField(MAP.name, "virt_end", value.virt_end, f"more than {value.virt_start:#x}")
    most = LAST + 1 - where.size
    if value.phys_start > most:
        raise BadField(MAP.name, "phys_start", value.phys_start, f"0x0..{most:#x}")


def _check_unmap(value: Unmap) -> None:
    range_of(value)


ATTACH: Final = Layout(
    Attach,
    "virtio_iommu_req_attach",
    fixed("type", "B", RequestType.ATTACH),
    raw("head_reserved", 3),
    u32("domain"),
    u32("endpoint"),
    u32("flags", AttachFlags),
    fixed("reserved", "I"),  # has to be refused if it is not zero; elsewhere it has to be ignored
    order=LITTLE,
)
DETACH: Final = Layout(
    Detach,
    "virtio_iommu_req_detach",
    fixed("type", "B", RequestType.DETACH),
    raw("head_reserved", 3),
    u32("domain"),
    u32("endpoint"),
    raw("reserved", 8),
    order=LITTLE,
)
MAP: Final = Layout(
    Map,
    "virtio_iommu_req_map",
    fixed("type", "B", RequestType.MAP),
    raw("head_reserved", 3),
    u32("domain"),
    u64("virt_start"),
    u64("virt_end"),
    u64("phys_start"),
    u32("flags", MapFlags),
    order=LITTLE,
    check=_check_map,
)
UNMAP: Final = Layout(
    Unmap,
    "virtio_iommu_req_unmap",
    fixed("type", "B", RequestType.UNMAP),
    raw("head_reserved", 3),
    u32("domain"),
    u64("virt_start"),
    u64("virt_end"),
    raw("reserved", 4),
    order=LITTLE,
    check=_check_unmap,
)
PROBE: Final = Layout(
    Probe,
    "virtio_iommu_req_probe",
    fixed("type", "B", RequestType.PROBE),
    raw("head_reserved", 3),
    u32("endpoint"),
    raw("reserved", 64),
    order=LITTLE,
)

REQUESTS: Final[dict[int, Layout[Any]]] = {
    RequestType.ATTACH: ATTACH,
    RequestType.DETACH: DETACH,
    RequestType.MAP: MAP,
    RequestType.UNMAP: UNMAP,
    RequestType.PROBE: PROBE,
}
"""How the driver's part of each request is read."""

_BY_KIND: Final = by_kind(REQUESTS.values())


def decode(data: Bytes) -> Request:
    """Read the driver's part of a request, without the tail.

    Raises:
        BadLength: Nothing, or not as long as the type needs.
        BadField: An unknown type (field ``type``), or anything in it that cannot be.
    """
    if not data:
        raise BadLength("virtio_iommu_req_head", 0, 4, PROBE.size)
    layout = REQUESTS.get(data[0])
    if layout is None:
        raise BadField("virtio_iommu_req_head", "type", data[0], "one of 1, 2, 3, 4, 5")
    request: Request = layout.decode(data)
    return request


def encode(request: Request) -> bytes:
    """Write the driver's part of a request, without the tail.

    Raises:
        AbiError: Something in it cannot be.
    """
    return _BY_KIND[type(request)].encode(request)


# -- to and from the words of the bus ----------------------------------------


def range_of(value: Map | Unmap) -> IovaRange:
    """Return what a MAP or an UNMAP names; the ends are inclusive here as there.

    Raises:
        BadField: ``virt_end`` lies before ``virt_start``.
    """
    return extents.ends(_BY_KIND[type(value)].name, "virt_end", value.virt_start, value.virt_end)


def perm_of(value: Map) -> Perm:
    """Return what a MAP allows; it may be nothing, and then nothing is mapped."""
    return Perm(int(value.flags) & Perm.RW)
