"""The back-end channel: what the back end asks.

It is read whatever else waits: a back end that cannot say something may not hear
anything either.  Only what would grow without bound is left unread.
"""

from typing import Final

from anyio.streams.memory import MemoryObjectSendStream
from msgspec import Struct

from ...abi.vhost import perm_of
from ...abi.vhost_user import (
    BACK_END,
    Channel,
    Flags,
    IotlbMsg,
    IotlbType,
    Message,
    Opaque,
    acknowledge,
    decode,
    encode,
)
from ...bridging.messages import MessageSocket
from ...bridging.replies import Replies, Reply
from ...bridging.telling import Notice, Tell
from ...caps import Perm
from ...errors import PeerBroke
from .counts import Counts

BACKLOG: Final = 16_384
"""MISSes that wait to be answered: DPDK has at most 2,048 open for a ring, so those of 8
rings.  Behind them the channel is not read, and only a back end waits that asks more."""

UNKNOWN: Final = 1
"""Status of a request that is not understood."""


class Miss(Struct, frozen=True):
    """A question where an address leads.

    Attributes:
        iova: The address.
        perm: The access that needs it.
        reply: Where its acknowledgement goes; `None` if none is wanted.
    """

    iova: int
    perm: Perm
    reply: Reply | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What is asked."""
        return self.iova, int(self.perm)


class Questions:
    """What comes on the back-end channel of one connection.

    Args:
        messages: The channel; no descriptor may come, as nothing was agreed upon that has one.
        misses: Where questions go.
        counts: Where they are counted.
        tell: Told of accesses that failed, once.
        peer: What errors call the back end.
    """

    def __init__(
        self,
        messages: MessageSocket,
        misses: MemoryObjectSendStream[Miss],
        counts: Counts,
        *,
        tell: Tell,
        peer: str,
    ) -> None:
        self._messages = messages
        self._misses = misses
        self._counts = counts
        self._tell = tell
        self._peer = peer
        self._replies = Replies(messages.put)
        self._waiting: set[tuple[int, int]] = set()
        self._failed = False

    async def read(self) -> None:
        """Take what is asked, until it is cancelled.

        Raises:
            PeerLeft: The channel is closed.
            PeerBroke, AbiError: The back end said what cannot be.
        """
        while True:
            data, _ = await self._messages.receive()
            await self._take(decode(data, Channel.BACK_END))

    def begin(self, miss: Miss) -> None:
        """Take it that a question is being answered: another one like it is not a repetition any more."""
        self._waiting.discard(miss.key)

    def acknowledge(self, miss: Miss, status: int = 0) -> None:
        """Acknowledge a question, if that is wanted: it was answered, or there is nothing to say."""
        if miss.reply is not None:
            asked = Message(1, IotlbMsg(miss.iova, 0, 0, int(miss.perm), IotlbType.MISS), Flags(0), Channel.BACK_END)
            miss.reply.give(encode(acknowledge(asked, status)))

    # -- inside ----------------------------------------------------------------

    async def _take(self, message: Message) -> None:
        if message.flags & Flags.REPLY:
            raise PeerBroke(self._peer, f"it answered {message.name}, which it was not asked")
        match message.body:
            case IotlbMsg(type=IotlbType.MISS):
                await self._take_miss(message, message.body)
            case IotlbMsg(type=IotlbType.ACCESS_FAIL):
                self._take_failure(message.body)
                self._answer(message, 0)
            case IotlbMsg(type=kind):
                raise PeerBroke(self._peer, f"it sent {kind.name}, which only the front end does")
            case _:
                self._answer(message, UNKNOWN)

    async def _take_miss(self, message: Message, body: IotlbMsg) -> None:
        wanted = bool(message.flags & Flags.NEED_REPLY)
        miss = Miss(body.iova, perm_of(body) or Perm.R, self._replies.reserve() if wanted else None)
        if not wanted:
            if miss.key in self._waiting:
                self._counts.repeated += 1
                return
            self._waiting.add(miss.key)
        self._counts.misses += 1
        await self._misses.send(miss)

    def _take_failure(self, body: IotlbMsg) -> None:
        self._counts.access_failures += 1
        if not self._failed:
            self._failed = True
            what = f"{self._peer} was not allowed an access of {perm_of(body)!r} at {body.iova:#x}"
            self._tell(Notice(f"{what}; others are counted", trouble=True))

    def _answer(self, message: Message, status: int) -> None:
        if message.flags & Flags.NEED_REPLY:
            answer = acknowledge(message, status)
            if message.request not in BACK_END:
                answer = Message(message.request, Opaque(status.to_bytes(8, "little")), Flags.REPLY, Channel.BACK_END)
            self._replies.reserve().give(encode(answer))
