"""Waiting for subscribers: `sync`, `drain` and `fence`, and what they say."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from ...completion import How
from .replies import Failure
from .values import ENTRY_LIMIT, U64, Name, Patterns, Piece, Ranges, Text, check_order

PIECE_LIMIT: Final = 4096
"""Most removed pieces in one message, some 200 KiB: past it there are ranges alone, and
who reads them keeps everything out of use that was in them."""

OUTCOME_LIMIT: Final = 1024
"""Most outcomes in one answer, some 600 KiB with names of full length; more follow in another."""


class SpaceEpoch(Struct, frozen=True, array_like=True, gc=False):
    """One certain space, open or closed.

    Attributes:
        space: Its name.
        epoch: Its epoch.
    """

    space: Name
    epoch: U64


class Outcome(Struct, frozen=True, array_like=True):
    """One subscriber that counted and uses nothing old any more.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        how: Whether it acknowledged, left clean, or was proven stopped.
        took_us: How long that took, in microseconds.
    """

    subscriber: Name
    space: Name
    how: How
    took_us: U64


class Missing(Struct, frozen=True, array_like=True):
    """One subscriber that may still use what was unmapped.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        reason: What is known of why.
        pieces: What was removed and it may still use, with the old targets.
        ranges: Where more was removed, of which no target is known; if there are any, keep everything out of use.
        cause: The error behind it; nil if there is none.
    """

    subscriber: Name
    space: Name
    reason: Text
    pieces: Annotated[list[Piece], Meta(max_length=PIECE_LIMIT)]
    ranges: Ranges
    cause: Failure | None = None


class MapFailure(Struct, frozen=True, array_like=True):
    """MAPs that a subscriber could not apply; it goes on without them.

    Attributes:
        subscriber: Name of the subscription.
        space: Name of the space.
        first: First address.
        last: Last address; not less than ``first``.
        cause: What the subscriber said.
        count: How many failed there, of which ``cause`` is the first's.
    """

    subscriber: Name
    space: Name
    first: U64
    last: U64
    cause: Failure
    count: U64 = 1

    def __post_init__(self) -> None:
        check_order("MapFailure", self.first, self.last)


MapFailures = Annotated[list[MapFailure], Meta(max_length=ENTRY_LIMIT)]


class Sync(Struct, frozen=True, array_like=True, tag=80):
    """Wait until nobody uses what was unmapped before; `Synced` or `SyncRefused` answers.

    Attributes:
        request: Number of the request.
        timeout_us: Time that it may take, in microseconds.
        patterns: Names of open spaces, or patterns with ``*``, ``?`` and ``[]``.
        spaces: Certain spaces beside them, which may be closed.  Where neither is given, all that are open.
    """

    request: U64
    timeout_us: U64
    patterns: Patterns = []
    spaces: Annotated[list[SpaceEpoch], Meta(max_length=ENTRY_LIMIT)] = []


class Synced(Struct, frozen=True, array_like=True, tag=81):
    """Answer a `Sync` that succeeded.

    Attributes:
        request: Its number.
        took_us: How long it took, in microseconds.
        outcomes: Who counted.
        more: Whether another answer to the request follows.
    """

    request: U64
    took_us: U64
    outcomes: Annotated[list[Outcome], Meta(max_length=OUTCOME_LIMIT)]
    more: bool = False


class SyncRefused(Struct, frozen=True, array_like=True, tag=82):
    """Answer a `Sync` that cannot promise that what was unmapped is out of use.

    Attributes:
        request: Its number.
        missing: The subscribers that may still use it.
        failures: MAPs that could not be applied.
        truncated: Whether there are more than are named: keep everything out of use that was ever unmapped.
    """

    request: U64
    missing: Annotated[list[Missing], Meta(max_length=ENTRY_LIMIT)]
    failures: MapFailures
    truncated: bool = False


class Drain(Struct, frozen=True, array_like=True, tag=83):
    """Wait until every mailbox that a space feeds is at most half full; `Done` answers.

    Attributes:
        request: Number of the request.
        space: Name of the space.
        epoch: Its epoch.
    """

    request: U64
    space: Name
    epoch: U64


class Fence(Struct, frozen=True, array_like=True, tag=84):
    """Stop a subscriber of a space for good; `FenceJudged` answers.

    Attributes:
        request: Number of the request.
        space: Name of the space.
        subscriber: Name of the subscription.
    """

    request: U64
    space: Name
    subscriber: Name


class FenceJudged(Struct, frozen=True, array_like=True, tag=85, gc=False):
    """Answer `Fence`.

    Attributes:
        request: Its number.
        proven: Whether the subscriber is proven stopped; if not, every `sync` fails until it is.
    """

    request: U64
    proven: bool
