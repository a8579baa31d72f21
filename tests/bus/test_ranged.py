"""Those who follow parts of a space are told of what concerns them, and of nothing else."""

import itertools
from collections.abc import Sequence

import pytest

from iommubus.bus import ranged
from iommubus.bus.attachment import Ranges, cropped
from iommubus.bus.ranged import Part, Ranged
from iommubus.caps import Perm
from iommubus.events import Event, Map, Unmap
from iommubus.ranges import LAST

PARTS: Sequence[Ranges] = (
    ((2, 3),),
    ((0, 1), (4, 6)),
    ((3, 4),),
    ((5, 5), (LAST, LAST)),
    ((0, LAST - 1),),
)


class Heard:
    """Somebody who is told, and counts how often it had to crop."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.events: list[Event] = []
        self.offers = 0

    def offer(self, event: Event) -> None:
        """Take the parts of an event."""
        self.offers += 1
        self.events += cropped((event,), self.ranges)

    @property
    def part(self) -> Part:
        """What it is to the others."""
        return Part(self.ranges, self.events.append, self.offer)


def between(parts: Sequence[Heard]) -> Ranged:
    """Return what tells them."""
    edges = {edge for part in parts for low, high in part.ranges for edge in (low, high + 1)}
    return Ranged(sorted(edges), [part.part for part in parts])


@pytest.mark.parametrize("limit", [0, 3, ranged.CELL_LIMIT])
@pytest.mark.parametrize("count", range(len(PARTS) + 1))
def test_everybody_is_told_what_cropping_would_leave(count: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    I5: for every set of parts and every range of a small space, however few cells are remembered.
    """
    monkeypatch.setattr(ranged, "CELL_LIMIT", limit)
    addresses = [*range(8), LAST - 1, LAST]
    events: list[Event] = [
        Map("s", 1, first, last, 0x100, Perm.RW)
        for first, last in itertools.combinations_with_replacement(addresses, 2)
    ]
    for parts in itertools.combinations(PARTS, count):
        heard = [Heard(part) for part in parts]
        tell = between(heard)
        for event in events + events[::-1]:
            tell.put(event)

        for one in heard:
            assert one.events == list(cropped(events + events[::-1], one.ranges))


def test_who_is_not_concerned_is_not_asked() -> None:
    """
    An event inside a cell is cropped by nobody, and one over an edge by those on its sides.
    """
    heard = [Heard(((low, low + 9),)) for low in range(0, 100, 10)]
    tell = between(heard)

    tell.put(Unmap("s", 1, 20, 29))
    tell.put(Unmap("s", 2, 29, 30))

    assert [len(one.events) for one in heard] == [0, 0, 2, 1, 0, 0, 0, 0, 0, 0]
    assert [one.offers for one in heard] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert bool(tell)
    assert not Ranged()


def test_a_cell_of_nobody_concerns_nobody() -> None:
    """And what reaches over an edge may concern somebody, who is looked for then."""
    ranged = Ranged((0x1000, 0x2000), [Part(((0x1000, 0x1FFF),), print, print)])
    assert not ranged.concerns(0, 0xFFF)
    assert not ranged.concerns(0x2000, 2**64 - 1)
    assert ranged.concerns(0x1800, 0x18FF)
    assert ranged.concerns(0xFFF, 0x1000)
    assert ranged.concerns(0, 2**64 - 1)
