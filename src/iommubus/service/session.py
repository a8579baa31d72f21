"""One connection of a client: bytes in, requests to those who handle them, answers out.

Everything runs in callbacks of the event loop, but for requests that have to
wait: those get a task each.  What is said within one turn of the loop leaves in
one write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import getLogger
from typing import Any, Final, Protocol

from ..transport.credentials import Peer, Process
from ..wire.connection import ServerConnection
from ..wire.failures import to_failure
from ..wire.messages import Message
from ..wire.messages.replies import Done, Refused
from ..wire.messages.subscribing import DeliverPacked
from ..wire.negotiation import Agreement
from .shared import Shared

REQUESTS: Final = 1024
"""Most requests of one connection that wait at once: each has a task of some 5 KiB, and
a machine has fewer virtual CPUs that could miss at the same time."""

OUTGOING: Final = 16 << 20
"""Most bytes that wait to be sent to one peer: four times what a subscriber may have
unacknowledged by default.  A peer that lets more gather does not read."""

LAST_LOOK: Final = 0.01
"""Seconds that a connection has once its lease seems over: a daemon that was stopped
itself reads first what has come meanwhile."""

US: Final = 1_000_000
"""Microseconds in a second, the unit of the wire."""

LOGGER: Final = getLogger("iommubus.service")

Handler = Callable[[Any], None]
Work = Callable[..., Awaitable[object]]
Make = Callable[[int], Message]


class Part(Protocol):
    """What handles some of the messages of one connection."""

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message; an error of this package that it raises is answered, or closes."""
        ...

    def lost(self, reason: str) -> None:
        """Take it that the connection is gone; called once, if its client was let in."""
        ...


class Source(Protocol):
    """What has something to say at the end of the loop's turn."""

    def flush(self) -> None:
        """Say it, by `Session.send`."""
        ...


class Who(Protocol):
    """Says who is at the other end of a transport, once it is connected."""

    def __call__(self, transport: asyncio.Transport) -> tuple[Peer, Process | None]:
        """Return the peer, and its process if that can be seen.

        Raises:
            NoCredentials, PeerGone: It cannot be said.
        """
        ...


class Session(asyncio.Protocol):
    """The daemon's end of one connection.

    Args:
        daemon: What it shares with the others.
        who: Says who is at the other end.
        parts: Make what handles its messages.

    Attributes:
        daemon: The same.
        peer: Who is at the other end.
        process: Its process; `None` if that cannot be seen.
        number: Number of the client; 0 until it was let in.
        name: What it calls itself.
        agreement: What both ends use, once it was let in.
        open: Whether the client was let in, and is not lost.
        lease_end: When its lease runs out, by the clock of the daemon.
    """

    def __init__(self, daemon: Shared, who: Who, parts: Sequence[Callable[["Session"], Part]]) -> None:
        self.daemon = daemon
        self.peer = Peer()
        self.process: Process | None = None
        self.number = 0
        self.name = ""
        self.agreement: Agreement | None = None
        self.open = False
        self.lease_end = 0.0
        self._who = who
        self._wire = ServerConnection()

    # -- saying ------------------------------------------------------------------

    def send(self, message: Message | DeliverPacked) -> int:
        """Say a message, at the end of the loop's turn; return how many bytes that takes, 0 if nobody listens."""
        raise NotImplementedError

    def flush_soon(self, source: Source) -> None:
        """Have ``source.flush()`` called once, at the end of the loop's turn and before the write."""
        raise NotImplementedError

    def done(self, request: int) -> None:
        """Answer a request that was done."""
        self.send(Done(request))

    def refuse(self, request: int, error: BaseException) -> None:
        """Answer a request that was not done."""
        self.send(Refused(request, to_failure(error)))

    def close(self, reason: str, failure: BaseException | None = None) -> None:
        """Say `Bye`, and close the connection; its client is lost at once.

        Args:
            reason: Why, for people.
            failure: What the client did wrong.
        """
        raise NotImplementedError

    # -- asking the client -----------------------------------------------------------

    async def ask(self, make: Make) -> Message:
        """Ask the client something, and return its answer.

        Args:
            make: Makes the request of its number.

        Raises:
            ConnectionLost: The connection is gone, and the answer with it.
            Exception: What the client refused it with.
        """
        raise NotImplementedError

    # -- requests of the client ------------------------------------------------------

    def spawn(self, request: int, work: Work, *args: Any) -> None:
        """Have a request that waits carried out in a task of its own.

        `Cancel` and the loss of the connection end it.  What it raises is its answer.

        Args:
            request: Number of the request.
            work: Does it, and answers.
            args: What it is called with.
        """
        raise NotImplementedError

    def renew_lease(self) -> None:
        """Note that something arrived that renews the lease of the connection."""
        raise NotImplementedError
