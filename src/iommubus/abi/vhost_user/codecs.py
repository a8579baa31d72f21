"""How the bodies of vhost-user messages are read and written.

Ranges of memory are checked when they are read: none is empty, and none of
their three addresses wraps.  Whether they overlap each other, or a ring exists,
is known to who keeps the table.

Source: QEMU ``docs/interop/vhost-user.rst``, "Payload".
"""

from typing import Final

from msgspec import Struct

from ...errors import BadField, BadLength
from .. import extents, vhost
from ..fields import Bytes, Layout, u32, u64
from ..vhost import IotlbMsg
from .bits import ConfigFlags
from .bodies import (
    CONFIG_LIMIT,
    NO_DESCRIPTOR,
    REGION_LIMIT,
    U64,
    Config,
    Log,
    MemRegion,
    MemTable,
    Region,
    VringArea,
    VringFd,
)

# -- bodies of one length ----------------------------------------------------


def _check_place(region: Region) -> None:
    extents.sized("memory region", "size", region.guest_address, region.size)
    extents.sized("memory region", "size", region.user_address, region.size)


def _check_region(region: Region) -> None:
    _check_place(region)
    extents.sized("memory region", "size", region.mmap_offset, region.size)


def _check_ring(ring: VringFd) -> None:
    if ring.value >= NO_DESCRIPTOR << 1:
        raise BadField("vring", "index", ring.value, f"0x0..{(NO_DESCRIPTOR << 1) - 1:#x}")


_PLACE: Final = (u64("guest_address"), u64("size"), u64("user_address"), u64("mmap_offset"))

U64_BODY: Final = Layout(U64, "u64", u64("value"))
VRING_FD: Final = Layout(VringFd, "vring", u64("value"), check=_check_ring)
VRING_AREA: Final = Layout(VringArea, "vring area", u64("value"), u64("size"), u64("offset"), check=_check_ring)
LOG: Final = Layout(Log, "log", u64("size"), u64("offset"))
REGION: Final = Layout(Region, "memory region", *_PLACE, check=_check_region)
ADDED: Final = Layout(MemRegion, "memory region", u64("padding"), *_PLACE, check=_check_region)
REMOVED: Final = Layout(MemRegion, "memory region", u64("padding"), *_PLACE, check=_check_place)


# -- bodies of several lengths -----------------------------------------------


class _TableHead(Struct, frozen=True, gc=False):
    count: int
    padding: int


class _ConfigHead(Struct, frozen=True, gc=False):
    offset: int
    size: int
    flags: ConfigFlags


_TABLE_HEAD: Final = Layout(_TableHead, "memory table", u32("count"), u32("padding"))
_CONFIG_HEAD: Final = Layout(_ConfigHead, "config", u32("offset"), u32("size"), u32("flags", ConfigFlags))


class TableCodec:
    """Reads and writes a `MemTable`: a count, and as many regions."""

    kind = MemTable
    least = _TABLE_HEAD.size
    most = _TABLE_HEAD.size + REGION_LIMIT * REGION.size

    def decode(self, data: Bytes, /) -> MemTable:
        """Read the table.

        Raises:
            BadField: More than `REGION_LIMIT` regions, or one that is empty or wraps.
            BadLength: Not as many regions as the count says.
        """
        head = _TABLE_HEAD.decode(data[: _TABLE_HEAD.size])
        _check_count(head.count)
        expected = _TABLE_HEAD.size + head.count * REGION.size
        if len(data) != expected:
            raise BadLength(_TABLE_HEAD.name, len(data), expected, expected)
        places = range(_TABLE_HEAD.size, expected, REGION.size)
        return MemTable(tuple(REGION.decode(data[at : at + REGION.size]) for at in places), head.padding)

    def encode(self, value: MemTable, /) -> bytes:
        """Write the table."""
        _check_count(len(value.regions))
        head = _TABLE_HEAD.encode(_TableHead(len(value.regions), value.padding))
        return head + b"".join(map(REGION.encode, value.regions))


class ConfigCodec:
    """Reads and writes a `Config`: where, how much, and as many bytes."""

    kind = Config
    least = _CONFIG_HEAD.size
    most = _CONFIG_HEAD.size + CONFIG_LIMIT

    def decode(self, data: Bytes, /) -> Config:
        """Read the piece.

        Raises:
            BadField: Unknown flags, or more than `CONFIG_LIMIT` bytes.
            BadLength: Not as many bytes as the size says.
        """
        head = _CONFIG_HEAD.decode(data[: _CONFIG_HEAD.size])
        _check_size(head.size)
        expected = _CONFIG_HEAD.size + head.size
        if len(data) != expected:
            raise BadLength(_CONFIG_HEAD.name, len(data), expected, expected)
        return Config(head.offset, head.flags, bytes(data[_CONFIG_HEAD.size :]))

    def encode(self, value: Config, /) -> bytes:
        """Write the piece."""
        _check_size(len(value.data))
        return _CONFIG_HEAD.encode(_ConfigHead(value.offset, len(value.data), value.flags)) + value.data


class IotlbCodec:
    """Reads an `IotlbMsg` with or without its padding, and writes it with all of it."""

    kind = IotlbMsg
    least = vhost.IOTLB_LEAST
    most = vhost.IOTLB_MSG.size

    def decode(self, data: Bytes, /) -> IotlbMsg:
        """Read the message; see `iommubus.abi.vhost.decode_iotlb`."""
        return vhost.decode_iotlb(data)

    def encode(self, value: IotlbMsg, /) -> bytes:
        """Write the message."""
        return vhost.IOTLB_MSG.encode(value)


def _check_count(count: int) -> None:
    if count > REGION_LIMIT:
        raise BadField(_TABLE_HEAD.name, "num regions", count, f"0x0..{REGION_LIMIT:#x}")


def _check_size(size: int) -> None:
    if size > CONFIG_LIMIT:
        raise BadField(_CONFIG_HEAD.name, "size", size, f"0x0..{CONFIG_LIMIT:#x}")
