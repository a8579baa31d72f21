"""The device's side of a split virtqueue.

The driver of a guest writes chains of descriptors and says in the *available* ring
where they begin; the device reads them in that order and gives them back in
the *used* ring.  All of it is the guest's memory, and may hold anything at any
moment: a chain is checked while it is read, and what is returned is a copy.

Nothing here waits.  Where an address is not in the cache `Miss` is raised, and
nothing has changed: translate it and call again.

Source: virtio 1.2, 2.6 "Virtqueues" and 2.7 "Split Virtqueues".
"""

from struct import Struct as Format
from threading import Lock
from typing import Final

from msgspec import Struct

from ..errors import RingBroken
from ..ranges import LAST
from .dma import Reach

DESCRIPTOR: Final = Format("<QIHH")
"""``struct virtq_desc``: address, length, flags, next."""

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4
"""``VIRTQ_DESC_F_*``."""

NO_INTERRUPT: Final = 1
"""``VIRTQ_AVAIL_F_NO_INTERRUPT``."""

INDEX: Final = 2
"""Where the index stands, in the available ring and in the used ring: behind the flags, 2 bytes."""

ENTRIES: Final = 4
"""Where their entries begin."""

NUMBER: Final = Format("<H")
USED: Final = Format("<II")
"""``struct virtq_used_elem``: the chain's first descriptor, and how many bytes were written into it."""

SIZE_LIMIT: Final = 32768
"""Most descriptors of a ring; a power of two, as every size of one."""

WRAP: Final = 1 << 16
"""Indices of the rings count modulo this."""

CHAIN_LIMIT: Final = 1 << 32
"""Bytes of one chain that a driver may not exceed."""

READ_LIMIT: Final = 1 << 20
"""Bytes of one chain that are read by default: a disk's request, or sixteen of the largest packets.
A guest may announce 4 GiB, which nobody wants in this process."""


class Ring(Struct, frozen=True):
    """Where a virtqueue is.

    Attributes:
        index: Which of the device's.
        size: Descriptors it has.
        desc: Address of its descriptors.
        avail: Address of the available ring.
        used: Address of the used ring.
        base: Index of the first available entry that the device has not used yet.
    """

    index: int
    size: int
    desc: int
    avail: int
    used: int
    base: int = 0


class Buffer(Struct, frozen=True):
    """One descriptor's piece of memory."""

    iova: int
    size: int


class Chain(Struct, frozen=True):
    """What the driver made available at once.

    Attributes:
        head: Its first descriptor, by which it is given back.
        readable: What the device reads, in order.
        writable: What it writes, in order.
    """

    head: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]


class Vring:
    """One virtqueue, to its device.

    Args:
        ring: Where it is.
        reach: How its memory is read and written.
    """

    def __init__(self, ring: Ring, reach: Reach) -> None:
        self._ring = ring
        self._reach = reach
        self._next = self._known = self._used = ring.base
        self._fence = Lock()

    @property
    def base(self) -> int:
        """Where a device goes on later: behind what was pushed, if that is all that was popped."""
        return self._used

    def peek(self) -> Chain | None:
        """Return the next chain that is available, and leave it there; `None` if there is none.

        Raises:
            Miss: Some of the ring is not in the cache.
            RingBroken: What stands there cannot be.
        """
        if self._next == self._known:
            self._known = self._available()
            if self._next == self._known:
                return None
        entry = self._ring.avail + ENTRIES + NUMBER.size * (self._next % self._ring.size)
        return self._chain(self._number(entry))

    def pop(self) -> Chain | None:
        """Return the next chain and take it; raises as `peek`."""
        chain = self.peek()
        if chain is not None:
            self.advance()
        return chain

    def advance(self) -> None:
        """Take the chain that `peek` returned."""
        self._next = (self._next + 1) % WRAP

    def read(self, chain: Chain, limit: int = READ_LIMIT) -> bytes:
        """Return what the device is to read, up to a limit in bytes; raises `Miss`, and what the access raises."""
        pieces: list[bytes] = []
        for buffer in chain.readable:
            pieces.append(self._reach.read(buffer.iova, min(buffer.size, limit)))
            limit -= len(pieces[-1])
        return b"".join(pieces)

    def write(self, chain: Chain, data: bytes) -> int:
        """Write data into a chain; raises as `read`.

        Returns:
            How many bytes it had room for.
        """
        written = 0
        for buffer in chain.writable:
            piece = data[written : written + buffer.size]
            if not piece:
                break
            self._reach.write(buffer.iova, piece)
            written += len(piece)
        return written

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back.

        Args:
            chain: What was popped, or peeked at and not taken yet.
            written: How many bytes were written into it.

        Raises:
            Miss: The used ring is not in the cache.
        """
        place = self._ring.used + ENTRIES + USED.size * (self._used % self._ring.size)
        following = (self._used + 1) % WRAP
        self._reach.write(place, USED.pack(chain.head, written))
        self._barrier()
        self._reach.write(self._ring.used + INDEX, NUMBER.pack(following))
        self._used = following

    def must_notify(self) -> bool:
        """Say whether the driver wants to be told of what was pushed; raises `Miss`."""
        self._barrier()
        return not self._number(self._ring.avail) & NO_INTERRUPT

    # -- inside ----------------------------------------------------------------

    def _barrier(self) -> None:
        """Have what was written seen before what follows is written or read.

        A lock is taken by an atomic instruction, which on x86 orders everything around it.
        """
        with self._fence:
            pass

    def _number(self, iova: int) -> int:
        number: int = NUMBER.unpack(self._reach.read(iova, NUMBER.size))[0]
        return number

    def _available(self) -> int:
        index = self._number(self._ring.avail + INDEX)
        ahead = (index - self._next) % WRAP
        if ahead > self._ring.size:
            raise self._broken(f"its available index is {ahead} ahead, and it has {self._ring.size} descriptors")
        self._barrier()
        return index

    def _chain(self, head: int) -> Chain:
        readable: list[Buffer] = []
        writable: list[Buffer] = []
        total, at, following = 0, head, True
        while following:
            if len(readable) + len(writable) == self._ring.size:
                raise self._broken(f"the chain from descriptor {head} is longer than the ring: it goes in a circle")
            buffer, flags, behind = self._descriptor(at)
            total += buffer.size
            if total > CHAIN_LIMIT:
                raise self._broken(f"the chain from descriptor {head} has more than 4 GiB")
            if writable and not flags & WRITE:
                raise self._broken(f"descriptor {at} is to be read, and stands behind one to be written")
            (writable if flags & WRITE else readable).append(buffer)
            at, following = behind, bool(flags & NEXT)
        return Chain(head, tuple(readable), tuple(writable))

    def _descriptor(self, at: int) -> tuple[Buffer, int, int]:
        if at >= self._ring.size:
            raise self._broken(f"descriptor {at} does not exist, it has {self._ring.size}")
        iova, size, flags, behind = DESCRIPTOR.unpack(
            self._reach.read(self._ring.desc + DESCRIPTOR.size * at, DESCRIPTOR.size)
        )
        if flags & INDIRECT:
            raise self._broken(f"descriptor {at} leads to a table, which was not agreed upon")
        if not size:
            raise self._broken(f"descriptor {at} has no bytes")
        if iova + size - 1 > LAST:
            raise self._broken(f"descriptor {at} wraps: {size:#x} bytes at {iova:#x}")
        return Buffer(iova, size), flags, behind

    def _broken(self, reason: str) -> RingBroken:
        return RingBroken(self._ring.index, reason)
