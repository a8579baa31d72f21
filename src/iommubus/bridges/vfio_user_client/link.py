"""One connection to a server: what the server was given through it, and how that is taken back.

What a server may hold is known here from the moment at which a MAP is sent until
its UNMAP was answered.  That it holds nothing is proven by such answers, or by the
end of its process; that a server lets go of everything when a connection ends can
be read in the specification, and not be seen.
"""

from collections.abc import Callable
from errno import ENOTSUP
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskStatus

from ...abi.vfio_user import (
    Command,
    DmaMap,
    DmaUnmap,
    Flags,
    Message,
    Opaque,
    Version,
    check_descriptors,
    decode,
    encode,
    failure,
    maps,
    range_of,
    unmaps,
)
from ...bridging.messages import MessageSocket
from ...bridging.telling import Lack
from ...errors import BridgeError, NoCredentials, PeerBroke, PeerGone, PeerLeft, PeerRefused, span
from ...events import Map, Unmap
from ...mapping import Mapping
from ...ranges import LAST, IovaRange
from ...table import Table
from ...transport.credentials import Process, sender_of
from ...transport.descriptors import close_all
from .access import View, serve
from .calls import Calls
from .terms import Terms, judge, propose

STOP_TIMEOUT: Final = 5.0
"""Seconds in which a server that is to be stopped has to answer the UNMAPs, or its process to end, before
whoever asks for that is told that it has not: as long as a `sync`."""

Outcome = Callable[[BridgeError | None], object]
"""Is told when a piece was answered: of what went wrong, if anything did."""


class Link:
    """A connection and what went through it.

    Args:
        socket: The connection, of which `ask_for_sender` was asked.
        peer: What errors call the server.
        window: Commands that may wait for an answer.

    Attributes:
        process: The server's, to see its end, as soon as it has answered; `None` if it cannot be seen.
        held: What the server may hold: the pieces that it was given.
        stopping: Whether everything is being taken back.
        accesses: How many DMA_READs and DMA_WRITEs were done.
        refused: How many commands the server refused.
    """

    def __init__(self, socket: MessageSocket, peer: str, window: int) -> None:
        self.held = Table()
        self.stopping = False
        self.accesses = self.refused = 0
        self.peer = peer
        self.process: Process | None = None
        self.calls = Calls(socket.put, peer, window)
        self._socket = socket
        self._lost: PeerLeft | None = None
        self._io = anyio.CancelScope(shield=True)
        self._emptying = anyio.Lock()
        self._view: View | None = None
        self._max_data = 0

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._lost is not None

    # -- the connection ----------------------------------------------------------

    async def greet(self, max_maps: int) -> Terms:
        """Agree with the server upon a version, before `keep`.

        Raises:
            PeerCannot, PeerBroke, PeerLeft, AbiError: There is nothing to agree upon.
        """
        self._socket.put(encode(Message(0, Command.VERSION, propose(max_maps))))
        lacks = await self._look()
        data, fds = await self._socket.receive()
        close_all(fds)
        answer = decode(data)
        if not isinstance(answer.body, Version) or not answer.flags & Flags.REPLY or fds:
            raise PeerBroke(self.peer, f"it answers VERSION with {answer.name}, error {answer.error}")
        return judge(answer.body, max_maps, self.peer, lacks)

    async def keep(self, *, task_status: TaskStatus[None]) -> None:
        """Carry messages until `end`, also where the task is cancelled: what was given has still to be taken back.

        Raises:
            PeerLeft, PeerBroke, AbiError: What ended the connection, in groups.
        """
        try:
            with self._io:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._socket.pump)
                    task_status.started()
                    await self._read()
        finally:
            self._lost = PeerLeft(self.peer, "the connection has ended")
            self.calls.lose(self._lost)

    def end(self) -> None:
        """Carry no more messages."""
        self._io.cancel()

    def allow(self, view: View, max_data: int) -> None:
        """Let the server access what it was given by DMA_READ and DMA_WRITE."""
        self._view, self._max_data = view, max_data

    # -- mapping -----------------------------------------------------------------

    async def map(self, event: Map, fd: int, done: Outcome) -> None:
        """Give the server a mapping; raises as `Calls.ask` does.

        Args:
            event: What is mapped, into a memory.
            fd: The memory's descriptor, which stays the caller's.
            done: Told of each piece.
        """
        for body in maps(IovaRange(event.first, event.last), event.target, event.perm):
            piece = Mapping(body.address, body.address + body.size - 1, body.offset, event.perm, event.memory)
            self.held.insert(piece.first, piece.last, piece.target, piece.perm, piece.memory)
            await self.calls.ask(Command.DMA_MAP, body, partial(self._mapped, body, done), [fd])

    async def unmap(self, event: Unmap | Map, done: Outcome) -> None:
        """Take back what the server holds in a range; raises as `Calls.ask` does."""
        for piece in self.held.walk(event.first, event.last, len(self.held)):
            for body in unmaps(IovaRange(piece.first, piece.last)):
                await self.calls.ask(Command.DMA_UNMAP, body, partial(self._unmapped, body, done))

    async def empty(self) -> None:
        """Take everything back.

        Raises:
            PeerLeft: The connection has ended.
            PeerRefused: The server did not do it.
        """
        self.stopping = True
        errors: list[BridgeError] = []
        await self.calls.settle()
        await self.unmap(Unmap("", 0, 0, LAST), lambda error: errors.append(error) if error else None)
        await self.calls.settle()
        if errors:
            raise errors[0]

    # -- proof -------------------------------------------------------------------

    async def stop(self) -> None:
        """Return when the server holds nothing: it let go of all, or its process has ended.

        Raises:
            PeerLeft: Neither came in time.
            PeerRefused: The server does not let go.
        """
        self.stopping = True
        async with self._emptying:
            with anyio.move_on_after(STOP_TIMEOUT):
                if not await self._emptied():
                    await self.see_end()
                return
        how = "it has not answered every DMA_UNMAP"
        if self.lost:
            how = f"and its process {self.process.pid if self.process else ''} still runs"
        raise PeerLeft(self.peer, f"{how} within {STOP_TIMEOUT:g} s")

    async def see_end(self) -> None:
        """Wait until the server's process has ended, unless it holds nothing.

        Raises:
            PeerLeft: Its process cannot be seen.
        """
        if not len(self.held):
            return
        if self.process is None:
            raise PeerLeft(self.peer, "its process cannot be seen from here, so nothing shows what it still holds")
        with self.process.another() as watched:
            await watched.wait_exit()

    def close(self) -> None:
        """Stop watching the server's process: it holds nothing."""
        self.held = Table()
        if self.process is not None:
            self.process.close()
            self.process = None

    async def _emptied(self) -> bool:
        try:
            await self.empty()
        except PeerLeft:
            return False
        return True

    # -- inside ----------------------------------------------------------------

    async def _look(self) -> tuple[Lack, ...]:
        """Learn whose process the first answer comes from, which need not be the one that listens."""
        lacks: tuple[Lack, ...] = ()
        try:
            self.process = await sender_of(self._socket.sock)
        except NoCredentials as failure:
            why = f"{failure}; when the connection breaks, nothing will show what the server still holds"
            lacks = (Lack("view of its process", why),)
        except (PeerGone, OSError) as failure:
            raise PeerLeft(self.peer, str(failure)) from failure
        self.peer += f", process {self.process.pid if self.process else 'unseen'}"
        return lacks

    async def _read(self) -> None:
        while True:
            data, fds = await self._socket.receive()
            close_all(fds)
            message = decode(data)
            if message.flags & Flags.REPLY:
                check_descriptors(message, len(fds))
                self.calls.take(message)
            else:
                self._serve(message)

    def _serve(self, message: Message) -> None:
        """Answer what the server asks."""
        payload = message.body.data if isinstance(message.body, Opaque) else b""
        done: bytes | int = ENOTSUP
        if self._view is not None:
            done = serve(message.command, payload, self.held, self._view, self._max_data)
        self.accesses += not isinstance(done, int)
        if message.flags & Flags.NO_REPLY:
            return
        if isinstance(done, int):
            self._socket.put(encode(failure(message, done)))
        else:
            self._socket.put(encode(Message(message.msg_id, message.command, Opaque(done), Flags.REPLY)))

    def _mapped(self, body: DmaMap, done: Outcome, errno: int) -> None:
        if errno:
            where = range_of(body)
            self.held.remove(where.first, where.last)
        done(self._outcome("DMA_MAP", body, errno))

    def _unmapped(self, body: DmaUnmap, done: Outcome, errno: int) -> None:
        if not errno:
            where = range_of(body)
            self.held.remove(where.first, where.last)
        done(self._outcome("DMA_UNMAP", body, errno))

    def _outcome(self, name: str, body: DmaMap | DmaUnmap, errno: int) -> PeerRefused | None:
        if not errno:
            return None
        self.refused += 1
        where = range_of(body)
        return PeerRefused(self.peer, f"{name} of {span(where.first, where.last)}", errno)
