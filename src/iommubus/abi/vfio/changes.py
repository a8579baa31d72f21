"""MAPs and UNMAPs of a VFIO container, to and from the words of the bus.

The kernel refuses an UNMAP that cuts a mapping, so nothing is split here but
the whole space, whose size no 64 bits hold.
"""

from ...caps import Perm
from ...errors import BadField
from ...ranges import LAST, IovaRange
from .. import extents
from .structures import BY_KIND, MAP_DMA, UNMAP_DMA, MapDma, MapFlags, UnmapDma, UnmapFlags


def maps(where: IovaRange, vaddr: int, perm: Perm) -> tuple[MapDma, ...]:
    """Return the MAPs that let a device reach ``vaddr`` at ``where``: one, or two for the whole space."""
    flags = MapFlags(int(perm))  # the same bits
    return tuple(
        MapDma(MAP_DMA.size, flags, vaddr + piece.first - where.first, piece.first, piece.size)
        for piece in extents.sayable(where)
    )


def unmaps(where: IovaRange, *, unmap_all: bool) -> tuple[UnmapDma, ...]:
    """Return the UNMAPs that take ``where`` away: one, or two halves of the whole space.

    Args:
        unmap_all: The kernel has `Extension.UNMAP_ALL`, which says the whole space in one.
    """
    if unmap_all and where.size > LAST:
        return (UnmapDma(UNMAP_DMA.size, UnmapFlags.ALL, 0, 0),)
    return tuple(UnmapDma(UNMAP_DMA.size, UnmapFlags(0), piece.first, piece.size) for piece in extents.sayable(where))


def range_of(value: MapDma | UnmapDma) -> IovaRange:
    """Return what a MAP or an UNMAP asks for.

    Raises:
        BadField: No bytes, a range that wraps, or ALL together with a range.
    """
    name = BY_KIND[type(value)].name
    if isinstance(value, UnmapDma) and value.flags & UnmapFlags.ALL:
        if value.iova or value.size:
            raise BadField(name, "size", value.size, "0x0 at 0x0 together with ALL")
        return IovaRange(0, LAST)
    return extents.sized(name, "size", value.iova, value.size)


def perm_of(value: MapDma) -> Perm:
    """Return what a device may do by a MAP; nothing, if it only gives a new address."""
    return Perm(int(value.flags) & Perm.RW)
