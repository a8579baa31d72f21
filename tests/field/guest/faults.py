"""What the guest's kernel says of accesses that its IOMMU blocked."""

import os
import re
from typing import Final

FAULT: Final = re.compile(r"DMAR: \[DMA (Read|Write).*fault addr (0x[0-9a-f]+).*fault reason (0x[0-9a-f]+)\] (.*)")


class Faults:
    """The kernel's log, from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def since(self) -> list[tuple[str, int, str]]:
        """Return the faults since this was last asked: read or write, the address, and why."""
        found = list[tuple[str, int, str]]()
        while True:
            try:
                line = os.read(self._fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            if fault := FAULT.search(line):
                found.append((fault[1], int(fault[2], 16), fault[4].strip()))
