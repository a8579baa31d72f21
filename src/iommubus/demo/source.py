"""Where a trace log comes from: shipped with the package, a file, standard input.

What a file is compressed with is told by how it begins, not by its name.
"""

import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

from msgspec import Struct

from ..abi.qemu_trace import Family, Trace
from .script import Script, Unplayable, write_script

STANDARD_INPUT: Final = "-"

DECODERS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x1f\x8b": gzip.decompress,
}
"""What decompresses a file, by its first bytes."""


class Expected(Struct, frozen=True):
    """What must come out of a log that is known.

    Attributes:
        maps: MAPs published.
        unmaps: UNMAPs published.
        pages: Pages mapped at the end.
        lookups: Lookups asked, answered, and answered as the trace says.
        moves: Moves of endpoints.
        overflow: Whether the mailbox of who is slow has to overflow.
    """

    maps: int
    unmaps: int
    pages: int
    lookups: int
    moves: int
    overflow: bool = True


class Shipped(Struct, frozen=True):
    """A log that comes with the package."""

    name: str
    family: Family
    about: str
    expected: Expected

    def load(self) -> Script:
        """Read it."""
        data = (files("iommubus.demo") / "data" / self.name).read_bytes()
        return read_script(data, self.name, self.family)


SHIPPED: Final = (
    Shipped(
        "virtio-iommu-612-qtrace.qemu.log.xz",
        Family.VIRTIO_IOMMU,
        "a Linux 6.12 guest, its network card behind a virtio-iommu",
        Expected(maps=9015, unmaps=8756, pages=351, lookups=9768, moves=1),
    ),
    Shipped(
        "vfuser-intel-61.qemu.log.xz",
        Family.VTD_PAGE_WALK,
        "a Linux 6.1 guest that drives a device with VFIO behind an Intel VT-d",
        Expected(maps=7394, unmaps=7394, pages=0, lookups=7394, moves=0),
    ),
)
"""The recordings, in the order in which they are played."""


def load(path: str, family: Family | None = None, *, keep_going: bool = False) -> Script:
    """Read a log from a file, or from standard input if ``path`` is ``-``.

    Raises:
        Unplayable: There is no such file, it cannot be decompressed, or it has
            nothing to play.
        TraceError: A line is damaged, and not ``keep_going``.
    """
    if path == STANDARD_INPUT:
        return read_script(sys.stdin.buffer.read(), "<stdin>", family, keep_going=keep_going)

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Unplayable(f"{path}: {error.strerror or error}") from None

    return read_script(data, path, family, keep_going=keep_going)


def read_script(data: bytes, title: str, family: Family | None, *, keep_going: bool = False) -> Script:
    """Read a log from its bytes, plain or compressed; raises as `load` does."""
    try:
        text = decompress(data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise Unplayable(f"{title}: it is cut off, or its compression is damaged: {error}") from None

    trace = Trace.read(io.BytesIO(text), path=title, family=family, keep_going=keep_going)
    return write_script(trace, title)


def decompress(data: bytes) -> bytes:
    """Return the content of a log that may be compressed; raises what the decoder raises."""
    for magic, decode in DECODERS.items():
        if data.startswith(magic):
            return decode(data)

    return data
