"""The hand-overs of one subscription at a daemon: on their way, in hand, and the one that takes everything away.

They are counted here by the consumer, whatever becomes of connections.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from ..bus.given import Given
from ..bus.hand import Behind, Hand
from ..bus.member import Terms
from ..bus.translation import RecentRemovals
from ..events import Event, Map, Memory
from ..wire.messages.heard import DeliverHeard
from .arrivals import Arrival, Arrivals
from .holding import Holding


class Drop(Struct):
    """The hand-over that takes everything away, after a lost connection.

    Attributes:
        due: Whether it waits to be handed out.
        number: Its number while it is in hand, else 0.
        failed: Whether some of it could not be applied.
    """

    due: bool = False
    number: int = 0
    failed: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing has to be taken away."""
        return not (self.due or self.number or self.failed)


class HandOvers:
    """The hand-overs of one subscription.

    Args:
        terms: What it asks for, checked.
        space: What events are said to be about, where nothing was handed out yet.

    Attributes:
        hand: What the consumer was given and has not acknowledged.
        handed: Number of the last one.
        acked: Number of the last one acknowledged.
        arrivals: What has arrived on this connection and was not handed out.
        holding: What the consumer may hold.
        drop: That which takes everything away.
        removals: What was removed on this connection, by the daemon's numbers.
        given: What was handed out so far.
    """

    def __init__(self, terms: Terms, space: str) -> None:
        self.hand = Hand()
        self.handed = self.acked = 0
        self.arrivals = Arrivals()
        self.holding = Holding(terms.caps, terms.wanted, terms.contract, space)
        self.drop = Drop()
        self.removals = RecentRemovals()
        self.given = Given(terms.caps)
        self._open: deque[tuple[int, Arrival]] = deque()  # not acknowledged, by number

    # -- on their way ----------------------------------------------------------------

    def take_in(self, message: DeliverHeard, knows: Callable[[Memory], bool]) -> None:
        """Take what arrived.

        Args:
            message: A hand-over, or a part of one.
            knows: Says whether nothing more has to come before the bytes of a memory can be looked at.

        Raises:
            BadMessage: It is out of order.
        """
        arrival = self.arrivals.take_in(message)
        if arrival is not None:
            arrival.awaited = {memory for memory in arrival.awaited if not knows(memory)}

    @property
    def ready(self) -> bool:
        """Whether there is one to hand out."""
        return self.drop.due or self.arrivals.ready

    @property
    def left(self) -> bool:
        """Whether there is one, or will be."""
        return self.drop.due or bool(self.arrivals)

    @property
    def lag(self) -> int:
        """Events that wait."""
        return self.drop.due + sum(len(arrival.events) for arrival in self.arrivals)

    # -- handed out --------------------------------------------------------------------

    def take(self) -> tuple[list[Event], list[Map]]:
        """Hand one out; return its events, and the MAPs of it for which there is no room."""
        self.handed += 1
        refused: list[Map] = []
        if self.drop.due:
            self.drop = Drop(number=self.handed)
            events = self.holding.all_gone(self.handed)
        else:
            arrival = self.arrivals.pop()
            self.removals.note(arrival.number, arrival.events)
            self._open.append((self.handed, arrival))
            events = arrival.events
            if events:
                events, refused = self.holding.give(events, self.handed)
        self.given.add(events, self.given.maps_in(events))
        return events, refused

    def acknowledge(self, number: int) -> tuple[int, int]:
        """Take it that hand-overs up to ``number`` are out of use.

        Returns:
            The last of them by the daemon's number, 0 if it knows of none, and how many bytes they were.
        """
        self.acked = max(self.acked, number)
        self.hand.acknowledge(number)
        self.holding.acknowledge(number)
        last = cost = 0
        while self._open and self._open[0][0] <= number:
            _, arrival = self._open.popleft()
            if arrival.number:
                last, cost = arrival.number, cost + arrival.cost
        return last, cost

    @property
    def settled(self) -> bool:
        """Whether everything that was handed out is acknowledged."""
        return not self._open and self.drop.over

    # -- failures ------------------------------------------------------------------------

    def place(self, event: Event) -> tuple[int, int] | None:
        """Return the hand-over of an event by the daemon's number, and its place there; `None` if it is not in hand.

        The number is 0 if the daemon knows nothing of it any more.
        """
        for _, arrival in self._open:
            index = arrival.place(event)
            if index is not None:
                return arrival.number, index
        return None

    def refuse(self, event: Map) -> None:
        """Take it that the consumer does not have a mapping that it was given."""
        behind = self.hand.behind(event)
        self.holding.refuse(event, behind.events)
        behind.settle()

    def put_back(self, event: Event, *, told: bool) -> None:
        """Take it that the consumer still has what a removal takes away, and none of what comes behind that there.

        Args:
            event: The removal.
            told: Whether the daemon is told; then what arrived behind it is taken back, too.
        """
        behind = self.hand.behind(event)
        given = behind.events.copy()
        (self.arrivals if told else Arrivals()).fail(event, behind.events)
        self.holding.take_back([event, *taken_of(given, behind)])
        behind.settle()
        self.drop.failed = self.drop.number > 0

    # -- a lost connection -----------------------------------------------------------------

    def lose(self) -> None:
        """Forget what was not given, and what the daemon knew; all that was given has to be taken away."""
        self.holding.take_back(self.hand.rest[::-1])
        self.hand.rest.clear()
        self.cut()
        for _, arrival in self._open:
            arrival.number = 0
        self.drop = Drop(due=self.holding.touched)

    def cut(self) -> None:
        """Forget what has arrived, and that answers may be believed."""
        self.arrivals = Arrivals()
        self.removals.stop()
        self.removals = RecentRemovals()

    def clear(self) -> None:
        """Hand nothing out any more."""
        self.cut()
        self.hand.clear()
        self.drop = Drop()
        self._open.clear()

    def dropped(self) -> bool:
        """Note that what took everything away was acknowledged; say whether nothing is held."""
        self.drop.number = 0
        if not self.drop.failed:
            self.holding.let_go()
        return not self.drop.failed


def taken_of(given: list[Event], behind: Behind) -> list[Event]:
    """Return those events that are not behind any more."""
    left = set(map(id, behind.events))
    return [event for event in given if id(event) not in left]
