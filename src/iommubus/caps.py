"""What a subscriber asks for (`Cap`) and what a mapping allows (`Perm`).

Values are QEMU's, so that masks can be compared with a trace or a debugger.
Source: QEMU ``include/system/memory.h``, ``IOMMUNotifierFlag`` and
``IOMMUAccessFlags``.
"""

from enum import IntFlag

from .errors import EmptyMask, MapAlone, UnknownCapability


class Cap(IntFlag):
    """A set of event kinds; a subscriber's mask, or what a space offers."""

    UNMAP = 1
    """Translations that go away."""

    MAP = 2
    """Translations that come.  Never alone: a holder must be told to let go."""

    DEVIOTLB_UNMAP = 4
    """Invalidations of a device's own TLB (ATS)."""

    IOTLB = 3
    """UNMAP and MAP: what a shadower asks for."""

    ALL = 7
    """Every kind there is."""


class Perm(IntFlag):
    """What a mapping allows a device to do."""

    R = 1
    W = 2
    RW = 3


def check_mask(caps: int) -> Cap:
    """Return ``caps`` as a `Cap`, if a subscriber may ask for it.

    Raises:
        EmptyMask: It asks for nothing.
        UnknownCapability: It has bits that mean nothing.
        MapAlone: It asks for MAP without UNMAP.
    """
    if caps == 0:
        raise EmptyMask(caps)
    known = int(Cap.ALL)  # `~Cap.ALL` has no unknown bits on some Pythons, ~7 has them all
    if caps & ~known:
        raise UnknownCapability(caps, known)
    if caps & Cap.MAP and not caps & Cap.UNMAP:
        raise MapAlone(int(caps))
    return Cap(caps)
