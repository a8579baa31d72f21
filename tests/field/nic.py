"""A guest's half of a virtio-net device, as far as a packet that is sent needs it: two split rings in memory.

Source: virtio 1.0, "Split Virtqueues" (2.6) and "Virtqueues" of a network device (5.1.2).
"""

import struct
from typing import Final

from iommubus.bridges.vhost_user_frontend import Ring

ENTRIES: Final = 256
PAGE: Final = 0x1000

DESCRIPTOR: Final = struct.Struct("<QIHH")
"""Address, length, flags, next."""

INDEX: Final = struct.Struct("<H")

FRAME: Final = 12 + 64
"""Bytes of a packet: the header of virtio-net, and a frame."""


class Nic:
    """The rings of one device, at the beginning of a memory.

    Args:
        memory: The memory.

    Attributes:
        rings: What a back end is told of them: the one that receives, which stays empty, and the one that sends.
    """

    SIZE: Final = 8 * PAGE
    """Bytes that the rings take."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._sent = 0
        self.rings = tuple(
            Ring(index, ENTRIES, base, base + PAGE, base + 2 * PAGE) for index, base in enumerate((0, 4 * PAGE))
        )

    def send(self, iova: int) -> None:
        """Send the packet that is at an address."""
        ring, slot = self.rings[1], self._sent % ENTRIES
        DESCRIPTOR.pack_into(self._memory, ring.desc + slot * DESCRIPTOR.size, iova, FRAME, 0, 0)
        INDEX.pack_into(self._memory, ring.avail + 4 + 2 * slot, slot)
        self._sent += 1
        INDEX.pack_into(self._memory, ring.avail + 2, self._sent & 0xFFFF)

    @property
    def sent(self) -> bool:
        """Whether the back end is through with everything."""
        (used,) = INDEX.unpack_from(self._memory, self.rings[1].used + 2)
        return bool(used == self._sent & 0xFFFF)
