"""What a consumer has in hand: handed over, and not acknowledged yet.

Behind an UNMAP that could not be applied, what waits there has to be taken back,
out of the hand of the consumer and out of batches that it was given.
"""

from collections import deque

from ..events import Event


class Behind:
    """What was handed over behind one event.

    Attributes:
        events: All of it, in order; what is removed from here is taken back by `settle`.
    """

    __slots__ = ("_places", "events")

    def __init__(self, places: list[tuple[list[Event], int, bool]]) -> None:
        self._places = places
        self.events = [
            event for events, start, last_first in places for event in (events[::-1] if last_first else events[start:])
        ]

    def settle(self) -> None:
        """Take back what was removed from `events`."""
        left = set(map(id, self.events))
        for events, start, _ in self._places:
            events[start:] = [event for event in events[start:] if id(event) in left]


class Hand:
    """What one consumer has in hand.

    Attributes:
        rest: Of the last hand-over, what was not given yet, the last one first.
    """

    __slots__ = ("_batches", "rest")

    def __init__(self) -> None:
        self.rest: list[Event] = []
        self._batches: deque[tuple[int, list[Event]]] = deque()

    def give(self, number: int, events: list[Event]) -> None:
        """Note that hand-over ``number`` was given as a batch; the list stays the batch's own."""
        self._batches.append((number, events))

    def acknowledge(self, number: int) -> None:
        """Forget the batches up to hand-over ``number``."""
        while self._batches and self._batches[0][0] <= number:
            self._batches.popleft()

    def clear(self) -> None:
        """Take back what was not given."""
        self.rest.clear()

    def behind(self, event: Event) -> Behind:
        """Return what was handed over behind an event that was given."""
        places = [(self.rest, 0, True)]
        for _, batch in reversed(self._batches):
            for at, given in enumerate(batch):
                if given is event:
                    return Behind([(batch, at + 1, False), *places])
            places.insert(0, (batch, 0, False))
        return Behind(places[-1:])  # it was given alone

    def __len__(self) -> int:
        """Count the batches that were given and not acknowledged."""
        return len(self._batches)
