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
from math import inf
from typing import Any, Final, Protocol, cast

from msgspec import Struct

from ..errors import BadMessage, Disconnected, OutOfPlace, ProtocolError
from ..transport.clock import Clock, boot_clock
from ..transport.deadlines import Deadlines
from ..wire.connection import TRANSITIONS, ClientConnection
from ..wire.failures import to_error, to_failure
from ..wire.messages import ClientMessage, Message, Side
from ..wire.messages.greeting import Bye, Draining, Feature, Hello, Ping, Pong, Welcome
from ..wire.messages.replies import Cancel, Refused
from ..wire.messages.subscribing import Subscribed
from ..wire.messages.values import clip_text
from ..wire.negotiation import Agreement, accept
from .answers import ANY_ANSWER, answers_to, has_more

MICROSECONDS: Final = 1_000_000
"""Of those there are in a second; durations travel in them."""

CHUNK: Final = 1 << 18
"""Bytes after which sources wait until what was said is written: the transport may have
enough for now, and say so."""

WRITE_LIMIT: Final = 1 << 24
"""Most bytes that wait for a daemon that reads nothing; past it the connection counts
as lost.  What is published waits in mailboxes and not here, so this is far more than
any number of small words comes to."""

Handler = Callable[["Channel", Any], None]
"""Takes what the daemon said by itself, and the connection on which it did."""

Answered = Callable[[Message | Exception], None]
"""Takes an answer, or why there is none.  Called in the order of what arrives."""

Answer = asyncio.Future[list[Message] | None]
"""Holds all parts of an answer once they are there, or `None` if nobody waits any more."""


class Asked(Struct):
    """A request without an answer.

    Attributes:
        answered: Takes the answer.
        kinds: What may be one.
        said: When the request was said.
    """

    answered: Answered
    kinds: tuple[type[Message], ...]
    said: float


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
        """Take it that the connection is lost; there may be another one."""
        ...

    def ended(self, error: Exception) -> None:
        """Take it that the bus is closed (`BusClosed`), or that the daemon does not let the client in any more.

        In the first case the connection may still be there, for last words.
        """
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
        address: Where the daemon is, for people.
        clock: By which the lease runs.

    Attributes:
        address: The same.
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
        address: str = "",
        clock: Clock = boot_clock,
    ) -> None:
        self.open = False
        self.lease_end = -inf
        self.draining = ""
        self._hello = hello
        self._owner = owner
        self._handlers = handlers
        self.address = address
        self._clock = clock
        self._connection = ClientConnection()
        self._transport: asyncio.Transport | None = None
        self._requests = 0
        self._own: dict[type[Message], Callable[[Any], None]] = {  # what it takes itself
            Welcome: self._welcomed,
            Ping: self._pinged_by_daemon,
            Pong: self._ponged,
            Bye: self._dismissed,
            Draining: self._told_of_end,
        }
        self._asked: dict[int, Asked] = {}
        self._pings: dict[int, float] = {}  # those without a `Pong`, and when they were said
        self._pinged = 0
        self._deadlines = Deadlines()  # of requests
        self._pongs: dict[int, asyncio.Future[float]] = {}  # what waits for some of them
        self._out: list[bytes] = []
        self._sources: dict[Source, None] = {}
        self._flushing = self._speaking = False
        self._paused = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._greeted = -inf
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # -- for participants ----------------------------------------------------------

    @property
    def features(self) -> Feature:
        """What both ends use beyond what every end can do."""
        return self.agreement.features

    @property
    def writable(self) -> bool:
        """Whether what is said now leaves soon; otherwise sources of much should wait for `flush`."""
        return not self._paused

    def send(self, message: ClientMessage) -> int:
        """Have something said at the end of this iteration of the loop; on a lost connection it is lost too.

        Returns:
            Its length in bytes.
        """
        if self._over:
            return 0
        if self._sources:
            self._run_sources()
        frame = self._connection.send(message)
        self._out.append(frame)
        self._flush_once()
        return len(frame)

    def flush_soon(self, source: Source) -> None:
        """Have a source asked for its words once, at the end of this iteration of the loop.

        It is sooner if somebody says something before that, so that all is said in the order in which
        it came about; and later, while the daemon reads slower than is written.
        """
        if not self._over:
            self._sources[source] = None
            self._flush_once()

    def flush_now(self, source: Source) -> None:
        """Have a source asked for its words at once, if there is room for them."""
        if not self._over:
            self._sources[source] = None
            self._run_sources()
            self._flush_once()

    def ask(self, make: Callable[[int], ClientMessage], answered: Answered) -> int:
        """Say a request; its answer is given to a callback at the moment it arrives.

        Args:
            make: Makes the request of its number.
            answered: Takes each part of the answer, or the error of a `Refused`, or
                `Disconnected`, then or at once.

        Returns:
            The number of the request.
        """
        self._requests += 1
        number = self._requests
        if self._over:
            answered(self._disconnected("it was lost"))
            return number
        request = make(number)
        self.send(request)
        self._asked[number] = Asked(answered, answers_to(request), self._clock())
        return number

    async def request(self, make: Callable[[int], ClientMessage]) -> Message:
        """Say a request, and wait for its answer; one that is cancelled says `Cancel`.

        Args:
            make: Makes the request of its number.

        Raises:
            Disconnected: The connection was lost before the answer came.
            IommubusError, OSError: That of the `Refused` that answered.
        """
        return (await self.request_all(make))[-1]

    async def request_all(self, make: Callable[[int], ClientMessage]) -> list[Message]:
        """Do `request`, and return all parts of the answer."""
        return cast("list[Message]", await self._wait(*self._ask_all(make)))

    async def request_within(self, make: Callable[[int], ClientMessage], seconds: float) -> list[Message] | None:
        """Do `request_all`; return `None` if there is no answer in time.

        A deadline stands in for a cancel scope, which costs as much as all the rest.

        Args:
            make: Makes the request of its number.
            seconds: How long is waited.
        """
        number, done = self._ask_all(make)
        if done.done():
            return await done

        def give_up() -> None:
            if not done.done():
                done.set_result(None)
                self.forget(number)

        late = self._deadlines.add(seconds, give_up)
        try:
            return await self._wait(number, done)
        finally:
            self._deadlines.met(late)

    async def make(
        self, words: Callable[[int], ClientMessage], take: Callable[[Any], object], undo: Callable[[Any], object]
    ) -> None:
        """Have the daemon make something; what nobody waits for any more when it is made is undone.

        Args:
            words: Make the request of its number.
            take: Takes the answer at the moment it arrives.
            undo: Takes it if the caller was cancelled meanwhile.

        Raises:
            Disconnected: The connection was lost before the answer came.
            IommubusError, OSError: That of the `Refused` that answered.
        """
        made: asyncio.Future[None] = self._loop.create_future()

        def answered(answer: Message | Exception) -> None:
            if isinstance(answer, Exception):
                if not made.done():
                    made.set_exception(answer)
            elif made.cancelled():
                undo(answer)
            else:
                take(answer)
                made.set_result(None)

        self.ask(words, answered)
        await made

    def forget(self, request: int) -> None:
        """Take it that nobody waits for the answer of a request any more."""
        if self._asked.pop(request, None) is not None:
            self.send(Cancel(request))

    async def ping(self) -> float:
        """Return the seconds that the daemon takes to show that it is there.

        Raises:
            Disconnected: The connection was lost before it did.
        """
        if self._over:
            raise self._disconnected("it was lost")
        number = self._say_ping()
        pong: asyncio.Future[float] = self._loop.create_future()
        self._pongs[number] = pong
        try:
            return await pong
        finally:
            self._pongs.pop(number, None)

    # -- for the owner ---------------------------------------------------------------

    def lose(self, error: Exception) -> None:
        """Take it that the connection is lost; nothing more is said or heard on it."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def leave(self, reason: str = "") -> None:
        """Say `Bye`, and end the connection."""
        if self._over:
            return
        self._run_sources()
        self._out.append(self._connection.send(Bye(clip_text(reason))))
        self._write()
        self._end(self._disconnected(reason or "the client left"))
        if self._transport is not None:
            self._transport.close()

    async def wait_lost(self) -> None:
        """Wait until the connection is lost."""
        if not self._over:
            await asyncio.shield(self._lost)

    async def wait_closed(self) -> None:
        """Wait until the transport is closed."""
        if self._transport is not None:
            await asyncio.shield(self._gone)

    # -- the transport's calls ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the daemon."""
        self._transport = cast("asyncio.Transport", transport)
        if self._over:  # it was given up meanwhile
            self._transport.abort()
            return
        self._greeted = self._clock()
        self.send(self._hello)

    def data_received(self, data: bytes) -> None:
        """Take what the daemon said."""
        self._connection.receive_data(data)
        try:
            while self._connection.more and not self._over:
                message = self._connection.next_message()
                if message is None:
                    return
                self._take(message)
        except ProtocolError as error:
            self._blame(error)

    def pause_writing(self) -> None:
        """Have sources wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """Have sources go on."""
        self._paused = False
        if self._sources:
            self._flush_once()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take it that the transport is closed."""
        self._end(self._disconnected(str(exc) if exc else "the daemon closed it"))
        if not self._gone.done():
            self._gone.set_result(None)

    def __repr__(self) -> str:
        state = "open" if self.open else "lost" if self._over else "greeting"
        return f"<connection to the daemon, {state}, {len(self._asked)} requests>"

    # -- inside: requests ------------------------------------------------------------------

    def _ask_all(self, make: Callable[[int], ClientMessage]) -> tuple[int, Answer]:
        """Say a request; return its number, and what its answer comes in."""
        parts: list[Message] = []
        done: Answer = self._loop.create_future()

        def take(answer: Message | Exception) -> None:
            if done.done():
                return
            if isinstance(answer, Exception):
                done.set_exception(answer)
                return
            parts.append(answer)
            if not has_more(answer):
                done.set_result(parts)

        return self.ask(make, take), done

    async def _wait(self, number: int, done: Answer) -> list[Message] | None:
        try:
            return await done
        except asyncio.CancelledError:
            self.forget(number)
            raise

    # -- inside: what arrives ------------------------------------------------------------

    def _take(self, message: Message) -> None:
        kind = type(message)
        if kind in ANY_ANSWER:
            self._answer(message)
        elif kind in self._own:
            self._own[kind](message)
        elif kind in self._handlers:
            self._handlers[kind](self, message)

    def _answer(self, message: Any) -> None:
        number = message.request
        if number > self._requests:
            raise BadMessage(type(message).__name__, "request", str(number), "nothing was asked by this number")
        asked = self._asked.get(number)
        if asked is None:  # nobody waits any more
            return
        if type(message) not in asked.kinds:
            raise OutOfPlace(type(message).__name__, Side.DAEMON.value, "asked something else")
        if isinstance(message, Subscribed):
            self._renew(asked.said)
        if self._over:  # it came too late
            return
        if not has_more(message):
            del self._asked[number]
        asked.answered(to_error(message.failure) if isinstance(message, Refused) else message)

    def _welcomed(self, message: Welcome) -> None:
        self.agreement = accept(self._hello, message)
        self.welcome = message
        self.open = True
        self.lease_end = self._greeted + self._lease
        self._look_at_lease()
        if message.heartbeat_us and self.open:  # the lease may be over already
            self._after("heartbeat", self._heartbeat, self._beat)
        if self.open:
            self._owner.opened(self)

    def _pinged_by_daemon(self, message: Ping) -> None:
        self.send(Pong(message.number))

    def _ponged(self, message: Pong) -> None:
        said = self._pings.pop(message.number, None)
        pong = self._pongs.get(message.number)
        if said is not None and pong is not None and not pong.done():
            pong.set_result(self._clock() - said)
        if said is not None:
            self._renew(said)

    def _dismissed(self, message: Bye) -> None:
        error = self._disconnected(message.reason or "the daemon ended it")
        self.lose(error if message.failure is None else to_error(message.failure))

    def _told_of_end(self, message: Draining) -> None:
        self.draining = message.reason

    # -- inside: time ----------------------------------------------------------------------

    @property
    def _lease(self) -> float:
        return self.welcome.lease_us / MICROSECONDS or inf

    @property
    def _heartbeat(self) -> float:
        return self.welcome.heartbeat_us / MICROSECONDS

    def _beat(self) -> None:
        self._say_ping()
        self._after("heartbeat", self._heartbeat, self._beat)

    def _say_ping(self) -> int:
        self._pinged += 1
        self._pings[self._pinged] = self._clock()
        self.send(Ping(self._pinged))
        return self._pinged

    def _renew(self, since: float) -> None:
        """Take it that the lease was granted anew at a moment, unless it is too late for that."""
        if not self._over and not self._look_at_lease():
            self.lease_end = max(self.lease_end, since + self._lease)
            self._look_at_lease()

    def _look_at_lease(self) -> bool:
        """Give the connection up if the end of its lease is near; say whether it was."""
        left = self.lease_end - self._heartbeat / 2 - self._clock()
        if left <= 0:
            self.lose(self._disconnected(f"the daemon has not answered, and its lease of {self._lease:g} s ends"))
        elif left < inf:
            self._after("lease", left, self._look_at_lease)
        return left <= 0

    def _after(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        """Have something done later, in the place of what was to be done under the same name."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(seconds, act)

    # -- inside: what leaves -----------------------------------------------------------------

    def _flush_once(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Let the sources speak, and write what was said."""
        try:
            self._run_sources()
        finally:
            self._flushing = False
        self._write()
        if self._sources and not self._paused:  # they have still more
            self._flush_once()
        if self._transport is not None and self._transport.get_write_buffer_size() > WRITE_LIMIT:
            self.lose(self._disconnected(f"the daemon reads nothing, {WRITE_LIMIT} bytes wait"))

    def _run_sources(self) -> None:
        if self._speaking:  # one of them has said something
            return
        self._speaking = True
        try:
            for source in list(self._sources):
                if self._paused or self._over:
                    return
                del self._sources[source]
                source.flush(self)
                if sum(map(len, self._out)) >= CHUNK:
                    self._write()
        finally:
            self._speaking = False

    def _write(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._over:
            self._transport.write(b"".join(out))

    # -- inside: the end -----------------------------------------------------------------------

    def _blame(self, error: ProtocolError) -> None:
        """Tell the daemon what it did wrong, and end the connection."""
        if Bye in TRANSITIONS[self._connection.state][Side.CLIENT]:
            self._out.append(self._connection.send(Bye(clip_text(str(error)), to_failure(error))))
            self._write()
        self._end(error)
        if self._transport is not None:
            self._transport.close()

    def _disconnected(self, reason: str) -> Disconnected:
        return Disconnected(self.address, reason)

    def _end(self, error: Exception) -> None:
        if self._over:
            return
        self._over, self.open = True, False
        self._lost.set_result(None)
        self._deadlines.stop()
        for timer in self._timers.values():
            timer.cancel()
        asked, self._asked = self._asked, {}
        self._sources.clear()
        why = error if isinstance(error, Disconnected) else self._disconnected(str(error))
        for one in asked.values():
            one.answered(why)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(why)
        self._owner.closed(self, error)
