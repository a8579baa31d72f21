"""The changes that every subject publishes, and the event that peers make of one.

A guest's network card at work: a page is mapped, and the one that has been mapped
longest is unmapped.  Everybody publishes the same changes in the same order; peers
make an event of the same fields of each, 31 bytes as msgpack.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

PAGE: Final = 0x1000
REGION: Final = 3
MAP: Final = 1
UNMAP: Final = 2
RW: Final = 3

BASE: Final = 1 << 40
"""Where the pages of the workload are: addresses of nine bytes, as those of a large guest."""

RING: Final = 1 << 17
"""Pages after which addresses are used again; more than are ever live at once."""

RAM: Final = 1 << 33
"""Where the guest's memory is."""

STEP: Final = 64
"""Mappings of the window that moves through the gaps between live mappings."""

Script = Literal["map", "unmap", "mixed", "fill", "in order", "at random"]
"""What is published: pages mapped; pages unmapped; both by turns; pages mapped with
gaps between them; pages mapped and unmapped in gaps, side by side or anywhere."""


class Event(Struct, frozen=True, array_like=True, gc=False):
    """One change, as peers publish it.

    Attributes:
        seq: Its number, from 1; 0 asks who is there.
        region: Where it happened.
        kind: `MAP` or `UNMAP`.
        iova: First address.
        target: Where it leads to.
        size: Length in bytes.
        perm: What a device may do there.
        pasid: Whose addresses they are.
    """

    seq: int
    region: int
    kind: int
    iova: int
    target: int
    size: int
    perm: int
    pasid: int


HELLO: Final = Event(0, REGION, UNMAP, 0, 0, PAGE, 0, 0)
"""Asks who is there."""

encode = Encoder().encode
decode_one = Decoder(Event).decode
decode_many = Decoder(list[Event]).decode


class Change(NamedTuple):
    """One change, before anybody made an event of it."""

    kind: int
    iova: int
    target: int


class Pages:
    """The pages of one space: which are mapped next, and which have been mapped longest."""

    def __init__(self) -> None:
        self._mapped = 0
        self._unmapped = 0
        self._filled = 0

    def changes(self, script: Script, count: int) -> list[Change]:
        """Return the next changes of a script; of those in gaps, an even number."""
        if script == "map":
            return [self._map() for _ in range(count)]
        if script == "unmap":
            return [self._unmap() for _ in range(count)]
        if script == "mixed":
            return [self._unmap() if turn % 2 else self._map() for turn in range(count)]
        if script == "fill":
            return [self._fill() for _ in range(count)]
        return list(moving(self._gaps(script, count // 2)))

    def _map(self) -> Change:
        self._mapped += 1
        return Change(MAP, BASE + self._mapped % RING * PAGE, leads_to(self._mapped))

    def _unmap(self) -> Change:
        self._unmapped += 1
        return Change(UNMAP, BASE + self._unmapped % RING * PAGE, 0)

    def _fill(self) -> Change:
        self._filled += 1
        return Change(MAP, 2 * self._filled * PAGE, leads_to(self._filled))

    def _gaps(self, script: Script, count: int) -> list[int]:
        """Return addresses between those that `_fill` has mapped; one comes again only when all others have come."""
        numbers = list(range(self._filled))
        if script == "at random":
            random.shuffle(numbers)
        return [(2 * number + 3) * PAGE for number in islice(cycle(numbers), count)]


def moving(gaps: Sequence[int]) -> Iterator[Change]:
    """Yield a window that moves over gaps: in the end nothing is left there."""
    for place, iova in enumerate(gaps):
        yield Change(MAP, iova, leads_to(place))
        if place >= STEP:
            yield Change(UNMAP, gaps[place - STEP], 0)
    for iova in gaps[-STEP:]:
        yield Change(UNMAP, iova, 0)


def leads_to(number: int) -> int:
    """Return where a page leads: anywhere in the guest's memory."""
    return RAM + number * 7919 % 65_536 * PAGE


def one_a_message(seq: int, changes: Iterable[Change]) -> Iterator[bytes]:
    """Yield messages of one event each, numbered from ``seq``."""
    for kind, iova, target in changes:
        yield encode(Event(seq, REGION, kind, iova, target, PAGE, RW, 0))
        seq += 1


def many_a_message(seq: int, changes: Sequence[Change], batch: int) -> Iterator[bytes]:
    """Yield messages of a list of events each, numbered from ``seq``."""
    for start in range(0, len(changes), batch):
        part = changes[start : start + batch]
        yield encode(
            [
                Event(number, REGION, kind, iova, target, PAGE, RW, 0)
                for number, (kind, iova, target) in enumerate(part, seq + start)
            ]
        )


def messages(seq: int, changes: Sequence[Change], batch: int) -> Iterator[bytes]:
    """Yield messages of ``batch`` events each, numbered from ``seq``."""
    return one_a_message(seq, changes) if batch == 1 else many_a_message(seq, changes, batch)
