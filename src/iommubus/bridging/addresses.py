"""Where the memories of the bus are in this process: what the kernel is told instead of a memory and an offset.

VFIO and vhost take addresses of the process that calls them.
"""

import ctypes
from mmap import mmap
from typing import Any, cast

from ..bus.abc import Subscription
from ..errors import NoBacking
from ..events import Map, Memory
from ..mapping import Mapping


class Addresses:
    """The addresses of what a subscription is given.

    What was asked for once stays mapped in this process for as long as this object lives.

    Args:
        subscription: What gives the bytes of a memory.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._bases: dict[Memory, tuple[int, Any]] = {}  # the array keeps the memory mapped

    def of(self, mapping: Map | Mapping) -> int:
        """Return the address in this process of what a mapping leads to.

        Raises:
            NoBacking: It leads to a bare address.
            UnknownMemory: Its memory was removed, and the UNMAP is on its way.
            BadMemory: Its bytes are not in this process.
        """
        if mapping.memory is None:
            raise NoBacking(mapping.first, mapping.target)
        return self.base(mapping.memory) + mapping.target

    def base(self, memory: Memory) -> int:
        """Return the address of the first byte of a memory; raises as `of` does."""
        held = self._bases.get(memory)
        if held is None:
            backing = self._subscription.backing(memory)
            array = (ctypes.c_char * backing.nbytes).from_buffer(cast("mmap", backing.obj))
            held = self._bases[memory] = ctypes.addressof(array), array
        return held[0]
