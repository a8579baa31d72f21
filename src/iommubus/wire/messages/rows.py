"""Events as they travel: rows of numbers, in runs of one space.

The name of the space stands once in a run, and so does each memory that it leads
into; a row names it by its place in that list, from 1.

Messages hold their rows packed: events are made of the bytes of rows, and those of
events, in one go (`runs`).
"""

from typing import Annotated, Final

from msgspec import Meta, Raw, Struct

from .values import U64, MemoryName, Name, Rights

EVENT_LIMIT: Final = 4096
"""Most events in one message: as many as a mailbox keeps one by one (`mailbox.CAPACITY`).
Each may be of another space than the one before, or lead into another memory, so it
is also the limit of runs and of memories."""


class UnmapRow(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """An UNMAP: nothing in ``first..last`` is mapped.

    Attributes:
        seq: Number of the event in its space.
        first: First address.
        last: Last address; not less than ``first``.
    """

    seq: U64
    first: U64
    last: U64


class MapRow(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A MAP: ``first..last`` leads to ``target``.

    Attributes:
        seq: Number of the event in its space.
        first: First address.
        last: Last address; not less than ``first``.
        target: Where ``first`` leads to; later addresses follow linearly, up to 2^64-1.
        perm: What a device may do there: R=1, W=2.
        memory: What ``target`` is an offset into: a place in the run's memories, from 1; 0 for a bare address.
    """

    seq: U64
    first: U64
    last: U64
    target: U64
    perm: Rights
    memory: U64 = 0


class DevIotlbUnmapRow(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """A DEVIOTLB_UNMAP: a device's own TLB must forget ``first..last``.

    Attributes:
        seq: Number of the event in its space.
        first: First address.
        last: Last address; not less than ``first``.
    """

    seq: U64
    first: U64
    last: U64


class LostRow(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Events that an observer was too slow for.

    Attributes:
        seq: Number of the last one that is missing.
        count: How many are missing.
    """

    seq: U64
    count: U64


Row = UnmapRow | MapRow | DevIotlbUnmapRow
"""An event; the tags are the capabilities that it needs."""

Rows = Annotated[list[Row], Meta(max_length=EVENT_LIMIT)]
WatchedRows = Annotated[list[Row | LostRow], Meta(max_length=EVENT_LIMIT)]

PACKED: Final = "packed"
"""Where the metadata of a field of bytes says what shape those have."""

PackedRows = Annotated[Raw, Meta(extra={PACKED: Rows})]
PackedWatchedRows = Annotated[Raw, Meta(extra={PACKED: WatchedRows})]

Memories = Annotated[list[MemoryName], Meta(max_length=EVENT_LIMIT)]


class Run(Struct, frozen=True, array_like=True):
    """Events of one space, in order.

    Attributes:
        space: Name of the space.
        rows: The events.
        memories: The memories that they lead into.
    """

    space: Name
    rows: PackedRows
    memories: Memories = []


class WatchedRun(Struct, frozen=True, array_like=True):
    """Events of one space, in order, for an observer.

    Attributes:
        space: Name of the space.
        rows: The events, and how many were lost.
        memories: The memories that they lead into.
    """

    space: Name
    rows: PackedWatchedRows
    memories: Memories = []
