"""The subscriber's half of a connection: its subscriptions, from their registration to their end.

Its subscriptions speak by turns, so that one that has a million mappings to read
does not hold up the others, nor fills the memory of the daemon.

A subscription that was fenced, or left unclean, is kept by `Proof` until it is proven
stopped; the connection may be long gone by then.
"""

from collections.abc import Container, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from itertools import count
from typing import Any, Final

from ...bus.attachment import State
from ...bus.bus import Bus
from ...bus.member import Terms, check_holder
from ...caps import Cap
from ...contract import Contract
from ...errors import (
    AccessDenied,
    ConnectionLost,
    LeasesUnwritable,
    LimitReached,
    MayNotSubscribe,
    NotMapped,
    RuleMissing,
    SubscriptionClosed,
)
from ...events import Map
from ...mailbox import CAPACITY
from ...wire.messages import Message
from ...wire.messages.subscribing import (
    Ack,
    DeliverPacked,
    Fail,
    Leave,
    Subscribe,
    Subscribed,
    Translate,
    Translated,
    Using,
)
from ...wire.messages.values import NAME_LIMIT, MemoryName, Piece
from ..packing import Packer
from ..proof.watch import Watch
from ..session import US, Handler, Session
from ..settings.rules import Action
from .memories import Lending
from .stream import Stream

TURN: Final = 1 << 20
"""Bytes after which the subscriptions of a connection wait for the next turn of the loop;
each may still say one hand-over.  The longest frame: what takes longer to write keeps
others waiting."""

WINDOWS: Final = 16
"""Most windows that the subscriptions of one connection have together.  One that does not
acknowledge keeps the daemon from letting go of what it sent, and a connection may have
a thousand subscriptions."""

RANGES: Final = 4096
"""Most ranges of the subscriptions of one connection beyond one for each, 120 bytes each: one
subscription has a few, and as many as a message has room for only if somebody means harm."""

MADE_UP: Final = 11
"""Most characters behind a name that was made up, or is another's: a number of 32 bits."""

COUNTER: Final = 2**32 - 1
"""The part of a number that counts; what is in front of it says which daemon gave it."""

DAEMON: Final = "the daemon"
"""By this name the daemon itself stands in the way of a `sync`."""


class Following:
    """The subscriptions of one connection.

    Args:
        session: The connection.

    Attributes:
        packer: Encodes hand-overs.
        handlers: What takes each kind of message.
    """

    def __init__(self, session: Session) -> None:
        self.packer: Packer = session.daemon.packer
        self.handlers: Mapping[type[Message], Handler] = {
            Subscribe: self._subscribe,
            Ack: self._ack,
            Fail: self._fail,
            Translate: self._translate,
            Leave: self._leave,
            Using: self._using,
        }
        self._session = session
        self._daemon = session.daemon
        self._limit = WINDOWS * session.daemon.config.limits.unacknowledged
        self._streams: dict[int, Stream] = {}
        self._ready: dict[Stream, None] = {}
        self._full: dict[Stream, None] = {}  # who waits until others acknowledge

    def lost(self, reason: str) -> None:
        """Take it that the connection is gone: nobody knows what its client still uses."""
        for stream in self._streams.values():
            stream.stop()
            stream.member.abandon(f"its connection is lost: {reason}")
            self._count_fence(stream)
            stream.watch.look()
        self._streams.clear()
        self._daemon.proof.lost(self._session)

    # -- for its streams -----------------------------------------------------------

    def send(self, message: Message | DeliverPacked, /) -> int:
        """Say something; return how many bytes that takes."""
        return self._session.send(message)

    def wake(self, stream: Stream, /) -> None:
        """Have a stream asked at the end of the loop's turn."""
        self._ready[stream] = None
        self._session.flush_soon(self)

    def show(self, memories: tuple[MemoryName, ...], /) -> None:
        """Have the client given the descriptors of memories, if it was not."""
        if memories:
            self._session.part(Lending).show(memories)

    def fenced(self, stream: Stream, /) -> None:
        """Hear that a subscription is not to be told of anything any more."""
        self._streams.pop(stream.number, None)
        stream.stop()
        self._count_fence(stream)
        stream.watch.fenced(by_client=False)

    def flush(self) -> None:
        """Let the streams speak that have something to say, one after the other."""
        ready, self._ready = self._ready, {}
        left: dict[Stream, None] = {}
        said, open_ = 0, sum([stream.unacknowledged for stream in self._streams.values()])
        for stream in ready:
            if said >= TURN:
                left[stream] = None
            elif stream.member.live and open_ + said >= self._limit:
                self._full[stream] = None
            else:
                before = stream.unacknowledged
                stream.flush()
                said += stream.unacknowledged - before
        self._ready = {**left, **self._ready}
        if self._ready:
            self._session.flush_soon(self)
        if self._full:
            for stream in self._streams.values():
                stream.want_acks()

    # -- messages --------------------------------------------------------------------

    def _subscribe(self, message: Subscribe) -> None:
        self._session.renew_lease()
        if message.replaces:
            self._daemon.proof.replace(self._session, message.replaces)
        self._session.spawn(message.request, self._register, message)

    def _ack(self, message: Ack) -> None:
        """Take an acknowledgement; one of a subscription that is over came too late."""
        stream = self._streams.get(message.subscription)
        if stream is not None:
            stream.acknowledge(message.number)
            self._let_go_on()

    def _fail(self, message: Fail) -> None:
        stream = self._streams.get(message.subscription)
        if stream is not None and isinstance(stream.fail(message), Map):
            self._daemon.counts.map_failures += 1

    def _translate(self, message: Translate) -> None:
        stream = self._streams.get(message.subscription)
        if stream is None:
            raise SubscriptionClosed(str(message.subscription))
        place = stream.member.place
        if place is None or not place.pull:  # a task would take longer than the answer
            run_now(self._answer(stream, message))
        else:
            self._session.spawn(message.request, self._answer, stream, message)

    def _using(self, message: Using) -> None:
        watch = self._daemon.proof.watch_of(self._session, message.subscription)
        if watch is not None:
            watch.using(message.uses)

    def _leave(self, message: Leave) -> None:
        """End a subscription; one that was fenced may still say that everything was dropped."""
        stream = self._streams.pop(message.subscription, None)
        if stream is not None:
            stream.stop()
        watch = self._daemon.proof.watch_of(self._session, message.subscription)
        if watch is not None and message.clean:
            watch.member.leave()
            watch.look()
            if watch.stops == "exit":  # its client speaks of it until it hears that this is done
                self._session.spawn(message.request, self._leave_record, message.request, watch)
                return
        elif watch is not None:
            watch.member.abandon(message.reason or "it left unclean")
            if stream is not None:
                self._count_fence(stream)
            watch.fenced(by_client=True)
        self._session.done(message.request)

    async def _leave_record(self, request: int, watch: Watch) -> None:
        """Answer once a daemon that comes after this one would not wait for a subscription that was left."""
        with suppress(LeasesUnwritable):  # it was logged, and is tried again
            await self._daemon.proof.forgotten(watch)
        self._session.done(request)

    # -- registering -----------------------------------------------------------------

    async def _register(self, message: Subscribe) -> None:
        """Register a subscription, and answer.

        Raises:
            LimitReached, SubscribeError, BadName, LeasesUnwritable: It cannot be had.
        """
        self._check_limit(len(message.ranges))
        check_holder(message.stops, message.holder or None)
        number = self._daemon.new_id()
        endpoints = tuple(dict.fromkeys(message.endpoints))
        for endpoint in endpoints:
            self._check_rule(endpoint)
        name = name_of(self._daemon.proof.names, message.name, "".join(endpoints[:1]), number)
        watch = Watch(number, name, message.stops, has_on_fence=message.has_on_fence, holder=message.holder)
        watch.member, enroll = self._daemon.bus.enlist(endpoints, self._terms(message, watch))
        self._daemon.proof.watch(self._session, watch)
        try:
            await self._daemon.proof.grant(watch, self._daemon.config.leases.seconds)
            async with demand_of(self._daemon.bus, self._daemon.spaces, endpoints, watch.member.caps):
                self._check_open()
                enroll()
        except BaseException:
            self._daemon.proof.forget(watch)
            raise
        self._begin(message.request, watch)

    def _begin(self, request: int, watch: Watch) -> None:
        window = self._daemon.config.limits.unacknowledged
        lease = int(self._daemon.config.leases.seconds * US) if watch.stops == "lease" else None
        stream = self._streams[watch.number] = Stream(watch, self, window)
        self._session.send(Subscribed(request, watch.number, watch.name, lease, window))
        if watch.stops == "lease":
            stream.begin()
        else:
            self._daemon.tasks.start_soon(self._begin_heard, stream)

    async def _begin_heard(self, stream: Stream) -> None:
        """Begin to hand over once the client is known to know the number, and the record names it.

        Until then it has nothing that could be in use.  Lost earlier, it is gone; and
        later its client can say that it is back.
        """
        try:
            await self._session.heard()
            if self._streams.get(stream.number) is stream:
                await self._daemon.proof.remember(stream.watch)
        except ConnectionLost:
            return
        except LeasesUnwritable as failure:
            stream.member.abandon(str(failure))
        if self._streams.get(stream.number) is stream:
            stream.begin()

    def _terms(self, message: Subscribe, watch: Watch) -> Terms:
        return Terms(
            watch.name,
            Cap(message.caps),
            tuple((wish.first, wish.last) for wish in message.ranges),
            min(message.capacity or CAPACITY, CAPACITY),
            Contract(message.granule, message.pow2, message.exact, message.limit),
            "exit",  # to the bus it is stopped when the daemon says so
            watch.prove,
            watched=True,
            check_space=self._check_rule,
        )

    def _check_rule(self, name: str) -> None:
        """Check that the peer may subscribe to an endpoint or a space.

        Raises:
            MayNotSubscribe: A rule is missing; it was counted and logged.
        """
        try:
            self._daemon.allow(self._session.peer, Action.SUBSCRIBE, [name])
        except RuleMissing as missing:
            raise MayNotSubscribe(*missing.args) from None

    def _check_open(self) -> None:
        """Check that the connection was not lost since the request arrived: that may just have been.

        Raises:
            ConnectionLost: It was.
        """
        if not self._session.open:
            raise ConnectionLost(self._session.name, "it was lost meanwhile")

    def _check_limit(self, ranges: int) -> None:
        """Count what the connection has, and what lost ones of the same peer may still use.

        Raises:
            LimitReached: It is too much.
        """
        limit = self._daemon.config.limits.subscriptions
        watches = self._daemon.proof.of_peer(self._session)
        if len(watches) >= limit:
            raise LimitReached("limits.subscriptions", limit)
        if ranges > 1 and ranges + sum(len(watch.member.wanted) - 1 for watch in watches) > RANGES:
            raise LimitReached("ranges of the subscriptions of one connection", RANGES)

    # -- inside ------------------------------------------------------------------

    async def _answer(self, stream: Stream, message: Translate) -> None:
        """Answer a miss.

        Raises:
            TranslationFault: It leads nowhere, or cannot be known.
        """
        number = stream.member.handed
        found = await stream.member.translate(message.iova, message.perm)
        if stream.member.state is not State.JOINED:
            raise SubscriptionClosed(stream.member.name)
        if found is None:
            raise NotMapped(message.iova)
        mapping = found.mapping
        if message.perm & ~int(mapping.perm):
            raise AccessDenied(message.iova, message.perm, int(mapping.perm))
        if mapping.memory is not None:
            self.show((MemoryName.of(mapping.memory),))
        self._session.send(Translated(message.request, Piece.of(mapping), found.seq, number))

    def _let_go_on(self) -> None:
        full, self._full = self._full, {}
        for stream in full:
            self.wake(stream)

    def _count_fence(self, stream: Stream) -> None:
        if stream.member.fenced:
            self._daemon.counts.fences += 1


def demand_of(bus: Bus, spaces: Any, endpoints: tuple[str, ...], caps: Cap) -> AbstractAsyncContextManager[None]:
    """Return the block in which a subscription may be registered with endpoints: their producer has agreed."""
    space = bus.place(endpoints)
    held = None if space is None else spaces.open.get(space.name)
    return nullcontext() if held is None else held.demand.widened(caps)


def name_of(taken: Container[str], wanted: str, endpoint: str, number: int) -> str:
    """Return a name by which reports call a subscription, and nobody else.

    Args:
        taken: The names that there are.
        wanted: What it would be called; empty if it does not matter.
        endpoint: The first endpoint that it names.
        number: Its number.
    """
    if wanted and wanted not in taken and wanted != DAEMON:
        return wanted
    stem = (wanted or endpoint)[: NAME_LIMIT - MADE_UP]
    names = (f"{stem}#{(number + more) & COUNTER}" for more in count())
    return next(name for name in names if name not in taken)


def run_now(work: Coroutine[object, object, None]) -> None:
    """Run what does not wait."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("it waits")
