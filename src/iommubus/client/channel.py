"""One connection to the daemon: greeting, requests and their answers, heartbeats, the lease.

Plain callbacks in the loop.  What is said in one iteration of the loop leaves in
one write at its end; what arrives is given to whoever asked, or to a handler by
its type.

The lease of the connection covers everything that the client holds by it.  It is
counted from when the words that renewed it were *sent*, which is before the daemon
began to count.  Half a heartbeat before it runs out the connection counts as lost,
so that everything is dropped in time.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf
from typing import Any, Final, Protocol, cast

from ..errors import BadMessage, Disconnected, IommubusError, ProtocolError
from ..transport.clock import Clock, boot_clock
from ..wire.connection import ClientConnection
from ..wire.failures import to_error, to_failure
from ..wire.messages import ClientMessage, Message
from ..wire.messages.greeting import Bye, Hello, Ping, Pong, Welcome
from ..wire.messages.queries import Counters, Found, SpaceFound, Spaces, Subscribers
from ..wire.messages.replies import Cancel, Done, Refused
from ..wire.messages.spaces import MemoryAdded, SpaceCreated
from ..wire.messages.subscribing import Subscribed, Translated
from ..wire.messages.syncing import FenceJudged, Synced, SyncRefused
from ..wire.messages.values import clip_text
from ..wire.messages.watching import Observing
from ..wire.negotiation import Agreement, accept

MICROSECONDS: Final = 1_000_000
"""Of those there are in a second; durations travel in them."""

WRITE_LIMIT: Final = 1 << 24
"""Most bytes that wait for a daemon that reads nothing; past it the connection counts
as lost.  What is published waits in mailboxes and not here, so this is far more than
any number of small words comes to."""

Handler = Callable[["Channel", Any], None]
"""Takes what the daemon said by itself, and the connection on which it did."""

Answered = Callable[[Message | Exception], None]
"""Takes an answer, or why there is none.  Called in the order of what arrives."""

ANSWERS: Final = frozenset(
    {
        Done, Refused, SpaceCreated, MemoryAdded, Subscribed, Translated, Synced, SyncRefused, FenceJudged, Observing,
        Spaces, SpaceFound, Subscribers, Found, Counters,
    }
)  # fmt: skip
"""What answers a request."""


class Source(Protocol):
    """Something that has words for the daemon, and makes them when they are about to leave."""

    def flush(self, channel: "Channel") -> None:
        """Say them by `Channel.send`."""
        ...


class Participant(Protocol):
    """Something that lives longer than one connection."""

    def attached(self, channel: "Channel") -> None:
        """Go on: there is a connection."""
        ...

    def lost(self, reason: str) -> None:
        """Take it that the connection is lost."""
        ...


class Owner(Protocol):
    """What a connection reports to."""

    def opened(self, channel: "Channel") -> None:
        """Take it that the daemon has let the client in."""
        ...

    def closed(self, channel: "Channel", error: Exception) -> None:
        """Take it that the connection is lost, or was never had."""
        ...


class Channel(asyncio.Protocol):
    """One connection to the daemon.

    Args:
        hello: What the client says first.
        owner: What is told when it opens, and when it is lost.
        handlers: What takes what the daemon says by itself, by type of message; what has none is passed over.
        clock: By which the lease runs.

    Attributes:
        open: Whether the daemon has let the client in, and the connection is not lost.
        welcome: What the daemon said when it let the client in.
        agreement: What both ends use.
        lease_end: When the lease of the connection runs out, by the clock.
        draining: Why the daemon is going to stop; empty while it is not.
    """

    welcome: Welcome
    agreement: Agreement

    def __init__(
        self,
        hello: Hello,
        owner: Owner,
        handlers: Mapping[type[Message], Handler],
        clock: Clock = boot_clock,
    ) -> None:
        self.open = False
        self.lease_end = -inf
        self.draining = ""
        self._hello = hello
        self._owner = owner
        self._handlers = handlers
        self._clock = clock
        self._connection = ClientConnection()
        self._numbers = count(1)
        self._answers: dict[int, tuple[Answered, float]] = {}
        self._out: list[bytes] = []
        self._sources: dict[Source, None] = {}
        self._over = False

    # -- for participants ----------------------------------------------------------

    def send(self, message: ClientMessage) -> None:
        """Have something said at the end of this iteration of the loop; on a lost connection it is lost too."""

    def flush_soon(self, source: Source) -> None:
        """Have a source asked for its words once, at the end of this iteration of the loop."""

    def ask(self, make: Callable[[int], ClientMessage], answered: Answered) -> int:
        """Say a request; its answer is given to a callback at the moment it arrives.

        Args:
            make: Makes the request of its number.
            answered: Takes each part of the answer, or the error of a `Refused`, or `Disconnected`.

        Returns:
            The number of the request.
        """
        raise NotImplementedError

    async def request(self, make: Callable[[int], ClientMessage]) -> Message:
        """Say a request, and wait for its answer; one that is cancelled says `Cancel`.

        Args:
            make: Makes the request of its number.

        Raises:
            Disconnected: The connection was lost before the answer came.
            IommubusError, OSError: That of the `Refused` that answered.
        """
        raise NotImplementedError

    def forget(self, request: int) -> None:
        """Take it that nobody waits for the answer of a request any more."""

    def lose(self, error: Exception) -> None:
        """Take it that the connection is lost; nothing more is said or heard on it."""
