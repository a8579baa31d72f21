"""What a bus is to those who are told: subscriptions and observers."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Self, overload

from ...caps import Perm
from ...events import Event, Memory, Observed
from ...mapping import Mapping
from ..reports import ObserverStatistics, SubscriptionStatistics


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
        """Whether it was fenced: what it holds must not be used any more."""

    @abstractmethod
    def check_use(self) -> None:
        """Check that what it was given may be used now; whoever keeps some does so before each use.

        Raises:
            Fenced: It was fenced.
            SubscriptionClosed: It was left, and promised that everything was dropped.
        """

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
    def descriptor(self, memory: Memory) -> int:
        """Return a descriptor of a memory, for who hands it on: to a device in another process, or to the kernel.

        The caller closes it.  What it is handed to keeps the memory whatever is
        unmapped or removed, so such a subscription says ``stops="exit"``.

        Raises:
            UnknownMemory, BadMemory: As `backing`.
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
