"""What one consumer may hold, as far as that has to be known to take everything away.

After a lost connection a consumer is told to forget all that it was given.  It is
not told to forget addresses that it never had, because a device may have no
room for a range so large; nor is a mapping cut.  What has to be forgotten mapping by
mapping is remembered so.
"""

from collections.abc import Iterator

from ..bus.attachment import Ranges
from ..caps import Cap
from ..contract import Contract, Fitting
from ..events import DevIotlbUnmap, Event, Map, Unmap
from ..mapping import Mapping


class Holding:
    """What one consumer may hold.

    Args:
        caps: The kinds of event it gets.
        wanted: The ranges that it asked for.
        contract: What it can take.
        space: What events are said to be about, where nothing was handed out yet.

    Attributes:
        touched: Whether it was given anything live since it last let go of everything.
    """

    __slots__ = ("_fitting", "_highest", "_kind", "_lowest", "_wanted", "_words", "touched")

    def __init__(self, caps: Cap, wanted: Ranges, contract: Contract, space: str) -> None:
        self._kind: type[Unmap | DevIotlbUnmap] = Unmap if caps & Cap.UNMAP else DevIotlbUnmap
        self._wanted = wanted
        self._fitting = None if contract.plain else Fitting(contract)
        self._words = space, 0
        self.let_go()

    def give(self, events: list[Event], number: int) -> tuple[list[Event], list[Map]]:
        """Note a hand-over; return what is given of it, and the MAPs for which there is no room.

        Args:
            events: The hand-over; not empty.
            number: Its number.
        """
        low, high = self._lowest, self._highest
        wider = [event for event in events if (event.last > high or event.first < low) and type(event) is Map]
        if wider:
            self._widen(min(event.first for event in wider), max(event.last for event in wider))
        self._words = events[-1].space, events[-1].seq
        return (events, []) if self._fitting is None else self._fitting.fit(events, number)

    def answer(self, mapping: Mapping) -> None:
        """Note an answer to a miss."""
        self._widen(mapping.first, mapping.last)

    def all_gone(self, number: int) -> list[Event]:
        """Return a hand-over of this number by which everything has to be forgotten; nothing more is held then."""
        events = list(self._removals())
        return events if self._fitting is None else self._fitting.fit(events, number)[0]

    def let_go(self) -> None:
        """Take it that the consumer holds nothing."""
        self.touched = False
        self._lowest, self._highest = 0, -1

    # -- failures, as in a `Fitting` ---------------------------------------------

    def acknowledge(self, number: int) -> None:
        """Take it that nothing up to hand-over ``number`` comes back."""
        if self._fitting is not None:
            self._fitting.acknowledge(number)

    def take_back(self, events: list[Event]) -> None:
        """Forget that events were given; they are all that was given there since the first of them."""
        if self._fitting is not None:
            self._fitting.take_back(events)

    def refuse(self, event: Map, later: list[Event]) -> None:
        """Take it that the consumer does not hold a mapping; see `Fitting.refuse`."""
        if self._fitting is not None:
            self._fitting.refuse(event, later)

    # -- inside ------------------------------------------------------------------

    def _widen(self, first: int, last: int) -> None:
        if self.touched:
            first, last = min(first, self._lowest), max(last, self._highest)
        self.touched = True
        self._lowest, self._highest = first, last

    def _removals(self) -> Iterator[Event]:
        space, seq = self._words
        for low, high in self._wanted:
            first, last = max(low, self._lowest), min(high, self._highest)
            if first <= last:
                yield self._kind(space, seq, first, last)
