"""Root file systems for guests, as the kernel unpacks them at its start.

Source: Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.field.debian import Kernel

BUSYBOX: Final = Path("/bin/busybox")

DEVICES: Final = {"dev/console": (5, 1), "dev/null": (1, 3), "dev/kmsg": (1, 11)}
"""What has to be there before anything is mounted."""


class Initramfs:
    """A root file system that is being made; every directory above an entry is made with it."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
        for path, number in DEVICES.items():
            self._add(path, stat.S_IFCHR | 0o600, b"", number)

    def file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Add a file."""
        self._add(path, stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def directory(self, path: str) -> None:
        """Add a directory."""
        self._add(path, stat.S_IFDIR | 0o755, b"")

    def copy(self, source: Path, path: str) -> None:
        """Add a file of this machine."""
        self.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))

    def busybox(self, *commands: str) -> None:
        """Add busybox, under the names of some of its commands."""
        self.copy(BUSYBOX, "bin/busybox")
        for command in ("sh", *commands):
            self.link(f"bin/{command}", "busybox")

    def modules(self, kernel: Kernel, *names: str) -> None:
        """Add modules of a kernel, and a script ``/load`` that loads them in their order."""
        paths = kernel.needed(*names)
        for path in paths:
            self.copy(path, f"modules/{path.name}")
        lines = ["#!/bin/sh", *(f"insmod /modules/{path.name}" for path in paths)]
        self.file("load", "\n".join(lines) + "\n", 0o755)

    def write(self, path: Path) -> Path:
        """Write the archive, and return where it is."""
        with path.open("wb") as out:
            for number, (name, (mode, data, device)) in enumerate(sorted(self._entries.items()), 1):
                out.write(_entry(name, number, mode, data, device))
            out.write(_entry("TRAILER!!!", 0, 0, b"", (0, 0)))
        return path

    def _add(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        for above in _above(path):
            self._entries.setdefault(above, (stat.S_IFDIR | 0o755, b"", (0, 0)))
        self._entries[path] = mode, data, device


def _above(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _entry(name: str, number: int, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    """Return one entry of the "newc" form of cpio: numbers in hexadecimal, name and data padded to four bytes."""
    path = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
