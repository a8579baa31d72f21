"""The back end of a vhost-user device, as QEMU sees it: what the guest unmaps is published, and misses are asked of it.

QEMU (the front end) connects; its IOMMU's translations are a pull space of the bus.
A question of a cacher becomes a MISS, and an INVALIDATE becomes an UNMAP, which is
acknowledged once nobody on the bus uses what it took away.  Until then the guest stands
still; whoever takes longer than the deadline is fenced.  It is never acknowledged, nor
refused, to get past one: QEMU would print a line, and the guest use the page again.

Source: QEMU ``docs/interop/vhost-user.rst``.
"""

import socket
from collections import Counter
from itertools import count
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskStatus

from ...bridging.barrier import Barrier
from ...bridging.sockets import accept
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import SYNC_TIMEOUT, EventBus
from ...bus.questions import ANSWER_TIMEOUT
from ...caps import Cap, Perm
from ...errors import BusClosed, PeerLeft, SpaceClosed
from ...mapping import Mapping
from ...transport.address import UnixAddress
from ...transport.credentials import peer_of
from ...transport.listeners import listen as listen_at
from .device import Device, NoDevice
from .front_end import FrontEnd
from .line import Surroundings

GRANULE: Final = 0x1000
"""Bytes of the smallest page of QEMU's IOMMUs."""


class Statistics(NamedTuple):
    """Counters of a bridge."""

    #: front ends that have connected
    front_ends: int
    #: questions that were sent to them
    misses: int
    #: of those, questions to which there was no answer
    negative: int
    #: UPDATEs that came
    updates: int
    #: of those, ones that answered nothing
    unasked: int
    #: of those, ones that led out of the memory table
    refused: int
    #: INVALIDATEs that came
    invalidations: int
    #: syncs that were made for INVALIDATEs
    syncs: int


class VhostUserBackend:
    """The bridge; `run` does its work.

    Args:
        bus: The bus, embedded or remote.
        listen: Path of the Unix socket at which a front end connects.
        space: Name of the space that it becomes.
        device: What serves the rings; without one they are kept and not served.
        tell: Is told what was agreed upon and what happens.
        deadline: Seconds after which a subscriber that does not let go of what was unmapped is fenced.
        answer_timeout: Seconds that a front end has to answer a miss.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        listen: str,
        space: str,
        device: Device | None = None,
        tell: Tell = log,
        deadline: float = SYNC_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self._bus = bus
        self._listen = listen
        self._name = space
        self._device: Device = NoDevice() if device is None else device
        self._tell = tell
        self._deadline = deadline
        self._answer_timeout = answer_timeout
        self._counts: Counter[str] = Counter()
        self._barrier: Barrier | None = None
        self._front_end: FrontEnd | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve one front end after another, until it is cancelled.

        The space is made first and stays while front ends come and go; started once somebody can connect.

        Raises:
            BadName, NameTaken: There can be no such space.
            ListenError: There is no place for the socket.
            BusClosed, SpaceClosed, WrongThread: The bus cannot be used.
        """
        space = await self._bus.create_space(
            self._name,
            granule=GRANULE,
            offers=Cap.UNMAP,
            translate=self._translate,
            answer_timeout=self._answer_timeout,
        )
        self._barrier = barrier = Barrier(space, deadline=self._deadline, tell=self._tell)
        around = Surroundings(
            self._bus, space, GRANULE, barrier, self._deadline, self._device, self._tell, self._counts, count(1)
        )
        try:
            with listen_at(UnixAddress(self._listen)) as listener:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(barrier.run)
                    self._tell(Notice(f"{self._name}: waiting for a front end at {self._listen}"))
                    task_status.started()
                    while True:
                        await self._serve(await accept(listener.sock), around)
        finally:
            with anyio.CancelScope(shield=True):
                await space.close()

    def statistics(self) -> Statistics:
        """Return its counters."""
        counted = self._counts
        return Statistics(
            front_ends=counted["front ends"],
            misses=counted["misses"],
            negative=counted["negative"],
            updates=counted["updates"],
            unasked=counted["unasked"],
            refused=counted["refused"],
            invalidations=counted["invalidations"],
            syncs=self._barrier.syncs if self._barrier is not None else 0,
        )

    async def _serve(self, sock: socket.socket, around: Surroundings) -> None:
        name = f"the front end of {self._name} (process {peer_of(sock).pid})"
        self._counts["front ends"] += 1
        self._front_end = front_end = FrontEnd(sock, name, around)
        try:
            why = await front_end.run()
        finally:
            self._front_end = None
            with anyio.CancelScope(shield=True):
                await front_end.leave()
        if isinstance(why, SpaceClosed | BusClosed):
            raise why
        self._tell(Notice(str(why), trouble=not isinstance(why, PeerLeft)))

    async def _translate(self, iova: int, perm: Perm) -> Mapping | None:
        """Answer a miss of a cacher: nothing is mapped where no front end is."""
        return None if self._front_end is None else await self._front_end.translate(iova, perm)
