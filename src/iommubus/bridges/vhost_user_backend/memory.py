"""A front end's memory on the bus: its table, and the memories that its descriptors stand for."""

from collections.abc import Iterator, Sequence

from ...abi.vhost_user import MemRegion, MemTable, Region
from ...bridging.memories import PeerMemories
from ...bridging.regions import Backed, Regions
from ...bus.abc import EventBus


class GuestMemory:
    """The memory of one front end.

    Args:
        bus: The bus that memories are added to.
        prefix: What their names begin with.
        numbers: Gives what follows it.

    Attributes:
        regions: The table.
    """

    def __init__(self, bus: EventBus, prefix: str, numbers: Iterator[int]) -> None:
        self._memories = PeerMemories(bus, prefix, numbers)
        self.regions = Regions()

    async def replace(self, table: MemTable, fds: Sequence[int]) -> list[Backed]:
        """Take a whole table in the place of the one before; where it raises, that one stays.

        It waits for a daemon that is away.

        Args:
            table: The table.
            fds: A descriptor for each region, which stay the caller's.

        Returns:
            What was replaced: let go of it once nobody uses it any more.

        Raises:
            BadField: The regions cannot be.
            BadMemory: A descriptor can be no memory.
        """
        came = await self._backed(table.regions, fds)
        try:
            regions = Regions(came)
        except BaseException:
            self.let_go(came)
            raise
        before, self.regions = list(self.regions), regions
        return before

    async def add(self, region: MemRegion, fds: Sequence[int]) -> None:
        """Take one region more; raises as `replace`."""
        came = await self._backed([region], fds)
        try:
            self.regions = self.regions.added(came[0])
        except BaseException:
            self.let_go(came)
            raise

    def remove(self, region: MemRegion) -> list[Backed]:
        """Take a region out; returns what `replace` does.

        Raises:
            BadField: There is none like it.
        """
        self.regions, gone = self.regions.removed(region)
        return [gone]

    def let_go(self, gone: Sequence[Backed]) -> None:
        """Remove the memories to which no region leads any more."""
        for each in gone:
            self._memories.let_go(each.memory)

    def clear(self) -> None:
        """Remove all: the front end is gone, and nothing of it is in use."""
        self.regions = Regions()
        self._memories.clear()

    async def _backed(self, regions: Sequence[Region], fds: Sequence[int]) -> list[Backed]:
        backed: list[Backed] = []
        try:
            for region, fd in zip(regions, fds, strict=True):
                backed.append(Backed(region, await self._memories.take(fd)))
        except BaseException:
            self.let_go(backed)
            raise
        return backed
