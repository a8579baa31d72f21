"""The mailbox of one subscription: nothing it relies on is lost, in bounded room.

The usual case is a FIFO.  When it is full, what is in it becomes *dirty
ranges*, and from then on the mailbox remembers where something changed instead
of what: it *conflates*.  A hand-over gives

1. the FIFO, which is newer than all that was read from the table before and
   older than all that will be read after;
2. an UNMAP of **every** dirty range in which the subscriber may still hold
   something, so that after one hand-over nothing stale is left;
3. the device invalidations;
4. up to ``piece`` MAPs of what the table holds *now*, from a cursor that goes
   round the dirty ranges, so that none starves and a huge one goes in pieces.

A new shadower starts with its whole range dirty and nothing held: replay,
resynchronisation and overflow are one mechanism.

A cacher (no walk) has only the sides that take away.  There ranges may be
merged over gaps, because a cacher must bear over-sized invalidations; for a
shadower they may not, and what did not change is never disturbed.

Range edges never cut a mapping that is held, nor one in the table: a range grows
by whole events only, and events name whole mappings.  (A consumer that is given
mappings in pieces may fail to remove one piece.  Then a range is that piece, and
just as much is read of what is there now.)  Where a range and the FIFO overlap,
the FIFO is older; and in a range without a mark nothing is held once the FIFO
was applied.

A removal that failed is set aside, *parked*, with all that waits in its range:
nothing else may be handed over there before it, and a subscriber that fails for
ever must not be kept busy by it.  So the FIFO and the dirty ranges never
overlap what is parked for a shadower.

No clock, no task: the mailbox is told when somebody waits, and calls back.
"""

from collections.abc import Callable
from typing import Final

from .events import DevIotlbUnmap, Event, Unmap
from .feed import Feed
from .mapping import Mapping
from .parked import Parked
from .rangeset import RangeSet

CAPACITY: Final = 4096
"""Most events in a FIFO by default: some 400 KiB, and forty milliseconds of a
guest that changes 100,000 mappings a second."""

PIECE: Final = 1024
"""Most mappings read from the table in one hand-over: about half a millisecond,
so that a large replay never stops the loop."""

DIRTY_LIMIT: Final = 2 * 65_536
"""Most dirty ranges by default.  Each covers a mapping that is held or one that
is present; VFIO type1 allows 65,535 mappings a container (its
``dma_entry_limit``)."""

Walk = Callable[[int, int, int], list[Mapping]]
"""Reads the table: ``walk(first, last, limit)`` gives the first ``limit``
mappings that overlap the range, cropped to what was subscribed."""

Turn = tuple[int, int]
"""A point of the cursor's way round: how many rounds, and the address."""


def _nobody() -> None:
    """Stand in for a callback that nobody gave."""


class Mailbox:
    """What waits for one subscription.

    Args:
        walk: Reads the table; `None` makes the mailbox a cacher's.
        capacity: Most events in the FIFO, at least 1.
        piece: Most mappings read in one hand-over, at least 1.
        limit: Most dirty ranges.
        on_ready: Called once when there is more to hand over, after `expect`.
        on_limit: Called when the dirty ranges exceed the limit.
        on_unshare: Called when the mailbox has left a feed, and must be put into
            by itself from then on.

    Attributes:
        capacity: Most events in the FIFO.
        place: Place in the feed that it follows, if it does.
        conflations: How often the FIFO was full.
    """

    __slots__ = (
        "_cursor",
        "_dev",
        "_dirty",
        "_expected",
        "_feed",
        "_fifo",
        "_limit",
        "_on_limit",
        "_on_ready",
        "_on_unshare",
        "_parked",
        "_piece",
        "_round",
        "_slow",
        "_walk",
        "capacity",
        "conflations",
        "place",
    )

    def __init__(
        self,
        walk: Walk | None,
        *,
        capacity: int = CAPACITY,
        piece: int = PIECE,
        limit: int = DIRTY_LIMIT,
        on_ready: Callable[[], None] = _nobody,
        on_limit: Callable[[], None] = _nobody,
        on_unshare: Callable[[], None] = _nobody,
    ) -> None:
        self.capacity = capacity
        self.place = 0
        self._walk = walk
        self._piece = piece
        self._limit = limit
        self._on_ready = on_ready
        self._on_limit = on_limit
        self._on_unshare = on_unshare
        self._feed: Feed | None = None  # stands in for the FIFO while it is followed
        self._expected = False
        self._fifo: list[Event] = []
        self._dirty = RangeSet()  # marked: the subscriber may hold something there
        self._dev = RangeSet()
        self._parked = Parked()
        self._slow = False  # one of these three is not empty
        self._round = 0
        self._cursor = 0
        self.conflations = 0

    # -- the publishing side ---------------------------------------------------

    def put(self, event: Event) -> None:
        """Take an event, without waiting and without losing it."""
        fifo = self._fifo
        if self._slow or len(fifo) >= self.capacity:
            self._put_slow(event)
        else:
            fifo.append(event)
        if self._expected:
            self.wake()

    def extend(self, events: list[Event]) -> None:
        """Take several events, as `put` takes each."""
        if self._slow or len(self._fifo) + len(events) > self.capacity:
            for event in events:
                self.put(event)
            return
        self._fifo += events
        if self._expected:
            self.wake()

    def follow(self, feed: Feed) -> None:
        """Share a feed instead of being put into; the mailbox must be `quiet`."""
        self._feed = feed
        feed.follow(self)
        if self._expected:
            feed.alert()

    def overflow(self) -> None:
        """Leave the feed, in which more events than the capacity wait."""
        waiting = self._unfollow()
        self._fifo = waiting[: self.capacity]
        self.extend(waiting[self.capacity :])

    def unshare(self) -> None:
        """Leave the feed that is followed, if one is."""
        if self._feed is not None:
            self._fifo = self._unfollow()

    def replay(self, first: int, last: int) -> None:
        """Have a range read from the table; nothing in it is held once the FIFO was applied."""
        self.unshare()
        self._make_way(first, last)
        self._dirty.add(first, last, mark=False)
        self._slow = True
        self.wake()

    # -- the subscriber's side -------------------------------------------------

    def expect(self) -> None:
        """Ask for one call of ``on_ready`` when there is more to hand over."""
        self._expected = True
        if self._feed is not None:
            self._feed.alert()

    def wake(self) -> None:
        """Call back if that was asked for."""
        if self._expected and self.ready:
            self._expected = False
            self._on_ready()

    def hand_over(self, space: str, seq: int) -> list[Event]:
        """Remove and return what is to be handed over now; it may be nothing.

        Args:
            space: Name that events made here carry.
            seq: Latest number of the space, for the same purpose.
        """
        if self._feed is not None:
            return self._feed.read(self)
        events = self._fifo
        self._fifo = []
        if self._slow:
            events += [Unmap(space, seq, first, last) for first, last in self._dirty.take_marked()]
            events += [DevIotlbUnmap(space, seq, first, last) for first, last in self._dev.take_marked()]
            self._dev.clear()
            if self._walk is None:
                self._dirty.clear()
            elif self._dirty:
                events += [mapping.event(space, seq) for mapping in self._read(self._walk)]
            self._slow = bool(self._dirty or self._parked)
        return events

    def refuse(self, event: Event, hand: list[Event]) -> None:
        """Note that the subscriber could not apply an event that takes something away.

        It is handed over again after `retry`, or when something else comes
        there, and before that.  What waits there already waits with it.

        Args:
            event: The UNMAP, or the device invalidation.
            hand: Events handed over that the subscriber was not given yet;
                those that wait with the event are removed from it.
        """
        self.unshare()
        self._slow = True
        if type(event) is DevIotlbUnmap:
            self._parked.devices.add(event.first, event.last, mark=True)
        else:
            self._park(event.first, event.last, hand)
        self._keep_limits()

    def retry(self) -> None:
        """Have everything that failed handed over again."""
        if self._parked:
            self._parked.spill(self._dirty, self._dev)
            self.wake()

    # -- questions -------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a hand-over would give, or find out, anything."""
        if self._feed is not None:
            return self._feed.end > self.place
        return bool(self._fifo or (self._slow and (self._dirty or self._dev)))

    @property
    def shared(self) -> bool:
        """Whether it follows a feed."""
        return self._feed is not None

    @property
    def quiet(self) -> bool:
        """Whether it has nothing to remember, and nothing waits."""
        return not (self._slow or self._waiting)

    @property
    def owes_removal(self) -> bool:
        """Whether the next hand-over may take something away."""
        if not self._slow:
            return self._waiting > 0
        return bool(self._fifo or self._dev) or any(mark for _, _, mark in self._dirty)

    @property
    def refused(self) -> list[tuple[int, int]]:
        """The ranges in which the subscriber could not take something away."""
        return self._parked.all()

    @property
    def reading(self) -> bool:
        """Whether part of the table has still to be read."""
        return self._walk is not None and bool(self._dirty)

    @property
    def lag(self) -> int:
        """Events in the FIFO and ranges that wait beside it."""
        return self._waiting + len(self._dirty) + len(self._dev) + len(self._parked)

    @property
    def dirty(self) -> bool:
        """Whether anything waits as a dirty range."""
        return bool(self._dirty)

    @property
    def half_full(self) -> bool:
        """Whether the FIFO is more than half full."""
        return 2 * self._waiting > self.capacity

    @property
    def turn(self) -> Turn:
        """The point at which all that is dirty now will have been read."""
        return self._round + 1, self._cursor

    def reached(self, turn: Turn) -> bool:
        """Say whether the cursor has come to ``turn``, or nothing waits.

        Then all that was in the table when ``turn`` was taken, and has not
        changed since, was handed over, but for what has been in `refused` since.
        """
        return not self.ready or (self._round, self._cursor) >= turn

    # -- inside ----------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        """Events in the FIFO, or in the feed that stands in for it."""
        return len(self._fifo) if self._feed is None else self._feed.end - self.place

    def _put_slow(self, event: Event) -> None:
        first, last = event.first, event.last
        dirty = self._dirty
        if (
            dirty.covers(first, last)
            and type(event) is not DevIotlbUnmap
            and not self._parked
            and len(dirty) <= self._limit
        ):
            return  # it is absorbed, and nothing changes
        self._make_way(first, last)
        if type(event) is DevIotlbUnmap:
            self._soil(event)  # behind every UNMAP that waits
        elif self._dirty.overlaps(first, last):
            self._absorb(event)
        elif len(self._fifo) < self.capacity:
            self._fifo.append(event)
        else:
            self._conflate(event)
        self._keep_limits()
        self._slow = bool(self._dirty or self._dev or self._parked)

    def _absorb(self, event: Event) -> None:
        """Note a change that overlaps dirty ranges."""
        if not self._dirty.covers(event.first, event.last):
            self._dirty.add(event.first, event.last, mark=True)

    def _conflate(self, event: Event) -> None:
        """Turn the full FIFO and the event that did not fit into dirty ranges."""
        self.conflations += 1
        for waiting in self._fifo:
            self._soil(waiting)
        self._fifo = []
        self._soil(event)

    def _soil(self, event: Event) -> None:
        if type(event) is DevIotlbUnmap:
            self._dev.add(event.first, event.last, mark=True)
        else:
            self._dirty.add(event.first, event.last, mark=type(event) is Unmap)

    def _keep_limits(self) -> None:
        """Bound the sets: by merging where that is allowed, else by giving up."""
        self._merge(self._dev)
        self._merge(self._parked.devices)
        if self._walk is None:
            self._merge(self._dirty)
            self._merge(self._parked.ranges)
        elif len(self._dirty) + len(self._parked.ranges) > self._limit:
            self._on_limit()

    def _merge(self, ranges: RangeSet) -> None:
        """Bridge gaps, in a set of which more than was asked may be taken away."""
        if len(ranges) > self.capacity:
            ranges.close_gaps(self.capacity // 2)

    def _park(self, first: int, last: int, hand: list[Event]) -> None:
        """Set a range aside, with all that waits there or has not been given yet."""
        found = [(first, last), *self._take_from_hand(first, last, hand)]
        while found:
            first = min(low for low, _ in found)
            last = max(high for _, high in found)
            first, last = self._parked.ranges.add(first, last, mark=True)  # with what was parked beside it
            found = self._dirty.pop_overlapping(first, last) + self._set_aside(
                take_overlapping(self._fifo, first, last)
            )
        for low, high in self._dev.pop_overlapping(first, last):
            self._parked.devices.add(low, high, mark=True)

    def _take_from_hand(self, first: int, last: int, hand: list[Event]) -> list[tuple[int, int]]:
        """Take back what overlaps a range, and what overlaps that; return the ranges.

        What waits here has no say: a consumer in another process, which does not see
        that, takes back the same.
        """
        taken: list[tuple[int, int]] = []
        found = [(first, last)]
        while found:
            first = min(low for low, _ in [(first, last), *found])
            last = max(high for _, high in [(first, last), *found])
            found = self._set_aside(take_overlapping(hand, first, last))
            taken += found
        return taken

    def _set_aside(self, events: list[Event]) -> list[tuple[int, int]]:
        """Remember device invalidations that have to wait; return the ranges of everything else."""
        for event in events:
            if type(event) is DevIotlbUnmap:
                self._parked.devices.add(event.first, event.last, mark=True)
        return [(event.first, event.last) for event in events if type(event) is not DevIotlbUnmap]

    def _make_way(self, first: int, last: int) -> None:
        """See to it that nothing comes before what failed there."""
        if self._parked.overlaps(first, last):
            self._parked.spill(self._dirty, self._dev)

    def _unfollow(self) -> list[Event]:
        feed, self._feed = self._feed, None
        waiting = feed.unfollow(self) if feed is not None else []
        self._on_unshare()
        return waiting

    def _read(self, walk: Walk) -> list[Mapping]:
        """Read a piece of the table from the cursor on, and clean what was read.

        It ends at the latest where a round of the cursor does.
        """
        if self._dirty.at_or_after(self._cursor) is None:
            self._round, self._cursor = self._round + 1, 0
        found: list[Mapping] = []
        for _ in range(self._piece):  # ranges without a mapping cost time too
            part = self._dirty.at_or_after(self._cursor)
            if part is None or len(found) >= self._piece:
                break
            found += self._read_part(walk, *part, self._piece - len(found))
        return found

    def _read_part(self, walk: Walk, first: int, last: int, room: int) -> list[Mapping]:
        found = walk(first, last, room + 1)
        more = len(found) > room
        if found and found[0].first < first:
            if first and self._dirty.overlaps(first - 1, first - 1):  # it lies across the cursor: its turn
                first = found.pop(0).last + 1  # is the next round
            else:
                found[0] = found[0].clip(first, last)
        del found[room:]
        if found:
            found[-1] = found[-1].clip(first, last)
        end = found[-1].last if more else last
        if first <= end:
            self._dirty.discard(first, end)
        self._cursor = max(first, end + 1)
        return found


def take_overlapping(events: list[Event], first: int, last: int) -> list[Event]:
    """Remove and return the events that overlap ``first..last``."""
    found = [event for event in events if event.first <= last and event.last >= first]
    events[:] = [event for event in events if event.first > last or event.last < first]
    return found
