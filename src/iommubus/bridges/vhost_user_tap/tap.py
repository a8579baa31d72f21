"""Between a front end and a back end of vhost-user: passes everything on, and shows on the bus what it sees.

A front end (QEMU) connects to the tap as if it were the back end, and the tap to
the back end (DPDK) as if it were the front end.  The two notice nothing: what one says
reaches the other at once, whatever becomes of the bus, and the tap answers nothing itself.

Therefore it promises nothing either.  The guest does not wait for those on the bus: what they
were told is mapped may be gone.  The space is there to be watched.

Source: QEMU ``docs/interop/vhost-user.rst``.
"""

import socket
from typing import Final

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskStatus

from ...bridging.memories import PeerMemories
from ...bridging.sockets import accept
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import AddressSpace, EventBus
from ...bus.soon import soon_in_this_loop
from ...caps import Cap
from ...errors import BusClosed, SpaceClosed
from ...transport.address import UnixAddress
from ...transport.credentials import peer_of
from ...transport.listeners import listen as listen_at
from .carrying import Carrier
from .counting import Counts, Statistics
from .reaching import reach
from .recording import Recorder
from .seen import Backlog
from .showing import Shown
from .watching import Troubles, Watch

GRANULE: Final = 1
"""Bytes that addresses and sizes are multiples of: what a front end may say, back ends take."""

PATIENCE: Final = 10.0
"""Seconds for which a back end is tried that is not there yet; then the front end is let go of, and may try again."""

FAREWELL: Final = 1.0
"""Seconds for which what was passed on last is still shown, after one side has left; the next front end waits."""


class VhostUserTap:
    """The bridge; `run` does its work.

    Args:
        bus: The bus, embedded or remote.
        listen: Path of the Unix socket at which a front end connects.
        connect: Path of the Unix socket at which the back end listens.
        space: Name of the space that shows what the device may use.
        tell: Is told what was agreed upon and what happens.
        recorder: Where what is passed on is written down.
        patience: Seconds for which a back end is tried that is not there yet.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        listen: str,
        connect: str,
        space: str,
        tell: Tell = log,
        recorder: Recorder | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._bus = bus
        self._listen = listen
        self._connect = connect
        self._name = space
        self._tell = tell
        self._recorder = recorder
        self._patience = patience
        self._memories = PeerMemories(bus, f"{space}.ram")
        self._counts = Counts()
        self._backlog: Backlog | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Carry one front end after another, until it is cancelled.

        The space stays while they come and go; started once somebody can connect.

        Raises:
            BadName, NameTaken: There can be no such space.
            ListenError: There is no place for the socket.
            BusClosed, SpaceClosed, WrongThread: The bus cannot be used.
        """
        space = await self._bus.create_space(self._name, granule=GRANULE, offers=Cap.ALL)
        try:
            with listen_at(UnixAddress(self._listen)) as listener:
                self._tell(Notice(f"{self._name}: waiting for a front end at {self._listen}"))
                task_status.started()
                while True:
                    await self._serve(await accept(listener.sock), space)
        finally:
            with anyio.move_on_after(FAREWELL, shield=True):
                await space.close()

    def statistics(self) -> Statistics:
        """Return its counters."""
        found = self._counts.statistics()
        return found if self._backlog is None else found._replace(lost=found.lost + self._backlog.lost)

    async def _serve(self, front: socket.socket, space: AddressSpace) -> None:
        self._counts.front_ends += 1
        with front:
            try:
                back = await reach(self._connect, self._patience)
            except OSError as failure:
                why = f"nobody takes a connection at {self._connect}: {failure.strerror}; the front end is let go of"
                self._tell(Notice(f"{self._name}: {why}", trouble=True))
                return
            with back:
                why = await self._carry(front, back, space)
        self._tell(Notice(f"{self._name}: {why}"))

    async def _carry(self, front: socket.socket, back: socket.socket, space: AddressSpace) -> str:
        """Carry a connection to its end, and return what that was."""
        peers = f"process {peer_of(front).pid} and process {peer_of(back).pid} at {self._name}"
        trouble = Troubles(self._tell)
        shown = Shown(space, self._memories, trouble)
        watch = Watch(peers, shown, self._counts, tell=self._tell, trouble=trouble, recorder=self._recorder)
        self._backlog = backlog = Backlog(soon_in_this_loop())
        try:
            with Carrier(front, back, backlog.put) as carrier:
                return await self._work(carrier, watch, backlog)
        finally:
            self._counts.lost += backlog.lost
            self._backlog = None
            backlog.close()
            shown.leave()

    async def _work(self, carrier: Carrier, watch: Watch, backlog: Backlog) -> str:
        watched = anyio.Event()
        ends: list[Exception] = []
        why = ""

        async def stop_when_cancelled() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                carrier.stop()

        async def watch_to_the_end() -> None:
            try:
                await watch.run(backlog)
            except (BusClosed, SpaceClosed) as closed:
                ends.append(closed)
                carrier.stop()
            watched.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_when_cancelled)
            tasks.start_soon(watch_to_the_end)
            why = await to_thread.run_sync(carrier.run, limiter=CapacityLimiter(1))
            backlog.end()
            with anyio.move_on_after(FAREWELL):
                await watched.wait()
            tasks.cancel_scope.cancel()
        if ends:
            raise ends[0]
        return why
