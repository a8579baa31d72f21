"""Asking the front end where an address leads: misses on the back-end channel, and what answers them."""

import socket
from functools import partial
from typing import Final

import anyio

from ...abi.vhost_user import (
    DESCRIPTOR_LIMIT,
    BackendRequest,
    Channel,
    Flags,
    IotlbMsg,
    IotlbType,
    Message,
    decode,
    encode,
    splitter,
)
from ...bridging.messages import MessageSocket
from ...caps import Perm
from ...mapping import Mapping
from ...transport.descriptors import close_all
from .line import Line, Surroundings
from .misses import Misses

MISS_LIMIT: Final = 1024
"""Misses that one front end may be busy with; more wait.  They are 45 KiB on their way, and a subscriber
that asks without end cannot make the bridge give the front end up."""


class Asking:
    """The misses of one front end.

    Args:
        line: The connection.
        around: What it shares with those before and behind it.
    """

    def __init__(self, line: Line, around: Surroundings) -> None:
        self._line = line
        self._around = around
        self._channel: MessageSocket | None = None
        self._need = Flags(0)
        self._misses = Misses(replied=False)
        self._room = anyio.Semaphore(MISS_LIMIT)

    @property
    def possible(self) -> bool:
        """Whether there is a back-end channel."""
        return self._channel is not None

    def begin(self, fd: int, *, replied: bool) -> None:
        """Take the back-end channel.

        Args:
            fd: Its descriptor, which belongs to this object if nothing is raised.
            replied: Whether the front end replies to each miss.

        Raises:
            PeerBroke: It is no socket.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as failure:
            raise self._line.broke(f"the descriptor of SET_BACKEND_REQ_FD is no socket: {failure}") from failure
        self._need = Flags.NEED_REPLY if replied else Flags(0)
        self._misses = Misses(replied=replied)
        peer = f"the back-end channel of {self._line.name}"
        self._channel = channel = MessageSocket(sock, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer=peer)
        self._line.start(channel.pump)
        self._line.start(partial(self._read, channel))

    async def translate(self, iova: int, perm: Perm) -> Mapping | None:
        """Ask where an address leads; `None` if there is no answer, and nobody to ask."""
        if self._channel is None:
            return None
        answered = anyio.Event()
        answers: list[Mapping | None] = []

        def give(answer: Mapping | None) -> None:
            answers.append(answer)
            answered.set()

        await self._room.acquire()
        if not self._line.there:
            self._room.release()
            return None
        question = self._misses.ask(iova, perm, give)
        self._around.counts["misses"] += 1
        try:
            body = IotlbMsg(iova, 0, 0, int(perm), IotlbType.MISS)
            self._line.put_on(
                self._channel, encode(Message(BackendRequest.IOTLB_MSG, body, self._need, Channel.BACK_END))
            )
            await answered.wait()
        finally:
            self._misses.abandon(question)
            if not self._need:  # else its reply makes room
                self._room.release()
        return answers[0]

    def update(self, mapping: Mapping) -> int:
        """Take an UPDATE; return how many misses it answered."""
        return self._misses.update(mapping)

    def judge(self) -> None:
        """Answer the misses to which an UPDATE would have been handled by now."""
        self._around.counts["negative"] += self._misses.handled(self._line.main.handed)

    def end(self) -> None:
        """Answer what still waits with nothing, and close the channel."""
        self._misses.close()
        if self._channel is not None:
            self._channel.close()

    async def _read(self, channel: MessageSocket) -> None:
        """Take the replies to misses."""
        while True:
            data, fds = await channel.receive()
            close_all(fds)
            message = decode(data, Channel.BACK_END)
            if not message.flags & Flags.REPLY or not self._misses.replied(self._line.main.arrived):
                raise self._line.broke(f"{message.name} on the back-end channel answers nothing that was asked")
            self._room.release()
            self.judge()
