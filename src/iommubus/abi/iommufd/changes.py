"""MAPs and UNMAPs of an IOAS, and arrays of ranges, to and from the words of the bus.

An UNMAP of length 2^64-1 from 0 is the whole space, so the one range that
really has this length, everything but the last byte, has to be cut.
"""

from typing import Final

from msgspec import Struct

from ...caps import Perm
from ...errors import BadLength
from ...ranges import LAST, IovaRange
from .. import extents
from ..fields import Bytes, Layout, u64
from .structures import BY_KIND, IoasCopy, IoasMap, IoasMapFile, IoasUnmap, MapFlags

BITS: Final = {Perm.R: MapFlags.READABLE, Perm.W: MapFlags.WRITEABLE}
"""What each permission is here."""


class _Ends(Struct, frozen=True, gc=False):
    start: int
    last: int


IOVA_RANGE: Final = Layout(_Ends, "iommu_iova_range", u64("start"), u64("last"))


def maps(ioas_id: int, where: IovaRange, user_va: int, perm: Perm) -> tuple[IoasMap, ...]:
    """Return the MAPs that let a device reach ``user_va`` at ``where``: one, or two for the whole space."""
    flags = MapFlags.FIXED_IOVA
    for bit in perm:
        flags |= BITS[bit]
    return tuple(
        IoasMap(flags, ioas_id, user_va + piece.first - where.first, piece.size, piece.first)
        for piece in extents.sayable(where)
    )


def unmaps(ioas_id: int, where: IovaRange) -> tuple[IoasUnmap, ...]:
    """Return the UNMAPs that take ``where`` away: one, or two for everything but the last byte."""
    if where.size > LAST:
        return (IoasUnmap(ioas_id, 0, LAST),)
    pieces = extents.halves(where) if where.size == LAST and not where.first else (where,)
    return tuple(IoasUnmap(ioas_id, piece.first, piece.size) for piece in pieces)


def range_of(value: IoasMap | IoasMapFile | IoasUnmap) -> IovaRange:
    """Return what a MAP or an UNMAP asks for.

    Raises:
        BadField: No bytes, or a range that wraps.
    """
    if isinstance(value, IoasUnmap) and not value.iova and value.length == LAST:
        return IovaRange(0, LAST)
    return extents.sized(BY_KIND[type(value)].name, "length", value.iova, value.length)


def perm_of(value: IoasMap | IoasMapFile | IoasCopy) -> Perm:
    """Return what a device may do by a MAP; it may be nothing."""
    perm = Perm(0)
    for bit, flag in BITS.items():
        if value.flags & flag:
            perm |= bit
    return perm


def decode_ranges(data: Bytes) -> tuple[IovaRange, ...]:
    """Read the array that IOAS_IOVA_RANGES filled.

    Raises:
        BadLength: A range is cut off.
        BadField: A range is inverted.
    """
    cut = len(data) % IOVA_RANGE.size
    if cut:
        raise BadLength(IOVA_RANGE.name, cut, IOVA_RANGE.size, IOVA_RANGE.size)
    found = [IOVA_RANGE.decode(data[at : at + IOVA_RANGE.size]) for at in range(0, len(data), IOVA_RANGE.size)]
    return tuple(extents.ends(IOVA_RANGE.name, "last", edges.start, edges.last) for edges in found)


def encode_ranges(ranges: tuple[IovaRange, ...]) -> bytes:
    """Write the array that IOAS_ALLOW_IOVAS reads."""
    return b"".join(IOVA_RANGE.encode(_Ends(where.first, where.last)) for where in ranges)
