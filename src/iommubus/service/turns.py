"""How much of a turn of the loop the messages of one connection take up."""

from typing import Final

from ..wire.messages import WORDS, Message, Side, queries, spaces, subscribing, syncing, watching
from ..wire.messages.heard import PublishHeard

TURN: Final = 4096
"""What the messages of one connection may cost in one turn of the loop; the next one is
handled in the next turn.  The rows of one full message, some milliseconds: what a
peer says without waiting for answers must not keep others waiting."""

ROW: Final = 1
"""What a row of `Publish` costs, a microsecond or two; `TURN` is in units of that."""

ASKED: Final = 64
"""What a request costs that looks up one thing, or begins a task."""

LOOKED_THROUGH: Final = TURN
"""What a request costs that may look at every space, every subscriber or every pattern."""

THOROUGH: Final = frozenset(
    {
        spaces.CreateSpace,
        spaces.CloseSpace,
        subscribing.Subscribe,
        syncing.Sync,
        watching.Observe,
        queries.ListSpaces,
        queries.ListSubscribers,
        queries.Statistics,
    }
)
"""Requests that cost `LOOKED_THROUGH`."""

COSTS: Final = {
    kind: LOOKED_THROUGH if kind in THOROUGH else ASKED if "request" in kind.__struct_fields__ else ROW
    for kind in WORDS[Side.CLIENT]
}
"""What each kind of message costs, but for `Publish`."""


def cost(message: Message) -> int:
    """Return how much of a turn a message takes up."""
    if type(message) is PublishHeard:
        return ROW * len(message.events) + ROW
    return COSTS[type(message)]
