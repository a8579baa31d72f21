"""One connection of a client: bytes in, messages to those who handle them, answers out.

Everything runs in callbacks of the event loop, but for requests that have to
wait: those get a task each.  What is said within one turn of the loop leaves in
one write.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Any, Final, Protocol, TypeVar, cast

from ..errors import (
    ConnectionLost,
    IommubusError,
    LimitReached,
    NoCredentials,
    PeerGone,
    ProtocolError,
    Stopping,
)
from ..transport.credentials import Peer, Process
from ..wire.connection import TRANSITIONS, ServerConnection
from ..wire.failures import to_error, to_failure
from ..wire.messages import (
    DaemonMessage,
    Message,
    Side,
    greeting,
    publishing,
    spaces,
    subscribing,
    watching,
)
from ..wire.messages.greeting import Bye, Feature, Hello, Ping, Pong, Welcome
from ..wire.messages.replies import Cancel, Done, Refused
from ..wire.messages.subscribing import DeliverPacked
from ..wire.messages.values import clip_text
from ..wire.negotiation import FEATURES, Agreement, negotiate
from .requests import Asked, Ending, Running, Work
from .shared import Shared
from .turns import TURN, cost

FULL: Final = 1 << 20
"""Bytes that wait to be sent above which streams are stopped: the longest frame."""

OUTGOING: Final = 16 << 20
"""Most bytes that wait to be sent to one peer.  Streams stop long before; a peer that
lets so many answers gather does not read."""

LAST_LOOK: Final = 0.01
"""Seconds that a connection has once its lease seems over: a daemon that was stopped
itself reads first what has come meanwhile."""

US: Final = 1_000_000
"""Microseconds in a second, the unit of the wire."""

LOGGER: Final = getLogger("iommubus.service")

BEGINNINGS: Final = frozenset(
    {
        spaces.CreateSpace,
        spaces.CreateEndpoint,
        spaces.AddMemory,
        subscribing.Subscribe,
        watching.Observe,
    }
)
"""Requests for something new, which a daemon refuses that is about to stop."""

Handler = Callable[[Any], None]
Make = Callable[[int], Message]
PartT = TypeVar("PartT")


class Part(Protocol):
    """What handles some of the messages of one connection."""

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message.

        A `ProtocolError` that it raises ends the connection.  Any other error of
        this package refuses the request.
        """
        ...

    def lost(self, reason: str) -> None:
        """Take it that the connection is gone; called once, if the client was let in."""
        ...


class Source(Protocol):
    """What has something to say at the end of the loop's turn."""

    def flush(self) -> None:
        """Say it, by `Session.send`."""
        ...


class Who(Protocol):
    """Says who is at the other end of a transport, once it is connected."""

    def __call__(self, transport: asyncio.Transport, /) -> tuple[Peer, Process | None]:
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
        process: Its process; `None` if that cannot be seen.  Who takes it over puts `None` here, and closes it.
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
        self._wire = ServerConnection(daemon.config.limits.frame)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._waiting = 0  # bytes in it
        self._sources: dict[Source, None] = {}
        self._scheduled = False
        self._stopped = False  # the transport takes no more for now
        self._behind = False  # messages that have come wait for the next turn
        self._over = False  # nothing is taken any more
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running = Running(daemon.tasks, self.refuse)
        self._asked = Asked()
        self._pinged = Asked()
        self._parts = [make(self) for make in parts]
        self._handlers: dict[type[Message], Handler] = {
            Hello: self._hello,
            Bye: self._bye,
            Ping: self._ping,
            Pong: self._pong,
            Cancel: self._cancel,
            Done: self._answered,
            Refused: self._answered,
            publishing.Answer: self._answered,
        }
        for part in self._parts:
            self._handlers.update(part.handlers)

    def __repr__(self) -> str:
        return f"<connection {self.number:#x} of {self.name!r}, {self.peer}, {self._wire.state.value}>"

    # -- saying ------------------------------------------------------------------

    def send(self, message: Message | DeliverPacked) -> int:
        """Say a message, at the end of the loop's turn; return how many bytes that takes, 0 if nobody listens."""
        if self._over or self._waiting > OUTGOING:
            return 0
        data = self._wire.send(cast("DaemonMessage", message))
        self._out.append(data)
        self._waiting += len(data)
        if self._waiting > OUTGOING:
            self._out.clear()  # the end of the turn ends the connection, and until then more may be said
        self._schedule()
        return len(data)

    def flush_soon(self, source: Source) -> None:
        """Have ``source.flush()`` called once, at the end of the loop's turn and before the write.

        While the transport is full it waits until that takes more; answers do not.
        """
        if not self._over:
            self._sources[source] = None
            self._schedule()

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
        if self._over:
            return
        self._lose(reason)
        if Bye in TRANSITIONS[self._wire.state][Side.DAEMON]:
            said = None if failure is None else to_failure(failure)
            self._out.append(self._wire.send(Bye(clip_text(reason), said)))
        self._write()
        if self._transport is not None:
            self._transport.close()
            self._timers["abort"] = self._loop.call_later(self.daemon.config.deadlines.hello, self._transport.abort)

    def abort(self) -> None:
        """Close the connection without waiting for what was said to be sent."""
        self._lose("the daemon gave it up")
        if self._transport is not None:
            self._transport.abort()

    # -- asking the client -----------------------------------------------------------

    async def ask(self, make: Make) -> Message:
        """Ask the client something, and return its answer.

        Args:
            make: Makes the request of its number.

        Raises:
            ConnectionLost: The connection is gone, and the answer with it.
            Exception: What the client refused it with.
        """
        if not self.open:
            raise ConnectionLost(self.name, "its connection was closed")
        number, answer = self._asked.begin()
        self.send(make(number))
        try:
            message = await answer
        finally:
            if self._asked.forget(number):
                self.send(Cancel(number))
        if isinstance(message, Refused):
            raise to_error(message.failure)
        return message

    def tell(self, make: Make) -> None:
        """Ask the client something whose answer does not matter."""
        number, _ = self._asked.begin()
        self._asked.forget(number)
        self.send(make(number))

    @property
    def waits(self) -> bool:
        """Whether the client waits for an answer."""
        return len(self._running) > 0

    async def heard(self) -> None:
        """Return once the client has heard all that was said to it until now.

        Raises:
            ConnectionLost: The connection is gone.
        """
        if not self.open:
            raise ConnectionLost(self.name, "its connection was closed")
        number, answer = self._pinged.begin()
        self.send(Ping(number))
        try:
            await answer
        finally:
            self._pinged.forget(number)

    # -- requests of the client ------------------------------------------------------

    def spawn(self, request: int, work: Work, *args: Any) -> None:
        """Have a request that waits carried out in a task of its own.

        `Cancel` and the loss of the connection end it.  What it raises is its answer.

        Args:
            request: Number of the request.
            work: Does it, and answers.
            args: What it is called with.

        Raises:
            LimitReached: Too many wait already.
            BadMessage: One of this number does.
        """
        self._running.start(request, work, *args)

    def hold(self, request: int, waiting: Ending) -> None:
        """Count a request that is answered from a callback; it is ended, and raises, as by `spawn`."""
        self._running.hold(request, waiting)

    def check_new(self, request: int) -> None:
        """Check that a request that may be answered at once could wait; raises as `spawn`."""
        self._running.check_new(request)

    def release(self, request: int) -> None:
        """Count it no longer: it was answered, or is going to be carried out in a task."""
        self._running.release(request)

    def part(self, kind: type[PartT]) -> PartT:
        """Return the part of a kind that handles messages here."""
        return next(part for part in self._parts if isinstance(part, kind))

    def renew_lease(self) -> None:
        """Note that something arrived that renews the lease of the connection."""
        self.lease_end = self.daemon.clock() + self.daemon.config.leases.seconds

    def take_socket(self) -> socket.socket:
        """Return the socket of a connection that has no client, and leave it to the caller.

        Nothing more is read here; the socket stays connected.

        Raises:
            NoCredentials: The transport has no socket.
        """
        transport = self._transport
        sock = None if transport is None else own_socket(transport)
        if sock is None:
            raise NoCredentials("it came over no socket")
        self._lose("its socket was handed on")
        cast("asyncio.Transport", transport).abort()
        return sock

    # -- the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: find out who it is, and wait for `Hello`."""
        self._transport = cast("asyncio.Transport", transport)
        self.daemon.connected(self)
        self._transport.set_write_buffer_limits(high=FULL)
        self._timers["hello"] = self._loop.call_later(self.daemon.config.deadlines.hello, self._silent)
        try:
            self.peer, self.process = self._who(self._transport)
            self.daemon.check_room(self.peer)
        except (NoCredentials, PeerGone, LimitReached, Stopping) as failure:
            self.daemon.lines.warn("connection", str(self.peer), f"not let in: {failure}")
            self.close(str(failure), failure)

    def data_received(self, data: bytes) -> None:
        """Take what arrived, and handle each whole message of it."""
        if self._over:
            return
        self._wire.receive_data(data)
        if not self._behind:
            self._take_turn()

    def eof_received(self) -> bool:
        """Take it that the client says nothing more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take it that the transport is gone."""
        self._lose("its connection was closed" if exc is None else f"its connection broke: {exc}")
        self._stop_timer("abort")
        self._transport = None
        self.daemon.disconnected(self)

    def pause_writing(self) -> None:
        """Stop streams: the transport is full."""
        self._stopped = True

    def resume_writing(self) -> None:
        """Let streams go on."""
        self._stopped = False
        if self._sources:
            self._schedule()

    # -- inside: messages --------------------------------------------------------------

    def _take_turn(self) -> None:
        """Handle the messages that have come, as many as one turn of the loop has room for."""
        try:
            self._behind = not self._take_some()
        except ProtocolError as error:
            self._break(error)
            return
        except Exception:
            LOGGER.exception("a message of %s failed in a way that it should not", self.peer)
            self.close("the daemon failed at a message")
            return
        if not self._behind:
            if self._wire.partial:
                self._watch_half()
        elif self._transport is not None:
            self._transport.pause_reading()  # nothing more is kept here than came at once
            self._loop.call_soon(self._go_on)

    def _take_some(self) -> bool:
        """Handle whole messages until this turn has no room; say whether none is left."""
        room, wire = TURN, self._wire
        while wire.more:
            if room <= 0:
                return False
            message = wire.next_message()
            if message is None:
                return True
            self._take(message)
            if self._over:
                return True
            if "half" in self._timers:
                self._stop_timer("half")
            room -= cost(message)
        return True

    def _go_on(self) -> None:
        """Take the next turn."""
        if not self._over:
            self._take_turn()
        if not self._over and not self._behind and self._transport is not None:
            self._transport.resume_reading()

    def _take(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            self.daemon.lines.warn("handler", str(self.peer), f"nobody handles {type(message).__name__}")
            return
        try:
            if self.daemon.draining:
                self._check_begins(message)
            handler(message)
        except ProtocolError:
            raise
        except IommubusError as failure:
            request = getattr(message, "request", None)
            if request is None:
                raise
            self.refuse(request, failure)

    def _check_begins(self, message: Message) -> None:
        """Begin nothing new shortly before the end."""
        if type(message) in BEGINNINGS:
            raise Stopping(self.daemon.draining)

    def _hello(self, hello: Hello) -> None:
        self.agreement = negotiate(hello, self._offered)
        daemon, leases = self.daemon, self.daemon.config.leases
        self.number, self.name = daemon.new_id(), hello.name
        self._stop_timer("hello")
        self.open = True
        daemon.clients[self.number] = self
        self.renew_lease()
        self._timers["lease"] = self._loop.call_later(leases.seconds, self._look_at_lease)
        token = b""
        if self.agreement.features & Feature.DESCRIPTORS:
            token = daemon.tokens.issue(self.number, self.peer)
        heartbeat, lease = int(leases.seconds / leases.heartbeats * US), int(leases.seconds * US)
        version, features = self.agreement.version, int(self.agreement.features)
        self.send(Welcome(version, features, daemon.incarnation, self.number, heartbeat, token, lease))
        daemon.lines.info("here", f"client {self.name!r}", f"is here, {self.peer}")
        if daemon.draining:
            self.send(greeting.Draining(clip_text(daemon.draining), 0))

    @property
    def _offered(self) -> Feature:
        """What the daemon can do on this connection: the kernel names users on Unix sockets alone."""
        return FEATURES if self.peer.uid is not None else FEATURES & ~Feature.DESCRIPTORS

    def _bye(self, bye: Bye) -> None:
        if bye.failure is not None:
            self.daemon.lines.warn("bye", str(self.peer), f"says that the daemon broke the protocol: {bye.reason}")
        self.close(f"it said goodbye: {bye.reason}" if bye.reason else "it said goodbye")

    def _ping(self, ping: Ping) -> None:
        self.renew_lease()
        self.send(Pong(ping.number))

    def _pong(self, pong: Pong) -> None:
        """Take it that the client has heard what was said before a `Ping`, if there was one."""
        if self._pinged.asked(pong.number):
            self._pinged.answer(pong.number, pong)

    def _cancel(self, cancel: Cancel) -> None:
        self._running.cancel(cancel.request)

    def _answered(self, answer: Done | Refused | publishing.Answer) -> None:
        self._asked.answer(answer.request, answer)

    # -- inside: the end -----------------------------------------------------------------

    def _break(self, error: ProtocolError) -> None:
        self.daemon.counts.protocol_errors += 1
        self.daemon.lines.warn("protocol", f"{self.name or 'a client'} ({self.peer})", str(error))
        self.close(str(error), error)

    def _lose(self, reason: str) -> None:
        """Take it that nothing more is said or heard here."""
        if self._over:
            return
        self._over, was_open, self.open = True, self.open, False
        for name in list(self._timers):
            self._stop_timer(name)
        self._sources.clear()
        self._running.end()
        for asked in self._asked, self._pinged:
            asked.lose(lambda: ConnectionLost(self.name, reason))
        if was_open:
            self._lose_client(reason)
        if self.process is not None:
            self.process.close()
            self.process = None

    def _lose_client(self, reason: str) -> None:
        self.daemon.lines.info("gone", f"client {self.name!r}", f"is gone: {reason}")
        self.daemon.clients.pop(self.number, None)
        self.daemon.tokens.revoke(self.number)
        for part in self._parts:
            try:
                part.lost(reason)
            except Exception:
                LOGGER.exception("the loss of %r failed in a way that it should not", self.name)

    # -- inside: time --------------------------------------------------------------------

    def _silent(self) -> None:
        self.close("it did not say who it is in time")

    def _watch_half(self) -> None:
        """Give a client a deadline for the rest of a frame of which part has come."""
        if not self._over and "half" not in self._timers:
            self._timers["half"] = self._loop.call_later(self.daemon.config.deadlines.hello, self._cut)

    def _cut(self) -> None:
        self.close("the rest of a frame did not come in time")

    def _look_at_lease(self, *, last: bool = False) -> None:
        left = self.lease_end - self.daemon.clock()
        if left >= 0:
            self._timers["lease"] = self._loop.call_later(max(left, LAST_LOOK), self._look_at_lease)
        elif not last:
            self._timers["lease"] = self._loop.call_later(LAST_LOOK, lambda: self._look_at_lease(last=True))
        else:
            self.close(f"it said nothing for {self.daemon.config.leases.seconds:g} s, and its lease has run out")

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # -- inside: writing -------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what was said in this turn; what the sources say now leaves with it."""
        if self._over:
            return
        if self._waiting > OUTGOING:
            self._give_up()
            return
        try:
            self._ask_sources()
        except Exception:
            LOGGER.exception("a stream to %r failed in a way that it should not", self.name)
            self.close("the daemon failed at a stream")
            return
        self._scheduled = False
        if self._waiting > OUTGOING:
            self._give_up()
            return
        self._write()
        if self._sources and not self._stopped:
            self._schedule()

    def _ask_sources(self) -> None:
        """Have said what there is to say."""
        if not self._stopped and self._sources:
            sources, self._sources = self._sources, {}
            for source in sources:
                source.flush()

    def _write(self) -> None:
        transport = self._transport
        if transport is None or not self._out:
            return
        out, self._out, self._waiting = self._out, [], 0
        transport.write(b"".join(out))
        if not self._over and transport.get_write_buffer_size() > OUTGOING:
            self._give_up()

    def _give_up(self) -> None:
        """Close a connection whose client lets answers gather."""
        self._out.clear()
        self._lose(f"it does not read: {OUTGOING} bytes wait for it")
        if self._transport is not None:
            self._transport.abort()


def own_socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    """Return another descriptor of a transport's socket, as a socket of the caller's; `None` if it has none."""
    fileno = getattr(transport.get_extra_info("socket"), "fileno", None)
    return None if fileno is None else socket.socket(fileno=os.dup(fileno()))
