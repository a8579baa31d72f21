"""What one client has mapped: DMA_MAP and DMA_UNMAP, done to the space, and the error numbers of those that cannot be.

Where the specification and the reference server (libvfio-user) differ, the specification rules:

====================================================  =======  =========  =====================
what the client asks for                              here     spec       libvfio-user
====================================================  =======  =========  =====================
MAP over another mapping                              EEXIST   EEXIST     EINVAL
the very same MAP again                               done     EEXIST     done
MAP that allows nothing, or is not aligned            EINVAL   --         done
MAP behind the end of its file, or a file of no use   EINVAL   --         EINVAL or later
one MAP too many                                      ENOSPC   --         EINVAL
UNMAP of what is not mapped, or of a part             ENOENT   must fit   ENOENT
====================================================  =======  =========  =====================

The very same MAP again is done, and does nothing: a client that is not sure
whether the first one came through may repeat it, and the reference server lets it.
"""

from collections.abc import Sequence
from errno import EEXIST, EINVAL, EIO, ENOENT, ENOSPC
from typing import Final

from ...abi.vfio_user import DmaMap, DmaUnmap, UnmapFlags, perm_of, range_of
from ...bridging.memories import PeerMemories
from ...bus.abc import AddressSpace
from ...errors import BadMemory, IommubusError, LimitReached, MappingError, Overlap, RuleMissing
from ...events import Memory
from ...mapping import Mapping
from ...ranges import IovaRange

ERRNOS: Final[tuple[tuple[type[IommubusError], int], ...]] = (
    (Overlap, EEXIST),
    (MappingError, EINVAL),
    (BadMemory, EINVAL),
    (LimitReached, ENOSPC),
    (RuleMissing, EIO),
)
"""What a client is told of the errors of a MAP; any other one is no fault of the client, and ends the bridge."""


def errno_of(error: IommubusError) -> int:
    """Return the number that stands for an error to a client."""
    return next(errno for kind, errno in ERRNOS if isinstance(error, kind))


class Regions:
    """Those of one client.

    Args:
        space: Where they are mapped; it holds nothing else.
        memories: The files that came with them.
        limit: Most at a time.
    """

    def __init__(self, space: AddressSpace, memories: PeerMemories, limit: int) -> None:
        self._space = space
        self._memories = memories
        self._limit = limit
        self._held: dict[int, Mapping] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def map(self, body: DmaMap, fds: Sequence[int]) -> int:
        """Map a region.

        It waits where its file is added, for the daemon if that is away, and nowhere else.

        Args:
            body: What the client said.
            fds: The descriptor that came with it, if one did; it stays the caller's.

        Returns:
            0, or an error number; then nothing was changed.
        """
        try:
            memory = await self._memories.take(fds[0]) if fds else None
        except (MappingError, BadMemory, LimitReached, RuleMissing) as error:
            return errno_of(error)
        errno = self._map(_mapping(body, memory))
        if errno is not None and memory is not None:
            self._memories.let_go(memory)
        return errno or 0

    def unmap(self, body: DmaUnmap) -> Sequence[Mapping] | int:
        """Unmap one region, or all of them.

        Returns:
            Those that went, for `release`, or an error number; then nothing was changed.
        """
        if body.flags & UnmapFlags.ALL:
            return self._unmap_all()
        where = range_of(body)
        held = self._held.get(where.first)
        if held is None or held.last != where.last:
            return ENOENT
        del self._held[where.first]
        self._space.unmap(where.first, where.size)
        return (held,)

    def release(self, gone: Sequence[Mapping]) -> None:
        """Let go of the files of regions that nobody uses any more."""
        for mapping in gone:
            if mapping.memory is not None:
                self._memories.let_go(mapping.memory)

    def clear(self) -> None:
        """Unmap all of them: the client is gone.  Their files are let go of by `PeerMemories.clear`."""
        self._unmap_all()

    # -- inside ----------------------------------------------------------------

    def _map(self, mapping: Mapping) -> int | None:
        """Map, and return `None`; or an error number, 0 if it was there already: then its memory is not needed."""
        if self._held.get(mapping.first) == mapping:
            return 0
        if len(self._held) >= self._limit:
            return ENOSPC
        try:
            self._space.map(mapping.first, mapping.size, mapping.target, mapping.perm, memory=mapping.memory)
        except MappingError as error:
            return errno_of(error)
        self._held[mapping.first] = mapping
        return None

    def _unmap_all(self) -> Sequence[Mapping]:
        gone = tuple(self._held.values())
        self._held.clear()
        self._space.unmap_all()
        return gone


def _mapping(body: DmaMap, memory: Memory | None) -> Mapping:
    """Return what a MAP adds.

    Without a descriptor the bytes can only be had from the client, by DMA_READ and
    DMA_WRITE, which name the address itself: that is where such a mapping leads to.
    """
    where: IovaRange = range_of(body)
    target = where.first if memory is None else body.offset
    return Mapping(where.first, where.last, target, perm_of(body), memory)
