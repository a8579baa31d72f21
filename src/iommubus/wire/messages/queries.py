"""Questions about the daemon: what spaces and subscribers there are, and their counters."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .subscribing import Endpoints
from .values import ENTRY_LIMIT, U64, Name, Patterns, Piece, Ranges, Text


class SpaceInfo(Struct, frozen=True, array_like=True):
    """What a space is.

    Attributes:
        space: Its name.
        epoch: Its epoch.
        granule: Smallest unit of mapping, in bytes.
        last: Highest address.
        offers: The kinds of event that it can deliver.
        demand: OR of the masks of all subscriptions.
        mappings: How many are live.
        seq: Number of the latest event.
        producer: Name of the client that publishes it; empty while there is none.
    """

    space: Name
    epoch: U64
    granule: U64
    last: U64
    offers: U64
    demand: U64 = 0
    mappings: U64 = 0
    seq: U64 = 0
    producer: Name = ""


class ListSpaces(Struct, frozen=True, array_like=True, tag=110):
    """Ask which spaces are open, in the order they were made; `Spaces` answers.

    Attributes:
        request: Number of the request.
        patterns: Names or patterns; all if none is given.
        follow: Whether `SpaceOpened` and `SpaceGone` tell of later changes.
    """

    request: U64
    patterns: Patterns = []
    follow: bool = False


class Spaces(Struct, frozen=True, array_like=True, tag=111):
    """Answer `ListSpaces`.

    Attributes:
        request: Its number.
        spaces: The spaces.
        more: Whether another answer to the request follows.
    """

    request: U64
    spaces: Annotated[list[SpaceInfo], Meta(max_length=ENTRY_LIMIT)]
    more: bool = False


class SpaceOpened(Struct, frozen=True, array_like=True, tag=112):
    """Tell who follows that a space was made.

    Attributes:
        space: What it is.
    """

    space: SpaceInfo


class SpaceGone(Struct, frozen=True, array_like=True, tag=113):
    """Tell who follows that a space was closed.

    Attributes:
        space: Its name.
        epoch: Its epoch.
    """

    space: Name
    epoch: U64


class WaitSpace(Struct, frozen=True, array_like=True, tag=114):
    """Wait until a space of this name is open; `SpaceFound` answers.

    Attributes:
        request: Number of the request.
        space: The name.
    """

    request: U64
    space: Name


class SpaceFound(Struct, frozen=True, array_like=True, tag=115):
    """Answer `WaitSpace`.

    Attributes:
        request: Its number.
        space: What it is.
    """

    request: U64
    space: SpaceInfo


class SubscriberCounters(Struct, frozen=True, array_like=True):
    """Counters of one subscription.

    Attributes:
        lag: Events that wait in its mailbox, and dirty ranges beside them.
        unmaps: UNMAPs delivered.
        maps: MAPs delivered.
        deviotlb_unmaps: DEVIOTLB_UNMAPs delivered.
        handed: Hand-overs made.
        acked: Number of the last hand-over acknowledged.
        conflations: How often the mailbox was full and turned into dirty ranges.
        current: Whether the first replay is through.
        pinned: Translations that are pinned.
    """

    lag: U64
    unmaps: U64
    maps: U64
    deviotlb_unmaps: U64
    handed: U64
    acked: U64
    conflations: U64
    current: bool
    pinned: U64


class SubscriberInfo(Struct, frozen=True, array_like=True):
    """What a subscription is.

    Attributes:
        subscription: Its number.
        name: How reports call it.
        client: Name of the client.
        space: Name of the space that it sees now; empty if none.
        endpoints: Its endpoints.
        caps: The kinds of event that it gets.
        ranges: Its addresses.
        stops: How it is proven stopped.
        lease_us: Time until its lease runs out, in microseconds; nil if it has none.
        fenced: Why it is fenced; empty if it is not.
        counters: Its counters.
    """

    subscription: U64
    name: Name
    client: Name
    space: Name
    endpoints: Endpoints
    caps: U64
    ranges: Ranges
    stops: Literal["lease", "exit"]
    lease_us: U64 | None
    fenced: Text
    counters: SubscriberCounters


class ListSubscribers(Struct, frozen=True, array_like=True, tag=116):
    """Ask who subscribes; `Subscribers` answers.

    Attributes:
        request: Number of the request.
        patterns: Names or patterns of the spaces they see; all, and those that see none, if none is given.
    """

    request: U64
    patterns: Patterns = []


class Subscribers(Struct, frozen=True, array_like=True, tag=117):
    """Answer `ListSubscribers`.

    Attributes:
        request: Its number.
        subscribers: The subscriptions.
        more: Whether another answer to the request follows.
    """

    request: U64
    subscribers: Annotated[list[SubscriberInfo], Meta(max_length=ENTRY_LIMIT)]
    more: bool = False


class Lookup(Struct, frozen=True, array_like=True, tag=118):
    """Ask where an address of a space leads; `Found` answers.

    Attributes:
        request: Number of the request.
        space: Name of the space.
        iova: The address.
    """

    request: U64
    space: Name
    iova: U64


class Found(Struct, frozen=True, array_like=True, tag=119):
    """Answer `Lookup`.

    Attributes:
        request: Its number.
        piece: The mapping; nil if it leads nowhere.
        seq: Number of the space's latest event.
    """

    request: U64
    piece: Piece | None
    seq: U64


class SpaceCounters(Struct, frozen=True, array_like=True):
    """Counters of one space.

    Attributes:
        space: Its name.
        epoch: Its epoch.
        mappings: How many are live.
        seq: Number of the latest event.
        unmaps: UNMAPs published.
        maps: MAPs published.
        deviotlb_unmaps: DEVIOTLB_UNMAPs published.
        demand: OR of the masks of all subscriptions.
        old_pieces: Removed pieces that may still be in use.
        syncs: Syncs that succeeded.
        failed_syncs: Syncs that failed.
        questions: Questions of a pull space by what became of them.
        subscribers: Subscriptions that count in a `sync`, by name.
        leaving: Subscriptions that went to another space and have not let go yet.
        unproven: Subscriptions that left unclean and are not proven stopped.
    """

    space: Name
    epoch: U64
    mappings: U64
    seq: U64
    unmaps: U64
    maps: U64
    deviotlb_unmaps: U64
    demand: U64
    old_pieces: U64
    syncs: U64
    failed_syncs: U64
    questions: Annotated[dict[Name, U64], Meta(max_length=ENTRY_LIMIT)]
    subscribers: Annotated[dict[Name, SubscriberCounters], Meta(max_length=4 * ENTRY_LIMIT)]
    leaving: Patterns
    unproven: Patterns


class ObserverCounters(Struct, frozen=True, array_like=True, gc=False):
    """Counters of one observer.

    Attributes:
        lag: Events that wait.
        delivered: Events sent so far.
        lost: Events that it was too slow for.
    """

    lag: U64
    delivered: U64
    lost: U64


class Statistics(Struct, frozen=True, array_like=True, tag=120):
    """Ask for the counters of spaces and observers; `Counters` answers.

    Attributes:
        request: Number of the request.
        patterns: Names or patterns of spaces; all if none is given.
    """

    request: U64
    patterns: Patterns = []


class Counters(Struct, frozen=True, array_like=True, tag=121):
    """Answer `Statistics`.

    Attributes:
        request: Its number.
        spaces: The counters of spaces.
        observers: The counters of observers.
        more: Whether another answer to the request follows.
    """

    request: U64
    spaces: Annotated[list[SpaceCounters], Meta(max_length=ENTRY_LIMIT)]
    observers: Annotated[list[ObserverCounters], Meta(max_length=ENTRY_LIMIT)] = []
    more: bool = False
