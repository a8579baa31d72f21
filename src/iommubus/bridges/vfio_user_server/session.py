"""One client: what it says is done to the space, and answered once that may be.

Reading never stops, whatever waits: an UNMAP's answer waits for the bus, and
what the client asks meanwhile is answered.
"""

from collections.abc import Callable, Sequence
from errno import EINVAL
from functools import partial
from typing import Final

import anyio
from msgspec import Struct

from ...abi.vfio_user import (
    DATA_LIMIT,
    DMA_UNMAP,
    HEADER,
    OVERHEAD,
    Command,
    DmaMap,
    DmaUnmap,
    Empty,
    Flags,
    Message,
    Opaque,
    Version,
    check_descriptors,
    decode,
    encode,
)
from ...bridging.barrier import Barrier
from ...bridging.messages import MessageSocket
from ...bridging.telling import Tell
from ...errors import AbiError, PeerBroke
from ...mapping import Mapping
from ...transport.descriptors import close_all
from .answers import WAITING_LIMIT, Answer, Answers
from .device import Commands
from .regions import Regions
from .terms import DESCRIPTORS, Agreement, Offer, agree

OUTGOING: Final = WAITING_LIMIT * (HEADER.size + DMA_UNMAP.size) + DATA_LIMIT + OVERHEAD
"""Bytes that wait for a client: the answers to as many UNMAPs as may wait for one `sync`, and one transfer."""


class Counts(Struct):
    """What a server counts over all its clients.

    Attributes:
        maps: MAPs that were done.
        unmaps: UNMAPs that were done and answered.
        refused: Commands that were answered with an error.
        passed: Commands that were passed on to the device.
    """

    maps: int = 0
    unmaps: int = 0
    refused: int = 0
    passed: int = 0


class Session:
    """The work with one client.

    Args:
        socket: Its connection.
        peer: What errors call it.
        barrier: Settles its UNMAPs.
        commands: Where commands of the device go.
        counts: What is counted.
    """

    def __init__(
        self, socket: MessageSocket, peer: str, *, barrier: Barrier, commands: Commands, counts: Counts
    ) -> None:
        self._socket = socket
        self._peer = peer
        self._barrier = barrier
        self._commands = commands
        self._counts = counts
        self._answers = Answers(socket.put, peer)

    @property
    def waiting(self) -> int:
        """How many commands have no answer yet."""
        return len(self._answers)

    async def greet(self, offer: Offer, tell: Tell) -> Agreement:
        """Agree with the client upon a version; that is the first thing it says.

        Raises:
            PeerCannot, PeerBroke, PeerLeft, AbiError: There is nothing to agree upon.
        """
        data, fds = await self._socket.receive()
        close_all(fds)
        message = decode(data)
        if not isinstance(message.body, Version) or message.flags or fds:
            raise PeerBroke(self._peer, f"it begins with {message.name} instead of VERSION")
        agreement = agree(message.body, offer, self._peer)
        tell(agreement.negotiated)
        self._socket.put(encode(Message(message.msg_id, Command.VERSION, agreement.reply, Flags.REPLY)))
        return agreement

    async def run(self, regions: Regions) -> None:
        """Do what the client says, until it is gone.

        Raises:
            ExceptionGroup: With what ended it: `PeerLeft`, `PeerBroke`, or an `AbiError`.
        """
        try:
            async with anyio.create_task_group() as tasks:
                for work in (self._socket.pump, self._barrier.run, self._commands.run):
                    tasks.start_soon(work)
                while True:
                    await self._take(regions, *await self._socket.receive())
        finally:
            self._answers.close()
            self._commands.close()

    # -- inside ----------------------------------------------------------------

    async def _take(self, regions: Regions, data: bytes, fds: list[int]) -> None:
        kept = False
        try:
            kept = await self._do(regions, data, fds)
        finally:
            if not kept:
                close_all(fds)

    async def _do(self, regions: Regions, data: bytes, fds: Sequence[int]) -> bool:
        """Do one command; return whether its descriptors were kept."""
        header = HEADER.decode(data[: HEADER.size])
        if header.flags & Flags.REPLY:
            raise PeerBroke(self._peer, "it answers what nobody asked")
        answer = self._answers.expect(header)
        try:
            message = decode(data)
            check_descriptors(message, len(fds), DESCRIPTORS)
        except AbiError:
            self._refuse(answer, EINVAL)
            return False
        match message.body:
            case DmaMap() as body:
                self._finish_map(answer, await regions.map(body, fds))
            case DmaUnmap() as body:
                self._unmap(regions, body, answer)
            case Opaque(payload):
                self._counts.passed += 1
                return self._commands.take(message.command, payload, fds, answer)
            case _:  # a second VERSION
                self._refuse(answer, EINVAL)
        return False

    def _finish_map(self, answer: Answer, errno: int) -> None:
        if errno:
            self._refuse(answer, errno)
        else:
            self._counts.maps += 1
            answer.give(Empty())

    def _unmap(self, regions: Regions, body: DmaUnmap, answer: Answer) -> None:
        gone = regions.unmap(body)
        if isinstance(gone, int):
            self._refuse(answer, gone)
        else:
            self._barrier.settle(partial(self._finish_unmap, answer, body, regions.release, gone))

    def _finish_unmap(
        self,
        answer: Answer,
        body: DmaUnmap,
        release: Callable[[Sequence[Mapping]], object],
        gone: Sequence[Mapping],
    ) -> None:
        release(gone)
        self._counts.unmaps += 1
        answer.give(body)

    def _refuse(self, answer: Answer, errno: int) -> None:
        self._counts.refused += 1
        answer.refuse(errno)
