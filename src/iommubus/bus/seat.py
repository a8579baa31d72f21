"""What a subscription is to the handle that its consumer has.

In the process of the bus that is the bus's own `Member`; elsewhere it is what
stands for one that a daemon keeps.
"""

from typing import Protocol

import anyio

from ..caps import Cap
from ..events import Event
from .abc import Translation, Use
from .attachment import State
from .failures import MapFailures
from .hand import Hand
from .reports import SubscriptionStatistics


class Seat(Protocol):
    """One subscription, to its consumer's handle.

    Attributes:
        name: How reports call it.
        caps: The kinds that it gets.
        state: How far it is trusted.
        fenced: Whether what it holds must not be used.
        reason: Why it is fenced.
        ended: Whether nothing comes behind what waits.
        hand: What was handed over and not acknowledged.
        first_turn: Set once the first replay is through, or will not be.
        first_failures: What of the first replay could not be applied.
    """

    name: str
    caps: Cap
    state: State
    fenced: bool
    reason: str
    ended: bool
    hand: Hand
    first_turn: anyio.Event
    first_failures: MapFailures

    @property
    def ready(self) -> bool:
        """Whether a hand-over would give, or find out, anything."""
        ...

    @property
    def handed(self) -> int:
        """Number of the last hand-over."""
        ...

    def take(self) -> list[Event]:
        """Make a hand-over; it may turn out to be empty."""
        ...

    def acknowledge(self, number: int) -> None:
        """Take it that hand-overs up to ``number`` are applied, and out of use but for what is pinned."""
        ...

    def fail(self, event: Event, error: Exception) -> None:
        """Note that an event in hand could not be applied."""
        ...

    async def wait_ready(self) -> None:
        """Wait until there is something to hand over, or the end."""
        ...

    async def translate(self, iova: int, perm: int) -> Translation | None:
        """Return where an address leads; `None` if nowhere."""
        ...

    def begin_use(self, thing: object = None) -> Use:
        """Begin to use something that was given; it ends with ``thing`` at the latest."""
        ...

    def leave(self) -> None:
        """Take it that everything was dropped, but for what is pinned."""
        ...

    def abandon(self, reason: str) -> None:
        """Fence it: whatever it held must not be used, and may yet be."""
        ...

    def lose(self, reason: str) -> None:
        """Have it abandoned soon; called in any thread, and by the garbage collector."""
        ...

    def statistics(self) -> SubscriptionStatistics:
        """Return its counters."""
        ...
