"""The bridge: a vfio-user server that follows a space."""

import socket
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct

from ...abi.vfio_user import DATA_LIMIT, OVERHEAD, splitter
from ...bridging.faults import PEER_FAULTS
from ...bridging.messages import MessageSocket
from ...bridging.sockets import connected
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import EventBus, Subscription
from ...caps import Cap
from ...errors import BridgeError, Fenced, MappingFailed, PeerCannot, PeerLeft, StateError, leaves
from ...events import Event, Map
from .applying import Applying
from .calls import WINDOW
from .link import STOP_TIMEOUT, Link
from .terms import MAPS_LIMIT, Terms

RETRY: Final = 0.2
"""Seconds between two attempts to connect to a server that is not there, or to stop one that does not let go."""

GREETING_TIMEOUT: Final = 10.0
"""Seconds in which a server has to answer VERSION: one that serves somebody else lets others wait."""

OUTGOING: Final = 4 * (DATA_LIMIT + OVERHEAD)
"""Bytes that wait for a server that reads nothing: the answers to some reads of its."""

SEEN: Final = 1
"""Descriptors that a server may send with one message: it has no reason to."""


class Counts(Struct):
    """What a client counts over all its connections."""

    connections: int = 0
    maps: int = 0
    unmaps: int = 0
    refused: int = 0
    accesses: int = 0


class ClientStatistics(NamedTuple):
    """Counters of a client."""

    #: connections to servers that agreed upon a version so far
    connections: int
    #: mappings that the server may hold now
    held: int
    #: commands that wait for their answer now
    waiting: int
    #: MAPs that were answered
    maps: int
    #: UNMAPs that were answered
    unmaps: int
    #: commands that the server refused
    refused: int
    #: DMA_READs and DMA_WRITEs that were done for the server
    accesses: int


class VfioUserClient:
    """A vfio-user client that gives a server what is mapped in a space, and takes it back.

    * A MAP becomes DMA_MAP with the descriptor of its memory.  One that leads to a
      bare address fails with `NoBacking`: another process cannot have it.
    * An UNMAP becomes DMA_UNMAP, and is acknowledged when the server has answered.
    * What the server refuses fails with `PeerRefused`, which the producer's `sync` raises.
    * DMA_READ and DMA_WRITE of what the server was given are done; its other commands are answered ENOTSUP.

    The server is another process that keeps what it was given, so the subscription
    says ``stops="exit"``: when it is fenced, everything is unmapped and answered.
    When the connection breaks it is left unclean, and every `sync` raises until the
    server's process has ended.  Then the bridge connects again.

    Args:
        bus: Where the space is.
        connect: Path of the server's socket.
        space: Name of the space, or of another endpoint.
        max_maps: Mappings that the server is given at most.
        window: Commands that may wait for an answer.
        tell: Told of what is agreed upon, and of trouble.

    Source: QEMU ``docs/interop/vfio-user.rst``.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        connect: str,
        space: str,
        max_maps: int = MAPS_LIMIT,
        window: int = WINDOW,
        tell: Tell = log,
    ) -> None:
        self._bus = bus
        self._path = connect
        self._space = space
        self._max_maps = max_maps
        self._window = window
        self._tell = tell
        self._counts = Counts()
        self._link: Link | None = None
        self._subscription: Subscription | None = None
        self._fenced: Fenced | None = None
        self._said = ""
        self._started = False

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow the space, until it is closed or this is cancelled; the server holds nothing of it then.

        It has started when it is registered.

        Raises:
            Fenced: The subscription was fenced; the server was stopped.
            PeerLeft: The server is gone, and nothing can show what it still holds.
            SubscribeError: The space cannot be had, or its granule is smaller than the server's pages.
            BusClosed: The bus was closed.
        """
        over = False
        while not over:
            over = await self._serve(await self._connected(), task_status)
        if self._fenced is not None:
            raise self._fenced

    def statistics(self) -> ClientStatistics:
        """Return its counters."""
        counts, link = self._counts, self._link
        return ClientStatistics(
            connections=counts.connections,
            held=0 if link is None else len(link.held),
            waiting=0 if link is None else len(link.calls),
            maps=counts.maps,
            unmaps=counts.unmaps,
            refused=counts.refused + (0 if link is None else link.refused),
            accesses=counts.accesses + (0 if link is None else link.accesses),
        )

    # -- inside: a connection ------------------------------------------------------

    async def _connected(self) -> socket.socket:
        """Return a connection to the server, as soon as it is there."""
        while True:
            try:
                return connected(self._path, sender=True)
            except OSError as failure:
                self._tell_once(Notice(f"nobody answers at {self._path} ({failure.strerror}); it is tried again"))
            await anyio.sleep(RETRY)

    async def _serve(self, sock: socket.socket, task_status: TaskStatus[None]) -> bool:
        """Use a connection to its end, wait until the server holds nothing, and say whether all is over."""
        peer = f"the vfio-user server at {self._path}"
        with MessageSocket(sock, splitter(), descriptor_limit=SEEN, peer=peer, outgoing_limit=OUTGOING) as connection:
            self._link = link = Link(connection, peer, self._window)
            try:
                over = await self._use(link, task_status)
            finally:
                if not len(link.held):  # else whoever wants a proof has to see its process
                    link.close()
        await self._settle(link)
        return over

    async def _use(self, link: Link, task_status: TaskStatus[None]) -> bool:
        """Use a connection to its end, and say whether all is over.

        Raises:
            PeerCannot: The server is none for this bridge.
        """
        fault: BaseException | None = None
        over = False
        try:
            terms = await self._greet(link)
            async with anyio.create_task_group() as tasks:
                await tasks.start(link.keep)
                try:
                    await self._follow(link, terms, tasks, task_status)
                    over = True
                finally:
                    link.end()
        except* PEER_FAULTS as group:
            fault = leaves(group)[0]
        if isinstance(fault, PeerCannot):
            raise fault
        if fault is not None:
            self._tell_once(Notice(str(fault), trouble=True))
            await anyio.sleep(RETRY)
        return over

    async def _greet(self, link: Link) -> Terms:
        with anyio.move_on_after(GREETING_TIMEOUT):
            terms = await link.greet(self._max_maps)
            self._said = ""
            self._counts.connections += 1
            self._tell(terms.negotiated)
            return terms
        raise PeerLeft(link.peer, f"it has not answered VERSION for {GREETING_TIMEOUT:g} s; it may serve somebody else")

    async def _follow(self, link: Link, terms: Terms, tasks: TaskGroup, task_status: TaskStatus[None]) -> None:
        """Follow the space to its end, or until the subscription is fenced and the server was stopped."""
        self._subscription = subscription = self._bus.subscribe(
            self._space,
            Cap.IOTLB,
            ack="manual",
            exact=True,
            limit=terms.max_maps,
            granule=terms.granule,
            stops="exit",
            on_fence=link.stop,
            holder=None if link.process is None else link.process.pid,
            name=f"vfio-user {self._path}",
        )
        link.allow(subscription.backing, terms.max_data)
        try:
            async with subscription as events:
                tasks.start_soon(self._tell_first_failures, events)
                if not self._started:
                    self._started = True
                    task_status.started()
                await self._apply(events, link)
        except Fenced as fenced:
            self._fenced = fenced
            await self._stop(link)

    async def _tell_first_failures(self, events: Subscription) -> None:
        """Tell what of the first replay could not be applied, which is nobody else's business."""
        with suppress(Fenced, StateError):
            try:
                await events.wait_current()
            except MappingFailed as failed:
                self._tell(Notice(str(failed), trouble=True))

    async def _apply(self, events: Subscription, link: Link) -> None:
        """Apply what happens; when that is cut short, take everything back, as far as the server lets it go."""
        applying = Applying(events, link, self._count)
        try:
            async for batch in events.batches():
                await applying.apply(batch)
        except Fenced:
            raise
        except BaseException:  # it is told to end, or the server is in a state of its own
            if not link.lost:
                with anyio.move_on_after(STOP_TIMEOUT, shield=True), suppress(BridgeError):
                    await link.empty()
                    await events.close()
            raise

    async def _stop(self, link: Link) -> None:
        """Return when the server holds nothing."""
        while True:
            try:
                await link.stop()
            except BridgeError as error:
                self._tell_once(Notice(str(error), trouble=True))
                await anyio.sleep(RETRY)
            else:
                return

    async def _settle(self, link: Link) -> None:
        """Wait until what went through a connection that has ended is of no use to anybody any more.

        Raises:
            PeerLeft: Nothing can show that.
        """
        if len(link.held):
            what = f"{link.peer} may still hold {len(link.held)} mappings; it is waited for until its process has ended"
            self._tell_once(Notice(what, trouble=True))
            await link.see_end()
        if self._subscription is not None:
            await self._subscription.close()
        self._subscription = self._link = None
        self._counts.refused += link.refused
        self._counts.accesses += link.accesses
        link.close()

    # -- inside: words -------------------------------------------------------------

    def _count(self, event: Event) -> None:
        if isinstance(event, Map):
            self._counts.maps += 1
        else:
            self._counts.unmaps += 1

    def _tell_once(self, notice: Notice) -> None:
        """Tell something, unless it was the last thing that was told."""
        if notice.text != self._said:
            self._said = notice.text
            self._tell(notice)
