"""Ranges of I/O virtual addresses: both ends inclusive, in bytes.

With inclusive ends the last byte of the space has a name and no sum can wrap:
everything lies in 0..2^64-1, and a range of no bytes cannot be written down.
"""

from collections.abc import Iterator
from typing import Final, Self

from msgspec import Struct

from .errors import EmptyRange, InvertedRange, RangeWraps, span

LAST: Final = 2**64 - 1
"""The highest address there is."""


class IovaRange(Struct, frozen=True, order=True, gc=False):
    """A non-empty run of I/O virtual addresses, ``first..last``.

    Attributes:
        first: First address, in bytes.
        last: Last address, in bytes; the range contains it.

    Raises:
        InvertedRange: ``first`` is greater than ``last``.
        RangeWraps: An end is outside 0..2^64-1.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if 0 <= self.first <= self.last <= LAST:  # in one look: ranges are made all the time
            return
        if self.first > self.last:
            raise InvertedRange(self.first, self.last)
        raise RangeWraps(self.first, self.last - self.first + 1)

    @classmethod
    def sized(cls, iova: int, size: int) -> Self:
        """Return the range of ``size`` bytes that starts at ``iova``.

        Raises:
            EmptyRange: ``size`` is less than 1.
            RangeWraps: The range leaves 0..2^64-1.
        """
        if size < 1:
            raise EmptyRange(iova, size)
        return cls(iova, iova + size - 1)

    @property
    def size(self) -> int:
        """Length in bytes, 1 to 2^64."""
        return self.last - self.first + 1

    def overlaps(self, other: "IovaRange") -> bool:
        """Say whether the two ranges share an address."""
        return self.first <= other.last and other.first <= self.last

    def clip(self, other: "IovaRange") -> "IovaRange | None":
        """Return what the two ranges share, or `None`."""
        first, last = max(self.first, other.first), min(self.last, other.last)
        return IovaRange(first, last) if first <= last else None

    def split_pow2(self, max_bits: int = 64) -> "Iterator[IovaRange]":
        """Yield the largest naturally aligned power-of-two blocks, in order.

        They are disjoint and add up to this range: what consumers need whose
        messages carry a mask instead of a length.  At most 2 * 64 blocks.

        Args:
            max_bits: No block is larger than ``2**max_bits`` bytes.

        Source:
            QEMU ``dma_aligned_pow2_mask``.
        """
        first = self.first
        while first <= self.last:
            bits = (self.last - first + 1).bit_length() - 1
            if first:
                bits = min(bits, (first & -first).bit_length() - 1)
            block = 1 << min(bits, max_bits)
            yield IovaRange(first, first + block - 1)
            first += block

    def __str__(self) -> str:
        return span(self.first, self.last)
