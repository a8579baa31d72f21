"""Where the memories of the bus are in this process: what the kernel is told instead of a memory and an offset.

VFIO and vhost take addresses of the process that calls them, and look at what is
mapped there, not at what file it is of.  So a memory that can only be read has to
be the file itself here too, and not the private copy that a view of it may be:
the kernel would pin copies of its pages, which nobody writes any more.
"""

import ctypes
import os
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from typing import Any, Final, cast

from ..bus.abc import Subscription
from ..bus.memory import UNMAPPABLE
from ..caps import Perm
from ..errors import BadMemory, NoBacking
from ..events import Map, Memory
from ..mapping import Mapping


class _Buffer(ctypes.Structure):
    """``Py_buffer``, as far as its first field and to its end in bytes."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 256))


_GET_BUFFER: Final = cast("Callable[[Any, Any, int], int]", ctypes.pythonapi.PyObject_GetBuffer)
_RELEASE_BUFFER: Final = cast("Callable[[Any], None]", ctypes.pythonapi.PyBuffer_Release)


class Addresses:
    """The addresses of what a subscription is given.

    What was asked for once stays mapped in this process for as long as this object lives.

    Args:
        subscription: What gives the bytes of a memory.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._bases: dict[Memory, tuple[int, bool, Any]] = {}  # the last keeps the memory mapped

    def of(self, mapping: Map | Mapping) -> int:
        """Return the address in this process of what a mapping leads to.

        Raises:
            NoBacking: It leads to a bare address.
            UnknownMemory: Its memory was removed, and the UNMAP is on its way.
            BadMemory: Its bytes are not in this process, or may only be read and the mapping allows more;
                or its file cannot be mapped (any more).
        """
        memory = mapping.memory
        if memory is None:
            raise NoBacking(mapping.first, mapping.target)
        base, readonly = self._base(memory)
        if readonly and mapping.perm & Perm.W:
            raise BadMemory(memory.name, memory.size, "it can only be read in this process, and a device was to write")
        return base + mapping.target

    def _base(self, memory: Memory) -> tuple[int, bool]:
        """Return where a memory begins, and whether it can only be read."""
        held = self._bases.get(memory)
        if held is None:
            backing = self._subscription.backing(memory)
            kept = (self._readable(memory) if backing.readonly else None) or cast("mmap", backing.obj)
            held = self._bases[memory] = address_of(kept), backing.readonly, kept
        return held[:2]

    def _readable(self, memory: Memory) -> mmap | None:
        """Return the file itself, to be read; `None` if it is sealed: nobody writes it, and a copy will do."""
        fd = self._subscription.descriptor(memory)
        try:
            return mmap(fd, memory.size, access=ACCESS_READ)
        except PermissionError:  # older kernels take it for a wish to write
            return None
        except UNMAPPABLE as failure:
            raise BadMemory(memory.name, memory.size, str(failure)) from failure
        finally:
            os.close(fd)


def address_of(mapped: mmap) -> int:
    """Return the address of the first byte; it holds for as long as ``mapped`` is open."""
    buffer = _Buffer()
    _GET_BUFFER(ctypes.py_object(mapped), ctypes.byref(buffer), 0)
    try:
        return int(buffer.buf or 0)
    finally:
        _RELEASE_BUFFER(ctypes.byref(buffer))
