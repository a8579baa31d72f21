"""What a tap counts."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ...abi.vhost_user import U64, Channel, Flags, IotlbMsg, IotlbType, Message, Request, name_of

Kind = tuple[bool, bool, int]
"""A kind of message: whether the front end's requests travel there, whether it went to the back end, which request."""


class Statistics(NamedTuple):
    """Counters of a tap; messages are by the name of their request."""

    #: front ends that have connected
    front_ends: int
    #: what front ends asked
    requests: Mapping[str, int]
    #: what back ends answered
    replies: Mapping[str, int]
    #: what back ends asked
    back_end_requests: Mapping[str, int]
    #: what front ends answered
    back_end_replies: Mapping[str, int]
    #: UPDATEs
    updates: int
    #: INVALIDATEs
    invalidates: int
    #: MISSes
    misses: int
    #: answers of back ends to UPDATEs and INVALIDATEs
    acks: int
    #: of those, ones that say that it failed
    refused: int
    #: messages that were passed on and could not be read
    unread: int
    #: messages that were passed on and not shown: nobody looked at them in time, or watching had ended
    lost: int


class Counts:
    """Counts messages."""

    def __init__(self) -> None:
        self._kinds: Counter[Kind] = Counter()
        self._iotlb: Counter[IotlbType] = Counter()
        self.front_ends = 0
        self.acks = 0
        self.refused = 0
        self.unread = 0
        self.lost = 0

    def add(self, message: Message, *, to_back: bool) -> None:
        """Count one; `to_back` says whether it went to the back end."""
        self._kinds[message.channel is Channel.FRONT_END, to_back, message.request] += 1
        if isinstance(message.body, IotlbMsg):
            self._iotlb[message.body.type] += 1
        elif (
            message.flags & Flags.REPLY
            and not to_back
            and message.request == Request.IOTLB_MSG
            and isinstance(message.body, U64)
        ):
            self.acks += 1
            self.refused += bool(message.body.value)

    def statistics(self) -> Statistics:
        """Return all of them."""
        return Statistics(
            front_ends=self.front_ends,
            requests=self._names(Channel.FRONT_END, to_back=True),
            replies=self._names(Channel.FRONT_END, to_back=False),
            back_end_requests=self._names(Channel.BACK_END, to_back=False),
            back_end_replies=self._names(Channel.BACK_END, to_back=True),
            updates=self._iotlb[IotlbType.UPDATE],
            invalidates=self._iotlb[IotlbType.INVALIDATE],
            misses=self._iotlb[IotlbType.MISS],
            acks=self.acks,
            refused=self.refused,
            unread=self.unread,
            lost=self.lost,
        )

    def _names(self, channel: Channel, *, to_back: bool) -> Mapping[str, int]:
        return MappingProxyType(
            {
                name_of(channel, request): count
                for (found, direction, request), count in sorted(self._kinds.items(), key=lambda entry: entry[0][2])
                if (found, direction) == (channel is Channel.FRONT_END, to_back)
            }
        )
