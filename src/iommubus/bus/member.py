"""What the bus keeps of a subscription: mailbox, hand-overs, and whether it is trusted.

The consumer's handle refers to its member, never the other way round, so that a
handle that is forgotten is collected and the member learns of it.

A member is *joined*, then either *gone* (it promised that it dropped
everything, or is proven stopped) or *unproven* (it left unclean, and may still
use what it was given).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import count
from operator import countOf
from typing import Protocol

import anyio

from ..caps import Cap
from ..completion import Completion, How, Wait
from ..events import DevIotlbUnmap, Event, Map, Unmap, crop
from ..ledger import OldPieces
from ..mailbox import Mailbox
from ..rangeset import RangeSet
from ..table import Mapping
from .abc import OnFence, Stops
from .reports import MapFailure, SubscriptionStatistics
from .translation import LocalTranslation, RecentRemovals


class Home(Protocol):
    """What a member needs of the space it belongs to."""

    name: str
    seq: int

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Return the first ``limit`` mappings that overlap the range."""
        ...

    def lookup(self, iova: int) -> Mapping | None:
        """Return the mapping at an address."""
        ...

    def old_pieces(self, member: "Member") -> OldPieces:
        """Return what was removed and may be in use by the member."""
        ...

    def moved(self) -> None:
        """Note that a mailbox has more room."""
        ...

    def share(self, member: "Member") -> None:
        """Feed a member together with those who get the same."""
        ...

    def unshared(self) -> None:
        """Note that a member has to be put into by itself from now on."""
        ...

    def bury(self, member: "Member") -> None:
        """Abandon a member at the next opportunity; called from any thread."""
        ...

    def dismiss(self, member: "Member") -> None:
        """Publish to the member no longer; forget it once it is gone."""
        ...


class State(Enum):
    """How far the bus may trust a member."""

    NEW = "not entered"
    JOINED = "joined"
    UNPROVEN = "unproven"
    GONE = "gone"


NUMBERS = count(1)
"""Numbers for subscriptions without a name of their own."""


class Member:
    """One subscription, as the bus sees it.

    Args:
        home: The space it belongs to.
        caps: The kinds of event it gets.
        ranges: Disjoint ranges it gets them in, in order.
        capacity: Most events that wait one by one.
        stops: How it is proven stopped.
        on_fence: Stops it, if anything does.
        name: Its name in reports.
    """

    def __init__(
        self,
        home: Home,
        caps: Cap,
        ranges: tuple[tuple[int, int], ...],
        *,
        capacity: int,
        stops: Stops,
        on_fence: OnFence | None,
        name: str | None,
    ) -> None:
        self.home = home
        self.caps = caps
        self.ranges = ranges
        self.name = name or f"{home.name}#{next(NUMBERS)}"
        self.stops: Stops = stops
        self.state = State.NEW
        self.reason = ""
        self.fenced = False
        self.ended = False
        self.completion = Completion(home.seq)
        self.mailbox = Mailbox(
            self._walk if caps & Cap.MAP else None,
            capacity=capacity,
            on_ready=self._wake,
            on_limit=self._overrun,
            on_unshare=self._unshared,
        )
        self.hand: list[Event] = []  # of the last hand-over, not given yet, the last one first
        self.batches: deque[tuple[int, list[Event]]] = deque()  # given, and not acknowledged yet
        self.failures: list[MapFailure] = []  # for the next sync
        self.first_failures: list[MapFailure] = []  # of the first replay, for the subscriber itself
        self.proof_failure: Exception | None = None
        self.removals = RecentRemovals()
        self._on_fence = on_fence
        self._proving = anyio.Lock()
        self.first_turn = anyio.Event()
        self._make_event = type(self.first_turn)  # spares looking for the event loop's kind each time
        self._arrival: anyio.Event | None = None
        self._held_back: int | None = None  # removals from here on may be in use: an UNMAP failed
        self._retried_in: int | None = None  # hand-over that gives that UNMAP again
        self._unapplied = RangeSet()  # where UNMAPs failed
        self._touched = False  # something live was handed to it
        self._maps = bool(caps & Cap.MAP)
        self._devices = bool(caps & Cap.DEVIOTLB_UNMAP)
        self._delivered = {Map: 0, Unmap: 0, DevIotlbUnmap: 0}

    # -- the publishing side ---------------------------------------------------

    def offer(self, event: Event) -> None:
        """Take the parts of an event that lie in the ranges."""
        for part in self._cropped((event,)):
            self.mailbox.put(part)

    def join(self) -> None:
        """Begin to count; a shadower's ranges are read from the table."""
        self.state = State.JOINED
        self.completion.covered = self.home.seq
        if self.caps & Cap.MAP:
            for first, last in self.ranges:
                if self.home.walk(first, last, 1):
                    self.mailbox.replay(first, last)
        self.completion.expect_turn(self.mailbox, self._became_current)
        if self.mailbox.quiet:
            self.home.share(self)

    def end(self) -> None:
        """End the stream once the mailbox is empty."""
        self.ended = True
        self._wake()

    # -- the consumer's side ---------------------------------------------------

    def take(self) -> list[Event]:
        """Make a hand-over; it may turn out to be empty, and then has no number."""
        events = self.mailbox.hand_over(self.home.name, self.home.seq)
        if len(self.ranges) > 1 and not self.mailbox.shared:  # gaps may have been bridged that were not asked for
            events = list(self._cropped(events))
        self.home.moved()
        if not events:
            self.completion.look(self.mailbox)
            return events
        number = self.completion.hand_over(self.home.seq, self.mailbox)
        if self._held_back is not None and self._retried_in is None and not self.mailbox.refused:
            self._retried_in = number
        self._count(events)
        self.removals.note(events)
        if not self.mailbox.shared and self.mailbox.quiet:
            self.home.share(self)
        return events

    def acknowledge(self, number: int) -> None:
        """Take it that hand-overs up to ``number`` are applied and out of use."""
        if self._retried_in is not None and self._retried_in <= number:
            self._held_back = self._retried_in = self.proof_failure = None
            self._unapplied.clear()
        while self.batches and self.batches[0][0] <= number:
            self.batches.popleft()
        self.completion.acknowledge(number)

    def fail(self, event: Event, error: Exception) -> None:
        """Note that an event in hand could not be applied."""
        if isinstance(event, Map):
            failure = MapFailure(self.name, self.home.name, event.first, event.last, error)
            (self.failures if self.completion.current else self.first_failures).append(failure)
            return
        if self._held_back is None:
            self._held_back = self.completion.covered
        self._retried_in = None
        self._unapplied.add(event.first, event.last, mark=True)
        self.proof_failure = error
        places = self._behind(event)
        later = [given for events, start in places for given in events[start:]]
        self.mailbox.refuse(event, later)
        left = set(map(id, later))
        for events, start in places:
            events[start:] = [given for given in events[start:] if id(given) in left]
        self.completion.look(self.mailbox)
        self.home.moved()

    def _behind(self, event: Event) -> list[tuple[list[Event], int]]:
        """Return the lists of what was handed over behind an event, and where in each it begins."""
        places = [(self.hand, 0)]
        for _, batch in reversed(self.batches):
            for at, given in enumerate(batch):
                if given is event:
                    return [*places, (batch, at + 1)]
            places.append((batch, 0))
        return places[:1]  # it was given alone

    async def wait_ready(self) -> None:
        """Wait until there is something to hand over, or the end."""
        arrival = self._arrival = self._make_event()
        self.mailbox.expect()
        try:
            await arrival.wait()
        finally:
            self._arrival = None

    def translate(self, iova: int) -> LocalTranslation | None:
        """Return what is mapped at an address of the ranges, if anything is."""
        stamp = self.removals.stamp()
        for first, last in self.ranges:
            if first <= iova <= last and (mapping := self.home.lookup(iova)) is not None:
                self._touched = True
                return LocalTranslation(mapping.clip(first, last), self.home.seq, self.removals, stamp)
        return None

    # -- leaving ---------------------------------------------------------------

    def leave(self) -> None:
        """Take it that everything was dropped."""
        if self.state is not State.GONE:
            self._go(How.LEFT)

    def abandon(self, reason: str) -> None:
        """Fence it: whatever it held must not be used, and may yet be."""
        if self.state is not State.JOINED:
            return
        self.fenced, self.reason = True, reason
        self.removals.stop()
        self.hand.clear()
        if not self._touched:
            self._go(How.LEFT)
        elif self.stops == "lease":
            self._go(How.STOPPED)
        else:
            self.state = State.UNPROVEN
            self.completion.poke()
            self.first_turn.set()  # it will not come any more
            self._wake()
            self.home.dismiss(self)

    def lose(self, reason: str) -> None:
        """Have it abandoned soon, from where that must not be done at once.

        That is the garbage collector, which may run in any thread, and the
        middle of an event's way to the mailboxes.
        """
        self.fenced, self.reason = True, reason
        self.home.bury(self)

    @property
    def can_be_proven(self) -> bool:
        """Whether there is a way to stop it."""
        return self._on_fence is not None

    async def prove(self) -> bool:
        """Run what stops it, once for all who ask; say whether it is stopped."""
        async with self._proving:
            if self.state is State.UNPROVEN and self._on_fence is not None:
                try:
                    await self._on_fence()
                except Exception as failure:  # noqa: BLE001 - reported by the sync that needs it
                    self.proof_failure = failure
                else:
                    self._go(How.STOPPED)
        return self.state is State.GONE

    # -- for a sync ------------------------------------------------------------

    def expect(self, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait for all that was unmapped before now."""
        if self.state is not State.JOINED:
            return self.completion.expect_stop(changed)
        self.mailbox.retry()
        return self.completion.expect(self.mailbox, changed)

    @property
    def crowded(self) -> bool:
        """Whether a producer that paces itself should wait for it."""
        return self.mailbox.half_full or (self.completion.current and self.mailbox.dirty)

    @property
    def covered(self) -> int:
        """Number in the space up to which no removal is in use here."""
        if self._held_back is not None:
            return self._held_back
        done = self.completion
        if done.handed == done.acked and not self.mailbox.owes_removal and self.state is State.JOINED:
            return self.home.seq
        return done.covered

    def old_pieces(self) -> OldPieces:
        """Return what was removed and may be in use here."""
        return self.home.old_pieces(self)

    @property
    def unapplied(self) -> list[tuple[int, int]]:
        """Where UNMAPs failed that were not applied since."""
        return [(first, last) for first, last, _ in self._unapplied]

    def pop_failures(self) -> list[MapFailure]:
        """Return the MAPs that failed since this was last asked."""
        failures, self.failures = self.failures, []
        return failures

    def pop_first_failures(self) -> list[MapFailure]:
        """Return the MAPs of the first replay that failed since this was last asked."""
        failures, self.first_failures = self.first_failures, []
        return failures

    def statistics(self) -> SubscriptionStatistics:
        """Return the counters of the subscription."""
        return SubscriptionStatistics(
            lag=self.mailbox.lag,
            delivered={
                Cap.UNMAP: self._delivered[Unmap],
                Cap.MAP: self._delivered[Map],
                Cap.DEVIOTLB_UNMAP: self._delivered[DevIotlbUnmap],
            },
            handed=self.completion.handed,
            acked=self.completion.acked,
            conflations=self.mailbox.conflations,
            current=self.completion.current,
        )

    # -- inside ----------------------------------------------------------------

    def _walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Read the table, cropped to the ranges."""
        found: list[Mapping] = []
        for low, high in self.ranges:
            if low <= last and high >= first:
                pieces = self.home.walk(max(first, low), min(last, high), limit - len(found))
                found += [piece.clip(low, high) for piece in pieces]
        return found

    def _cropped(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            for first, last in self.ranges:
                part = crop(event, first, last)
                if part is not None:
                    yield part

    def _became_current(self, wait: Wait) -> None:
        if wait.how is How.ACKNOWLEDGED:
            self.completion.current = True
        if wait.how is not None:
            self.first_turn.set()

    def _count(self, events: list[Event]) -> None:
        maps = countOf(map(type, events), Map) if self._maps else 0
        devices = countOf(map(type, events), DevIotlbUnmap) if self._devices else 0
        self._delivered[Map] += maps
        self._delivered[DevIotlbUnmap] += devices
        self._delivered[Unmap] += len(events) - maps - devices
        if maps:
            self._touched = True

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()

    def _unshared(self) -> None:
        self.home.unshared()

    def _overrun(self) -> None:
        self.lose("it left more ranges dirty than its limit")

    def _go(self, how: How) -> None:
        self.state = State.GONE
        self.hand.clear()
        self.removals.stop()
        self.completion.finish(how)
        self._wake()
        self.home.dismiss(self)  # last: it calls the producer back
