"""The memories of a bus: what targets are offsets into.

A memory is a name, a size and a generation to everybody, and in this process a
descriptor beside it.  Its bytes are mapped when somebody first looks at them;
a bus whose mappings lead to memory that it never looks at maps none.

Source: ``memfd_create(2)``, ``fcntl(2)`` under "File Sealing", ``mmap(2)``.
"""

import os
from contextlib import suppress
from fcntl import F_ADD_SEALS, F_GETFL, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fcntl
from mmap import ACCESS_COPY, ACCESS_READ, mmap
from operator import index
from stat import S_ISREG
from typing import Final

from ..errors import BadMemory, MemoryNameTaken, PastMemory, UnknownMemory
from ..events import Memory

UNMAPPABLE: Final = (OSError, ValueError)
"""What ``mmap`` raises of a file; the second of one that is too short, as whoever else has it may have made it."""


class Backing:
    """The bytes of one memory.

    Args:
        memory: What others know of it.
        fd: Its descriptor, which this object closes; `None` as long as there is none here.
    """

    __slots__ = ("_view", "fd", "memory")

    def __init__(self, memory: Memory, fd: int | None) -> None:
        self.memory = memory
        self.fd = fd
        self._view: memoryview | None = None

    def view(self) -> memoryview:
        """Return the whole of it, read-only if it cannot be written.

        Raises:
            BadMemory: Its descriptor has not come, and may never; or it cannot be mapped (any more).
        """
        if self._view is None:
            self._view = self._map()
        return self._view[:]  # not the same object: whoever releases theirs takes nothing from others

    def duplicate(self) -> int:
        """Return another descriptor of it, which is the caller's.

        Raises:
            BadMemory: Its descriptor has not come, and may never.
        """
        return os.dup(self._file())

    def close(self) -> None:
        """Close the descriptor; whoever has a view keeps what is mapped."""
        if self.fd is not None:
            os.close(self.fd)

    def _map(self) -> memoryview:
        fd, size = self._file(), self.memory.size
        try:
            with suppress(PermissionError):  # opened for reading, or sealed against writing
                return memoryview(mmap(fd, size))
            # A private mapping that nobody writes shows the file as a shared one does.
            # It counts as writable, which a ctypes array over it asks for; its views are not.
            return memoryview(mmap(fd, size, access=ACCESS_COPY)).toreadonly()
        except UNMAPPABLE as failure:
            raise BadMemory(self.memory.name, size, str(failure)) from failure

    def _file(self) -> int:
        if self.fd is None:
            raise BadMemory(self.memory.name, self.memory.size, "its bytes are not in this process")
        return self.fd


class Memories:
    """Those of one bus, by name."""

    def __init__(self) -> None:
        self._backings: dict[str, Backing] = {}
        self._generations: dict[str, int] = {}  # the last one of each name that there ever was

    def add(self, name: str, size: int, fd: int | None) -> Memory:
        """Add one; raises as `EventBus.add_memory` does."""
        self.check_new(name, size)
        own = anonymous_or_same(name, size, fd)
        memory = Memory(name, self._generations.get(name, 0) + 1, index(size))
        self._keep(memory, own)
        return memory

    def announce(self, name: str, size: int, generation: int = 0) -> Memory:
        """Add one whose descriptor comes later, by `supply`, or never: it is another process's.

        Args:
            name: Its name.
            size: Length in bytes.
            generation: The one that it has elsewhere; 0 for the next of its name.

        Raises:
            MemoryNameTaken, BadMemory: As `EventBus.add_memory`.
        """
        self.check_new(name, size)
        memory = Memory(name, generation or self._generations.get(name, 0) + 1, index(size))
        self._keep(memory, None)
        return memory

    def supply(self, memory: Memory, fd: int) -> None:
        """Give a memory that was announced its descriptor, which is duplicated.

        Raises:
            UnknownMemory: It was removed meanwhile.
            BadMemory: The descriptor will not do, or there is one already.
        """
        backing = self.find(memory)
        if backing.fd is not None:
            raise BadMemory(memory.name, memory.size, "it has a descriptor already")
        backing.fd = anonymous_or_same(memory.name, memory.size, fd)

    def adopt(self, memory: Memory, fd: int) -> None:
        """Give a memory that was announced a descriptor that was looked at, and that is its own from now on.

        Raises:
            UnknownMemory: It was removed meanwhile.
        """
        self.find(memory).fd = fd

    def remove(self, memory: Memory) -> None:
        """Remove one that nothing leads into any more."""
        self.find(memory).close()
        del self._backings[memory.name]

    def close(self) -> None:
        """Remove them all."""
        while self._backings:
            self._backings.popitem()[1].close()

    def find(self, memory: object) -> Backing:
        """Return the bytes of a memory.

        Raises:
            UnknownMemory: There is none that is exactly this.
            TypeError: It is no memory.
        """
        if not isinstance(memory, Memory):
            raise TypeError(f"a memory is what add_memory returned, got {memory!r}")
        backing = self._backings.get(memory.name)
        if backing is None or backing.memory != memory:
            raise UnknownMemory(memory.name, memory.generation, backing.memory.generation if backing else 0)
        return backing

    def view(self, memory: Memory) -> memoryview:
        """Return the whole of a memory; raises as `find` and `Backing.view` do."""
        return self.find(memory).view()

    def check_new(self, name: str, size: int) -> None:
        """Check a memory that is going to be added; raises as `announce` does."""
        if name in self._backings:
            raise MemoryNameTaken(name)
        if not name:
            raise BadMemory(name, size, "its name is empty")
        if index(size) < 1:
            raise BadMemory(name, size, "it has no bytes")

    def check(self, memory: Memory, target: int, size: int) -> None:
        """Check that a mapping may lead there.

        Raises:
            UnknownMemory: There is no such memory (any more).
            PastMemory: The mapping ends behind it.
        """
        self.find(memory)
        if target + size > memory.size:
            raise PastMemory(target, size, str(memory), memory.size)

    # -- inside ----------------------------------------------------------------

    def _keep(self, memory: Memory, fd: int | None) -> None:
        self._generations[memory.name] = max(memory.generation, self._generations.get(memory.name, 0))
        self._backings[memory.name] = Backing(memory, fd)


def anonymous_or_same(name: str, size: int, fd: int | None) -> int:
    """Return a descriptor of a memory that is new, or the file of another descriptor.

    Raises:
        BadMemory: It cannot be had.
    """
    try:
        return anonymous(size) if fd is None else duplicate(name, size, fd)
    except (OSError, OverflowError) as failure:
        raise BadMemory(name, size, str(failure)) from failure


def anonymous(size: int) -> int:
    """Return a descriptor of new memory, all zero, whose size is fixed.

    The seals are final, so that nobody whom it is sent to can add one against writing.
    """
    fd = os.memfd_create("iommubus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def duplicate(name: str, size: int, fd: int) -> int:
    """Return a descriptor of the same file, if it can be mapped to its last byte.

    Raises:
        BadMemory: It is no regular file, smaller, open for writing alone, or cannot be mapped.
    """
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        raise BadMemory(name, size, "its descriptor is of no regular file")
    if status.st_size < size:
        raise BadMemory(name, size, f"its file has {status.st_size:#x}")
    if fcntl(fd, F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise BadMemory(name, size, "its descriptor cannot be read")
    try:
        try_to_map(fd, size)
    except UNMAPPABLE as failure:
        raise BadMemory(name, size, str(failure)) from failure
    return os.dup(fd)


def try_to_map(fd: int, size: int) -> None:
    """Map a file, and let go of it: an attribute of the kernel is a regular file as well; raises `UNMAPPABLE`."""
    try:
        mmap(fd, size, access=ACCESS_READ).close()
    except PermissionError:  # older kernels take it for a wish to write, where a file is sealed against that
        mmap(fd, size, access=ACCESS_COPY).close()
