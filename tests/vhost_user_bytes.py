"""An independent reading of what a front end says: which events a tap has to publish, from the bytes alone.

Nothing of the package is used here, and nothing is quick: entries are a list.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("=III")
IOTLB: Final = struct.Struct("=QQQBB")
REGION: Final = struct.Struct("=QQQQ")

TOP: Final = 2**64 - 1

RESET_OWNER, SET_MEM_TABLE, GET_VRING_BASE, SET_VRING_KICK, IOTLB_MSG, RESET_DEVICE = 4, 5, 11, 12, 22, 34
ADD_MEM_REG, REM_MEM_REG = 37, 38
UPDATE, INVALIDATE = 2, 3


class Event(NamedTuple):
    """What is published.

    Attributes:
        kind: "map", "unmap" or "device".
        first: First address.
        last: Last address.
        target: Where a MAP leads; an offset in a memory or an address.
        perm: What it allows.
        memory: Whether it leads into a memory.
    """

    kind: str
    first: int
    last: int
    target: int = 0
    perm: int = 0
    memory: bool = False


class Reading:
    """Reads the requests of a front end, one after another.

    Attributes:
        events: What is to be published.
        updates: UPDATEs so far.
        invalidates: INVALIDATEs so far.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.updates = 0
        self.invalidates = 0
        self._entries: list[Event] = []
        self._regions: list[tuple[int, ...]] = []
        self._rings: set[int] = set()

    def read(self, message: bytes) -> None:
        """Read one message, whole."""
        request, flags, size = HEADER.unpack_from(message)
        body = message[HEADER.size :]
        assert len(body) == size
        if flags & 4:
            return
        if request == IOTLB_MSG:
            self._iotlb(*IOTLB.unpack_from(body))
        self._read_memory(request, body)
        self._read_ring(request, body)

    def end(self) -> None:
        """Read that the connection has ended."""
        if self._entries:
            self.events.append(Event("unmap", 0, TOP))
        self._entries = []

    def _read_memory(self, request: int, body: bytes) -> None:
        if request == SET_MEM_TABLE:
            (count,) = struct.unpack_from("=I", body)
            self._table([REGION.unpack_from(body, 8 + REGION.size * at) for at in range(count)])
        elif request == ADD_MEM_REG:
            self._regions.append(REGION.unpack_from(body, 8))
        elif request == REM_MEM_REG:
            gone = REGION.unpack_from(body, 8)[:3]
            self._table([region for region in self._regions if region[:3] != gone])

    def _read_ring(self, request: int, body: bytes) -> None:
        served = bool(self._rings)
        if request == SET_VRING_KICK:
            self._rings.add(body[0])
        elif request == GET_VRING_BASE:
            self._rings.discard(struct.unpack_from("=I", body)[0])
        elif request in {RESET_OWNER, RESET_DEVICE}:
            self._rings.clear()
        if served and not self._rings:
            self.end()

    def _table(self, regions: list[tuple[int, ...]]) -> None:
        if regions != self._regions:
            self.end()
        self._regions = regions

    def _iotlb(self, iova: int, size: int, uaddr: int, perm: int, kind: int) -> None:
        last = iova + size - 1
        if kind == UPDATE:
            self.updates += 1
            self._update(iova, last, uaddr, perm)
        elif kind == INVALIDATE:
            self.invalidates += 1
            if size == 0:
                iova, last = 0, TOP
            self._drop(iova, last)

    def _update(self, first: int, last: int, uaddr: int, perm: int) -> None:
        if perm == 0:
            self._drop(first, last)
            return
        new = Event("map", first, last, *self._place(uaddr, last - first + 1, perm))
        if new in self._entries:
            return
        if self._touched(first, last):
            self._drop(first, last)
        self._entries.append(new)
        self.events.append(new)

    def _drop(self, first: int, last: int) -> None:
        touched = self._touched(first, last)
        if not touched:
            self.events.append(Event("device", first, last))
            return
        self._entries = [entry for entry in self._entries if entry not in touched]
        first = min(first, *(entry.first for entry in touched))
        last = max(last, *(entry.last for entry in touched))
        self.events.append(Event("unmap", first, last))

    def _touched(self, first: int, last: int) -> list[Event]:
        return [entry for entry in self._entries if entry.first <= last and first <= entry.last]

    def _place(self, uaddr: int, size: int, perm: int) -> tuple[int, int, bool]:
        for _, length, user_address, offset in self._regions:
            if user_address <= uaddr and uaddr + size <= user_address + length:
                return offset + uaddr - user_address, perm, True
        return uaddr, perm, False


def events_of(messages: Iterable[bytes]) -> list[Event]:
    """Return what is to be published of a connection that has ended."""
    reading = Reading()
    for message in messages:
        reading.read(message)
    reading.end()
    return reading.events
