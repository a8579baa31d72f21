"""Descriptors that came from a peer, as memories of the bus.

A peer sends the same file many times: QEMU with every DMA_MAP, a front end with
each memory table.  A file is one memory, told by its device and inode, for as
long as anything refers to it; one that has grown meanwhile, or is open in
another way, is another memory.
"""

import os
from collections.abc import Iterator
from fcntl import F_GETFL, fcntl
from itertools import count
from typing import Final

import anyio
from msgspec import Struct

from ..bus.abc import EventBus
from ..errors import BadMemory, Disconnected, StateError, Stopping, UnknownMemory
from ..events import Memory

Identity = tuple[int, int, int, int]
"""Device and inode of a file, its size in bytes, and what it is open for."""


FILES_LIMIT: Final = 256
"""Files of one peer at a time.  A virtual machine has a dozen; each costs descriptors, here and in every
process that is told of it, of which a process has a thousand by default."""

AGAIN: Final = 0.2
"""Seconds after which a file is added again while the daemon is away: a daemon that is started again takes about one,
and a peer stands still meanwhile."""


class Held(Struct):
    """A memory, and how many times it was taken and not let go of."""

    memory: Memory
    count: int


class PeerMemories:
    """The memories of one peer.

    Args:
        bus: The bus that they are added to.
        prefix: What their names begin with; a number follows.
        numbers: Gives those numbers.  Whoever has one peer after another with the same prefix gives all of them
            the same: a memory of the last one stays for as long as another space leads into it.
    """

    def __init__(self, bus: EventBus, prefix: str, numbers: Iterator[int] | None = None) -> None:
        self._bus = bus
        self._prefix = prefix
        self._held: dict[Identity, Held] = {}
        self._numbers = count(1) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._held)

    async def take(self, fd: int) -> Memory:
        """Return the memory of a file, whole, and count it once more; the descriptor stays the caller's.

        It waits for a daemon that is away, and for nothing else: that is no fault of the peer.

        Raises:
            BadMemory: It can be none, or there are `FILES_LIMIT` already.
            IommubusError: What else `EventBus.add_memory` raises.
        """
        status = os.fstat(fd)
        identity = status.st_dev, status.st_ino, status.st_size, fcntl(fd, F_GETFL) & os.O_ACCMODE
        held = self._held.get(identity)
        if held is None:
            if status.st_size < 1:
                raise BadMemory(self._prefix, status.st_size, "its file is empty")
            if len(self._held) >= FILES_LIMIT:
                raise BadMemory(self._prefix, status.st_size, f"its peer has {FILES_LIMIT} files mapped already")
            memory = await self._add(status.st_size, fd)
            held = self._held[identity] = Held(memory, 0)
        held.count += 1
        return held.memory

    def let_go(self, memory: Memory) -> None:
        """Count it once less; the last time it is removed from the bus.  Nothing may be mapped into it then."""
        for identity, held in self._held.items():
            if held.memory == memory:
                held.count -= 1
                if not held.count:
                    del self._held[identity]
                    self._remove(memory)
                return
        raise UnknownMemory(memory.name, memory.generation, 0)

    def clear(self) -> None:
        """Remove all of them: the peer is gone, and everything was unmapped."""
        while self._held:
            self._remove(self._held.popitem()[1].memory)

    async def _add(self, size: int, fd: int) -> Memory:
        while True:
            try:
                # Each time by another name: a daemon that was lost before it answered may have the last one still.
                return await self._bus.add_memory(f"{self._prefix}{next(self._numbers)}", size, fd)
            except (Disconnected, Stopping):
                await anyio.sleep(AGAIN)

    def _remove(self, memory: Memory) -> None:
        try:
            self._bus.remove_memory(memory)
        except (StateError, UnknownMemory):  # another space leads into it, or the bus is closed
            return
