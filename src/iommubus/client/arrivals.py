"""Hand-overs on their way to one consumer: put together as they arrive, less what a failure takes back.

When a consumer fails to remove something, the daemon takes back what came behind that
and overlaps it, and hands it over again.  It learns of the failure later than the
client, and has handed over more by then.  So a client does the same to what it
has, and to what arrives with a count of failures that is too low.
"""

from collections import deque
from collections.abc import Iterator
from itertools import chain

from ..errors import BadMessage
from ..events import DevIotlbUnmap, Event, Memory
from ..rangeset import RangeSet
from ..wire.messages.heard import DeliverHeard


class Arrival:
    """One hand-over that arrived.

    Attributes:
        number: Its number at the daemon.
        sent: Its events, as they were sent.
        events: Those of them that were not taken back.
        cost: Bytes that its messages had.
        awaited: Memories that it leads into and whose descriptors have not come.
    """

    __slots__ = ("awaited", "cost", "events", "number", "sent")

    def __init__(self, number: int, sent: list[Event], cost: int, awaited: set[Memory]) -> None:
        self.number = number
        self.sent = sent
        self.events = sent.copy()
        self.cost = cost
        self.awaited = awaited

    def place(self, event: Event) -> int | None:
        """Return the place of an event among those that were sent, if it is one of them."""
        return next((at for at, sent in enumerate(self.sent) if sent is event), None)


class TakenBack:
    """What failures took back that the daemon may not know of yet."""

    __slots__ = ("_fails", "_regions")

    def __init__(self) -> None:
        self._fails = 0
        self._regions: deque[tuple[int, RangeSet]] = deque()  # by the number of the failure

    def fail(self) -> int:
        """Count one more failure, and return its number."""
        self._fails += 1
        return self._fails

    def remove(self, event: Event, later: list[Event]) -> None:
        """Take back what cannot be handed out before a removal that failed, which was just counted.

        Args:
            event: The removal.
            later: What came behind it; what is taken back is removed from it.
        """
        if isinstance(event, DevIotlbUnmap):  # nothing waits for it
            return
        region = RangeSet()
        region.add(event.first, event.last, mark=True)
        take_back(region, later)
        self._regions.append((self._fails, region))

    def filter(self, fails: int, events: list[Event]) -> None:
        """Remove from a hand-over that just arrived what the daemon is going to take back of it.

        Args:
            fails: How many failures the daemon knew of when it made it.
            events: The hand-over.
        """
        while self._regions and self._regions[0][0] <= fails:
            self._regions.popleft()
        for _, region in self._regions:
            take_back(region, events)

    def __len__(self) -> int:
        """Count the failures that take something back and are not known to have arrived."""
        return len(self._regions)


class Arrivals:
    """What arrived on one connection for one consumer, and was not handed out.

    Attributes:
        last: Number that the daemon said last.
        newest: Number of the last hand-over that arrived; there are none for those that give nothing.
        taken_back: What failures took back.
    """

    __slots__ = ("_awaited", "_cost", "_parts", "_queue", "last", "newest", "taken_back")

    def __init__(self) -> None:
        self.last = self.newest = 0
        self.taken_back = TakenBack()
        self._queue: deque[Arrival] = deque()
        self._parts: list[Event] = []  # of a hand-over of which more comes
        self._awaited: set[Memory] = set()
        self._cost = 0

    def take_in(self, message: DeliverHeard) -> Arrival | None:
        """Take what arrived; return the hand-over that is complete with it, if one is and has events.

        Raises:
            BadMessage: Its number is out of order.
        """
        self._check_order(message)
        if self._parts:
            self._parts += message.events
        else:
            self._parts = message.events
        self._awaited.update(message.memories)
        self._cost += message.size
        if message.more or not self._parts:
            return None
        arrival = Arrival(message.number, self._parts, self._cost, self._awaited)
        self._parts, self._awaited, self._cost = [], set(), 0
        self.taken_back.filter(message.fails, arrival.events)
        self._queue.append(arrival)
        self.newest = arrival.number
        return arrival

    def fail(self, event: Event, later: list[Event]) -> None:
        """Take back what is behind a removal that failed and was just counted.

        Args:
            event: The removal.
            later: What was handed out behind it; what is taken back is removed from it.
        """
        queued = [event for arrival in self._queue for event in arrival.events]
        behind = later + queued
        self.taken_back.remove(event, behind)
        left = set(map(id, behind))
        for events in chain([later], (arrival.events for arrival in self._queue)):
            events[:] = [one for one in events if id(one) in left]

    def pop(self) -> Arrival:
        """Return the first that was not handed out."""
        return self._queue.popleft()

    @property
    def ready(self) -> bool:
        """Whether the first may be handed out: all its memories are known."""
        return bool(self._queue) and not self._queue[0].awaited

    def known(self, memory: Memory) -> None:
        """Wait for the descriptor of a memory no longer."""
        for arrival in self._queue:
            arrival.awaited.discard(memory)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._queue)

    # -- inside ----------------------------------------------------------------

    def _check_order(self, message: DeliverHeard) -> None:
        inside = bool(self._parts)
        if message.number < self.last or (message.number == self.last and message.events and not inside):
            raise BadMessage("Deliver", "number", str(message.number), f"the one before had {self.last}")
        if inside and message.number != self.last:
            raise BadMessage("Deliver", "number", str(message.number), f"number {self.last} goes on")
        self.last = message.number


def take_back(region: RangeSet, events: list[Event]) -> None:
    """Remove the events that overlap a region; it grows by them, but for device invalidations."""
    while taken := [event for event in events if region.overlaps(event.first, event.last)]:
        for event in taken:
            if not isinstance(event, DevIotlbUnmap):
                region.add(event.first, event.last, mark=True)
        gone = set(map(id, taken))
        events[:] = [event for event in events if id(event) not in gone]
