"""What a bus is: where spaces are made, and subscriptions had."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from ...caps import Cap
from ...events import Memory
from ...ranges import LAST, IovaRange
from ..reports import BusStatistics, SyncReport
from .consumer import Observer, Subscription
from .producer import AddressSpace, Endpoint
from .terms import SYNC_TIMEOUT, Acknowledge, DemandChanged, OnFence, Stops, Straddling, Translate


class EventBus(ABC):
    """A bus for the changes of I/O address spaces."""

    @abstractmethod
    async def create_space(
        self,
        name: str,
        *,
        granule: int = 0x1000,
        last: int = LAST,
        reserved: Iterable[IovaRange] = (),
        offers: Cap = Cap.IOTLB,
        straddle: Straddling = "refuse",
        demand_changed: DemandChanged | None = None,
        translate: Translate | None = None,
        answer_timeout: float = ...,
    ) -> AddressSpace:
        """Make a space, and an endpoint of its name.

        Args:
            name: Its name; not empty, without pattern characters.
            granule: Smallest unit of mapping, in bytes; a power of two.
            last: Highest address.
            reserved: Ranges that can never be mapped.
            offers: The kinds of event it can deliver.
            straddle: What an UNMAP does that cuts a mapping.
            demand_changed: Called with the old and the new OR of all masks
                when it changes; may raise to refuse a registration.
            translate: Answers misses, in a pull space.
            answer_timeout: Seconds that it has for an answer.

        Raises:
            BadName, NameTaken: The name will not do.
            BadShape: The addresses contradict each other.
            BusClosed, WrongThread: The bus cannot be used.
        """

    @abstractmethod
    async def create_endpoint(self, name: str) -> Endpoint:
        """Make an endpoint that is attached to no space yet.

        Raises:
            BadName, NameTaken: The name will not do.
            BusClosed, WrongThread: The bus cannot be used.
        """

    @abstractmethod
    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        """Add a memory that mappings may lead into.

        Args:
            name: Its name; not empty.
            size: Length in bytes, at least 1.
            fd: Descriptor of a regular file or a memfd of at least that size,
                opened for reading at least; it is duplicated, and the caller keeps
                theirs.  Without one a memfd is made, which cannot shrink or grow.
                Whoever gives one sees to it that the file does not shrink: a
                view of what is cut off kills its process (SIGBUS).

        Returns:
            The memory, with the next generation of its name.

        Raises:
            MemoryNameTaken: There is one of this name.
            BadMemory: The name, the size or the descriptor will not do.
            BusClosed, WrongThread: The bus cannot be used.

        Source: the memory table of vhost-user, and the ``fd`` of vfio-user's
        ``VFIO_USER_DMA_MAP``; ``memfd_create(2)``.
        """

    @abstractmethod
    def remove_memory(self, memory: Memory) -> None:
        """Remove a memory; a MAP that names it is refused from now on.

        Views of it that are still held stay usable.  A `sync` says when there are none of old
        translations; call it before removing.

        Raises:
            MemoryInUse: A mapping of an open space leads into it.
            UnknownMemory: The memory was not added, or was removed already.
            BusClosed, WrongThread: The bus cannot be used.
        """

    @abstractmethod
    def memory_view(self, memory: Memory) -> memoryview:
        """Return the whole of a memory, for the producer.

        Raises:
            UnknownMemory: The memory was not added, or was removed.
            BusClosed, WrongThread: The bus cannot be used.
        """

    @abstractmethod
    def subscribe(
        self,
        endpoint: str | Iterable[str],
        caps: Cap,
        *,
        first: int = 0,
        last: int = LAST,
        ranges: Iterable[tuple[int, int]] | None = None,
        capacity: int = ...,
        ack: Acknowledge = "next",
        stops: Stops = "lease",
        on_fence: OnFence | None = None,
        holder: int | None = None,
        granule: int = 1,
        pow2: bool = False,
        exact: bool = False,
        limit: int | None = None,
        name: str | None = None,
    ) -> Subscription:
        """Return a subscription; it is registered when it is entered.

        Args:
            endpoint: Name of what the device sees.  It may not exist yet: nothing
                is mapped then.  Several names are one consumer (a container) that
                needs them in one space: it sees that space while all of them are
                in it, and nothing otherwise.
            caps: The kinds of event wanted.  MAP needs UNMAP beside it.
            first: First address wanted.
            last: Last address wanted.
            ranges: Several ranges instead of ``first`` and ``last``, inclusive.
            capacity: Most events that wait one by one; more are conflated.
            ack: How it acknowledges.
            stops: How it is proven stopped when it leaves unclean.
            on_fence: For ``stops="exit"``: stops the device; run by the `fence`
                or `sync` that needs it, and again if that was cancelled; it has
                to let itself be cancelled, or that `sync` outlives its deadline.
            holder: For ``stops="exit"``: number of another process that keeps what the
                consumer is given (a bridge's back end).  To a daemon the end of the
                consumer's own process proves nothing before this one has ended as
                well; one that has ended already stands in nobody's way.  An
                acknowledgement, an ``on_fence`` that returned and a clean end prove what they
                prove without it.  An embedded bus needs it for nothing: the consumer's
                process is its own.
            granule: Smallest unit of the consumer, in bytes.  What a cacher must
                forget is rounded out to it; a shadower cannot have one larger
                than the space's.
            pow2: Whether every event has to be a naturally aligned power of two.
            exact: Whether every UNMAP has to name one mapping as it was mapped.
            limit: Most mappings it can hold; a MAP past that fails for it alone.
            name: How reports call it; made up by default.

        Raises:
            SubscribeError: It cannot be had; the kind and the values say why.
            BadName: An endpoint cannot be called so.
            BusClosed, WrongThread: The bus cannot be used.
        """

    @abstractmethod
    def observe(self, *patterns: str, capacity: int = ...) -> Observer:
        """Return an observer of all spaces, present and future, whose name matches, or of all there are."""

    @abstractmethod
    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        """Do `AddressSpace.sync` over every open space whose name matches, at once; over all if none is named.

        A space that was closed is synced by its own `AddressSpace.sync`.

        Raises:
            UnknownName: A name without pattern characters is no space's.
        """

    @abstractmethod
    def spaces(self) -> tuple[AddressSpace, ...]:
        """Return the open spaces, in the order they were made."""

    @abstractmethod
    async def wait_space(self, name: str) -> AddressSpace:
        """Wait until a space of this name exists."""

    @abstractmethod
    async def close(self) -> None:
        """Close every space and end every stream."""

    @abstractmethod
    def statistics(self) -> BusStatistics:
        """Return its counters."""
