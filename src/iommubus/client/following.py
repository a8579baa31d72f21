"""A subscription at a daemon, to its consumer: what arrives, and what is said of it.

It is the same subscription whatever becomes of the connection.  When that is lost,
what has not been handed out is thrown away, and one more hand-over takes away all that
the consumer may hold.  Once that is acknowledged, and there is a connection, it
is registered anew in the place of the old one, and what is mapped by then follows in the
same stream.  *Current* means current again from then on.

The lease is looked at by the clock whenever something is going to be used: a process
that was stopped has not been told of anything.
"""

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Final, Protocol, cast

import anyio
from msgspec import structs

from ..bus.abc import Use
from ..bus.attachment import State
from ..bus.buried import Buried
from ..bus.failures import MapFailures
from ..bus.member import Terms
from ..bus.reports import MapFailure, SubscriptionStatistics
from ..bus.translation import StampedTranslation
from ..bus.uses import Uses
from ..errors import BusClosed, Disconnected, Fenced, NotInHand, Stopping, TooManyMappings, Unreachable
from ..events import Event, Map, Memory
from ..mapping import Mapping
from ..transport.clock import Clock
from ..wire.failures import to_error
from ..wire.messages import Message
from ..wire.messages.heard import DeliverHeard
from ..wire.messages.subscribing import ReplayFailed, Subscribe, Subscribed, Translated
from ..wire.messages.values import Range
from .handing import Drop, HandOvers
from .speaking import Line, Registration

RETRY: Final = 1.0
"""Seconds before a consumer that could not forget everything is told to do so again: a back
end that fails for ever is not kept busy by it."""

Answer = Callable[[Exception | None], None]
"""Answers a request of the daemon: that it was done, or why not."""


class Place(Protocol):
    """What the subscriptions of a client have in common.

    Attributes:
        clock: By which leases run.
        buried: Those whose handles were lost.
    """

    clock: Clock
    buried: Buried

    def enter(self, seat: "RemoteSeat") -> None:
        """Tell it of connections from now on."""
        ...

    def part(self, seat: "RemoteSeat") -> None:
        """Tell it of nothing any more."""
        ...

    def number(self, seat: "RemoteSeat", number: int) -> None:
        """Give it what the daemon says of the subscription ``number``."""
        ...

    def knows(self, memory: Memory) -> bool:
        """Say whether nothing more has to come before the bytes of a memory can be looked at."""
        ...

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done in a task."""
        ...

    def later(self, seconds: float, act: Callable[[], object]) -> object:
        """Have something called later."""
        ...


class RemoteSeat:
    """One subscription at a daemon, to its consumer's handle.

    Args:
        terms: What it asks for, checked; an empty name is made up by the daemon.
        endpoints: Names of what it subscribes to.
        place: What it has in common with the others.
    """

    def __init__(self, terms: Terms, endpoints: tuple[str, ...], place: Place) -> None:
        self.name = terms.name or f"{endpoints[0]}#?"
        self.caps = terms.caps
        self.state = State.NEW
        self.fenced = False
        self.reason = ""
        self.ended = False
        self._out = HandOvers(terms, endpoints[0])
        self.hand = self._out.hand
        self.first_turn = anyio.Event()
        self.first_failures = MapFailures()
        self.uses = Uses(self._uses_changed, place.buried.soon)
        self._terms = terms
        self.endpoints = endpoints
        self._place = place
        self._line: Line | None = None
        self._away = "it was not connected yet"
        self._asking = False  # to be registered
        self._registration: Registration | None = None
        self._replaces = 0  # number that it had on a lost connection
        self._lease_end = inf  # of what it had on a lost connection
        self._entry = anyio.Event()  # set once the daemon has answered for the first time
        self._refusal: Exception | None = None
        self._last = False  # whether nothing comes behind what has arrived
        self._promised = False  # whether it was left clean, but for what is pinned
        self._told = False  # whether the daemon knows that it left,
        self._leaving = False  # or is being told that nothing is used any more
        self._fences: list[Answer] = []  # that wait for the end of uses
        self._proving = anyio.Lock()
        self._arrival: asyncio.Future[None] | None = None  # what the consumer waits for
        self._more_known = anyio.Event()

    # -- registering ---------------------------------------------------------------

    async def register(self) -> None:
        """Be registered at the daemon, as soon as it can be reached.

        Raises:
            SubscribeError, IommubusError: It cannot be; why.
        """
        self._place.enter(self)
        try:
            await self._entry.wait()
        except BaseException:
            self.leave()
            raise
        if self._refusal is not None:
            raise self._refusal

    def attached(self, line: Line) -> None:
        """Go on with a new connection."""
        self._line = line
        self._go_on()

    def lost(self, reason: str) -> None:
        """Take it that the connection is lost: take everything away that the consumer may hold."""
        self._line, self._away = None, reason
        registration, self._registration = self._registration, None
        self._tell_translations()
        if registration is None:
            return
        self._replaces = registration.number
        self._told = self._leaving = False
        self._lease_end = registration.lease_end
        if self.state is State.JOINED:
            self._take_away()

    def end(self, error: Exception) -> None:
        """Take it that there will be no connection any more.

        Args:
            error: Why: the bus was closed, and the stream ends; or the client is not let
                in, and who cannot be told so by the daemon is fenced here.
        """
        self.lost(str(error))
        if isinstance(error, BusClosed):
            self._last = True
        else:
            self.abandon(str(error))
        self._refuse(error)
        self._prove_here()
        self._look()

    # -- what arrives --------------------------------------------------------------

    def take_in(self, message: DeliverHeard) -> None:
        """Take a hand-over, or a part of one.

        Raises:
            BadMessage: It is out of order.
        """
        registration = self._registration
        if registration is None or self.state is not State.JOINED:
            return
        self._out.take_in(message, self._place.knows)
        if message.prompt:
            registration.want(message.number)
        if message.current and not message.more:
            registration.turn = self._out.arrivals.newest
            self._look_at_turn()
        self._last = self._last or message.end
        self._look()

    def no_more(self) -> None:
        """Take it that nothing comes behind what has arrived."""
        self._last = True
        self._look()

    def take_failures(self, message: ReplayFailed) -> None:
        """Note mappings of the first replay that the daemon did not deliver."""
        for one in message.failures:
            self.first_failures.put(
                MapFailure(one.subscriber, one.space, one.first, one.last, to_error(one.cause), one.count)
            )

    def want_all(self) -> None:
        """Acknowledge what can be at once, and what is in hand promptly."""
        if self._registration is not None:
            self._registration.want(self._out.arrivals.last)

    def speak(self) -> None:
        """Say what was acknowledged."""
        if self._registration is not None:
            self._registration.speak()

    def known(self, memory: Memory) -> None:
        """Take it that the bytes of a memory can be looked at, or never will be."""
        self._out.arrivals.known(memory)
        self._look()
        self._tell_translations()

    def take_fence(self, reason: str) -> None:
        """Take it that the daemon trusts it no more."""
        if self.state is State.JOINED:
            self.fenced, self.reason = True, reason
            self._cut_off(State.GONE if self._stopped_by_fence else State.UNPROVEN)

    def run_fence(self, answer: Answer) -> None:
        """Stop it, because the daemon wants that proven; answer when nothing is used any more."""
        self.take_fence("the daemon had it stopped")
        if self._terms.stops == "exit" and self.state is State.UNPROVEN:
            self._place.run(lambda: self._answer_fence(answer))
        else:
            self._fences.append(answer)
            self._uses_changed()

    # -- the consumer's side -------------------------------------------------------

    @property
    def lease_end(self) -> float:
        """When what it was given must not be used any more, by the clock of the client."""
        return self._lease_end if self._registration is None else self._registration.lease_end

    @property
    def run_out(self) -> bool:
        """Whether its lease has run out, by the clock now."""
        return self.lease_end < inf and self._place.clock() >= self.lease_end

    @property
    def away(self) -> str:
        """Why there is no connection, or the last one was lost."""
        return self._away

    @property
    def ready(self) -> bool:
        """Whether there is something to hand over."""
        return self._out.ready

    @property
    def handed(self) -> int:
        """Number of the last hand-over."""
        return self._out.handed

    def take(self) -> list[Event]:
        """Make a hand-over; it may turn out to be empty."""
        events, refused = self._out.take()
        for event in refused:
            self._say_failed(event, TooManyMappings(self.name, self._terms.contract.limit or 0))
        if not events:  # that is as good as acknowledged
            self.uses.skip(self.handed)
            self._acknowledge(self.uses.acknowledgeable())
        self._look()
        return events

    def acknowledge(self, number: int) -> None:
        """Take it that hand-overs up to ``number`` are applied, and out of use but for what is pinned."""
        self.uses.say(number)
        self._acknowledge(self.uses.acknowledgeable())

    def fail(self, event: Event, error: Exception) -> None:
        """Note that an event in hand could not be applied.

        What is of a lost connection is nothing to the daemon; what has to be removed
        nevertheless comes again with all the rest.

        Raises:
            NotInHand: It is not, or not any more.
        """
        told = self._say_failed(event, error)
        if told is None and self._out.drop.over:
            raise NotInHand(self.name, str(event))
        if isinstance(event, Map):
            self._out.refuse(event)
        else:
            self._out.put_back(event, told=bool(told))

    async def wait_ready(self) -> None:
        """Wait until there is something to hand over, or the end."""
        self._arrival = asyncio.get_running_loop().create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    async def translate(self, iova: int, perm: int) -> StampedTranslation:
        """Return where an address leads.

        Raises:
            Unreachable: The daemon is not there now, or went away.
            TranslationFault: It leads nowhere, or nobody can say.
        """
        registration, removals = self._registration, self._out.removals
        if registration is None:
            raise Unreachable(iova, self._away)
        removals.watch()
        try:
            answer = cast("Translated", await registration.translate(iova, perm))
        except Disconnected as lost:
            raise Unreachable(iova, lost.reason) from lost
        mapping = answer.piece.mapping
        await self._see(mapping, registration)
        if registration is not self._registration or self.state is not State.JOINED:
            raise Unreachable(iova, self._away)
        self._out.holding.answer(mapping)
        return StampedTranslation(mapping, answer.seq, removals, answer.number)

    def begin_use(self, thing: object = None) -> Use:
        """Begin to use something that was given; it ends with ``thing`` at the latest."""
        use = self.uses.begin(thing)
        if self._registration is not None:
            self._registration.use(1)
        return use

    def statistics(self) -> SubscriptionStatistics:
        """Return its counters; what waits at the daemon is not among them."""
        return SubscriptionStatistics(
            lag=self._out.lag,
            delivered=self._out.given.by_kind(),
            handed=self._out.handed,
            acked=self._out.acked,
            conflations=0,
            current=self._registration is not None and self._registration.turned,
            pinned=len(self.uses),
        )

    # -- leaving -------------------------------------------------------------------

    def leave(self) -> None:
        """Take it that everything was dropped, but for what is pinned."""
        if self.state is State.GONE:
            return
        self._promised = True
        if not self.uses:
            self._cut_off(State.GONE)
            self._say_left(clean=True)
        elif self.state is State.JOINED:
            self._distrust("it was left while translations were pinned", State.UNPROVEN)

    def abandon(self, reason: str) -> None:
        """Fence it: whatever it held must not be used, and may yet be."""
        if self.state is not State.JOINED:
            return
        if not self._out.holding.touched and not self.uses:
            self.fenced, self.reason = True, reason
            self._cut_off(State.GONE)
            self._say_left(clean=True)
        else:
            self._distrust(reason, State.GONE if self._stopped_by_fence else State.UNPROVEN)

    def lose(self, reason: str) -> None:
        """Have it abandoned soon; called in any thread, and by the garbage collector."""
        self.fenced, self.reason = True, reason
        self._place.buried.bury(self)

    # -- inside: registering ---------------------------------------------------------

    @property
    def _over(self) -> bool:
        """Whether nobody is interested in what is mapped any more."""
        return self.state is State.GONE or self._last

    def _go_on(self) -> None:
        """Be registered in the place of what it was, if that can be."""
        if self._registration is not None or self._asking or not self._out.drop.over:
            return
        if self.state is State.UNPROVEN:
            if self._line is not None:
                self._prove_here()
        elif self._over and not self._replaces:
            self._place.part(self)
        elif self._line is not None:
            self._asking = True
            line = self._line
            line.ask(self._subscribe, lambda answer: self._answered(line, answer))

    def _subscribe(self, request: int) -> Subscribe:
        terms, contract = self._terms, self._terms.contract
        return Subscribe(
            request,
            list(self.endpoints),
            int(terms.caps),
            [Range(first, last) for first, last in terms.wanted],
            terms.capacity,
            terms.stops,
            terms.on_fence is not None,
            contract.granule,
            contract.pow2,
            contract.exact,
            contract.limit,
            terms.name,
            self._replaces,
            terms.holder or 0,
        )

    def _answered(self, line: Line, answer: Message | Exception) -> None:
        self._asking = False
        if isinstance(answer, Disconnected | Stopping):  # another connection will come
            return
        if isinstance(answer, Exception):
            self._refuse(answer)
            return
        self._replaces = 0
        self._registration = Registration(line, cast("Subscribed", answer))
        self._place.number(self, self._registration.number)
        self._registration.use(len(self.uses))
        if self._over or self.state is State.UNPROVEN:
            self._say_left(clean=self._over)
        else:
            self._begin(cast("Subscribed", answer))

    def _begin(self, answer: Subscribed) -> None:
        self.name = answer.name
        self._terms = structs.replace(self._terms, name=answer.name)
        self.state = State.JOINED
        self._entry.set()

    def _refuse(self, error: Exception) -> None:
        """Take it that it will not be registered, or not again."""
        self._replaces = 0
        if self.state is State.NEW:
            self._refusal = error
            self._cut_off(State.GONE)
        elif self.state is State.JOINED and self._out.drop.over and not self._last:
            self.fenced, self.reason = True, str(error)
            self._cut_off(State.GONE)
        self._entry.set()
        if self._over and self._out.drop.over:
            self._place.part(self)

    # -- inside: a lost connection ---------------------------------------------------

    def _take_away(self) -> None:
        """Have everything taken away that was given."""
        finished = self.ended and self._out.settled
        self._out.lose()
        if finished:  # all was taken away before the end of the stream
            self._out.drop.due = False
        if self.first_turn.is_set():
            self.first_turn = anyio.Event()
        self._look()

    def _dropped(self) -> None:
        """Take it that the hand-over which took everything away was acknowledged."""
        if self._out.dropped():
            self._go_on()
        else:
            self._place.later(RETRY, self._drop_again)

    def _drop_again(self) -> None:
        if self.state is State.JOINED and self._out.drop.failed:
            self._out.drop = Drop(due=True)
            self._look()

    # -- inside: hand-overs ----------------------------------------------------------

    def _acknowledge(self, number: int) -> None:
        last, cost = self._out.acknowledge(number)
        if last and self._registration is not None:
            self._registration.acknowledge(last, cost)
            self._look_at_turn()
        if 0 < self._out.drop.number <= number:
            self._dropped()

    def _look_at_turn(self) -> None:
        """See whether the first replay is through."""
        if self._registration is not None and self._registration.turned and not self.first_turn.is_set():
            self._registration.speak()  # first: what fails from now on is the producer's to know
            self.first_turn.set()

    def _look(self) -> None:
        """See whether the stream is at its end; tell who waits for that, or for more."""
        self.ended = self._last and not self._out.left
        if self.ended and self._registration is None:
            self.first_turn.set()  # it will not come any more
        arrival = self._arrival
        if arrival is not None and (self.ready or self.ended or self.state is not State.JOINED) and not arrival.done():
            arrival.set_result(None)

    def _say_failed(self, event: Event, error: Exception) -> bool | None:
        """Tell the daemon what could not be applied; say whether it was told, `None` if it is not in hand."""
        place = self._out.place(event)
        if place is None:
            return None
        number, index = place
        if not number or self._registration is None:
            return False
        self._registration.fail(number, index, error)
        self._out.arrivals.taken_back.fail()
        if isinstance(event, Map) and not self.first_turn.is_set():
            self.first_failures.add(self.name, event, error)
        return True

    # -- inside: leaving -------------------------------------------------------------

    @property
    def _stopped_by_fence(self) -> bool:
        """Whether nothing is used any more once it is fenced."""
        return self._terms.stops == "lease" and not self.uses

    def _distrust(self, reason: str, state: State) -> None:
        self.fenced, self.reason = True, reason
        self._cut_off(state)
        self._say_left(clean=False)

    async def _see(self, mapping: Mapping, registration: Registration) -> None:
        """Wait until the bytes that a mapping leads to can be looked at: their descriptor travels by itself."""
        while mapping.memory is not None and registration is self._registration and self.state is State.JOINED:
            if self._place.knows(mapping.memory):
                return
            await self._more_known.wait()

    def _tell_translations(self) -> None:
        """Have those look again who wait for the bytes of a memory."""
        more, self._more_known = self._more_known, anyio.Event()
        more.set()

    def _cut_off(self, state: State) -> None:
        self.state = state
        self._out.clear()
        self.first_turn.set()
        self._look()
        self._tell_translations()

    def _say_left(self, *, clean: bool) -> None:
        registration = self._registration
        if registration is None:
            self._go_on()
        else:
            final = self._leaving = self.state is State.GONE

            def left(answer: Message | Exception) -> None:
                self._left(registration, answer, final=final)

            registration.leave(left, clean=clean, reason=self.reason)

    def _left(self, registration: Registration, answer: Message | Exception, *, final: bool) -> None:
        """Take it that the daemon knows; one that did not hear it is told when it is back.

        Args:
            registration: Where it was said.
            answer: What the daemon said to it.
            final: Whether nothing was used any more when it was said.
        """
        if registration is self._registration and not isinstance(answer, Disconnected):
            self._told = True
            if final:
                self._proven()

    def _uses_changed(self) -> None:
        count = len(self.uses)
        if self.state is State.JOINED:
            self._acknowledge(self.uses.acknowledgeable())
        elif not count and self.state is State.UNPROVEN and (self._promised or self._terms.stops == "lease"):
            self._stop()
        if self._registration is not None:
            self._registration.use(count)
        if not count and self.state is State.GONE and (self._fences or self._told):
            fences, self._fences = self._fences, []
            for answer in fences:
                answer(None)
            if not self._leaving:
                self._proven()

    def _stop(self) -> None:
        """Take it that nothing is used any more, after it was left unclean; the daemon has to hear that."""
        self.state = State.GONE
        self._say_left(clean=True)

    def _proven(self) -> None:
        """Take it that the daemon knows, or will know, that it is stopped."""
        if self._registration is None:
            self._go_on()
        else:
            self._registration = None
            self._place.part(self)

    def _prove_here(self) -> None:
        """Stop what nobody at the daemon can ask to be stopped any more."""
        if self.state is State.UNPROVEN and self._registration is None and self._terms.on_fence is not None:
            self._place.run(lambda: self._answer_fence(lambda _: None))

    async def _answer_fence(self, answer: Answer) -> None:
        try:
            await self._prove()
        except Exception as error:  # noqa: BLE001 - the sync that needs it raises it
            answer(error)
        else:
            answer(None)
            self._proven()

    async def _prove(self) -> None:
        """Run what stops it, once for all who ask; raises what that raises."""
        async with self._proving:
            if self.state is not State.UNPROVEN:
                return
            if self._terms.on_fence is None:
                raise Fenced(self.name, "nothing but the end of its process stops it")
            await self._terms.on_fence()
            self.state = State.GONE
