"""What the bus keeps of a subscription: mailbox, hand-overs, and whether it is trusted.

The consumer's handle refers to its member, never the other way round, so that a
handle that is forgotten is collected and the member learns of it.

A member is *joined*, then either *gone* (it promised that it dropped
everything, or is proven stopped) or *unproven* (it left unclean, and may still
use what it was given).
"""

from collections.abc import Callable
from typing import Final

import anyio
from msgspec import Struct

from ..caps import Cap
from ..completion import Completion, How, Wait
from ..contract import Contract, Fitting
from ..errors import BadHolder, SubscribeError, TooManyMappings
from ..events import Event, Map
from ..mailbox import Mailbox
from .abc import OnFence, Stops
from .attachment import Home, Ranges, State, cropped
from .buried import Buried
from .failures import MapFailures, Setback
from .given import Given
from .hand import Hand
from .reports import SubscriptionStatistics
from .translation import RecentRemovals, StampedTranslation
from .uses import LocalUse, Uses
from .whereabouts import Whereabouts

PID_LAST: Final = 2**31 - 1
"""Highest number that a process can have: ``pid_t`` is an int."""


class Terms(Struct, frozen=True):
    """What a subscription asks for.

    Attributes:
        name: Its name in reports.
        caps: The kinds of event it gets.
        wanted: Ranges it wants them in; once they are checked, disjoint and in order.
        capacity: Most events that wait one by one.
        contract: What it can take.
        stops: How it is proven stopped.
        on_fence: Stops it, if anything does.
        watched: Whether somebody will say so when it has stopped (`Member.stop`),
            so that it is worth waiting for.
        check_space: Raises `SubscribeError` if it must not be told of the space of a name.
        holder: Number of another process that keeps what it is given; a daemon waits for its end.
    """

    name: str
    caps: Cap
    wanted: Ranges
    capacity: int
    contract: Contract
    stops: Stops
    on_fence: OnFence | None
    watched: bool = False
    check_space: Callable[[str], None] | None = None
    holder: int | None = None


def check_holder(stops: Stops, holder: int | None) -> None:
    """Check the number of the process that keeps what a subscription is given.

    Raises:
        BadHolder: It is no process's, or nobody waits for the end of a process.
    """
    if holder is None:
        return
    if not 1 <= holder <= PID_LAST:
        raise BadHolder(holder, f"numbers of processes are 1 to {PID_LAST}")
    if stops != "exit":
        raise BadHolder(holder, f"with stops={stops!r} nobody waits for the end of one")


class Member:
    """One subscription, as the bus sees it.

    Args:
        terms: What it asked for.
        buried: Those that are to be abandoned at the next opportunity.
        on_leave: Called when it is no longer to be moved about.
    """

    def __init__(self, terms: Terms, buried: Buried, on_leave: Callable[["Member"], None]) -> None:
        self.name = terms.name
        self.caps = terms.caps
        self.state = State.NEW
        self.fenced = False
        self.reason = ""
        self.ended = False
        self.where = Whereabouts(self, terms.wanted, terms.contract, terms.check_space)
        self.completion = Completion()
        self.mailbox = Mailbox(
            self.where.walk if terms.caps & Cap.MAP else None,
            capacity=terms.capacity,
            on_ready=self._wake,
            on_limit=self._overrun,
            on_unshare=self.where.unshared,
        )
        self.hand = Hand()
        self.map_failures = MapFailures()  # for the next sync
        self.first_failures = MapFailures()  # of the first replay, for the subscriber itself
        self.setback = Setback()
        self.removals = RecentRemovals()
        self.uses = Uses(self._use_ended, buried.soon)
        self.first_turn = anyio.Event()
        self._terms = terms
        self._buried = buried
        self._on_leave = on_leave
        self._given = Given(terms.caps)
        self._fitting = None if terms.contract.plain else Fitting(terms.contract)
        self._proving = anyio.Lock()
        self._stop = How.STOPPED  # how it will have stopped once nothing is in use
        self._on_ready: Callable[[], object] | None = None
        self._first_wait: Wait | None = None

    # -- where it is -------------------------------------------------------------

    def join(self, home: Home | None) -> None:
        """Begin to count; raises as `Routes.add` does, and then nothing was done."""
        try:
            self.where.arrive(home)
        except BaseException:  # an interrupt comes when the space knows of it already
            self.where.forget()
            self.where.narrow()
            raise
        if self.state is not State.NEW:  # it was left while the producer was asked
            return
        self.state = State.JOINED
        self._await_first_turn()
        self.where.share()

    def move(self, home: Home | None) -> None:
        """Follow its endpoint to another space, or to none.

        Its old mappings go and the new ones come.  Where the new space cannot
        serve it, it is fenced: that is its own problem, not the producer's.
        """
        self.where.depart()
        try:
            self.where.arrive(home)
        except SubscribeError as refusal:
            self.abandon(str(refusal))
        finally:
            if self.state is State.JOINED:
                if not self.completion.current:
                    self._await_first_turn()
                self.where.share()

    @property
    def place(self) -> Home | None:
        """The space where it is."""
        return None if self.where.present is None else self.where.present.home

    @property
    def idle(self) -> bool:
        """Whether everything was handed over, and acknowledged."""
        return not self.mailbox.ready and self.completion.handed <= self.completion.acked

    @property
    def wanted(self) -> Ranges:
        """The ranges that it asked for."""
        return self._terms.wanted

    @property
    def live(self) -> bool:
        """Whether it is to be told of what happens."""
        return self.state is State.JOINED

    def end(self) -> None:
        """End the stream once the mailbox is empty; what failed is tried once more."""
        self.ended = True
        self.mailbox.retry()
        self._wake()

    # -- the consumer's side ---------------------------------------------------

    def take(self) -> list[Event]:
        """Make a hand-over; it may turn out to be empty."""
        present = self.where.present
        events = self.mailbox.hand_over(*(self.where.last_words if present is None else present.words))
        wanted = self._terms.wanted
        if len(wanted) > 1 and not self.mailbox.shared:  # gaps may have been bridged that were not asked for
            events = list(cropped(events, wanted))
        if present is not None:
            present.home.moved()
        if not events:
            self.completion.look(self.mailbox)
            return events
        maps = self._given.maps_in(events)
        number = self.completion.hand_over(self.mailbox, removes=maps < len(events))
        self.removals.note(number, events)
        if present is not None:
            present.coverage.hand_over(number, present.home.seq)
        if self.setback and not self.mailbox.refused:
            self.setback.retried(number)
        if self._fitting is not None:
            events = self._fit(events, self._fitting, number)
            maps = self._given.maps_in(events)
        self._given.add(events, maps)
        if not self.mailbox.shared:
            self.where.share()
        return events

    def acknowledge(self, number: int) -> None:
        """Take it that hand-overs up to ``number`` are applied, and out of use but for what is pinned."""
        self.uses.say(number)
        self._acknowledge(self.uses.acknowledgeable())

    def fail(self, event: Event, error: Exception) -> None:
        """Note that an event in hand could not be applied."""
        behind = self.hand.behind(event)
        if isinstance(event, Map):
            self._fail_map(event, error)
            if self._fitting is not None:
                self._fitting.refuse(event, behind.events)
        else:
            self._fail_removal(event, error, behind.events)
        behind.settle()

    async def wait_ready(self) -> None:
        """Wait until there is something to hand over, or the end."""
        arrival = type(self.first_turn)()  # spares looking for the event loop's kind
        self.tell_ready(arrival.set)
        try:
            await arrival.wait()
        finally:
            self._on_ready = None

    def tell_ready(self, callback: Callable[[], object]) -> None:
        """Call back when there is more to hand over, at the end, and when it has left; it may be more than once."""
        self._on_ready = callback
        self.mailbox.expect()

    async def translate(self, iova: int, perm: int) -> StampedTranslation | None:
        """Return where an address leads, from the table or by asking the producer."""
        self.removals.watch()
        number = self.completion.handed
        attachment = self.where.present
        if attachment is None:
            return None
        seq = attachment.home.seq
        mapping = await attachment.find(iova, perm)
        if mapping is None:
            return None
        self._given.touched = True
        return StampedTranslation(mapping, seq, self.removals, number)

    # -- leaving ---------------------------------------------------------------

    def leave(self) -> None:
        """Take it that everything was dropped, but for what is pinned."""
        if self.state is State.GONE:
            return
        if not self.uses:
            self._go(How.LEFT)
        elif self.state is State.JOINED:
            self._stop = How.LEFT
            self._distrust("it was left while translations were pinned")

    def abandon(self, reason: str) -> None:
        """Fence it: whatever it held must not be used, and may yet be."""
        if self.state is not State.JOINED:
            return
        if not self._given.touched:
            self.fenced, self.reason = True, reason
            self._go(How.LEFT)
        elif self._terms.stops == "lease" and not self.uses:
            self.fenced, self.reason = True, reason
            self._go(How.STOPPED)
        else:
            self._distrust(reason)

    def stop(self, reason: str) -> None:
        """Take it that it is stopped for good: its process is gone, or its lease has run out."""
        if self.state in (State.JOINED, State.UNPROVEN):
            if not self.fenced:
                self.fenced, self.reason = True, reason
            self._go(How.STOPPED)

    def lose(self, reason: str) -> None:
        """Have it abandoned soon, from where that must not be done at once.

        That is the garbage collector, which may run in any thread, and the
        middle of an event's way to the mailboxes.
        """
        self.fenced, self.reason = True, reason
        self._buried.bury(self)

    @property
    def can_be_proven(self) -> bool:
        """Whether there is a way to stop it."""
        return self._terms.on_fence is not None

    @property
    def hopeful(self) -> bool:
        """Whether waiting may help, although it left unclean: its pins may end, or somebody watches it."""
        return self._terms.watched or (bool(self.uses) and self._stops_by_itself)

    @property
    def _stops_by_itself(self) -> bool:
        """Whether nothing is in use any more once its pins have ended."""
        return self._terms.stops == "lease" or self._stop is How.LEFT

    async def prove(self) -> bool:
        """Run what stops it, once for all who ask; say whether it is stopped."""
        async with self._proving:
            if self.state is State.UNPROVEN and self._terms.on_fence is not None:
                try:
                    await self._terms.on_fence()
                except Exception as failure:  # noqa: BLE001 - reported by the sync that needs it
                    self.setback.cause = failure
                else:
                    self.stop("its on_fence has returned")
        return self.state is State.GONE

    # -- questions ---------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a hand-over would give, or find out, anything."""
        return self.mailbox.ready

    @property
    def handed(self) -> int:
        """Number of the last hand-over."""
        return self.completion.handed

    @property
    def waited_for(self) -> bool:
        """Whether a `sync` waits for an acknowledgement of it."""
        return self.completion.waits > (self._first_wait is not None and self._first_wait.how is None)

    def turned_by(self, number: int) -> bool:
        """Say whether the first replay is through once hand-over ``number`` is acknowledged."""
        wait = self._first_wait
        return wait is not None and wait.number is not None and wait.number <= number

    def begin_use(self, thing: object = None) -> LocalUse:
        """Begin to use something that was given; it ends with ``thing`` at the latest."""
        return self.uses.begin(thing)

    @property
    def crowded(self) -> bool:
        """Whether a producer that paces itself should wait for it."""
        return self.mailbox.half_full or (self.completion.current and self.mailbox.dirty)

    def statistics(self) -> SubscriptionStatistics:
        """Return the counters of the subscription."""
        return SubscriptionStatistics(
            lag=self.mailbox.lag,
            delivered=self._given.by_kind(),
            handed=self.completion.handed,
            acked=self.completion.acked,
            conflations=self.mailbox.conflations,
            current=self.completion.current,
            pinned=len(self.uses),
        )

    # -- inside: hand-overs --------------------------------------------------------

    def _await_first_turn(self) -> None:
        if self._first_wait is not None:
            self.completion.forget(self._first_wait)
        self._first_wait = self.completion.expect_turn(self.mailbox, self._became_current)

    def _became_current(self, wait: Wait) -> None:
        if wait.how is How.ACKNOWLEDGED:
            self.completion.current = True
        if wait.how is not None:
            self.first_turn.set()

    def _fit(self, events: list[Event], fitting: Fitting, number: int) -> list[Event]:
        """Return what the consumer can take of a hand-over; nothing is as good as acknowledged."""
        given, refused = fitting.fit(events, number)
        for event in refused:
            self._fail_map(event, TooManyMappings(self.name, self._terms.contract.limit or 0))
        if not given:
            self.uses.skip(number)
            self._acknowledge(self.uses.acknowledgeable())
        return given

    def _acknowledge(self, number: int) -> None:
        if self.setback.acknowledge(number):
            self.where.release()
        self.hand.acknowledge(number)
        if self._fitting is not None:
            self._fitting.acknowledge(number)
        self.where.acknowledge(number)
        self.completion.acknowledge(number)
        if self.where.lingering and self.state is State.JOINED:
            self.where.forget_left()

    def _use_ended(self) -> None:
        if self.state is State.JOINED:
            self._acknowledge(self.uses.acknowledgeable())
        elif self.state is State.UNPROVEN and not self.uses and self._stops_by_itself:
            self._go(self._stop)

    # -- inside: failures ----------------------------------------------------------

    def _fail_map(self, event: Map, error: Exception) -> None:
        failures = self.map_failures if self.first_turn.is_set() else self.first_failures
        failures.add(self.name, event, error)

    def _fail_removal(self, event: Event, error: Exception, later: list[Event]) -> None:
        self.where.hold_back()
        self.setback.add(event, error)
        given = later.copy()
        self.mailbox.refuse(event, later)
        if self._fitting is not None:
            left = set(map(id, later))
            self._fitting.take_back([event, *(gone for gone in given if id(gone) not in left)])
        self.completion.look(self.mailbox)
        self.where.moved()

    # -- inside: leaving -----------------------------------------------------------

    def _wake(self) -> None:
        if self._on_ready is not None:
            self._on_ready()

    def _overrun(self) -> None:
        if not self.fenced:  # else it is going to be abandoned once all of a hand-over was published
            self.lose("it left more ranges dirty than its limit")

    def _distrust(self, reason: str) -> None:
        """Fence it, and have each `sync` wait until it is proven stopped."""
        self.fenced, self.reason = True, reason
        self._cut_off(State.UNPROVEN)
        self.completion.poke()
        self.first_turn.set()  # it will not come any more
        self.where.part()
        self.where.narrow()

    def _go(self, how: How) -> None:
        self._cut_off(State.GONE)
        self.completion.finish(how)
        self.where.forget()
        self.where.narrow()  # last: it calls the producer back

    def _cut_off(self, state: State) -> None:
        self.state = state
        self.hand.clear()
        self.removals.stop()
        self._wake()
        self._on_leave(self)
