"""The counters of a front-end bridge."""

from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import astuple


class FrontendStatistics(NamedTuple):
    """Counters of one bridge, over all its connections."""

    #: connections that were agreed upon
    connections: int
    #: MISSes that came, but for those that repeat one that waits
    misses: int
    #: MISSes that repeat one that waits
    repeated: int
    #: UPDATEs that the back end took
    updates: int
    #: MISSes, and repeated attempts at one, for which there was nothing to say
    negative: int
    #: answers that an UNMAP overtook, and that were asked for again
    stale: int
    #: accesses that the back end reported as not allowed
    access_failures: int
    #: INVALIDATEs sent
    invalidations: int
    #: INVALIDATEs acknowledged
    acknowledged: int
    #: UPDATEs, INVALIDATEs and memories that the back end refused
    refused: int
    #: memories given to the back end
    memories: int
    #: memories taken from it, because there was no room or they are no more
    withdrawn: int


class Counts(Struct):
    """The same, while they grow."""

    connections: int = 0
    misses: int = 0
    repeated: int = 0
    updates: int = 0
    negative: int = 0
    stale: int = 0
    access_failures: int = 0
    invalidations: int = 0
    acknowledged: int = 0
    refused: int = 0
    memories: int = 0
    withdrawn: int = 0

    def statistics(self) -> FrontendStatistics:
        """Return them as they are now."""
        return FrontendStatistics(*astuple(self))
