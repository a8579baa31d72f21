"""What a process saw, in memory that others can read at any moment, whatever becomes of the process.

One process writes a log.  Records of several logs are ordered by their times, which
are of one clock for the whole machine (CLOCK_MONOTONIC): what was written before
something else could have been caused by it has an earlier time.
"""

import mmap
import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

COUNT: Final = struct.Struct("<q")
HEADER: Final = 16 * COUNT.size
"""How many records there are, and how many of each kind."""

RECORD: Final = struct.Struct("<qqqqq")
ROOM: Final = 1 << 20
"""Records of one log, 40 MiB, of which the pages that are written exist."""


class Kind(IntEnum):
    """What a record says."""

    READY = 1
    """A process is where it has to be."""

    INVALIDATE = 2
    """A bridge has published what QEMU took away: number of the event, first address, last address."""

    UPDATE = 3
    """A bridge has taken an UPDATE."""

    ACKNOWLEDGED = 4
    """A bridge acknowledges the next of these two to QEMU."""

    LET_GO = 5
    """A cacher uses nothing of what was taken away: number of the last event."""

    UNMAP = 6
    """Somebody was told that something was taken away: number of the event, first address, last address."""

    USE = 7
    """A cacher reads the guest's memory: number at which it was told where, first address."""

    PACKETS = 8
    """Packets that were taken so far, and their bytes."""

    FENCED = 9
    """A cacher has found that it is fenced; or a bridge, that it has fenced one."""

    LOST = 10
    """An observer was told that it missed something."""


KINDS: Final = {int(kind): kind for kind in Kind}


class Record(NamedTuple):
    """One record; times are in nanoseconds."""

    time: int
    kind: Kind
    one: int
    two: int
    three: int


class Log:
    """One log.

    Args:
        path: A file, which is made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(HEADER + ROOM * RECORD.size)
            self._bytes = mmap.mmap(file.fileno(), 0)

    def add(self, kind: Kind, one: int = 0, two: int = 0, three: int = 0) -> None:
        """Write a record; numbers are kept modulo 2^63."""
        total, mask = self.count(), (1 << 63) - 1
        place = HEADER + total * RECORD.size
        RECORD.pack_into(self._bytes, place, time.monotonic_ns(), kind, one & mask, two & mask, three & mask)
        COUNT.pack_into(self._bytes, COUNT.size * kind, self.count(kind) + 1)
        COUNT.pack_into(self._bytes, 0, total + 1)

    def count(self, kind: int = 0) -> int:
        """Return how many records there are of a kind, or of all."""
        found: int = COUNT.unpack_from(self._bytes, COUNT.size * kind)[0]
        return found

    def records(self) -> list[Record]:
        """Return what was written so far, in order."""
        return [self._record(place) for place in range(self.count())]

    def last(self, kind: Kind) -> Record | None:
        """Return the last record of a kind."""
        backwards = (self._record(place) for place in reversed(range(self.count())))
        return next((record for record in backwards if record.kind is kind), None)

    def _record(self, place: int) -> Record:
        moment, kind, *numbers = RECORD.unpack_from(self._bytes, HEADER + place * RECORD.size)
        return Record(moment, KINDS[kind], *numbers)
