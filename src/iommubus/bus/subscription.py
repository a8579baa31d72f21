"""A consumer's handle on its subscription: iterate, acknowledge, translate, leave."""

import warnings
from collections.abc import AsyncIterator, Callable
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
from .abc import Acknowledge, Batch, Subscription
from .attachment import Occupant, State
from .member import Member
from .reports import SubscriptionStatistics
from .translation import LocalTranslation
from .uses import LocalUse

IteratorT = TypeVar("IteratorT", bound=AsyncIterator[object])


class LocalSubscription(Subscription):
    """A subscription in the process of the bus.

    Args:
        member: What the bus keeps of it.
        register: Registers the member with its endpoints; may raise.
        check_thread: Raises if the caller is not the thread of the bus.
        ack: How it acknowledges.
        backing: Returns the whole of a memory.
    """

    def __init__(
        self,
        member: Member,
        register: Callable[[], None],
        check_thread: Callable[[], None],
        ack: Acknowledge,
        backing: Callable[[Memory], memoryview],
    ) -> None:
        self._member = member
        self._register = register
        self._check_thread = check_thread
        self._backing = backing
        self._mode: Acknowledge = ack
        self._iterator: ref[object] | None = None  # the one that may ask
        self._asking = False
        self.name = member.name

    @property
    def fenced(self) -> bool:
        return self._member.fenced

    def check_use(self) -> None:
        if self._member.fenced:
            raise Fenced(self.name, self._member.reason)
        if self._member.state is State.GONE:
            raise SubscriptionClosed(self.name)

    def stands_for(self, member: Occupant) -> bool:
        """Say whether it is the handle on ``member``."""
        return member is self._member

    def batch(self, events: list[Event]) -> Batch:
        """Return events of the last hand-over as a batch."""
        number = self._member.completion.handed
        self._member.hand.give(number, events)
        return Batch(number, events, self._member)

    async def __aenter__(self) -> Self:
        self._check_thread()
        await checkpoint()
        if self._member.state is not State.NEW:
            raise SubscriptionClosed(self.name)
        self._register()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._member.leave()
        else:
            self._member.abandon(f"its block was left by {kind.__name__}")

    async def close(self) -> None:
        self._check_thread()
        self._member.leave()
        await checkpoint()

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._mode == "manual":
            raise WrongMode(self.name, self._mode, "iterate batches() and ack() each")
        return self._only(Events(self, self._member.hand.rest))

    def batches(self) -> AsyncIterator[Batch]:
        return self._only(Batches(self, self._member.hand.rest))

    def ack(self, batch: Batch) -> None:
        self._check_open()
        if self._mode != "manual":
            raise WrongMode(self.name, self._mode, "asking for the next event acknowledges")
        if not batch.came_from(self._member):
            raise ForeignBatch(self.name, batch.number)
        self._member.acknowledge(batch.number)

    def fail(self, event: Event, error: Exception) -> None:
        self._check_open()
        self._member.fail(event, error)

    async def wait_current(self) -> None:
        self._check_open()
        await self._member.first_turn.wait()
        failures = self._member.first_failures.pop_all()
        if failures:
            raise MappingFailed(tuple(failures))
        self._check_open()

    async def translate(self, iova: int, perm: Perm = Perm.R) -> LocalTranslation:
        self._check_open()
        await checkpoint()
        self._check_open()
        found = await self._member.translate(iova, perm)
        self._check_open()
        if found is None:
            raise NotMapped(iova)
        if int(perm) & ~int(found.mapping.perm):
            raise AccessDenied(iova, int(perm), int(found.mapping.perm))
        return found

    def use(self, thing: object = None) -> LocalUse:
        self._check_open()
        return self._member.uses.begin(thing)

    def backing(self, memory: Memory) -> memoryview:
        self._check_open()
        return self._backing(memory)

    def statistics(self) -> SubscriptionStatistics:
        return self._member.statistics()

    def __del__(self) -> None:
        if self._member.state is State.JOINED:
            self._member.lose("it was garbage collected")  # first: a warning may raise
            warnings.warn(f"{self!r} was never left", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        member = self._member
        state = f"fenced: {member.reason}" if member.fenced else member.state.value
        return f"<subscription {self.name} {member.caps!r}, {state}, lag {member.mailbox.lag}>"

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
        member = self._member
        if self._mode == "next":
            member.acknowledge(member.completion.handed)
        if member.mailbox.ready or member.ended:
            await checkpoint()
        while True:
            self._check_open()
            if member.mailbox.ready:
                hand = member.take()
                if hand:
                    return hand
                await checkpoint()  # there may be many ranges with nothing in them
            elif member.ended:
                raise StopAsyncIteration
            else:
                await member.wait_ready()

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
        member = self._member
        if member.state is not State.JOINED:
            if member.fenced:
                raise Fenced(self.name, member.reason)
            if member.state is State.NEW:
                raise NotEntered(self.name)
            raise SubscriptionClosed(self.name)


class Events(AsyncIterator[Event]):
    """Iterates a subscription event by event.

    Args:
        subscription: What is iterated.
        hand: Its events handed over and not given yet, the last one first.
    """

    __slots__ = ("__weakref__", "_hand", "_subscription")

    def __init__(self, subscription: LocalSubscription, hand: list[Event]) -> None:
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

    def __init__(self, subscription: LocalSubscription, hand: list[Event]) -> None:
        self._subscription = subscription
        self._hand = hand

    async def __anext__(self) -> Batch:
        events = self._hand[::-1]
        self._hand.clear()
        if not events:
            events = await self._subscription.next_hand(self)
        return self._subscription.batch(events)
