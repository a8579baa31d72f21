"""What addresses a space accepts: granule, last address, reserved ranges.

Pure checks, made before anything changes.  Units are bytes.

Source: virtio-iommu ``page_size_mask``, ``input_range`` and
``VIRTIO_IOMMU_RESV_MEM_T_*``; ``struct iommu_ioas_iova_ranges``.
"""

from typing import Final

from msgspec import Struct

from .caps import Perm
from .errors import (
    BadPermission,
    BadShape,
    BadTarget,
    EmptyRange,
    InReserved,
    Misaligned,
    OutsideSpace,
    RangeWraps,
)
from .ranges import LAST, IovaRange

HALF: Final = 2**63
"""A target up to here cannot wrap, if the mapping is no larger than this."""


class Shape(Struct, frozen=True):
    """The addresses of one space.

    Attributes:
        granule: Smallest unit of mapping, a power of two.
        last: Highest address of the space.
        reserved: Ranges that can never be mapped, such as an MSI window.

    Raises:
        BadShape: They contradict each other.
    """

    granule: int
    last: int
    reserved: tuple[IovaRange, ...] = ()

    def __post_init__(self) -> None:
        if self.granule < 1 or self.granule & (self.granule - 1):
            raise BadShape(self.granule, self.last, "the granule is no power of two")
        if not 0 <= self.last <= LAST or (self.last + 1) & (self.granule - 1):
            raise BadShape(self.granule, self.last, "the last address does not end a granule")
        for window in self.reserved:
            if window.last > self.last:
                raise BadShape(self.granule, self.last, f"the reserved range {window} ends behind it")

    @property
    def plain_last(self) -> int:
        """The address up to which no mapping can touch a reserved range, nor targets up to `HALF` wrap."""
        if not self.reserved:
            return min(self.last, HALF - 1)
        return min(self.last, min(window.first for window in self.reserved) - 1, HALF - 1)

    def check_range(self, iova: int, size: int) -> None:
        """Check a range that is to be unmapped or invalidated.

        Raises:
            EmptyRange: ``size`` is less than 1.
            RangeWraps: The range leaves 0..2^64-1.
            OutsideSpace: It ends behind the space.
            Misaligned: An edge is no multiple of the granule.
            TypeError: A value is no `int`: others wrap, or round.
        """
        if type(iova | size) is not int:
            raise TypeError(f"an address and a size are of type int, got {iova!r} and {size!r}")
        if size < 1:
            raise EmptyRange(iova, size)
        if iova < 0 or iova + size - 1 > LAST:
            raise RangeWraps(iova, size)
        if iova + size - 1 > self.last:
            raise OutsideSpace(iova, iova + size - 1, self.last)
        self._check_aligned("iova", iova)
        self._check_aligned("size", size)

    def check_map(self, iova: int, size: int, target: int, perm: int) -> None:
        """Check a mapping, all but its neighbours.

        Raises:
            BadPermission: It allows neither reading nor writing, or has unknown bits.
            BadTarget: The targets leave 0..2^64-1.
            InReserved: It touches a reserved range.
            EmptyRange, RangeWraps, OutsideSpace, Misaligned, TypeError: As for `check_range`.
        """
        self.check_range(iova, size)
        if type(iova | target) is not int:
            raise TypeError(f"a target is of type int, got {target!r}")
        if not Perm.R <= perm <= Perm.RW:
            raise BadPermission(perm)
        if target < 0 or target + size - 1 > LAST:
            raise BadTarget(target, size)
        self._check_aligned("target", target)
        for window in self.reserved:
            if window.first <= iova + size - 1 and window.last >= iova:
                raise InReserved(iova, iova + size - 1, window.first, window.last)

    def _check_aligned(self, what: str, value: int) -> None:
        if value & (self.granule - 1):
            raise Misaligned(what, value, self.granule)
