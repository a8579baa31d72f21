"""The answer to one message: its own reply, an acknowledgement, or none at all."""

from struct import Struct as Format
from typing import Final

from ...abi.vhost_user import Body, Flags, Header, Message, Request, encode, encode_header
from ...bridging.replies import Replies, Reply

REPLIED: Final = frozenset({
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_QUEUE_NUM,
    Request.GET_VRING_BASE,
    Request.GET_CONFIG,
    Request.GET_MAX_MEM_SLOTS,
})  # fmt: skip
"""Requests that have a reply of their own, whatever was agreed upon."""

REFUSED: Final = 1
"""The status of what could not be done; the specification says only that it is not 0."""

STATUS: Final = Format("=Q")
"""What acknowledges a request."""


class Answer:
    """The place of the answer to one message.

    Args:
        message: The message.
        replies: Where it waits for its turn.
        acknowledged: Whether the front end and the bridge agreed upon acknowledgements.

    Attributes:
        open: Whether it has not been given and nobody has taken it on himself to do so.
    """

    __slots__ = ("_reply", "_request", "open")

    def __init__(self, message: Message, replies: Replies, *, acknowledged: bool) -> None:
        wanted = message.request in REPLIED or (acknowledged and bool(message.flags & Flags.NEED_REPLY))
        self._request = message.request
        self._reply: Reply | None = replies.reserve() if wanted else None
        self.open = True

    def postpone(self) -> None:
        """Say that it is given later."""
        self.open = False

    def body(self, body: Body) -> None:
        """Give a reply of its own."""
        self.open = False
        if self._reply is not None:
            self._reply.give(encode(Message(self._request, body, Flags.REPLY)))

    def status(self, status: int = 0) -> None:
        """Give an acknowledgement, if one is wanted; 0 is success."""
        self.open = False
        if self._reply is None:
            return
        if status or self._request != Request.IOTLB_MSG:
            self._reply.give(acknowledgement(self._request, status))
        else:
            self._reply.give(ACKNOWLEDGED)


def acknowledgement(request: int, status: int) -> bytes:
    """Return the bytes that acknowledge a request, also one that is not known."""
    return encode_header(Header(request, Flags.REPLY, STATUS.size)) + STATUS.pack(status)


ACKNOWLEDGED: Final = acknowledgement(Request.IOTLB_MSG, 0)
"""What acknowledges any IOTLB message: most of what a bridge sends."""
