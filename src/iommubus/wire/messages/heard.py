"""What is said in rows, as it is heard: with the events that the rows stand for, checked.

Whoever says it packs the rows (`runs.to_rows`); whoever hears it has no use for them.
"""

from typing import Final

from msgspec import Struct

from ...events import Event, Memory, Observed as ObservedEvent
from .publishing import Publish
from .subscribing import Deliver
from .watching import Observed


class PublishHeard(Struct, frozen=True):
    """A `Publish` that arrived.

    Attributes:
        space: Name of the space.
        epoch: Its epoch.
        number: Number of the hand-over of that mailbox, from 1.
        events: The events; who heard them has the list for itself.
        more: Whether the hand-over goes on in the next `Publish` of the space.
    """

    space: str
    epoch: int
    number: int
    events: list[Event]
    more: bool = False


class DeliverHeard(Struct, frozen=True):
    """A `Deliver` that arrived.

    Attributes:
        subscription: Number of the subscription.
        number: Number of the hand-over in it, from 1.
        events: The events of all runs, in order; who heard them has the list for itself.
        memories: The memories that they lead into.
        size: Bytes of the frame that it came in.
        more: Whether the hand-over goes on in the next `Deliver`.
        current: Whether the first replay is through once this is acknowledged.
        end: Whether nothing comes behind it.
        prompt: Whether somebody waits for it to be acknowledged.
        fails: How many `Fail` of the subscription had arrived when it was made.
    """

    subscription: int
    number: int
    events: list[Event]
    memories: tuple[Memory, ...]
    size: int
    more: bool = False
    current: bool = False
    end: bool = False
    prompt: bool = False
    fails: int = 0


class ObservedHeard(Struct, frozen=True):
    """An `Observed` that arrived.

    Attributes:
        observer: Number of the observer.
        events: The events of all runs, in order.
        end: Whether nothing comes behind it.
    """

    observer: int
    events: list[ObservedEvent]
    end: bool = False


Heard = PublishHeard | DeliverHeard | ObservedHeard
"""What is heard in other words than it is said."""

SAID: Final[dict[type[Struct], type[Struct]]] = {
    PublishHeard: Publish,
    DeliverHeard: Deliver,
    ObservedHeard: Observed,
}
"""As what it was said."""
