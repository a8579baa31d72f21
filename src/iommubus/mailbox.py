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

Range edges never cut a mapping, neither one that is held nor one in the table:
a range grows by whole events only, and events name whole mappings.

No clock, no task: the mailbox is told when somebody waits, and calls back.
"""

from collections.abc import Callable, Sequence
from typing import Final

from .events import DevIotlbUnmap, Event, Map, Unmap
from .ranges import LAST
from .rangeset import RangeSet
from .table import Mapping

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
        on_ready: Called once when something arrives after `expect`.
        on_limit: Called when the dirty ranges exceed the limit.
    """

    __slots__ = (
        "_capacity",
        "_cursor",
        "_dev",
        "_dirty",
        "_expected",
        "_fifo",
        "_limit",
        "_on_limit",
        "_on_ready",
        "_parked",
        "_piece",
        "_round",
        "_slow",
        "_walk",
        "conflations",
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
    ) -> None:
        self._walk = walk
        self._capacity = capacity
        self._piece = piece
        self._limit = limit
        self._on_ready = on_ready
        self._on_limit = on_limit
        self._expected = False
        self._fifo: list[Event] = []
        self._dirty = RangeSet()  # marked: the subscriber may hold something there
        self._dev = RangeSet()
        self._parked = RangeSet()  # UNMAPs that failed, until somebody asks again
        self._slow = False  # one of the three sets is not empty
        self._round = 0
        self._cursor = 0
        self.conflations = 0

    # -- the publishing side ---------------------------------------------------

    def put(self, event: Event) -> None:
        """Take an event, without waiting and without losing it."""
        fifo = self._fifo
        if self._slow or len(fifo) >= self._capacity:
            self._put_slow(event)
        else:
            fifo.append(event)
        if self._expected:
            self._expected = False
            self._on_ready()

    def replay(self, first: int, last: int) -> None:
        """Have a range read from the table; nothing in it is held yet."""
        self._dirty.add(first, last, mark=False)
        self._slow = True

    # -- the subscriber's side -------------------------------------------------

    def expect(self) -> None:
        """Ask for one call of ``on_ready`` when the next event arrives."""
        self._expected = True

    def hand_over(self, space: str, seq: int) -> list[Event]:
        """Remove and return what is to be handed over now; it may be nothing.

        Args:
            space: Name that events made here carry.
            seq: Latest number of the space, for the same purpose.
        """
        events = self._fifo
        self._fifo = []
        if self._slow:
            events += [Unmap(space, seq, first, last) for first, last in self._dirty.take_marked()]
            events += [DevIotlbUnmap(space, seq, first, last) for first, last, _ in self._dev]
            self._dev.clear()
            if self._walk is None:
                self._dirty.clear()
            elif self._dirty:
                events += [
                    Map(space, seq, mapping.first, mapping.last, mapping.target, mapping.perm)
                    for mapping in self._read(self._walk)
                ]
            self._slow = bool(self._dirty or self._parked)
        return events

    def refuse(self, first: int, last: int, behind: Sequence[Event] = ()) -> None:
        """Note that the subscriber could not apply an UNMAP.

        It is handed over again after `retry`, or before anything else there.

        Args:
            first: First address of the UNMAP.
            last: Last address of the UNMAP.
            behind: Events there that were handed over with it but not given to
                the subscriber yet; they are taken back.
        """
        self._parked.add(first, last, mark=True)
        self._slow = True
        for event in behind:
            self._dirty.add(event.first, event.last, mark=True)
        if behind or any(event.first <= last and event.last >= first for event in self._fifo):
            self._unpark(first, last)

    def retry(self) -> None:
        """Have every refused UNMAP handed over again."""
        self._unpark(0, LAST)
        if self.ready and self._expected:
            self._expected = False
            self._on_ready()

    # -- questions -------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a hand-over would give, or find out, anything."""
        return bool(self._fifo or self._dirty or self._dev)

    @property
    def owes_removal(self) -> bool:
        """Whether the next hand-over may take something away."""
        return bool(self._fifo or self._dev) or any(mark for _, _, mark in self._dirty)

    @property
    def refused(self) -> list[tuple[int, int]]:
        """The ranges of the UNMAPs that the subscriber could not apply."""
        return [(first, last) for first, last, _ in self._parked]

    @property
    def reading(self) -> bool:
        """Whether part of the table has still to be read."""
        return self._walk is not None and bool(self._dirty)

    @property
    def lag(self) -> int:
        """Events in the FIFO and ranges that wait beside it."""
        return len(self._fifo) + len(self._dirty) + len(self._dev) + len(self._parked)

    @property
    def dirty(self) -> bool:
        """Whether anything waits as a dirty range."""
        return bool(self._dirty)

    @property
    def half_full(self) -> bool:
        """Whether the FIFO is more than half full."""
        return 2 * len(self._fifo) > self._capacity

    @property
    def turn(self) -> Turn:
        """The point at which all that is dirty now will have been read."""
        return self._round + 1, self._cursor

    def reached(self, turn: Turn) -> bool:
        """Say whether the cursor has come to ``turn``, or has nothing left to read."""
        return not self._dirty or (self._round, self._cursor) >= turn

    # -- inside ----------------------------------------------------------------

    def _put_slow(self, event: Event) -> None:
        first, last = event.first, event.last
        if self._parked.overlaps(first, last):
            self._unpark(first, last)
        if type(event) is DevIotlbUnmap and self._dirty:
            self._soil(event)  # behind the UNMAPs that wait there
        elif self._dirty.overlaps(first, last):
            self._absorb(event)
        elif len(self._fifo) < self._capacity:
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
        if len(self._dev) > self._capacity:
            self._dev.close_gaps(self._capacity // 2)
        if len(self._dirty) > self._capacity and self._walk is None:
            self._dirty.close_gaps(self._capacity // 2)
        if len(self._dirty) > self._limit:
            self._on_limit()

    def _unpark(self, first: int, last: int) -> None:
        """Move refused UNMAPs to the dirty ranges, with all that waits behind them."""
        for low, high in self._parked.pop_overlapping(first, last):
            low, high = self._dirty.add(low, high, mark=True)
            while (behind := self._overtaken(low, high)) is not None:
                low, high = self._dirty.add(behind.first, behind.last, mark=True)

    def _overtaken(self, first: int, last: int) -> Event | None:
        """Remove and return one event of the FIFO that must not pass a dirty range."""
        for at, event in enumerate(self._fifo):
            if event.first <= last and event.last >= first and type(event) is not DevIotlbUnmap:
                return self._fifo.pop(at)
        return None

    def _read(self, walk: Walk) -> list[Mapping]:
        """Read a piece of the table from the cursor on, and clean what was read.

        It ends at the latest where the cursor starts its next round.
        """
        found: list[Mapping] = []
        for _ in range(self._piece):
            part = self._dirty.at_or_after(self._cursor)
            if part is None:
                self._round, self._cursor = self._round + 1, 0
                break
            found += self._read_part(walk, *part, self._piece - len(found))
            if len(found) >= self._piece:
                break
        return found

    def _read_part(self, walk: Walk, first: int, last: int, room: int) -> list[Mapping]:
        found = walk(first, last, room + 1)
        more = len(found) > room
        if found and found[0].first < first:  # it lies across the cursor: its turn is the next round
            first = found.pop(0).last + 1
        del found[room:]
        end = found[-1].last if more else last
        if first <= end:
            self._dirty.discard(first, end)
        self._cursor = max(first, end + 1)
        return found
