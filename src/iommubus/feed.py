"""One FIFO for all mailboxes that get the same events.

Subscribers with one mask and the same ranges are told the same, and most of the
time none of them is behind.  So an event is put into their feed once, however
many they are, and each mailbox keeps its place.  A mailbox that falls further
behind than its capacity, or that has more to remember than a place, leaves the
feed and looks after itself until it has caught up.
"""

from typing import Protocol

from .events import Event, crop


class Follower(Protocol):
    """A mailbox, to the feed it follows.

    Attributes:
        place: Number in the feed of the first event not handed over.
        capacity: Most events that may wait for it.
    """

    place: int
    capacity: int

    def overflow(self) -> None:
        """Leave the feed: more events than the capacity are waiting."""
        ...

    def wake(self) -> None:
        """Call back if somebody waits for an event."""
        ...


class Feed:
    """The events that mailboxes with one mask and the same ranges get.

    Args:
        ranges: Disjoint ranges that events are cropped to, in order.
    """

    __slots__ = ("_alerted", "_events", "_followers", "_limit", "_ranges", "_start")

    def __init__(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self._ranges = ranges
        self._events: list[Event] = []
        self._start = 0  # number of the first event in the list
        self._limit = 0  # events in the list that are no reason to look after the followers
        self._alerted = False  # somebody waits for the next event
        self._followers: list[Follower] = []

    def put(self, event: Event) -> None:
        """Take an event that lies in the ranges."""
        events = self._events
        events.append(event)
        if len(events) > self._limit:
            self._attend()

    def extend(self, events: list[Event]) -> None:
        """Take several events that lie in the ranges."""
        self._events += events  # all of them, before anybody leaves
        if len(self._events) > self._limit and events:
            self._attend()

    def offer(self, event: Event) -> None:
        """Take the parts of an event that lie in the ranges."""
        self.extend([part for first, last in self._ranges if (part := crop(event, first, last)) is not None])

    @property
    def end(self) -> int:
        """Number that the next event will have."""
        return self._start + len(self._events)

    @property
    def behind(self) -> int:
        """How many events may wait for one of those who follow it, at most."""
        return len(self._events)

    @property
    def followed(self) -> bool:
        """Whether anybody follows it."""
        return bool(self._followers)

    def follow(self, follower: Follower) -> None:
        """Count a mailbox in from here on."""
        follower.place = self.end
        self._followers.append(follower)
        self._look()

    def unfollow(self, follower: Follower) -> list[Event]:
        """Count a mailbox out; return what waits for it."""
        self._followers.remove(follower)
        return self.read(follower)

    def read(self, follower: Follower) -> list[Event]:
        """Return what waits for a mailbox, and move its place behind that."""
        waiting = self._events[follower.place - self._start :]
        follower.place = self.end
        return waiting

    def alert(self) -> None:
        """Look after the followers at the next event: one of them waits for it."""
        self._alerted = True
        self._limit = 0

    # -- inside ----------------------------------------------------------------

    def _attend(self) -> None:
        """Have those leave who are too far behind, and wake those who wait."""
        for follower in self._followers.copy():
            if self.end - follower.place > follower.capacity:
                follower.overflow()
        self._alerted = False
        self._look()
        for follower in self._followers.copy():
            follower.wake()

    def _look(self) -> None:
        """Drop what nobody needs any more, and see how long there is room for everybody."""
        needed = min((follower.place for follower in self._followers), default=self.end)
        del self._events[: needed - self._start]
        self._start = needed
        rooms = [follower.place + follower.capacity for follower in self._followers]
        self._limit = 0 if self._alerted else min(rooms, default=self._start) - self._start
