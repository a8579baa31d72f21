"""QEMU's edu device behind VFIO: a card that copies a page from or to wherever it is told.

What it can reach is what the IOMMU lets it reach; it is asked nothing, it is told
to copy, and then the memory is looked at.

Source: QEMU ``docs/specs/edu.rst``; Linux ``include/uapi/linux/vfio.h``.
"""

import os
import struct
from fcntl import ioctl
from typing import Final

import anyio

REGION_INFO: Final = 0x3B6C
"""``VFIO_DEVICE_GET_REGION_INFO``."""

INFO: Final = struct.Struct("<IIIIQQ")
"""``struct vfio_region_info``: argsz, flags, index, cap_offset, size, offset."""

BAR, CONFIG = 0, 7
COMMAND: Final = 4
MEMORY_AND_MASTER: Final = 6
"""Bits of the PCI command register: the device answers, and may start copying."""

SOURCE, TARGET, COUNT, ORDER = 0x80, 0x88, 0x90, 0x98
BUFFER: Final = 0x40000
"""Where its own page is, in its own words."""

START, TO_MEMORY = 1, 2


class Edu:
    """The device.

    Args:
        fd: Its descriptor, from VFIO.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bar = self._region(BAR)
        config = self._region(CONFIG)
        os.pwrite(fd, struct.pack("<H", MEMORY_AND_MASTER), config + COMMAND)

    async def fetch(self, iova: int, size: int) -> None:
        """Have it copy from an address into its own page."""
        await self._copy(iova, BUFFER, size, START)

    async def store(self, iova: int, size: int) -> None:
        """Have it copy from its own page to an address."""
        await self._copy(BUFFER, iova, size, START | TO_MEMORY)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    async def _copy(self, source: int, target: int, size: int, order: int) -> None:
        for register, value in ((SOURCE, source), (TARGET, target), (COUNT, size), (ORDER, order)):
            os.pwrite(self._fd, struct.pack("<I", value), self._bar + register)
        while os.pread(self._fd, 4, self._bar + ORDER)[0] & START:
            await anyio.sleep(0.005)

    def _region(self, index: int) -> int:
        data = bytearray(INFO.pack(INFO.size, 0, index, 0, 0, 0))
        ioctl(self._fd, REGION_INFO, data)
        return int(INFO.unpack(data)[5])
