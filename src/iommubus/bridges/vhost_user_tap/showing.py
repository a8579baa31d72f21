"""What the device may use, as a space of the bus: entries that came are mapped, and those that went are not."""

from collections.abc import Callable, Iterable
from contextlib import suppress

from ...abi.vhost_user import MemRegion, Region
from ...bridging.memories import PeerMemories
from ...bridging.regions import Backed, Regions
from ...bus.abc import AddressSpace
from ...errors import BadField, BusClosed, IommubusError, Overlap, SpaceClosed, Straddle
from ...events import Memory
from ...ranges import IovaRange
from ...transport.descriptors import close_all
from .reading import Act, Dropped, Emptied, Entry, Plugged, Table, Unplugged

Trouble = Callable[[str, str], object]
"""Is told what should be looked at: of which kind it is, and what it is."""


class Shown:
    """The entries of one connection, in the space.

    Args:
        space: The space; it has an event for each UPDATE that changes something, and for each INVALIDATE.
        memories: The front end's.
        trouble: Is told what cannot be shown as it should be.
    """

    def __init__(self, space: AddressSpace, memories: PeerMemories, trouble: Trouble) -> None:
        self._space = space
        self._memories = memories
        self._trouble = trouble
        self._regions = Regions()

    async def show(self, act: Act, fds: list[int]) -> None:
        """Show what a message meant.

        It waits where memory is added, for the daemon if that is away, and nowhere else.

        Args:
            act: What it meant.
            fds: The descriptors that came with it, which are closed.

        Raises:
            BusClosed, SpaceClosed: The bus cannot be used.
        """
        try:
            match act:
                case Entry():
                    self.enter(act)
                case Dropped(where=where):
                    self.drop(where)
                case Emptied():
                    self.empty()
                case Table() | Plugged() | Unplugged():
                    await self._learn(act, fds)
        finally:
            close_all(fds)

    def enter(self, entry: Entry) -> None:
        """Show an entry that came: in the place of those that it touches."""
        where = entry.where
        if not entry.perm:  # it allows nothing, so nothing is mapped there
            self.drop(where)
            return
        memory, target = self._regions.find(entry.user_address, where.size) or (None, entry.user_address)
        try:
            self._space.map(where.first, where.size, target, entry.perm, memory=memory)
        except Overlap:
            self._take(where.first, where.last)
            self._space.map(where.first, where.size, target, entry.perm, memory=memory)

    def drop(self, where: IovaRange) -> None:
        """Show that entries went; where there was none, that who has a cache was told to forget it."""
        if not self._take(where.first, where.last):
            self._space.invalidate_device(where.first, where.size)

    def empty(self) -> None:
        """Show that all entries went."""
        self._space.unmap_all()

    def leave(self) -> None:
        """Show that the connection is gone, with its memory."""
        with suppress(BusClosed, SpaceClosed):  # then that is shown already
            self.empty()
        self._regions = Regions()
        with suppress(BusClosed):
            self._memories.clear()

    def _take(self, first: int, last: int) -> bool:
        """Unmap all that is touched, whole, and say whether there was any: a back end cuts no entry."""
        while True:
            try:
                return bool(self._space.unmap(first, last - first + 1))
            except Straddle as cut:
                first, last = min(first, cut.held_first), max(last, cut.held_last)

    # -- memory ------------------------------------------------------------------

    async def _learn(self, act: Table | Plugged | Unplugged, fds: list[int]) -> None:
        """Take in what a message says of memory."""
        match act:
            case Table(regions=regions):
                self._exchange(await self._backed(regions, fds))
            case Plugged(region=region):
                self._extend(await self._backed([as_region(region)], fds))
            case Unplugged(region=region):
                gone = [backed for backed in self._regions if is_same(backed.region, region)]
                if gone:
                    self._replace(Regions(backed for backed in self._regions if backed not in gone), gone)

    def _exchange(self, came: list[Backed]) -> None:
        before, after = list(self._regions), self._regions_of(came)
        if after is None or list(after) == before:
            self._let_go(came)
        if after is None or list(after) != before:
            self._replace(after or Regions(), before)

    def _extend(self, came: list[Backed]) -> None:
        after = self._regions_of([*self._regions, *came])
        if after is None:
            self._let_go(came)
        else:
            self._regions = after

    def _regions_of(self, backed: list[Backed]) -> Regions | None:
        """Return the table of these regions, if they can be one."""
        try:
            return Regions(backed)
        except BadField as wrong:
            self._trouble("table", f"a memory table is not used, and addresses are shown as they come: {wrong}")
            return None

    def _replace(self, regions: Regions, gone: list[Backed]) -> None:
        self.empty()
        self._regions = regions
        self._let_go(gone)

    def _let_go(self, gone: list[Backed]) -> None:
        for backed in gone:
            self._memories.let_go(backed.memory)

    async def _backed(self, regions: Iterable[Region], fds: list[int]) -> list[Backed]:
        """Return the regions that lead to a memory; what leads to none is shown by its addresses."""
        found = [(region, await self._memory(fd)) for region, fd in zip(regions, fds, strict=False)]
        return [Backed(region, memory) for region, memory in found if memory is not None]

    async def _memory(self, fd: int) -> Memory | None:
        try:
            return await self._memories.take(fd)
        except BusClosed:
            raise
        except IommubusError as failure:
            self._trouble("memory", f"addresses in some memory are shown as they come: {failure}")
            return None


def as_region(region: MemRegion) -> Region:
    """Return a region without what is ignored of it."""
    return Region(region.guest_address, region.size, region.user_address, region.mmap_offset)


def is_same(region: Region, other: MemRegion) -> bool:
    """Say whether a region is meant; its offset means nothing where it goes."""
    meant = other.guest_address, other.size, other.user_address
    return (region.guest_address, region.size, region.user_address) == meant
