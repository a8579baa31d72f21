"""For tests of what you build on iommubus, and of what you build it with."""

from .oracle import PageArray, joined
from .streams import Plan, PlannedStream, stream_pair

__all__ = ["PageArray", "Plan", "PlannedStream", "joined", "stream_pair"]
