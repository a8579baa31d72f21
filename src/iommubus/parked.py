"""Removals that a subscriber could not apply, set aside until somebody asks again.

Ranges in which an UNMAP failed, and beside them device invalidations that failed
or wait for such an UNMAP.
"""

from .rangeset import RangeSet


class Parked:
    """What one subscriber could not remove.

    Attributes:
        ranges: Where an UNMAP failed.
        devices: Device invalidations that failed, or wait for such an UNMAP.
    """

    __slots__ = ("devices", "ranges")

    def __init__(self) -> None:
        self.ranges = RangeSet()
        self.devices = RangeSet()

    def __bool__(self) -> bool:
        return bool(self.ranges or self.devices)

    def __len__(self) -> int:
        return len(self.ranges) + len(self.devices)

    def overlaps(self, first: int, last: int) -> bool:
        """Say whether something failed there."""
        return self.ranges.overlaps(first, last) or self.devices.overlaps(first, last)

    def spill(self, dirty: RangeSet, devices: RangeSet) -> None:
        """Move everything to where it is handed over; all of it, so that the order among it stays."""
        for parked, ranges in (self.ranges, dirty), (self.devices, devices):
            for first, last in parked.take_marked():
                ranges.add(first, last, mark=True)
            parked.clear()

    def all(self) -> list[tuple[int, int]]:
        """Return where something failed, of whatever kind."""
        ranges = RangeSet()
        for first, last, _ in (*self.ranges, *self.devices):
            ranges.add(first, last, mark=True)
        return ranges.take_marked()
