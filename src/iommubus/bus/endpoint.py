"""Endpoints: what a device sees, and what subscribers name.

A space comes with an endpoint of its own name.
"""

from collections.abc import Iterable
from operator import index

from ..errors import OutsideRanges
from ..ranges import IovaRange
from .space import LocalSpace


class Endpoint:
    """A name that leads to the space it is attached to."""

    __slots__ = ("name", "space")

    def __init__(self, name: str, space: LocalSpace) -> None:
        self.name = name
        self.space = space

    def clip(self, ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Return what the ranges share with the space: in order, joined where they touch.

        Raises:
            InvertedRange, RangeWraps: A range is none.
            OutsideRanges: They share nothing with the space.
            TypeError: An edge is no integer.
        """
        wanted = sorted(IovaRange(index(first), index(last)) for first, last in ranges)
        last_address = self.space.shape.last
        joined: list[tuple[int, int]] = []
        for wish in wanted:
            first, last = wish.first, min(wish.last, last_address)
            if first > last:
                continue
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        if not joined:
            edges = tuple((wish.first, wish.last) for wish in wanted)
            raise OutsideRanges(self.name, edges, f"its last address is {last_address:#x}")
        return tuple(joined)
