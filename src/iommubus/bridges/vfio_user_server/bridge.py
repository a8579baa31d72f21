"""The bridge: a space that a vfio-user client maps into."""

import socket
from contextlib import suppress
from itertools import count
from os import getpid
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskStatus

from ...abi.vfio_user import splitter
from ...bridging.barrier import Barrier, sync_or_fence
from ...bridging.faults import PEER_FAULTS
from ...bridging.memories import PeerMemories
from ...bridging.messages import MessageSocket
from ...bridging.sockets import accept
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import SYNC_TIMEOUT, AddressSpace, EventBus
from ...errors import PeerLeft, SpaceClosed, StateError, leaves
from ...ranges import LAST
from ...transport.address import UnixAddress
from ...transport.credentials import peer_of
from ...transport.listeners import MODE, listen
from .device import Commands, Handler
from .regions import Regions
from .session import OUTGOING, Counts, Session
from .terms import DESCRIPTORS, GRANULE, MAPS_LIMIT, Offer

NUMBERS: Final = count(1)
"""Clients of this process, in the names of memories: no two of a bus are called the same."""


class ServerStatistics(NamedTuple):
    """Counters of a server."""

    #: clients that connected and agreed upon a version so far
    clients: int
    #: regions that are mapped now
    regions: int
    #: commands that wait for their answer now
    waiting: int
    #: MAPs that were done
    maps: int
    #: UNMAPs that were done and answered
    unmaps: int
    #: commands that were answered with an error
    refused: int
    #: commands that were passed on to the device, or refused because there is none
    passed: int
    #: syncs that settled UNMAPs: one may be for many
    syncs: int


class VfioUserServer:
    """A vfio-user server whose client's DMA_MAP and DMA_UNMAP are MAP and UNMAP of a space.

    One client is served at a time; the next one waits until everything of the one
    before is unmapped, and nobody uses it.  The space stays open between them.

    * DMA_MAP is answered when the space has it.  A mapping with a descriptor leads
      into a memory, one without to its own address, which is what DMA_READ and
      DMA_WRITE to the client would name; nobody here sends them.
    * DMA_UNMAP is answered when nobody uses what it took away.  At each deadline
      those who still may are fenced; it is never answered early.
    * What cannot be done is answered with an error number, see `regions`.
    * Any other command goes to the device, if there is one, else it is answered ENOTSUP.

    Args:
        bus: Where the space is.
        listen: Path of the socket.
        space: Name of the space.
        granule: What every address, offset and size is a multiple of, in bytes.
        last: Highest address.
        max_maps: Mappings that a client may have.
        deadline: Seconds after which who holds up an UNMAP is fenced.
        mode: Who may connect: the mode of the socket.
        handler: The device.
        tell: Told of what is agreed upon, and of trouble.

    Source: QEMU ``docs/interop/vfio-user.rst``.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        listen: str,
        space: str,
        granule: int = GRANULE,
        last: int = LAST,
        max_maps: int = MAPS_LIMIT,
        deadline: float = SYNC_TIMEOUT,
        mode: int = MODE,
        handler: Handler | None = None,
        tell: Tell = log,
    ) -> None:
        self._bus = bus
        self._path = listen
        self._name = space
        self._last = last
        self._offer = Offer(granule, max_maps, handler is not None)
        self._deadline = deadline
        self._mode = mode
        self._handler = handler
        self._tell = tell
        self._counts = Counts()
        self._clients = self._syncs = 0
        self._barrier: Barrier | None = None
        self._session: Session | None = None
        self._regions: Regions | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve clients, one after the other, until it is cancelled.

        It has started when it listens.  Cancelled, it keeps the connection of its client until nobody uses
        what was mapped there, however long that takes.

        Raises:
            ListenError: There is no place for the socket.
            BadName, NameTaken, BadShape: The space cannot be made.
            BusClosed: The bus was closed.
        """
        with listen(UnixAddress(self._path), self._mode) as listener:
            space = await self._bus.create_space(
                self._name, granule=self._offer.granule, last=self._last, straddle="refuse"
            )
            try:
                self._tell(Notice(f"listens at {self._path}; what is mapped there is in the space {self._name}"))
                task_status.started()
                while True:
                    await self._serve(space, await accept(listener.sock))
            finally:
                with suppress(StateError), anyio.CancelScope(shield=True):
                    await space.close()

    def statistics(self) -> ServerStatistics:
        """Return its counters."""
        counts, barrier = self._counts, self._barrier
        return ServerStatistics(
            clients=self._clients,
            regions=0 if self._regions is None else len(self._regions),
            waiting=0 if self._session is None else self._session.waiting,
            maps=counts.maps,
            unmaps=counts.unmaps,
            refused=counts.refused,
            passed=counts.passed,
            syncs=self._syncs + (0 if barrier is None else barrier.syncs),
        )

    # -- inside ----------------------------------------------------------------

    async def _serve(self, space: AddressSpace, sock: socket.socket) -> None:
        """Serve one client to its end, and wait until nobody uses anything of it."""
        peer = f"the vfio-user client, process {peer_of(sock).pid or 'unseen'}"
        memories = PeerMemories(self._bus, f"{self._name}/{getpid()}.{next(NUMBERS)}.")
        try:
            with MessageSocket(
                sock, splitter(), descriptor_limit=DESCRIPTORS, peer=peer, outgoing_limit=OUTGOING
            ) as connection:
                await self._talk_to_the_end(space, connection, memories, peer)
                await sync_or_fence(space, deadline=self._deadline, tell=self._tell)  # at once; or the bus is closed
        finally:
            memories.clear()

    async def _talk_to_the_end(
        self, space: AddressSpace, connection: MessageSocket, memories: PeerMemories, peer: str
    ) -> None:
        try:
            await self._talk(space, connection, memories, peer)
        except* PEER_FAULTS as group:
            fault = leaves(group)[0]
            self._tell(Notice(str(fault), trouble=not isinstance(fault, PeerLeft)))
        finally:
            await self._forget(space)

    async def _talk(self, space: AddressSpace, connection: MessageSocket, memories: PeerMemories, peer: str) -> None:
        barrier = Barrier(space, deadline=self._deadline, tell=self._tell)
        session = Session(connection, peer, barrier=barrier, commands=Commands(self._handler), counts=self._counts)
        agreement = await session.greet(self._offer, self._tell)
        self._clients += 1
        self._session, self._barrier = session, barrier
        self._regions = Regions(space, memories, agreement.max_maps)
        await session.run(self._regions)

    async def _forget(self, space: AddressSpace) -> None:
        """Unmap all that the client had, and wait until nobody uses it, however long that takes.

        Also where the bridge is told to end: a client whose connection ends goes on, and uses its pages again.
        """
        if self._barrier is not None:
            self._syncs += self._barrier.syncs
        self._session = self._barrier = self._regions = None
        with suppress(StateError), anyio.CancelScope(shield=True):
            with suppress(SpaceClosed):  # that takes everything away, too
                space.unmap_all()
            await sync_or_fence(space, deadline=self._deadline, tell=self._tell)
