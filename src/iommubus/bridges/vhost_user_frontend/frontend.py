"""The bridge: one back end after the other at one place."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskStatus
from msgspec.structs import replace

from ...bridging.sockets import connected
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import EventBus
from ...errors import Fenced, PeerBroke, PeerLeft
from ...events import Memory
from .counts import Counts, FrontendStatistics
from .rings import Ring
from .session import Session, Terms

RETRY: Final = 0.5
"""Seconds between two attempts to connect: a back end that is restarted is missed for no longer."""


class VhostUserFrontend:
    """A space that drives a vhost-user back end, as the front end of its protocol.

    The back end's MISSes are answered by the translations of the space, and what is
    unmapped there is INVALIDATEd; a `sync` of the space returns when the back end has
    acknowledged that.  When the connection is lost, or the subscription fenced, the
    back end has to be proven stopped before anything else: by its answers
    to GET_VRING_BASE, or by the end of its process.  Then the next one is connected to.

    Args:
        bus: Where the space is.
        connect: Path of the socket where the back end listens.
        space: The endpoint that it stands for.
        rings: The rings of its device; each is enabled once its addresses are mapped.
        memories: Those that it is given at the start.  Others follow as mappings
            that it asks for lead into them.
        features: Bits of the device's own features that its driver uses, if they are offered.
        name: What reports call the subscription.
        tell: Told of what was agreed, and what happens.

    Source: QEMU ``docs/interop/vhost-user.rst``.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        connect: str | Path,
        space: str,
        rings: Sequence[Ring] = (),
        memories: Sequence[Memory] = (),
        features: int = 0,
        name: str | None = None,
        tell: Tell = log,
    ) -> None:
        self._bus = bus
        self._path = str(connect)
        self._terms = Terms(
            space,
            name or f"vhost-user {self._path}",
            tuple(rings),
            tuple(memories),
            features,
            f"the back end at {self._path}",
        )
        self._tell = tell
        self._counts = Counts()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve back ends, until it is cancelled or the endpoint is closed.

        It has started when the first back end may ask.

        Raises:
            PeerCannot: A back end does not offer what is needed.
            PeerRefused: A back end refused a ring, or memory.
            PeerLeft: A back end is gone, and nothing will ever prove that it has stopped.
            IommubusError: The space cannot be subscribed to.
        """
        started = _once(task_status.started)
        terms, said = self._terms, ""
        while True:
            sock = await self._reach()
            session = Session(self._bus, terms, sock, counts=self._counts, tell=self._tell)
            try:
                await session.run(started)
            except (PeerLeft, PeerBroke, Fenced) as failure:
                if not session.settled:
                    raise
                if str(failure) != said:
                    said = str(failure)
                    self._tell(Notice(f"{said}; the next connection is tried", trouble=True))
            else:
                return
            terms = replace(terms, rings=session.rings)
            await anyio.sleep(RETRY)

    def statistics(self) -> FrontendStatistics:
        """Return its counters."""
        return self._counts.statistics()

    # -- inside ----------------------------------------------------------------

    async def _reach(self) -> socket.socket:
        """Connect, as soon as somebody listens."""
        said = False
        while True:
            try:
                return connected(self._path, sender=True)
            except OSError as failure:
                if not said:
                    said = True
                    self._tell(Notice(f"waits for a back end at {self._path}: {failure}"))
            await anyio.sleep(RETRY)


def _once(act: Callable[[], object]) -> Callable[[], None]:
    """Return what does something the first time that it is called."""
    done: list[bool] = []

    def act_once() -> None:
        if not done:
            done.append(True)
            act()

    return act_once
