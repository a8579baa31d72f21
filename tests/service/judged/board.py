"""A board: what one consumer holds, in memory that others can read at any moment, whatever becomes of its process.

There is one place for each page, and what stands in it is its target, or 0.  What is
written is eight bytes at a time, so that whoever reads sees the one before or the
one after, even if the writer was killed in between.

The lease of what stands there ends at a time by `boot_clock`; with hardware it ends
with the process alone.
"""

import mmap
import struct
from pathlib import Path
from typing import Final, Self

from iommubus.transport.credentials import start_of

PAGES: Final = 64
"""Places."""

HEADER: Final = struct.Struct("<qqd")
"""Process, when it started, and when its lease ends."""

PLACE: Final = struct.Struct("<Q")

SIZE: Final = HEADER.size + PAGES * PLACE.size


class Board:
    """One board; whoever has the path has the same one.

    Args:
        path: A file, which is made if it is not there.
    """

    def __init__(self, path: str) -> None:
        with Path(path).open("a+b") as file:
            file.truncate(SIZE)
            self._bytes = mmap.mmap(file.fileno(), SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()

    # -- whose it is -----------------------------------------------------------------

    def begin(self, pid: int) -> None:
        """Clear it, for a process that begins."""
        for page in range(PAGES):
            self.put(page, 0)
        HEADER.pack_into(self._bytes, 0, pid, start_of(pid) or 0, 0.0)

    @property
    def until(self) -> float:
        """When the lease of what stands there ends."""
        end: float = struct.unpack_from("<d", self._bytes, 16)[0]
        return end

    @until.setter
    def until(self, end: float) -> None:
        struct.pack_into("<d", self._bytes, 16, end)

    def put(self, page: int, target: int) -> None:
        """Write where a page leads; 0 for nowhere."""
        PLACE.pack_into(self._bytes, HEADER.size + page * PLACE.size, target)

    # -- what others see -------------------------------------------------------------

    def usable(self, now: float) -> dict[int, int]:
        """Return what may be in use at a moment: pages, and where they lead."""
        pid, start, end = HEADER.unpack_from(self._bytes)
        if now >= end or not is_alive(pid, start):
            return {}
        return self.standing

    @property
    def standing(self) -> dict[int, int]:
        """What stands there, whoever's it is."""
        places = struct.unpack_from(f"<{PAGES}Q", self._bytes, HEADER.size)
        return {page: target for page, target in enumerate(places) if target}


def is_alive(pid: int, start: int) -> bool:
    """Say whether a process has not ended; one that nobody has waited for yet has."""
    if not pid or start_of(pid) != start:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
