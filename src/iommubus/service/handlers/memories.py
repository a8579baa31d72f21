"""Memories of one connection, and the second one, on which their descriptors travel.

The daemon hands a descriptor to each client that may be told of a mapping that leads
into the memory: every one once, and a frame without a descriptor where there is none.
A second connection that breaks the protocol, or brings what can be no memory, is told
why and closed; nothing of it is kept.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack

import anyio

from ...errors import (
    DescriptorsRefused,
    IommubusError,
    NoCredentials,
    NotProducer,
    OutOfPlace,
    ProtocolError,
    TokenRefused,
    UnknownMemory,
)
from ...events import Memory
from ...transport.credentials import Peer
from ...transport.descriptors import DescriptorChannel, close_all
from ...wire.connection import ServerConnection, State
from ...wire.failures import to_failure
from ...wire.messages import Message
from ...wire.messages.greeting import Bind, Bound, Bye, Descriptor, Feature
from ...wire.messages.spaces import AddMemory, MemoryAdded, MemoryRemoved, RemoveMemory
from ...wire.messages.values import MemoryName, clip_text
from ..requests import Waiting
from ..session import Handler, Session
from ..settings.rules import Action


class Lane:
    """The second connection of a client.

    Args:
        sock: Its socket, which this object closes.
        owner: The client's memories.
    """

    def __init__(self, sock: socket.socket, owner: "Lending") -> None:
        self._sock = sock
        self._owner = owner
        self._wire = ServerConnection()
        self._wire.state = State.BINDING  # what its first connection, as which it began, has heard
        self._waiting = Waiting()
        self._going: dict[MemoryName, None] = {}
        self._more = asyncio.Event()

    def put(self, memory: MemoryName) -> None:
        """Send the descriptor of a memory, as soon as it can be."""
        self._going[memory] = None
        self._more.set()

    def close(self) -> None:
        """End it."""
        self._waiting.cancel()
        if self._waiting.scope is None:  # its task has not begun
            self._sock.close()

    async def run(self) -> None:
        """Carry descriptors until it is closed, or breaks."""
        reason = "its client closed it"
        if self._waiting.cancelled:  # before it began, and the socket is closed
            return
        with self._waiting.begin(), DescriptorChannel(self._sock) as channel:
            try:
                await channel.send(self._wire.send(Bound()))
                await self._carry(channel)
            except OSError as failure:
                reason = str(failure)
            except IommubusError as failure:
                reason = str(failure)
                await self._blame(channel, failure)
        self._owner.lane_ended(reason)

    # -- inside ------------------------------------------------------------------

    async def _carry(self, channel: DescriptorChannel) -> None:
        """Carry both ways until the client closes it; raises what goes wrong."""
        failures: list[Exception] = []
        async with anyio.create_task_group() as tasks:

            async def one(work: Callable[[DescriptorChannel], Awaitable[None]]) -> None:
                try:
                    await work(channel)
                except (OSError, IommubusError) as failure:
                    failures.append(failure)
                tasks.cancel_scope.cancel()

            tasks.start_soon(one, self._send)
            tasks.start_soon(one, self._receive)
        if failures:
            raise failures[0]

    async def _send(self, channel: DescriptorChannel) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._going:
                memory = next(iter(self._going))
                del self._going[memory]
                await channel.send(self._wire.send(Descriptor(memory)), self._owner.descriptors_of(memory))

    async def _receive(self, channel: DescriptorChannel) -> None:
        while (received := await channel.receive()) is not None:
            frame, fds = received
            with ExitStack() as stack:
                stack.callback(close_all, fds)
                message = self._read(frame)
                if isinstance(message, Bye):
                    return
                if not isinstance(message, Descriptor):
                    raise OutOfPlace(type(message).__name__, "client", State.BOUND.value)
                if not fds:
                    raise DescriptorsRefused("no descriptor came beside it")
                await self._owner.supplied(message.memory.memory, fds[0])

    def _read(self, frame: bytes) -> Message | None:
        self._wire.receive_data(frame)
        return self._wire.next_message()

    async def _blame(self, channel: DescriptorChannel, failure: IommubusError) -> None:
        """Say why it ends, if anybody listens."""
        try:
            with anyio.move_on_after(self._owner.patience):
                await channel.send(self._wire.send(Bye(clip_text(str(failure)), to_failure(failure))))
        except (OSError, ProtocolError):
            return


class Lending:
    """The memories of one connection: those that its client adds, and those that it is given.

    Args:
        session: The connection.

    Attributes:
        session: The same.
        handlers: What takes each kind of message.
        patience: Seconds that the last words to the second connection may take.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.handlers: Mapping[type[Message], Handler] = {
            AddMemory: self._add,
            RemoveMemory: self._remove,
            Bind: self._bind,
        }
        self.patience = session.daemon.config.deadlines.hello
        self._daemon = session.daemon
        self._store = session.daemon.store
        self._shown: set[MemoryName] = set()
        self._early: list[MemoryName] = []  # before there was a second connection
        self._lane: Lane | None = None

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self.session.peer

    def displace(self) -> None:
        """Close the connection: its client is back on another one."""
        self.session.close("its client is back on another connection")

    def lost(self, reason: str) -> None:
        """Take it that the connection is gone, and the second one with it."""
        del reason
        if self._lane is not None:
            self._lane.close()
            self._lane = None
        self._shown.clear()
        self._early.clear()
        self._store.lose(self)
        grace = self._daemon.config.producer_grace
        if grace > 0:  # then nothing of a lost producer is mapped any more
            self._daemon.tasks.start_soon(self._sweep_later, grace)

    @property
    def shown(self) -> frozenset[MemoryName]:
        """The memories of which the client was told, or is about to be."""
        return frozenset(self._shown)

    # -- what the client is given ------------------------------------------------------

    def show(self, memories: Iterable[MemoryName]) -> None:
        """Have the client given the descriptors of memories, those that it was not; its own it has."""
        if not self._travels:
            return
        for name in memories:
            if name in self._shown:
                continue
            held = self._store.find(name.memory)
            if held is not None and held.owner is self:
                continue
            self._shown.add(name)
            if held is not None:
                held.shown[self] = None
            if held is not None and held.awaited:
                held.wanted.append(self)
            else:
                self.give(name)

    def give(self, name: MemoryName) -> None:
        """Send the descriptor of a memory, or that there is none."""
        if self._lane is not None:
            self._lane.put(name)
        else:
            self._early.append(name)

    def removed(self, memory: Memory) -> None:
        """Tell the client that a memory is gone of which it has the descriptor."""
        name = MemoryName.of(memory)
        self._shown.discard(name)
        self.session.send(MemoryRemoved(name))

    # -- for its lane ------------------------------------------------------------------

    def descriptors_of(self, name: MemoryName) -> list[int]:
        """Return the descriptor of a memory; nothing if it has none, or is gone."""
        return self._store.descriptors_of(name.memory)

    async def supplied(self, memory: Memory, fd: int) -> None:
        """Take the descriptor of a memory; one that is gone, or has one, needs none.

        Raises:
            NotProducer: Another client has added it.
            BadMemory: The descriptor will not do.
        """
        held = self._store.find(memory)
        if held is None or not held.awaited:
            return
        if held.owner is not self:
            raise NotProducer(memory.name)
        await self._store.supply(held, fd)

    def lane_ended(self, reason: str) -> None:
        """Take it that the second connection is gone: no descriptor comes any more."""
        if self._lane is not None:
            self._lane = None
            self._daemon.lines.warn("descriptors", self.session.name, f"its second connection has ended: {reason}")
            self._store.give_up(self)

    # -- messages ----------------------------------------------------------------------

    def _add(self, message: AddMemory) -> None:
        self._daemon.allow_any(self.session.peer, Action.PUBLISH, message.name)
        held = self._store.add(message, self)
        held.awaited = held.awaited and self._travels
        self.session.send(MemoryAdded(message.request, held.memory.generation))

    def _remove(self, message: RemoveMemory) -> None:
        memory = message.memory.memory
        held = self._store.find(memory)
        if held is None:
            raise UnknownMemory(memory.name, memory.generation, 0)
        if held.owner is not self:
            raise NotProducer(memory.name)
        self._store.remove(held)
        self.session.done(message.request)

    def _bind(self, message: Bind) -> None:
        """Make this connection the second one of the client that was given the token."""
        session = self.session
        try:
            number = self._daemon.tokens.redeem(message.token, session.peer)
            sock = session.take_socket()
        except (TokenRefused, NoCredentials) as refusal:
            self._daemon.lines.warn("token", str(session.peer), str(refusal))
            session.close(str(refusal), refusal)
            return
        client = self._daemon.clients[number]
        assert isinstance(client, Session)  # noqa: S101 - the token of one that is lost is void
        client.part(Lending).bound(sock)

    def bound(self, sock: socket.socket) -> None:
        """Go on with the second connection."""
        self._lane = Lane(sock, self)
        early, self._early = self._early, []
        for name in early:
            self._lane.put(name)
        self._daemon.tasks.start_soon(self._lane.run)

    # -- inside ------------------------------------------------------------------

    @property
    def _travels(self) -> bool:
        """Whether descriptors do on this connection."""
        agreement = self.session.agreement
        return agreement is not None and bool(agreement.features & Feature.DESCRIPTORS)

    async def _sweep_later(self, seconds: float) -> None:
        await anyio.sleep(2 * seconds)
        self._store.sweep()
