"""What a consumer can take, where that is less than everything.

* ``granule``: its smallest unit.  What it must forget is rounded out to that.
* ``pow2``: its messages carry a mask: only naturally aligned powers of two.
* ``exact``: it forgets what it was given, and nothing else: every UNMAP, a
  conflated one too, names one mapping as it was mapped.
* ``limit``: so many mappings, and no more; one too many is refused for it.

A `Fitting` turns what a mailbox gives into what such a consumer can take.  It
stands behind the mailbox, so that what waits there stays compact.

Aligned powers of two lie inside one another or apart.  So an UNMAP that is split
never cuts a MAP that was split, however the ranges lie.

Source: VFIO type1 ``dma_entry_limit`` and its refusal to bisect; vfio-user
``DMA_UNMAP`` ("must match exactly"); QEMU ``dma_aligned_pow2_mask``.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from .caps import Cap
from .errors import BadContract, GranuleRefused, Misaligned
from .events import DevIotlbUnmap, Event, Map, Unmap, crop
from .mapping import Mapping
from .ranges import IovaRange
from .table import Table

Removal = Unmap | DevIotlbUnmap


class Contract(Struct, frozen=True):
    """What one consumer can take.

    Attributes:
        granule: Its smallest unit in bytes, a power of two.
        pow2: Whether it takes only naturally aligned powers of two.
        exact: Whether each UNMAP has to name one mapping as it was mapped.
        limit: Most mappings that it can hold, if there is a limit.

    Raises:
        BadContract: They contradict each other.
    """

    granule: int = 1
    pow2: bool = False
    exact: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.granule < 1 or self.granule & (self.granule - 1):
            raise BadContract("granule", self.granule, "it is no power of two")
        if self.limit is not None and self.limit < 1:
            raise BadContract("limit", self.limit, "who holds nothing needs no MAP")

    def check_mask(self, caps: Cap) -> None:
        """Check that it makes sense for who asks for ``caps``.

        Raises:
            BadContract: ``exact`` and ``limit`` are about mappings that are given.
        """
        if caps & Cap.MAP:
            return
        if self.exact:
            raise BadContract("exact", int(caps), "the mask has no MAP, so there is nothing to repeat")
        if self.limit is not None:
            raise BadContract("limit", int(caps), "the mask has no MAP, so nothing is counted")

    def check_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Check that ranges begin and end where its granule does.

        Raises:
            Misaligned: One does not.
        """
        for first, last in ranges:
            for what, value in ("iova", first), ("size", last - first + 1):
                if value & (self.granule - 1):
                    raise Misaligned(what, value, self.granule)

    def check_space(self, space: str, granule: int, caps: Cap) -> None:
        """Check that it can follow a space of this granule.

        Raises:
            GranuleRefused: It would have to map less than its own granule.
        """
        if caps & Cap.MAP and self.granule > granule:
            raise GranuleRefused(space, self.granule, granule)

    @property
    def plain(self) -> bool:
        """Whether it takes everything as it comes."""
        return self == Contract()


class Fitting:
    """Turns events into what a consumer can take, and knows what it holds.

    Args:
        contract: What it can take.
    """

    __slots__ = ("_contract", "_held", "_log", "_round_out")

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._held = Table() if contract.exact or contract.limit is not None else None
        self._log: deque[tuple[int, Removal, Sequence[Mapping]]] = deque()  # removals not acknowledged yet
        self._round_out = contract.granule - 1

    def fit(self, events: Iterable[Event], number: int) -> tuple[list[Event], list[Map]]:
        """Return what is to be given instead, in the same order.

        Args:
            events: What the mailbox gave.
            number: Number that the hand-over will have.

        Returns:
            The events, and the MAPs that are past the limit and not among them.
        """
        given: list[Event] = []
        refused: list[Map] = []
        for event in events:
            if not isinstance(event, Map):
                given += self._remove(event, number)
            elif self._room_for(len(parts := self._parts(event))):
                given += map(self._hold, parts)
            else:
                refused.append(event)
        return given, refused

    def acknowledge(self, number: int) -> None:
        """Take it that nothing up to hand-over ``number`` comes back."""
        while self._log and self._log[0][0] <= number:
            self._log.popleft()

    def take_back(self, events: Sequence[Event]) -> None:
        """Forget that events were given; they are all that was given there since the first of them."""
        for event in reversed(events):
            if isinstance(event, Map):
                self._drop(event)
            else:
                self._restore(event)

    def refuse(self, event: Map, later: list[Event]) -> None:
        """Take it that the consumer does not hold this mapping.

        Where each UNMAP has to name what is held, the one that would end it is
        removed from ``later``: what was given behind it and not applied yet.
        """
        for at, given in enumerate(later):
            if isinstance(given, Unmap) and given.first <= event.last and given.last >= event.first:
                if self._contract.exact:
                    del later[at]
                return
        self._drop(event)

    @property
    def held(self) -> int | None:
        """How many mappings it holds; `None` where nobody counts."""
        return None if self._held is None else len(self._held)

    # -- inside ----------------------------------------------------------------

    def _blocks(self, event: Event) -> Iterable[IovaRange]:
        whole = IovaRange(event.first, event.last)
        return whole.split_pow2() if self._contract.pow2 else (whole,)

    def _parts(self, event: Map) -> list[Map]:
        parts = [crop(event, block.first, block.last) for block in self._blocks(event)]
        return [part for part in parts if isinstance(part, Map)]

    def _room_for(self, count: int) -> bool:
        limit = self._contract.limit
        return limit is None or self._held is None or len(self._held) + count <= limit

    def _hold(self, event: Map) -> Map:
        if self._held is not None:
            self._held.insert(event.first, event.last, event.target, event.perm)
        return event

    def _drop(self, event: Map) -> None:
        if self._held is not None:
            self._held.remove(event.first, event.last)

    def _remove(self, event: Removal, number: int) -> Iterator[Removal]:
        """Yield what tells of a removal, and let go of what it removes."""
        wide = tell_of(event, event.first & ~self._round_out, event.last | self._round_out)
        for block in self._blocks(wide):
            given = tell_of(wide, block.first, block.last)
            if self._held is None or isinstance(given, DevIotlbUnmap):
                yield given
                continue
            removed = self._held.remove(given.first, given.last)
            if self._contract.exact:
                yield from (self._logged(tell_of(given, one.first, one.last), (one,), number) for one in removed)
            else:
                yield self._logged(given, removed, number)

    def _logged(self, given: Removal, removed: Sequence[Mapping], number: int) -> Removal:
        self._log.append((number, given, removed))
        return given

    def _restore(self, event: Removal) -> None:
        for _, given, pieces in self._log:
            if given is event and self._held is not None:
                for piece in pieces:
                    self._held.insert(piece.first, piece.last, piece.target, piece.perm)


def tell_of(event: Removal, first: int, last: int) -> Removal:
    """Return an event of the same kind and number for another range."""
    if (event.first, event.last) == (first, last):
        return event
    return type(event)(event.space, event.seq, first, last)
