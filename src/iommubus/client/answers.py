"""What the daemon answers to each request."""

from typing import Final

from ..wire.messages import ClientMessage, Message
from ..wire.messages.queries import (
    Counters,
    Found,
    ListSpaces,
    ListSubscribers,
    Lookup,
    SpaceFound,
    Spaces,
    Statistics,
    Subscribers,
    WaitSpace,
)
from ..wire.messages.replies import Done, Refused
from ..wire.messages.spaces import AddMemory, CreateSpace, MemoryAdded, SpaceCreated
from ..wire.messages.subscribing import Subscribe, Subscribed, Translate, Translated
from ..wire.messages.syncing import Fence, FenceJudged, Sync, Synced, SyncRefused
from ..wire.messages.watching import Observe, Observing

ANSWERS: Final[dict[type[Message], tuple[type[Message], ...]]] = {
    CreateSpace: (SpaceCreated,),
    AddMemory: (MemoryAdded,),
    Subscribe: (Subscribed,),
    Translate: (Translated,),
    Sync: (Synced, SyncRefused),
    Fence: (FenceJudged,),
    Observe: (Observing,),
    ListSpaces: (Spaces,),
    WaitSpace: (SpaceFound,),
    ListSubscribers: (Subscribers,),
    Lookup: (Found,),
    Statistics: (Counters,),
}
"""What answers a request, if it is not refused; every other one is answered by `Done`."""

ANY_ANSWER: Final = frozenset({Done, Refused, *(kind for kinds in ANSWERS.values() for kind in kinds)})
"""All that answers requests."""


def answers_to(request: ClientMessage) -> tuple[type[Message], ...]:
    """Return what may answer a request."""
    return (*ANSWERS.get(type(request), (Done,)), Refused)


def has_more(answer: Message) -> bool:
    """Say whether another part of the answer follows."""
    return bool(getattr(answer, "more", False))
