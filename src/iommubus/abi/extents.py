"""Ranges as other people say them: an address and a 64-bit length, or two inclusive ends.

A length of 64 bits cannot say 2^64, and a sum of the two can wrap.  Here both
are checked once, and leave as an `IovaRange`; and ranges that a message cannot
say are cut into two that it can.
"""

from typing import Final

from ..errors import BadField
from ..ranges import LAST, IovaRange

MIDDLE: Final = 2**63
"""Where ranges are cut that one length cannot say, as QEMU does it for VFIO."""


def sized(message: str, field: str, first: int, size: int) -> IovaRange:
    """Return the ``size`` bytes from ``first``.

    Args:
        message: Name of the message, for the error.
        field: Name of the field that holds ``size``.

    Raises:
        BadField: No bytes at all, or more than there are up to 2^64-1.
    """
    if not 1 <= size <= LAST + 1 - first:
        raise BadField(message, field, size, f"0x1..{LAST + 1 - first:#x} from {first:#x}")
    return IovaRange(first, first + size - 1)


def ends(message: str, field: str, first: int, last: int) -> IovaRange:
    """Return ``first..last``, both inclusive.

    Raises:
        BadField: ``last`` lies before ``first``.
    """
    if last < first:
        raise BadField(message, field, last, f"{first:#x}..{LAST:#x}")
    return IovaRange(first, last)


def halves(where: IovaRange) -> tuple[IovaRange, ...]:
    """Return the range in two if it crosses the middle of the space, else in one."""
    if where.first < MIDDLE <= where.last:
        return IovaRange(where.first, MIDDLE - 1), IovaRange(MIDDLE, where.last)
    return (where,)


def sayable(where: IovaRange) -> tuple[IovaRange, ...]:
    """Return the range in pieces whose size fits 64 bits: only the whole space has two."""
    return halves(where) if where.size > LAST else (where,)
