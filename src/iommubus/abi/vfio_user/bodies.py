"""What VERSION, DMA_MAP and DMA_UNMAP carry, and how it becomes the words of the bus.

Ranges are checked when they are read: none is empty, and neither the addresses
nor the offsets wrap.

Source: QEMU ``docs/interop/vfio-user.rst``.
"""

from typing import Final

import msgspec
from msgspec import Struct

from ...caps import Perm
from ...errors import BadField, BadLength
from ...ranges import LAST, IovaRange
from .. import extents
from ..fields import Bytes, Layout, u16, u32, u64
from .bits import MapFlags, UnmapFlags

MAJOR: Final = 0
MINOR: Final = 0
"""The version of the specification; who speaks it understands every lower minor."""

DATA_LIMIT: Final = 1 << 20
"""Bytes of data in one message, ``max_data_xfer_size`` where nothing else is said."""

VERSION_LIMIT: Final = 4096
"""Bytes of what VERSION says in JSON.  The known capabilities take 200; it is read before anybody was trusted."""


class Version(Struct, frozen=True, gc=False):
    """What the sender speaks.

    Attributes:
        data: JSON and a NUL, as it came, or nothing; `capabilities_of` reads it.
    """

    major: int
    minor: int
    data: bytes = b""


class TwinSocket(Struct, frozen=True):
    """Whether the server's own commands travel on a socket of their own.

    Attributes:
        fd_index: Which of the reply's descriptors it is.
    """

    supported: bool = False
    fd_index: int | None = None


class Capabilities(Struct, frozen=True, omit_defaults=True):
    """What the sender can do; what is not said has the default of the specification.

    Attributes:
        max_msg_fds: Descriptors that it takes in one message.
        max_data_xfer_size: Bytes of data that it takes in one message.
        max_dma_maps: Mappings that it holds.
        pgsizes: Page sizes of mappings, as a bitmap.
        write_multiple: It knows REGION_WRITE_MULTI.
    """

    max_msg_fds: int = 1
    max_data_xfer_size: int = DATA_LIMIT
    max_dma_maps: int = 65535
    pgsizes: int = 4096
    twin_socket: TwinSocket = TwinSocket()
    write_multiple: bool = False


class DmaMap(Struct, frozen=True, gc=False):
    """``size`` bytes at ``address`` are those from ``offset`` of the descriptor, if one came along."""

    argsz: int
    flags: MapFlags
    offset: int
    address: int
    size: int


class DmaUnmap(Struct, frozen=True, gc=False):
    """A mapping that goes; the answer repeats it, once nothing of it is in use any more."""

    argsz: int
    flags: UnmapFlags
    address: int
    size: int


class DmaAccess(Struct, frozen=True, gc=False):
    """The bytes of the client's memory that a server reads or writes by a message; what is written follows it."""

    address: int
    count: int


class _VersionData(Struct, frozen=True):
    capabilities: Capabilities = Capabilities()


class _VersionHead(Struct, frozen=True, gc=False):
    major: int
    minor: int


# -- how they are read -------------------------------------------------------


def _check_argsz(name: str, argsz: int, size: int) -> None:
    if argsz < size:
        raise BadField(name, "argsz", argsz, f"{size:#x} or more")


def _check_map(value: DmaMap) -> None:
    _check_argsz(DMA_MAP.name, value.argsz, DMA_MAP.size)
    extents.sized(DMA_MAP.name, "size", value.offset, value.size)
    range_of(value)


def _check_unmap(value: DmaUnmap) -> None:
    _check_argsz(DMA_UNMAP.name, value.argsz, DMA_UNMAP.size)
    range_of(value)


DMA_MAP: Final = Layout(
    DmaMap,
    "VFIO_USER_DMA_MAP",
    u32("argsz"),
    u32("flags", MapFlags),
    u64("offset"),
    u64("address"),
    u64("size"),
    check=_check_map,
)

DMA_UNMAP: Final = Layout(
    DmaUnmap,
    "VFIO_USER_DMA_UNMAP",
    u32("argsz"),
    u32("flags", UnmapFlags),
    u64("address"),
    u64("size"),
    check=_check_unmap,
)


def _check_access(value: DmaAccess) -> None:
    extents.sized(DMA_ACCESS.name, "count", value.address, value.count)


DMA_ACCESS: Final = Layout(
    DmaAccess, "VFIO_USER_DMA_READ or DMA_WRITE", u64("address"), u64("count"), check=_check_access
)
"""What DMA_READ and DMA_WRITE begin with, and their answers; data follow where there are any."""

_VERSION_HEAD: Final = Layout(_VersionHead, "VFIO_USER_VERSION", u16("major"), u16("minor"))


class VersionCodec:
    """Reads and writes a `Version`: two numbers, and JSON that ends with a NUL."""

    kind = Version
    least = _VERSION_HEAD.size
    most = _VERSION_HEAD.size + VERSION_LIMIT

    def decode(self, data: Bytes, /) -> Version:
        """Read the numbers, and see that the capabilities can be read.

        Raises:
            BadField: The data are no JSON, or no capabilities.
        """
        head = _VERSION_HEAD.decode(data[: _VERSION_HEAD.size])
        return self._checked(Version(head.major, head.minor, bytes(data[_VERSION_HEAD.size :])))

    def encode(self, value: Version, /) -> bytes:
        """Write the numbers and the data as they are."""
        self._checked(value)
        return _VERSION_HEAD.encode(_VersionHead(value.major, value.minor)) + value.data

    def _checked(self, value: Version) -> Version:
        if len(value.data) > VERSION_LIMIT:
            raise BadLength("version data", len(value.data), 0, VERSION_LIMIT)
        capabilities_of(value)
        return value


VERSION: Final = VersionCodec()


# -- to and from the words of the bus ----------------------------------------


def version(major: int, minor: int, capabilities: Capabilities) -> Version:
    """Return what says that the sender speaks ``major.minor`` and has ``capabilities``."""
    return Version(major, minor, msgspec.json.encode(_VersionData(capabilities)) + b"\0")


def capabilities_of(value: Version) -> Capabilities:
    """Return what the sender can do.  What it says beyond that is passed over.

    Raises:
        BadField: The data are no JSON, do not end with a NUL, or a capability is of the wrong type.
    """
    if not value.data:
        return Capabilities()
    if value.data[-1:] != b"\0":
        raise BadField(_VERSION_HEAD.name, "version data", value.data, "JSON and a NUL")
    try:
        return msgspec.json.decode(value.data[:-1], type=_VersionData).capabilities
    except (msgspec.DecodeError, RecursionError) as error:  # the latter: brackets in brackets
        raise BadField(_VERSION_HEAD.name, "version data", value.data, f"capabilities in JSON ({error})") from None


def maps(where: IovaRange, offset: int, perm: Perm) -> tuple[DmaMap, ...]:
    """Return the MAPs that let a server reach ``where``, which begins at ``offset`` of the descriptor.

    One, or two for the whole space; each comes with the descriptor.
    """
    flags = MapFlags(int(perm))  # the same bits
    return tuple(
        DmaMap(DMA_MAP.size, flags, offset + piece.first - where.first, piece.first, piece.size)
        for piece in extents.sayable(where)
    )


def unmaps(where: IovaRange) -> tuple[DmaUnmap, ...]:
    """Return the UNMAPs that take back what `maps` gave; servers refuse any other range."""
    return tuple(DmaUnmap(DMA_UNMAP.size, UnmapFlags(0), piece.first, piece.size) for piece in extents.sayable(where))


def range_of(value: DmaMap | DmaUnmap) -> IovaRange:
    """Return what a MAP gives or an UNMAP takes.

    Raises:
        BadField: No bytes, a range that wraps, or ALL together with a range.
    """
    if isinstance(value, DmaMap):
        return extents.sized(DMA_MAP.name, "size", value.address, value.size)
    if not value.flags & UnmapFlags.ALL:
        return extents.sized(DMA_UNMAP.name, "size", value.address, value.size)
    if value.address or value.size:
        raise BadField(DMA_UNMAP.name, "size", value.size, "0x0 at 0x0 together with ALL")
    return IovaRange(0, LAST)


def perm_of(value: DmaMap) -> Perm:
    """Return what a server may do by a MAP; it may be nothing."""
    return Perm(int(value.flags) & Perm.RW)
