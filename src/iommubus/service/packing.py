"""Hand-overs as they travel, encoded once for all who get the same.

Subscribers with the same mask and ranges follow one feed, so a storm of changes is
handed to a hundred of them as the same events; what costs time is to encode those.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Raw, Struct

from ..events import Event
from ..wire.framing import FRAME_LIMIT
from ..wire.messages.rows import EVENT_LIMIT
from ..wire.messages.values import MemoryName
from ..wire.runs import pack, portions, to_runs

KEPT: Final = 8
"""Hand-overs that are remembered, of up to `EVENT_LIMIT` events, some 4 MiB in all:
subscribers of one space follow one another, unless those of a few spaces alternate."""

ROOM: Final = FRAME_LIMIT - 128
"""Most bytes of runs in one message: what else is in it has less than 128."""

NOTHING: Final = pack([])


class Portion(Struct, frozen=True):
    """What goes into one message.

    Attributes:
        runs: The events, encoded.
        memories: The memories that they lead into.
    """

    runs: Raw
    memories: tuple[MemoryName, ...] = ()


class Packer:
    """Encodes hand-overs."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[tuple[list[Event], tuple[Portion, ...]]] = deque(maxlen=KEPT)

    @property
    def lengths(self) -> list[int]:
        """How many events each hand-over has that is remembered."""
        return [len(events) for events, _ in self._kept]

    def pack(self, events: list[Event]) -> tuple[Portion, ...]:
        """Return the portions of a hand-over; the list is kept and must not be changed."""
        for known, packed in self._kept:
            if known == events:  # stops at the first difference, and is quick where they are the same objects
                return packed
        packed = tuple(portion for part in portions(events) for portion in _pack(part))
        if len(events) <= EVENT_LIMIT:
            self._kept.append((events, packed))
        return packed


def _pack(events: Sequence[Event]) -> Iterator[Portion]:
    """Yield what fits into one message each: with names of full length that may be few events."""
    runs = to_runs(events)
    packed = pack(runs)
    if len(bytes(packed)) <= ROOM or len(events) == 1:
        yield Portion(packed, tuple(dict.fromkeys(memory for run in runs for memory in run.memories)))
        return
    half = len(events) // 2
    yield from _pack(events[:half])
    yield from _pack(events[half:])
