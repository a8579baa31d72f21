"""Reading and writing at I/O virtual addresses, as a device does.

Each access looks up the cache, checks that it may still be used, and is over
before it returns.  An UNMAP is applied by another task, and so before or after an
access and never during it: nothing has to be pinned.  What keeps an address across
an `await` pins it, with `Iotlb.pin`.
"""

from typing import Protocol

from ..bus.abc import Subscription
from ..caps import Perm
from ..consumers.iotlb import Iotlb
from ..errors import AccessDenied, NoBacking
from ..mapping import Mapping


class Miss(Exception):
    """An address that is not in the cache: translate it, and try again.

    Attributes:
        iova: The address.
        perm: What the access needs.
    """

    def __init__(self, iova: int, perm: Perm) -> None:
        super().__init__(f"{iova:#x} is not in the cache")
        self.iova = iova
        self.perm = perm


class Reach(Protocol):
    """What a device's access to memory looks like to who works through rings."""

    def read(self, iova: int, size: int) -> bytes:
        """Return so many bytes; raises `Miss`, and whatever else keeps from it."""
        ...

    def write(self, iova: int, data: bytes) -> None:
        """Write bytes; raises as `read`."""
        ...


class Dma:
    """Access through a cacher's cache.

    What lies inside one mapping is read, or written, by one copy: a number of 2, 4 or
    8 bytes at its natural place is never seen half written.

    Args:
        subscription: What gives the bytes of a memory.
        iotlb: Its cache.
    """

    def __init__(self, subscription: Subscription, iotlb: Iotlb) -> None:
        self._subscription = subscription
        self._iotlb = iotlb

    def read(self, iova: int, size: int) -> bytes:
        """Return the bytes at an address.

        Raises:
            Miss: One of them is not in the cache.
            AccessDenied: One of them may not be read.
            NoBacking: There is no memory behind one of them.
            UnknownMemory, BadMemory: Its memory was removed, or is not in this process.
            Fenced, SubscriptionClosed: The cache must not be used any more.
        """
        pieces: list[bytes] = []
        while size:
            mapping = self._lookup(iova, Perm.R)
            backing, offset = self._place(mapping, iova)
            here = min(mapping.last - iova + 1, size)
            pieces.append(bytes(backing[offset : offset + here]))
            iova, size = iova + here, size - here
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, iova: int, data: bytes) -> None:
        """Write bytes at an address; where it raises, those before the address at fault may have been written.

        Raises:
            Miss, NoBacking, UnknownMemory, BadMemory, Fenced, SubscriptionClosed: As `read`.
            AccessDenied: One of them may not be written.
        """
        while data:
            mapping = self._lookup(iova, Perm.W)
            backing, offset = self._place(mapping, iova)
            if backing.readonly:
                raise AccessDenied(iova, int(Perm.W), int(Perm.R))
            here = min(mapping.last - iova + 1, len(data))
            backing[offset : offset + here] = data[:here]
            iova, data = iova + here, data[here:]

    async def translate(self, miss: Miss) -> None:
        """Ask for what was not in the cache; raises as `Iotlb.translate`."""
        await self._iotlb.translate(miss.iova, miss.perm)

    def _lookup(self, iova: int, perm: Perm) -> Mapping:
        mapping = self._iotlb.lookup(iova, perm)
        if mapping is None:
            raise Miss(iova, perm)
        return mapping

    def _place(self, mapping: Mapping, iova: int) -> tuple[memoryview, int]:
        offset = mapping.target + iova - mapping.first
        if mapping.memory is None:
            raise NoBacking(iova, offset)
        return self._subscription.backing(mapping.memory), offset
