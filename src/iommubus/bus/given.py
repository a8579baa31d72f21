"""What a subscription was given so far: counters by kind, and whether anything of it was live."""

from operator import countOf

from ..caps import Cap
from ..events import DevIotlbUnmap, Event, Map, Unmap


class Given:
    """Events handed over to one subscription.

    Args:
        caps: The kinds it gets.

    Attributes:
        touched: Whether it was given something live, which it may use.
    """

    __slots__ = ("_counts", "_devices", "_maps", "touched")

    def __init__(self, caps: Cap) -> None:
        self.touched = False
        self._maps = bool(caps & Cap.MAP)
        self._devices = bool(caps & Cap.DEVIOTLB_UNMAP)
        self._counts = {Map: 0, Unmap: 0, DevIotlbUnmap: 0}

    def maps_in(self, events: list[Event]) -> int:
        """Return how many of some events are MAPs."""
        return countOf(map(type, events), Map) if self._maps else 0

    def add(self, events: list[Event], maps: int) -> None:
        """Count a hand-over with so many MAPs in it."""
        devices = countOf(map(type, events), DevIotlbUnmap) if self._devices else 0
        self._counts[Map] += maps
        self._counts[DevIotlbUnmap] += devices
        self._counts[Unmap] += len(events) - maps - devices
        if maps:
            self.touched = True

    def by_kind(self) -> dict[Cap, int]:
        """Return how many of each kind."""
        return {
            Cap.UNMAP: self._counts[Unmap],
            Cap.MAP: self._counts[Map],
            Cap.DEVIOTLB_UNMAP: self._counts[DevIotlbUnmap],
        }
