"""What a producer publishes, how it resumes, and what the daemon asks of it."""

from msgspec import Struct

from .replies import Failure
from .rows import Memories, PackedRows
from .values import U64, Access, Name, Piece


class Publish(Struct, frozen=True, array_like=True, tag=40):
    """Change a space: events of its table in the client, as many as its mailbox gave.

    Attributes:
        space: Name of the space.
        epoch: Its epoch.
        number: Number of the hand-over of that mailbox, from 1.
        rows: The events.
        memories: The memories that they lead into.
        more: Whether the hand-over goes on in the next `Publish` of the space.
    """

    space: Name
    epoch: U64
    number: U64
    rows: PackedRows
    memories: Memories = []
    more: bool = False


class Published(Struct, frozen=True, array_like=True, tag=41, gc=False):
    """Acknowledge what was published: it is in the daemon's table, and in the mailboxes.

    It is in no hurry: it is said when 4,096 events were taken since the last one, or ten
    milliseconds after something was.

    Attributes:
        space: Name of the space.
        epoch: Its epoch.
        number: Number of the last hand-over that was taken; all before it were, too.
    """

    space: Name
    epoch: U64
    number: U64


class PublishFailed(Struct, frozen=True, array_like=True, tag=42):
    """Say that an event could not be put into the daemon's table; the next `sync` of the producer raises it.

    Attributes:
        space: Name of the space.
        epoch: Its epoch.
        number: Number of the hand-over.
        index: Place of the event in it, from 0; over all its messages.
        failure: Why.
    """

    space: Name
    epoch: U64
    number: U64
    index: U64
    failure: Failure


class BeginResume(Struct, frozen=True, array_like=True, tag=43):
    """Mark what the daemon still has of a space: all that is not named by a MAP before `EndResume` goes.

    Until then an equal MAP changes nothing, and one that differs first removes what it overlaps.
    A producer may begin at any time: also when more has changed than it could remember.

    Attributes:
        space: Name of the space.
        epoch: Its epoch.
    """

    space: Name
    epoch: U64


class EndResume(Struct, frozen=True, array_like=True, tag=44):
    """Unmap what was marked and not named since: the space is again what the producer has.

    Attributes:
        request: Number of the request; `Done` answers, and no `sync` over the space completes before.
        space: Name of the space.
        epoch: Its epoch.
    """

    request: U64
    space: Name
    epoch: U64


class DemandChanged(Struct, frozen=True, array_like=True, tag=45):
    """Tell a producer what is asked of its space; `Done` or `Refused` answers.

    Whoever subscribes waits for the answer where the space was made with ``asks_demand``.

    Attributes:
        request: Number of the daemon's request.
        space: Name of the space.
        epoch: Its epoch.
        old: OR of the masks of all subscriptions before.
        new: And from now on.
    """

    request: U64
    space: Name
    epoch: U64
    old: U64
    new: U64


class Ask(Struct, frozen=True, array_like=True, tag=46):
    """Ask the producer of a pull space where an address leads; `Answer` or `Refused` answers.

    Attributes:
        request: Number of the daemon's request.
        space: Name of the space.
        epoch: Its epoch.
        iova: The address.
        perm: The access that missed.
    """

    request: U64
    space: Name
    epoch: U64
    iova: U64
    perm: Access


class Answer(Struct, frozen=True, array_like=True, tag=47):
    """Say where an address leads.

    Attributes:
        request: Number of the `Ask`.
        piece: The mapping; nil if it leads nowhere.
    """

    request: U64
    piece: Piece | None
