"""A consumer's handle on its subscription: iterate, acknowledge, translate, leave."""

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar
from weakref import ref

from anyio.lowlevel import checkpoint

from ..caps import Perm
from ..errors import (
    AccessDenied,
    AlreadyIterated,
    Fenced,
    ForeignBatch,
    MappingFailed,
    NotEntered,
    NotMapped,
    SubscriptionClosed,
    WrongMode,
)
from ..events import Event, Memory
from .abc import Acknowledge, Batch, Subscription, Translation, Use
from .attachment import State
from .memory import Backing
from .reports import SubscriptionStatistics
from .seat import Seat

IteratorT = TypeVar("IteratorT", bound=AsyncIterator[object])


class StreamSubscription(Subscription):
    """A subscription, as its consumer has it.

    Args:
        seat: What it is to the bus.
        register: Registers it with its endpoints; may raise, and be cancelled.
        check_thread: Raises if the caller is not the thread of the bus.
        ack: How it acknowledges.
        find: Returns the bytes of a memory.
    """

    def __init__(
        self,
        seat: Seat,
        register: Callable[[], Awaitable[None]],
        check_thread: Callable[[], None],
        ack: Acknowledge,
        find: Callable[[Memory], Backing],
    ) -> None:
        self._seat = seat
        self._register = register
        self._check_thread = check_thread
        self._find = find
        self._mode: Acknowledge = ack
        self._iterator: ref[object] | None = None  # the one that may ask
        self._asking = False
        self.name = seat.name

    @property
    def fenced(self) -> bool:
        return self._seat.fenced

    def check_use(self) -> None:
        if self._seat.fenced:
            raise Fenced(self.name, self._seat.reason)
        if self._seat.state is State.GONE:
            raise SubscriptionClosed(self.name)

    def stands_for(self, seat: object) -> bool:
        """Say whether it is the handle on ``seat``."""
        return seat is self._seat

    def batch(self, events: list[Event]) -> Batch:
        """Return events of the last hand-over as a batch."""
        number = self._seat.handed
        self._seat.hand.give(number, events)
        return Batch(number, events, self._seat)

    async def __aenter__(self) -> Self:
        self._check_thread()
        await checkpoint()
        if self._seat.state is not State.NEW:
            raise SubscriptionClosed(self.name)
        await self._register()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._seat.leave()
        else:
            self._seat.abandon(f"its block was left by {kind.__name__}")

    async def close(self) -> None:
        self._check_thread()
        self._seat.leave()
        await checkpoint()

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._mode == "manual":
            raise WrongMode(self.name, self._mode, "iterate batches() and ack() each")
        return self._only(Events(self, self._seat.hand.rest))

    def batches(self) -> AsyncIterator[Batch]:
        return self._only(Batches(self, self._seat.hand.rest))

    def ack(self, batch: Batch) -> None:
        self._check_open()
        if self._mode != "manual":
            raise WrongMode(self.name, self._mode, "asking for the next event acknowledges")
        if not batch.came_from(self._seat):
            raise ForeignBatch(self.name, batch.number)
        self._seat.acknowledge(batch.number)

    def fail(self, event: Event, error: Exception) -> None:
        self._check_open()
        self._seat.fail(event, error)

    async def wait_current(self) -> None:
        self._check_open()
        await self._seat.first_turn.wait()
        failures = self._seat.first_failures.pop_all()
        if failures:
            raise MappingFailed(tuple(failures))
        self._check_open()

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        self._check_open()
        await checkpoint()
        self._check_open()
        found = await self._seat.translate(iova, perm)
        self._check_open()
        if found is None:
            raise NotMapped(iova)
        if int(perm) & ~int(found.mapping.perm):
            raise AccessDenied(iova, int(perm), int(found.mapping.perm))
        return found

    def use(self, thing: object = None) -> Use:
        self._check_open()
        return self._seat.begin_use(thing)

    def backing(self, memory: Memory) -> memoryview:
        self._check_open()
        return self._find(memory).view()

    def descriptor(self, memory: Memory) -> int:
        self._check_open()
        return self._find(memory).duplicate()

    def statistics(self) -> SubscriptionStatistics:
        return self._seat.statistics()

    def __del__(self) -> None:
        if self._seat.state is State.JOINED:
            self._seat.lose("it was garbage collected")  # first: a warning may raise
            warnings.warn(f"{self!r} was never left", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        seat = self._seat
        state = f"fenced: {seat.reason}" if seat.fenced else seat.state.value
        return f"<subscription {self.name} {seat.caps!r}, {state}, lag {seat.statistics().lag}>"

    # -- inside ------------------------------------------------------------------

    async def next_hand(self, iterator: object) -> list[Event]:
        """Return the next hand-over; asking for it acknowledges the one before."""
        self._check_open()
        self._claim(iterator)
        self._asking = True
        try:
            return await self._next_hand()
        except BaseException:
            self._iterator = None  # a traceback may keep it alive for long
            raise
        finally:
            self._asking = False

    async def _next_hand(self) -> list[Event]:
        seat = self._seat
        if self._mode == "next":
            seat.acknowledge(seat.handed)
        if seat.ready or seat.ended:
            await checkpoint()
        while True:
            self._check_open()
            if seat.ready:
                hand = seat.take()
                if hand:
                    return hand
                await checkpoint()  # there may be many ranges with nothing in them
            elif seat.ended:
                raise StopAsyncIteration
            else:
                await seat.wait_ready()

    def _only(self, iterator: IteratorT) -> IteratorT:
        self._check_open()
        self._claim(iterator)
        return iterator

    def _claim(self, iterator: object) -> None:
        """Make it the one that may ask, unless another may."""
        holder = None if self._iterator is None else self._iterator()
        if self._asking or (holder is not None and holder is not iterator):
            raise AlreadyIterated(self.name)
        if holder is None:
            self._iterator = ref(iterator)

    def _check_open(self) -> None:
        self._check_thread()
        seat = self._seat
        if seat.state is not State.JOINED:
            if seat.fenced:
                raise Fenced(self.name, seat.reason)
            if seat.state is State.NEW:
                raise NotEntered(self.name)
            raise SubscriptionClosed(self.name)


class Events(AsyncIterator[Event]):
    """Iterates a subscription event by event.

    Args:
        subscription: What is iterated.
        hand: Its events handed over and not given yet, the last one first.
    """

    __slots__ = ("__weakref__", "_hand", "_subscription")

    def __init__(self, subscription: StreamSubscription, hand: list[Event]) -> None:
        self._subscription = subscription
        self._hand = hand

    async def __anext__(self) -> Event:
        hand = self._hand
        if not hand:
            hand += reversed(await self._subscription.next_hand(self))
        return hand.pop()


class Batches(AsyncIterator[Batch]):
    """Iterates a subscription hand-over by hand-over; takes the same arguments."""

    __slots__ = ("__weakref__", "_hand", "_subscription")

    def __init__(self, subscription: StreamSubscription, hand: list[Event]) -> None:
        self._subscription = subscription
        self._hand = hand

    async def __anext__(self) -> Batch:
        events = self._hand[::-1]
        self._hand.clear()
        if not events:
            events = await self._subscription.next_hand(self)
        return self._subscription.batch(events)
