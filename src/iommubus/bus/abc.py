"""What a bus is to those who use it, embedded or remote.

An emulator that is written against these classes moves from one to the other by
changing the line that makes the bus.  Docstrings here are the contract;
implementations inherit them.

Functions that cannot wait are plain; those that can are ``async`` and are
cancelled safely: a cancelled call has changed nothing, or says what it has.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Literal, Self, overload

from ..caps import Cap, Perm
from ..events import Event, Memory, Observed
from ..ranges import LAST, IovaRange
from ..table import Mapping
from .reports import (
    BusStatistics,
    ObserverStatistics,
    SpaceStatistics,
    SubscriptionStatistics,
    SyncReport,
)

SYNC_TIMEOUT: Final = 5.0
"""Seconds a `sync` waits by default: well below the 20 s after which a Linux
guest, whose CPU stands still meanwhile, reports a soft lockup."""

Stops = Literal["lease", "exit"]
"""How a subscriber that left unclean is proven stopped.

``"lease"``: it is software that asks `Subscription.fenced` before each use, as
`Mirror` and `Iotlb` do.  ``"exit"``: it is hardware, or another process, that
keeps what it holds until its ``on_fence`` has returned or it was closed.
"""

Straddling = Literal["refuse", "split"]
"""What an UNMAP does that cuts a mapping: it is refused, or the rest is mapped anew."""

Acknowledge = Literal["next", "manual"]
"""``"next"``: asking for the next event says that the one before is applied and
no longer used.  ``"manual"``: `Subscription.ack` says so."""

OnFence = Callable[[], Awaitable[object]]
DemandChanged = Callable[[Cap, Cap], object]

Translate = Callable[[int, Perm], Awaitable[Mapping | None]]
"""Answers a miss in a pull space: where an address leads, for an access; `None` if nowhere."""


class Batch(Sequence[Event]):
    """What one hand-over gave, in order; `Subscription.fail` may shorten it.

    Attributes:
        number: Number of the hand-over in its subscription, from 1.
    """

    __slots__ = ("_events", "_giver", "number")

    def __init__(self, number: int, events: list[Event], giver: object) -> None:
        self.number = number
        self._events = events
        self._giver = giver

    def came_from(self, giver: object) -> bool:
        """Say whether ``giver`` handed it over."""
        return self._giver is giver

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __repr__(self) -> str:
        return f"<batch {self.number} of {len(self._events)} events>"


class Translation(ABC):
    """An answer to `Subscription.translate`: a mapping, while it is valid."""

    mapping: Mapping
    seq: int

    @property
    @abstractmethod
    def valid(self) -> bool:
        """Whether no overlapping UNMAP was handed to the subscription since the question.

        Look at it at the moment the translation is installed in a cache, and
        do not install it when it is false.
        """


class Use(ABC):
    """Something that a subscription was given and that is being used right now.

    Caches make one for each entry that is pinned, and for each view.  As long as
    it is open, the subscription is not proven stopped by its lease.
    """

    @abstractmethod
    def revoke(self) -> None:
        """Say that the entry was taken away while it is in use.

        The acknowledgement of what the consumer has in hand waits until `end`.
        """

    @abstractmethod
    def end(self) -> None:
        """Say that the use is over.  A second time does nothing."""


class Subscription(ABC):
    """An ordered, acknowledged stream of events, with a mailbox.

    Enter it with ``async with``: from then on it counts in every `sync` of its
    space.  Leaving the block without an exception promises that everything was
    dropped; leaving it any other way *fences* the subscription.
    """

    name: str

    @property
    @abstractmethod
    def fenced(self) -> bool:
        """Whether what this subscription holds must not be used any more."""

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate event by event.

        ``break`` loses nothing: iterate again to go on.

        Raises:
            AlreadyIterated: Somebody else is iterating it.
            WrongMode: It acknowledges by ``"manual"``; iterate `batches`.
            NotEntered, SubscriptionClosed, Fenced, WrongThread: It cannot be used.
        """

    @abstractmethod
    def batches(self) -> AsyncIterator[Batch]:
        """Iterate hand-over by hand-over; the same rules hold."""

    @abstractmethod
    def ack(self, batch: Batch) -> None:
        """Say that this batch and all before it are applied and no longer used.

        Raises:
            WrongMode: The subscription acknowledges by asking for the next.
            ForeignBatch: Another subscription handed it over.
        """

    @abstractmethod
    def fail(self, event: Event, error: Exception) -> None:
        """Say that an event of the batch in hand could not be applied.

        A MAP: the next `sync` of the producer raises it once (during the first
        replay `wait_current` raises it instead), and the subscriber goes on
        without the mapping.  An UNMAP: the range is handed over again at the
        next `sync`, or before anything else there, and every `sync` raises with
        the old targets until it was applied.  What came behind it there is taken
        back, also out of a `Batch`, and comes again after it.
        """

    @abstractmethod
    async def wait_current(self) -> None:
        """Wait until the first replay was handed over and acknowledged.

        Raises:
            MappingFailed: Some of it could not be applied.
        """

    @abstractmethod
    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        """Ask where an address leads: the IOTLB miss.

        A pull space asks its producer.  Equal questions that wait at the same
        time are asked once.

        Raises:
            NotMapped: Nothing is mapped there, or outside what was subscribed.
            AccessDenied: The mapping does not allow the access.
            NoTranslator: A pull space whose producer answers no questions.
            NoAnswer: Its producer did not answer in time.
            TranslatorFailed: Its producer gave an answer that cannot be, or raised.
        """

    @abstractmethod
    def use(self, thing: object = None) -> Use:
        """Begin to use something that was given, so that an acknowledgement means drained.

        Args:
            thing: What is used, if it can be referred to weakly: the use ends
                with it at the latest, in whatever thread it is dropped.

        Raises:
            NotEntered, SubscriptionClosed, Fenced, WrongThread: It cannot be used.
        """

    @abstractmethod
    def backing(self, memory: Memory) -> memoryview:
        """Return the whole of a memory, read-only if that is all its descriptor allows.

        It stays usable for as long as it is kept, whatever is unmapped or
        removed: `Mirror.view` and `Iotlb.view` give what ends with its mapping.
        They are made of its ``obj``, an `mmap.mmap` of the same length that can be
        written, and is private where the memory cannot.

        Raises:
            UnknownMemory: The memory was not added, or was removed.
            NotEntered, SubscriptionClosed, Fenced, WrongThread: It cannot be used.
        """

    @abstractmethod
    async def close(self) -> None:
        """Leave, and promise that everything was dropped.

        Also mends a subscription that was left unclean: whoever calls it
        vouches that nothing it was given is in use.
        """

    @abstractmethod
    def statistics(self) -> SubscriptionStatistics:
        """Return its counters."""


class Observer(ABC):
    """A stream over many spaces that delays nobody, and is told what it lost."""

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Observed]:
        """Iterate the events of all matching spaces, and `Lost`.

        Raises:
            AlreadyIterated: Another task waits for the next event.
            NotEntered: It was not entered.
        """

    @abstractmethod
    def statistics(self) -> ObserverStatistics:
        """Return its counters."""


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
                or `sync` that needs it, and again if that was cancelled.
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
