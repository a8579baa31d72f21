"""The changes that every subject publishes, and the check that none was lost.

A guest's network card at work: Linux hands out I/O virtual addresses from the
top down, maps a page, and unmaps the one that has been mapped longest.  MAP and
UNMAP alternate, so whoever wants everything sees each number, and whoever wants
UNMAP alone every second one.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from iommubus import Event, Perm

SPACE: Final = "vtd0/00:03.0"
PAGE: Final = 0x1000
RW: Final = Perm.RW
TOP: Final = 0xFFFF_F000
"""The highest page below 4 GiB, where Linux starts."""

LIVE: Final = 1000
"""Mappings present at any time; they took the numbers up to here."""

RING: Final = 4096
"""Pages after which addresses are used again."""

BURST: Final = 256
"""Changes published before the subscribers run."""

Change = tuple[int, int, int]
"""The page to map, where it leads, and the page to unmap after that."""


class Disorder(Exception):
    """A subscriber saw another event than the one it had to see next."""

    def __init__(self, event: Event, expected: int) -> None:
        super().__init__(event, expected)
        self.event = event
        self.expected = expected

    def __str__(self) -> str:
        return f"expected number {self.expected}, got {self.event}"


class Check:
    """Checks that one subscriber sees every event, in order.

    Attributes:
        expected: Number of the next event.
        step: 1 for whoever wants everything, 2 for UNMAP alone.
    """

    __slots__ = ("expected", "step")

    def __init__(self, *, everything: bool) -> None:
        self.step = 1 if everything else 2
        self.expected = LIVE + self.step

    def see(self, event: Event) -> None:
        """Take the next event."""
        if event.seq != self.expected:
            raise Disorder(event, self.expected)
        self.expected += self.step


class Rig(NamedTuple):
    """A subject with its subscribers, ready to run.

    Attributes:
        publish: Publishes one burst.
        finish: Waits until nobody uses anything old, where that can be asked.
    """

    publish: Callable[[Sequence[Change]], Awaitable[None]]
    finish: Callable[[], Awaitable[object]]


Subject = Callable[[Sequence[Check]], AbstractAsyncContextManager[Rig]]
"""Subscribes somebody for each check, and unsubscribes them again."""


async def nothing() -> None:
    """Finish without more to do."""


def page(turn: int) -> int:
    """Return the address of the page that is mapped at this turn."""
    return TOP - turn % RING * PAGE


def target(turn: int) -> int:
    """Return where it leads: anywhere."""
    return 0x1_0000_0000 + turn * 7919 % 65_536 * PAGE


def bursts(count: int) -> list[list[Change]]:
    """Return the changes of a run, burst by burst."""
    turns = [(page(turn), target(turn), page(turn - LIVE)) for turn in range(LIVE, LIVE + count * BURST // 2)]
    return [turns[start : start + BURST // 2] for start in range(0, len(turns), BURST // 2)]
