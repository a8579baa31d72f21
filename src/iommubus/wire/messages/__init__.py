"""Everything that can be said, by who says it.

A message is an array: its number, and its fields in order.  A reader ignores what
a newer writer adds behind the last field that it knows, and takes the defaults of what an
older one leaves out.  So a field is never moved, and a new one has a default.

Requests carry a number that who asks chooses and never uses again; the answer
repeats it.  Anything may be answered by `Refused`.
"""

from enum import Enum
from typing import Final, get_args

from . import greeting, publishing, queries, replies, spaces, subscribing, syncing, watching
from .heard import DeliverHeard, Heard, ObservedHeard, PublishHeard

ClientMessage = (
    greeting.Hello
    | greeting.Ping
    | greeting.Pong
    | greeting.Bye
    | greeting.Bind
    | greeting.Descriptor
    | replies.Done
    | replies.Refused
    | replies.Cancel
    | spaces.CreateSpace
    | spaces.CloseSpace
    | spaces.CreateEndpoint
    | spaces.CloseEndpoint
    | spaces.Attach
    | spaces.Detach
    | spaces.AddMemory
    | spaces.RemoveMemory
    | publishing.Publish
    | publishing.BeginResume
    | publishing.EndResume
    | publishing.Answer
    | subscribing.Subscribe
    | subscribing.Ack
    | subscribing.Fail
    | subscribing.Translate
    | subscribing.Leave
    | subscribing.Using
    | syncing.Sync
    | syncing.Drain
    | syncing.Fence
    | watching.Observe
    | watching.Unobserve
    | queries.ListSpaces
    | queries.WaitSpace
    | queries.ListSubscribers
    | queries.Lookup
    | queries.Statistics
)
"""What a client may say."""

DaemonMessage = (
    greeting.Welcome
    | greeting.Ping
    | greeting.Pong
    | greeting.Bye
    | greeting.Draining
    | greeting.Bound
    | greeting.Descriptor
    | replies.Done
    | replies.Refused
    | replies.Cancel
    | spaces.SpaceCreated
    | spaces.MemoryAdded
    | spaces.MemoryRemoved
    | publishing.Published
    | publishing.PublishFailed
    | publishing.DemandChanged
    | publishing.Ask
    | subscribing.Subscribed
    | subscribing.Deliver
    | subscribing.AckWanted
    | subscribing.Translated
    | subscribing.RunFence
    | subscribing.Fenced
    | subscribing.Ended
    | subscribing.ReplayFailed
    | syncing.Synced
    | syncing.SyncRefused
    | syncing.FenceJudged
    | watching.Observing
    | watching.Observed
    | queries.Spaces
    | queries.SpaceOpened
    | queries.SpaceGone
    | queries.SpaceFound
    | queries.Subscribers
    | queries.Found
    | queries.Counters
)
"""What the daemon may say."""

ClientHeard = ClientMessage | PublishHeard
"""What a client may say, and is heard."""

DaemonHeard = DaemonMessage | DeliverHeard | ObservedHeard
"""What the daemon may say, and is heard."""

Message = ClientMessage | DaemonMessage | Heard
"""What may be said at all, and what of it is heard in other words."""


class Side(Enum):
    """Who speaks."""

    CLIENT = "client"
    DAEMON = "daemon"

    __hash__ = object.__hash__  # that of `Enum` is a function in Python, and there is one of each

    @property
    def other(self) -> "Side":
        """Who listens."""
        return Side.DAEMON if self is Side.CLIENT else Side.CLIENT


WORDS: Final[dict[Side, tuple[type[Message], ...]]] = {
    Side.CLIENT: get_args(ClientMessage),
    Side.DAEMON: get_args(DaemonMessage),
}
"""The messages of each side."""
