"""What a bus is to those who publish: spaces and endpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from ...caps import Cap, Perm
from ...events import Memory
from ...mapping import Mapping
from ...ranges import IovaRange
from ..reports import SpaceStatistics, SyncReport
from .consumer import Subscription
from .terms import SYNC_TIMEOUT


class Endpoint(ABC):
    """What a device sees, to its producer: attached to one space, or to none.

    Attributes:
        name: Its name, under which consumers subscribe.
    """

    name: str

    @property
    @abstractmethod
    def space(self) -> "AddressSpace | None":
        """The space it is attached to."""

    @abstractmethod
    def attach(self, space: "AddressSpace") -> None:
        """Move it to a space, from none or from another.

        Its subscribers see the old mappings go and the new ones come.  They
        count in the old space's `sync` until they have let go of the first, and
        in the new one's from now on.  One that the new space cannot serve is
        fenced.

        Raises:
            MustShare: A subscriber needs another endpoint of its in the same
                space, and that is in another one; nothing was moved.
            EndpointClosed, SpaceClosed: It is closed, or the space is.
        """

    @abstractmethod
    def detach(self) -> None:
        """Move it out of its space: its subscribers see everything go.

        Raises:
            EndpointClosed: It is closed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Detach it and end the streams of its subscribers; its name is free again."""


class AddressSpace(ABC):
    """One I/O address space, to its producer.

    Attributes:
        name: Its name, and that of the endpoint that comes with it.
        offers: The kinds of event it can deliver.  Without MAP it is a *pull*
            space: it keeps no table, UNMAPs may name ranges never mapped.
    """

    name: str
    offers: Cap

    @abstractmethod
    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        """Add a mapping and publish it; the same mapping again publishes nothing.

        Args:
            iova: First address.
            size: Length in bytes.
            target: Where it leads to: an offset into ``memory``, or without one a
                bare address.
            perm: What a device may do there.
            memory: A memory of this bus.

        Raises:
            Overlap: Another mapping is in the way.
            UnknownMemory: The memory was not added to this bus, or was removed.
            PastMemory: The mapping ends behind the memory.
            MappingError: Another of its kinds, with the values; nothing was changed.
        """

    @abstractmethod
    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        """Remove every mapping in a range and publish that.

        Returns:
            The pieces removed, in order.  If there are none, nothing was
            published (in a pull space it is, always).

        Raises:
            Straddle: A mapping reaches out of the range, and the space refuses
                to split it.
            MappingError: Another of its kinds; nothing was changed.
        """

    @abstractmethod
    def unmap_all(self) -> Sequence[Mapping]:
        """Remove every mapping there is."""

    @abstractmethod
    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        """Put a mapping in the place of what is there: UNMAP, then MAP."""

    @abstractmethod
    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        """Make many changes, all or none.

        Args:
            changes: In order; a `Mapping` is mapped, an `IovaRange` is unmapped.

        Raises:
            MappingError: One of them cannot be; nothing was changed or published.
        """

    @abstractmethod
    def invalidate_device(self, iova: int, size: int) -> None:
        """Publish a DEVIOTLB_UNMAP.

        Raises:
            NotOffered: The space does not offer it.
            MappingError: The range cannot be.
        """

    @abstractmethod
    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109 - a deadline of the bus
        """Wait until nobody uses a translation that was unmapped before the call.

        Args:
            timeout: Seconds it may take.

        Raises:
            SyncFailed: Somebody may still use one, or could not apply a MAP.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Wait until every mailbox that the space feeds is at most half full.

        Pacing only: it promises nothing about use.
        """

    @abstractmethod
    async def fence(self, subscription: Subscription | str) -> bool:
        """Stop a subscriber for good; it gets no more events.

        Returns:
            Whether it is proven stopped.  If not, every `sync` raises until it is.

        Raises:
            UnknownName: No live or unproven subscription has this name.
        """

    @abstractmethod
    async def close(self) -> None:
        """Remove everything and end the streams.

        Everyone sees the UNMAP and then the end.  `sync` can still be called,
        and should be before the memory is used for something else.
        """

    @abstractmethod
    def statistics(self) -> SpaceStatistics:
        """Return its counters."""
