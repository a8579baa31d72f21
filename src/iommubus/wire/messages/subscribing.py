"""A subscription: its stream, its acknowledgements, its misses and its end."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from .replies import Failure
from .rows import EVENT_LIMIT, Run
from .syncing import MapFailures
from .values import U64, Access, Name, Piece, Ranges, Text

ENDPOINT_LIMIT: Final = 64
"""Most endpoints of one subscription: all functions of eight devices in one container."""

Endpoints = Annotated[list[Name], Meta(max_length=ENDPOINT_LIMIT)]


class Subscribe(Struct, frozen=True, array_like=True, tag=60):
    """Register a subscription; `Subscribed` answers, and from then on it counts in every `sync`.

    Attributes:
        request: Number of the request.
        endpoints: Names of what the device sees; several are one consumer that needs them in one space.
        caps: The kinds of event wanted: UNMAP=1, MAP=2, DEVIOTLB_UNMAP=4.
        ranges: Addresses wanted.
        capacity: Most events that wait one by one; 0 for the daemon's default.
        stops: How it is proven stopped when it leaves unclean: its lease has run out, or its process is gone.
        has_on_fence: Whether the client can stop the device (`RunFence`).
        granule: Smallest unit of the consumer, in bytes.
        pow2: Whether every event has to be a naturally aligned power of two.
        exact: Whether every UNMAP has to name one mapping as it was mapped.
        limit: Most mappings that it can hold; nil for no limit.
        name: How reports call it; empty to have a name made up.
        replaces: Number of a subscription of a lost connection in whose place it
            comes, after everything of that one was dropped; 0 for none.
        holder: Number of another process, in the client's pid namespace, that keeps what
            it is given: the end of the client's process proves nothing before this one
            has ended, too.  With "exit" alone; 0 for none.
    """

    request: U64
    endpoints: Endpoints
    caps: U64
    ranges: Ranges
    capacity: U64 = 0
    stops: Literal["lease", "exit"] = "lease"
    has_on_fence: bool = False
    granule: U64 = 1
    pow2: bool = False
    exact: bool = False
    limit: U64 | None = None
    name: Name = ""
    replaces: U64 = 0
    holder: U64 = 0


class Subscribed(Struct, frozen=True, array_like=True, tag=61):
    """Answer `Subscribe`.

    Attributes:
        request: Its number.
        subscription: Number of the subscription, which no other ever has.
        name: How reports call it.
        lease_us: Time after the last renewal during which what it holds may be used,
            in microseconds; nil if it is proven stopped otherwise.
        window: Bytes of `Deliver` that are sent before some have to be acknowledged;
            0 if that is not known.
    """

    request: U64
    subscription: U64
    name: Name
    lease_us: U64 | None = None
    window: U64 = 0


class Deliver(Struct, frozen=True, array_like=True, tag=62):
    """Hand over events, in order.

    Attributes:
        subscription: Number of the subscription.
        number: Number of the hand-over in it, from 1.
        runs: The events, in runs of one space.
        more: Whether the hand-over goes on in the next `Deliver`; nothing of it is acknowledged before.
        current: Whether the first replay is through once this is acknowledged.
        end: Whether nothing comes behind it.
        prompt: Whether somebody waits for it to be acknowledged; other
            acknowledgements may wait until half the window is used.
        fails: How many `Fail` of the subscription had arrived when it was made;
            what a later one takes back may be in it.
    """

    subscription: U64
    number: U64
    runs: Annotated[list[Run], Meta(max_length=EVENT_LIMIT)]
    more: bool = False
    current: bool = False
    end: bool = False
    prompt: bool = False
    fails: U64 = 0


class DeliverPacked(Struct, frozen=True, array_like=True, tag=62):
    """A `Deliver` whose runs were encoded before, once for all who get the same; it is the same on the wire."""

    subscription: U64
    number: U64
    runs: Raw
    more: bool = False
    current: bool = False
    end: bool = False
    prompt: bool = False
    fails: U64 = 0


class Ack(Struct, frozen=True, array_like=True, tag=63, gc=False):
    """Say that everything up to a hand-over is applied and no longer used.

    Attributes:
        subscription: Number of the subscription.
        number: Number of the hand-over; all before it are acknowledged, too.
    """

    subscription: U64
    number: U64


class AckWanted(Struct, frozen=True, array_like=True, tag=73, gc=False):
    """Ask a subscriber to acknowledge what it can at once, and what it has in hand as soon as it can.

    Attributes:
        subscription: Number of the subscription.
    """

    subscription: U64


class Fail(Struct, frozen=True, array_like=True, tag=64):
    """Say that an event could not be applied.

    After a MAP, the subscriber goes on without it.  After an UNMAP, it has to
    forget what came behind it and overlaps it, or overlaps what is forgotten: in
    that hand-over, and in every later one whose ``fails`` does not count this one
    yet.  All that comes again.

    Attributes:
        subscription: Number of the subscription.
        number: Number of the hand-over; not acknowledged yet.
        index: Place of the event in it, from 0; over all its runs and messages.
        failure: Why.
    """

    subscription: U64
    number: U64
    index: U64
    failure: Failure


class Translate(Struct, frozen=True, array_like=True, tag=65, gc=False):
    """Ask where an address leads, the IOTLB miss; `Translated` answers.

    Attributes:
        request: Number of the request.
        subscription: Number of the subscription.
        iova: The address.
        perm: The access that is wanted.
    """

    request: U64
    subscription: U64
    iova: U64
    perm: Access


class Translated(Struct, frozen=True, array_like=True, tag=66):
    """Answer `Translate`.

    Attributes:
        request: Its number.
        piece: The mapping.
        seq: Number of the space's latest event when the question was asked.
        number: Number of the last hand-over made by then: an UNMAP in a later one that overlaps ends the answer.
    """

    request: U64
    piece: Piece
    seq: U64
    number: U64


class Leave(Struct, frozen=True, array_like=True, tag=67):
    """End a subscription; `Done` answers.

    Attributes:
        request: Number of the request.
        subscription: Number of the subscription.
        clean: Whether everything was dropped; otherwise it is fenced.
        reason: Why it left unclean, for people.
    """

    request: U64
    subscription: U64
    clean: bool
    reason: Text = ""


class RunFence(Struct, frozen=True, array_like=True, tag=68, gc=False):
    """Have a client stop the device of a subscription; `Done` or `Refused` answers.

    Attributes:
        request: Number of the daemon's request.
        subscription: Number of the subscription.
    """

    request: U64
    subscription: U64


class Fenced(Struct, frozen=True, array_like=True, tag=69):
    """Tell a subscriber that nothing it holds may be used any more; nothing more is delivered.

    Attributes:
        subscription: Number of the subscription.
        reason: Why.
    """

    subscription: U64
    reason: Text


class Ended(Struct, frozen=True, array_like=True, tag=70, gc=False):
    """Tell a subscriber that its stream is at its end, where there is nothing left to deliver.

    Attributes:
        subscription: Number of the subscription.
    """

    subscription: U64


class Using(Struct, frozen=True, array_like=True, tag=71, gc=False):
    """Say how many translations are pinned; said when it changes from none or to none.

    Attributes:
        subscription: Number of the subscription.
        uses: How many; while there are any, the lease alone proves nothing.
    """

    subscription: U64
    uses: U64


class ReplayFailed(Struct, frozen=True, array_like=True, tag=72):
    """Tell a subscriber which mappings of its first replay are past its limit, and were not delivered.

    Attributes:
        subscription: Number of the subscription.
        failures: The mappings, with the cause.
    """

    subscription: U64
    failures: MapFailures
