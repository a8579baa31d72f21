"""Keeping a connection to the daemon: had once, it is had again whenever it is lost.

Who lives longer than one connection takes part: it is told when there is one, and
when that is lost, in a fixed order.

A client that was thrown out because of a rule, or that speaks no version of the
protocol that the daemon knows, does not come back: from then on each call says why.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from random import Random
from typing import Final

import anyio

from ..errors import BusClosed, Disconnected, FeatureRefused, RuleMissing, VersionRefused
from ..transport.address import Address, TcpAddress, TlsAddress, UnixAddress
from ..transport.clock import Clock, boot_clock
from ..transport.tls import Identity, client_context
from ..wire.messages import Message
from ..wire.messages.greeting import Feature, Hello
from ..wire.messages.values import NAME_LIMIT
from ..wire.negotiation import LEAST_VERSION, MOST_VERSION
from .channel import Channel, Handler, Participant

HELLO_TIMEOUT: Final = 10.0
"""Seconds within which a daemon lets a client in: as many as it gives a client to greet it."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that last words may take on their way out; a daemon that reads nothing must
not keep anybody from leaving."""

RETRY_LEAST: Final = 0.05
"""Seconds within which a connection is tried again the first time: about as long as a
daemon needs to be started anew by its service manager."""

RETRY_MOST: Final = 5.0
"""Seconds within which it is tried again at the latest: less than a lease, and a
thousand clients that come back are 200 connections a second."""

STEADY: Final = 5.0
"""Seconds that a connection has to last before its loss counts as a new one, which is
tried again quickly."""

FINAL: Final = (RuleMissing, VersionRefused, FeatureRefused)
"""What another attempt would not change."""

Connector = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
"""Opens a connection whose protocol it has made; raises `OSError` if it cannot."""


def connector_to(address: Address, identity: Identity | None = None) -> Connector:
    """Return what opens connections to an address.

    Args:
        address: Where the daemon is.
        identity: The client's certificate, for TLS; its files are read at each connection.
    """

    async def connect(make: Callable[[], asyncio.Protocol]) -> object:
        loop = asyncio.get_running_loop()
        match address:
            case UnixAddress(path):
                return await loop.create_unix_connection(make, path)
            case TcpAddress(host, port):
                return await loop.create_connection(make, host, port)
            case TlsAddress(host, port):
                context = None if identity is None else await anyio.to_thread.run_sync(client_context, identity)
                return await loop.create_connection(make, host, port, ssl=context)

    return connect


def retry_delay(attempt: int, random: Random) -> float:
    """Return the seconds before an attempt: any up to a bound that doubles, so that clients do not come in step.

    Args:
        attempt: How many have failed in a row.
        random: Where chance comes from.
    """
    return random.uniform(0, min(RETRY_MOST, RETRY_LEAST * 2 ** min(attempt, 16)))


class Rank(IntEnum):
    """In which order participants are told."""

    MEMORIES = 0
    """First: what is published leads into them."""

    LINKS = 1
    """Spaces, with what is published in them."""

    ENDPOINTS = 2
    """Attached to spaces."""

    SEATS = 3
    """Subscriptions and observers: they find everything there again."""


class Keeper:
    """Keeps a connection to the daemon.

    Args:
        connect: Opens connections.
        address: Where to, for people.
        name: What the client is called in the daemon's lists and logs.
        features: What the client can do beyond what every one can.
        clock: By which leases run.
        random: Where chance comes from.

    Attributes:
        channel: The connection; `None` while there is none.
        reason: Why there is none.
        error: Why there will never be one again; `None` as long as that is not so.
        handlers: What takes what the daemon says by itself, by type of message; for every connection.
        address: Where the daemon is, for people.
        clock: By which leases run.
        on_sync: Called when somebody is going to be waited for: what was not said yet for lack of hurry should be.
    """

    def __init__(
        self,
        connect: Connector,
        address: str,
        *,
        name: str = "",
        features: Feature = Feature.RESUME,
        clock: Clock = boot_clock,
        random: Random | None = None,
    ) -> None:
        self.channel: Channel | None = None
        self.reason = "it was not entered"
        self.error: Exception | None = None
        self.handlers: dict[type[Message], Handler] = {}
        self.address = address
        self.clock = clock
        self.on_sync: Callable[[], object] = lambda: None
        self._connect = connect
        self._hello = Hello(LEAST_VERSION, MOST_VERSION, name[:NAME_LIMIT], 0, int(features))
        self._random = random or Random()  # noqa: S311 - spreads clients, keeps no secret
        self._participants: dict[Participant, Rank] = {}
        self._attempt: asyncio.Future[Channel] | None = None  # that is under way
        self._changed = anyio.Event()
        self._opened_at = 0.0
        self._failed = 0  # attempts since the last connection that lasted
        self._told_ended = False

    # -- for participants ------------------------------------------------------------

    def join(self, rank: Rank, participant: Participant) -> None:
        """Tell a participant from now on; of a connection that there is, at once."""
        self._participants[participant] = rank
        if self.channel is not None:
            participant.attached(self.channel)

    def part(self, participant: Participant) -> None:
        """Tell it no more."""
        self._participants.pop(participant, None)

    def disconnected(self) -> Exception:
        """Return the error of who needs a connection while there is none."""
        return self.error or Disconnected(self.address, self.reason)

    async def wait_open(self) -> Channel:
        """Wait until there is a connection.

        Raises:
            BusClosed, IommubusError: There will not be one; why.
        """
        while self.channel is None:
            if self.error is not None:
                raise self.error
            await self._changed.wait()
        return self.channel

    # -- for the bus -----------------------------------------------------------------

    async def begin(self, patience: float = 0.0) -> None:
        """Connect for the first time.

        Args:
            patience: Seconds within which a daemon that is not there is tried again.

        Raises:
            Disconnected: It cannot be reached.
            BadCertificate: A file of the client's identity cannot be loaded.
            IommubusError: It does not let the client in; why.
        """
        if self.error is not None:
            raise self.error
        loop = asyncio.get_running_loop()
        end, attempt = loop.time() + patience, 0
        while True:
            try:
                return await self._try()
            except Disconnected:
                delay = retry_delay(attempt, self._random)
                if loop.time() + delay >= end:
                    raise
            await anyio.sleep(delay)
            attempt += 1

    async def keep(self) -> None:
        """Connect again whenever the connection is lost, until that is hopeless."""
        while self.error is None:
            if self.channel is not None:
                await self._changed.wait()
                continue
            await anyio.sleep(retry_delay(self._failed, self._random))
            self._failed += 1
            try:
                await self._try()
            except Exception as error:  # noqa: BLE001 - it is tried again, or the end
                self._note(error)

    async def end(self, error: Exception | None = None) -> None:
        """Leave the daemon, for good."""
        self.error = self.error or error or BusClosed()
        self.tell_ended()
        channel = self.channel
        if channel is not None:
            channel.leave()
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await channel.wait_closed()
            channel.lose(self.error)
        self._change()

    def tell_ended(self) -> None:
        """Tell who takes part that nothing more will come; once."""
        participants, self._told_ended = self._in_order() if not self._told_ended else [], True
        for participant in participants:
            participant.ended(self.error or BusClosed())

    # -- for connections ---------------------------------------------------------------

    def opened(self, channel: Channel) -> None:
        """Take it that the daemon has let the client in."""
        self.channel = channel
        self._opened_at = asyncio.get_running_loop().time()
        for participant in self._in_order():
            if participant in self._participants:
                participant.attached(channel)
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result(channel)
        self._change()

    def closed(self, channel: Channel, error: Exception) -> None:
        """Take it that a connection is lost, or was never had."""
        if channel is self.channel:
            self.channel, self.reason = None, reason_of(error)
            if asyncio.get_running_loop().time() - self._opened_at >= STEADY:
                self._failed = 0
            for participant in self._in_order():
                if participant in self._participants:
                    participant.lost(self.reason)
            self._note(error)
            self._change()
        elif self._attempt is not None and not self._attempt.done():
            self._attempt.set_exception(error)

    # -- inside ----------------------------------------------------------------------

    def _in_order(self) -> list[Participant]:
        return sorted(self._participants, key=self._participants.__getitem__)

    def _note(self, error: Exception) -> None:
        """Remember why there is no connection."""
        self.reason = reason_of(error)
        if isinstance(error, FINAL) and self.error is None:
            self.error = error
            self.tell_ended()
            self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _try(self) -> None:
        """Open a connection, and wait until the daemon has let the client in."""
        channel = Channel(self._hello, self, self.handlers, self.address, self.clock)
        self._attempt = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                await self._connect(lambda: channel)
                await self._attempt
        except TimeoutError as late:
            raise self._given_up(channel, f"it did not answer within {HELLO_TIMEOUT:g} s") from late
        except OSError as failure:
            raise self._given_up(channel, failure.strerror or str(failure)) from failure
        except BaseException:
            self._given_up(channel, "it was given up")
            raise
        finally:
            if self._attempt.done() and not self._attempt.cancelled():
                self._attempt.exception()  # it was seen, or does not matter any more
            self._attempt = None

    def _given_up(self, channel: Channel, reason: str) -> Disconnected:
        error = Disconnected(self.address, reason)
        channel.lose(error)
        return error


def reason_of(error: Exception) -> str:
    """Return why a connection was lost."""
    return error.reason if isinstance(error, Disconnected) else str(error)
