"""What the bus says of itself: outcomes of a `sync`, and counters.

Immutable values with named fields; nothing here knows how they are made.
"""

from collections.abc import Mapping as MappingView
from typing import NamedTuple

from msgspec import Struct

from ..caps import Cap
from ..completion import How
from ..errors import span
from ..ledger import OldPieces


class Outcome(Struct, frozen=True):
    """One subscriber that counted in a `sync` and uses nothing old any more.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        how: Acknowledged, left clean, or proven stopped.
        seconds: How long it took after the call.
    """

    subscriber: str
    space: str
    how: How
    seconds: float


class SyncReport(Struct, frozen=True):
    """A `sync` that succeeded: who counted, and how long each took."""

    outcomes: tuple[Outcome, ...]
    seconds: float


class Missing(Struct, frozen=True):
    """One subscriber that may still use what was unmapped.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        reason: What is known of why.
        pieces: What was removed and it may still use, with the old targets.
            Keep those out of use; all of them if ``pieces.truncated``.
        cause: The exception behind it, if there is one.
    """

    subscriber: str
    space: str
    reason: str
    pieces: OldPieces
    cause: Exception | None = None

    def __str__(self) -> str:
        return f"{self.subscriber} on {self.space} {self.reason}, {self.pieces!r}"


class MapFailure(Struct, frozen=True):
    """A MAP that a subscriber could not apply; it goes on without it.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        first: First address.
        last: Last address.
        cause: What the subscriber said.
        count: How many failed in this range, of which ``cause`` is the first's;
            more than one where nobody asked for very many.
    """

    subscriber: str
    space: str
    first: int
    last: int
    cause: Exception
    count: int = 1

    def __str__(self) -> str:
        what = span(self.first, self.last) if self.count == 1 else f"{self.count} in {span(self.first, self.last)}"
        return f"{self.subscriber} on {self.space} could not map {what}: {self.cause!r}"


class SubscriptionStatistics(NamedTuple):
    """Counters of one subscription."""

    #: events that wait in the mailbox, and dirty ranges beside them
    lag: int
    #: events handed over so far, by kind
    delivered: MappingView[Cap, int]
    #: hand-overs made
    handed: int
    #: number of the last hand-over acknowledged
    acked: int
    #: how often the mailbox was full and turned into dirty ranges
    conflations: int
    #: whether the first replay is through
    current: bool
    #: translations that are pinned
    pinned: int


class SpaceStatistics(NamedTuple):
    """Counters of one space."""

    #: live mappings
    mappings: int
    #: number of the latest event
    seq: int
    #: events published so far, by kind
    published: MappingView[Cap, int]
    #: OR of the masks of subscriptions and notifiers
    demand: Cap
    #: subscriptions that count in a sync, by name
    subscriptions: MappingView[str, SubscriptionStatistics]
    #: subscriptions that went to another space and have not let go of this one's mappings yet
    leaving: tuple[str, ...]
    #: subscriptions that left unclean and are not proven stopped
    unproven: tuple[str, ...]
    #: removed pieces that may still be in use
    old_pieces: int
    #: syncs that succeeded and that failed
    syncs: int
    failed_syncs: int
    #: questions of a pull space by what became of them: asked, joined (not asked again), answered, none, late
    questions: MappingView[str, int]


class ObserverStatistics(NamedTuple):
    """Counters of one observer."""

    #: events that wait
    lag: int
    #: events given so far
    delivered: int
    #: events it was too slow for
    lost: int


class EndpointStatistics(NamedTuple):
    """Where an endpoint is, and who names it."""

    #: whether its producer has made it; others are only waited for
    made: bool
    #: the space it is attached to
    space: str | None
    #: subscriptions that name it
    subscriptions: tuple[str, ...]


class BusStatistics(NamedTuple):
    """Counters of a bus."""

    #: open spaces by name
    spaces: MappingView[str, SpaceStatistics]
    #: endpoints by name, those of spaces and those that are waited for among them
    endpoints: MappingView[str, EndpointStatistics]
    #: live observers
    observers: tuple[ObserverStatistics, ...]
