"""A daemon, a client's seat and a consumer, small enough to try every history.

The daemon's side has a real subscription of an embedded bus behind it.  What is said
waits in two queues until a step of the script carries it over, so that every
order is possible in which two processes can learn of one another.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from math import inf
from typing import Any, Final, TypeVar

import anyio

from iommubus.bus.abc import OnFence, Stops, Use
from iommubus.bus.attachment import State
from iommubus.bus.buried import Buried
from iommubus.bus.bus import Bus
from iommubus.bus.member import Member, Terms
from iommubus.bus.space import LocalSpace
from iommubus.bus.translation import StampedTranslation
from iommubus.caps import Cap, Perm
from iommubus.client.following import RemoteSeat
from iommubus.contract import Contract
from iommubus.errors import Disconnected, NotMapped, TranslationFault
from iommubus.events import DevIotlbUnmap, Event, Map, Memory, Unmap
from iommubus.ranges import IovaRange
from iommubus.wire.failures import to_error, to_failure
from iommubus.wire.messages import ClientMessage, Message
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.subscribing import (
    Ack,
    AckWanted,
    Ended,
    Fail,
    Fenced,
    Leave,
    Subscribe,
    Subscribed,
    Translate,
    Translated,
    Using,
)
from iommubus.wire.messages.values import Piece

T = TypeVar("T")

PAGE: Final = 0x1000
PAGES: Final = 3

WINDOW: Final = 400
"""Bytes that may be unacknowledged: a handful of events."""

CAPACITY: Final = 2
"""Events that wait one by one."""

PLAIN: Final = Contract()

HOLDER: Final = 4711
"""Number of the process that keeps what hardware is given."""

PIECE: Final = 2
"""Events in one message."""

Answered = Callable[[Message | Exception], None]


class Broken(AssertionError):
    """A promise that was not kept."""


class Turn:
    """Awaited, it lets whoever runs the coroutine do something else."""

    def __await__(self) -> Generator[None]:
        yield


class Line:
    """The client's end of a connection to a `Daemon`."""

    def __init__(self, daemon: "Daemon") -> None:
        self.lease_end = inf
        self.up: deque[ClientMessage] = deque()
        self.down: deque[Message] = deque()
        self._daemon = daemon
        self._waiting: dict[int, Answered] = {}
        self._requests = 0

    def send(self, message: ClientMessage) -> None:
        self.up.append(message)

    def ask(self, make: Callable[[int], ClientMessage], answered: Answered) -> int:
        self._requests += 1
        self._waiting[self._requests] = answered
        self.send(make(self._requests))
        return self._requests

    async def request(self, make: Callable[[int], ClientMessage]) -> Message:
        answers: list[Message | Exception] = []
        self.ask(make, answers.append)
        while not answers:
            await Turn()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def carry_up(self) -> bool:
        """Have the daemon hear the next word; say whether there was one."""
        if not self.up:
            return False
        self._daemon.hear(self.up.popleft())
        return True

    def carry_down(self, seat: RemoteSeat) -> bool:
        """Have the client hear the next word; say whether there was one."""
        if not self.down:
            return False
        message: Any = self.down.popleft()
        if isinstance(message, Subscribed | Done | Translated):
            self._waiting.pop(message.request)(message)
        elif isinstance(message, Refused):
            self._waiting.pop(message.request)(to_error(message.failure))
        else:
            HEARD[type(message)](seat, message)
        return True

    def cut(self, seat: RemoteSeat) -> None:
        """Have both ends learn that it is lost; what was on its way is lost too."""
        self.up.clear()
        self.down.clear()
        self._daemon.lose()
        for answered in list(self._waiting.values()):
            answered(Disconnected("model", "it was cut"))
        seat.lost("it was cut")


HEARD: Final[dict[type[Message], Callable[[RemoteSeat, Any], None]]] = {
    DeliverHeard: RemoteSeat.take_in,
    AckWanted: lambda seat, _: seat.want_all(),
    Fenced: lambda seat, message: seat.take_fence(message.reason),
    Ended: lambda seat, _: seat.no_more(),
}


class Following:
    """What the daemon has of one subscription on one connection."""

    def __init__(self, member: Member, number: int) -> None:
        self.member = member
        self.number = number
        self.sent: deque[tuple[int, list[Event], int]] = deque()  # hand-over, its events, bytes
        self.fails = 0
        self.told_current = False
        self.told_end = False
        self.uses = 0


class Daemon:
    """The daemon's side of one subscription, with a real `Member` behind it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.now: Following | None = None
        self.lost: dict[int, Following] = {}
        self.line: Line | None = None
        self._numbers = 0

    def connect(self) -> Line:
        self.line = Line(self)
        return self.line

    @property
    def members(self) -> list[Member]:
        """All that count, or may."""
        every = [*self.lost.values(), *([self.now] if self.now else [])]
        return [following.member for following in every]

    # -- hearing -------------------------------------------------------------

    def hear(self, message: ClientMessage) -> None:
        match message:
            case Subscribe():
                self._subscribe(message)
            case Ack():
                self._acknowledge(message)
            case Fail():
                self._fail(message)
            case Leave():
                self._leave(message)
            case Using():
                following = self.lost.get(message.subscription, self.now)
                if following is not None:
                    following.uses = message.uses
            case Translate():
                self._translate(message)
            case _:
                raise NotImplementedError(message)

    def _subscribe(self, said: Subscribe) -> None:
        assert self.line is not None
        if said.replaces in self.lost:
            self.lost.pop(said.replaces).member.leave()
        terms = Terms(
            said.name,
            Cap(said.caps),
            tuple((one.first, one.last) for one in said.ranges),
            said.capacity or 4096,
            Contract(said.granule, said.pow2, said.exact, said.limit),
            "exit",
            None,
            watched=True,
        )
        member, enroll = self.bus.enlist(tuple(said.endpoints), terms)
        enroll()
        self._numbers += 1
        self.now = Following(member, self._numbers)
        lease = 1_000_000 if said.stops == "lease" else None
        self.line.down.append(Subscribed(said.request, self._numbers, member.name, lease, WINDOW))

    def _acknowledge(self, said: Ack) -> None:
        now = self.now
        assert now is not None
        assert said.number <= now.member.handed
        while now.sent and now.sent[0][0] <= said.number:
            now.sent.popleft()
        now.member.acknowledge(said.number)

    def _fail(self, said: Fail) -> None:
        now = self.now
        assert now is not None
        now.fails += 1
        events = next(events for number, events, _ in now.sent if number == said.number)
        now.member.fail(events[said.index], to_error(said.failure))

    def _leave(self, said: Leave) -> None:
        assert self.line is not None
        following, self.now = self.lost.pop(said.subscription, self.now), None
        if following is not None and said.clean:
            following.member.leave()
        elif following is not None:
            following.member.abandon(said.reason)
            self.lost[following.number] = following
        self.line.down.append(Done(said.request))

    def _translate(self, said: Translate) -> None:
        assert self.line is not None
        assert self.now is not None
        found = finished(self.now.member.translate(said.iova, said.perm))
        if found is None:
            self.line.down.append(Refused(said.request, to_failure(NotMapped(said.iova))))
        else:
            number = self.now.member.handed
            self.line.down.append(Translated(said.request, Piece.of(found.mapping), found.seq, number))

    # -- saying ----------------------------------------------------------------

    def flush(self) -> bool:
        """Hand over what may be; say whether anything was said."""
        now, line = self.now, self.line
        if now is None or line is None:
            return False
        before = len(line.down)
        while now.member.ready and sum(size for _, _, size in now.sent) < WINDOW:
            events = now.member.take()
            if events:
                self._deliver(now, line, events)
        self._tell_current(now, line)
        if now.member.ended and not now.member.ready and not now.told_end:
            now.told_end = True
            line.down.append(Ended(now.number))
        return len(line.down) > before

    def want(self) -> None:
        """Wait for the subscriber, as a `sync` does."""
        if self.now is not None and self.line is not None:
            self.now.member.mailbox.retry()
            self.line.down.append(AckWanted(self.now.number))

    def _deliver(self, now: Following, line: Line, events: list[Event]) -> None:
        number = now.member.handed
        now.sent.append((number, events.copy(), 50 * len(events)))
        now.member.hand.give(number, events)
        parts = [events[at : at + PIECE] for at in range(0, len(events), PIECE)]
        current = not now.told_current and now.member.turned_by(number)
        now.told_current = now.told_current or current
        for at, part in enumerate(parts):
            more = at + 1 < len(parts)
            line.down.append(
                DeliverHeard(
                    now.number,
                    number,
                    part,
                    (),
                    50 * len(part),
                    more,
                    current=current and not more,
                    prompt=current or now.member.waited_for,
                    fails=now.fails,
                )
            )

    def _tell_current(self, now: Following, line: Line) -> None:
        if not now.told_current and now.member.turned_by(now.member.handed):
            now.told_current = True
            line.down.append(
                DeliverHeard(now.number, now.member.handed, [], (), 0, current=True, prompt=True, fails=now.fails)
            )

    # -- losing ----------------------------------------------------------------

    def lose(self) -> None:
        """Take it that the connection is lost: what it had counts until it is proven stopped."""
        self.line = None
        if self.now is not None:
            self.now.member.abandon("its connection was lost")
            if self.now.member.state is State.UNPROVEN:
                self.lost[self.now.number] = self.now
            self.now = None


class Place:
    """What the seat has around it."""

    def __init__(self) -> None:
        self.time = 0.0
        self.clock = lambda: self.time
        self.buried = Buried(lambda callback: callback())
        self.seats: list[RemoteSeat] = []
        self.line: Line | None = None
        self.timers: list[Callable[[], object]] = []
        self.works: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.unknown: set[Memory] = set()

    def enter(self, seat: RemoteSeat) -> None:
        self.seats.append(seat)

    def part(self, seat: RemoteSeat) -> None:
        if seat in self.seats:
            self.seats.remove(seat)

    def number(self, seat: RemoteSeat, number: int) -> None:
        pass

    def knows(self, memory: Memory) -> bool:
        return memory not in self.unknown

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.works.append(work)

    def later(self, seconds: float, act: Callable[[], object]) -> object:
        del seconds
        self.timers.append(act)
        return None

    async def run_works(self) -> None:
        """Run what was to be done in tasks, all at once."""
        works, self.works = self.works, []
        async with anyio.create_task_group() as tasks:
            for work in works:
                tasks.start_soon(work)

    def run_timers(self) -> None:
        timers, self.timers = self.timers, []
        for act in timers:
            act()


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Return what work comes to that does not wait."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waits")


class World:
    """A producer, a daemon, a seat and its consumer: a shadower's copy, or a cacher's cache."""

    def __init__(
        self,
        bus: Bus,
        space: LocalSpace,
        caps: Cap,
        contract: Contract = PLAIN,
        *,
        stops: Stops = "exit",
        on_fence: OnFence | None = None,
    ) -> None:
        self.space = space
        self.caps = caps
        self.contract = contract
        self.daemon = Daemon(bus)
        self.place = Place()
        holder = HOLDER if stops == "exit" else None
        terms = Terms("model", caps, ((0, PAGES * PAGE - 1),), CAPACITY, contract, stops, on_fence, holder=holder)
        self.seat = RemoteSeat(terms, ("space",), self.place)
        self.line: Line | None = None
        self.held: dict[tuple[int, int], Map] = {}  # of a shadower
        self.without: set[int] = set()  # targets of MAPs that failed
        self.pinned: list[tuple[Map, Use]] = []
        self.misses: list[Coroutine[Any, Any, StampedTranslation]] = []
        self.gone: dict[int, int] = {}  # number of the removal, by target
        self._target = 0
        self.place.enter(self.seat)
        self.back()

    # -- steps -------------------------------------------------------------------

    def map(self, first: int, count: int) -> None:
        if not self.space.walk(first * PAGE, (first + count) * PAGE - 1, 1):
            self._target += 16 * PAGE
            self.space.map(first * PAGE, count * PAGE, self._target, Perm.R)

    def unmap(self, first: int, count: int) -> None:
        found = self.space.walk(first * PAGE, (first + count) * PAGE - 1, PAGES)
        if all(one.first >= first * PAGE and one.last < (first + count) * PAGE for one in found):
            self.space.unmap(first * PAGE, count * PAGE)
            if self.caps & Cap.DEVIOTLB_UNMAP:
                self.space.invalidate_device(first * PAGE, count * PAGE)
            self.gone |= {one.target: self.space.seq for one in found}

    def send(self) -> bool:
        return self.daemon.flush()

    def up(self) -> bool:
        return self.line is not None and self.line.carry_up()

    def down(self) -> bool:
        return self.line is not None and self.line.carry_down(self.seat)

    def lose(self) -> None:
        if self.line is not None:
            line, self.line = self.line, None
            line.cut(self.seat)

    def back(self) -> None:
        if self.line is None:
            self.line = self.daemon.connect()
            self.seat.attached(self.line)

    def work(self, fails: bool = False) -> bool:
        """Have the consumer take one event, or ask for more; say whether there was any."""
        seat, rest = self.seat, self.seat.hand.rest
        if seat.state is not State.JOINED:
            return False
        if not rest:
            before = seat.statistics().acked
            seat.acknowledge(seat.handed)
            if not seat.ready:
                return seat.statistics().acked > before
            rest += reversed(seat.take())
            if not rest:
                return True
        event = rest.pop()
        if fails:
            if isinstance(event, Map):
                self.without.add(event.target)
            seat.fail(event, OSError(12, "no room"))
        else:
            self.apply(event)
        return True

    def miss(self, page: int) -> None:
        """Have the consumer ask where a page leads."""
        if self.seat.state is State.JOINED:
            self.misses.append(self.seat.translate(page * PAGE, int(Perm.R)))
            self.wake()

    def wake(self) -> bool:
        """Have the consumer look for answers; what it installs is what is valid at that moment."""
        waiting, self.misses = self.misses, []
        for miss in waiting:
            try:
                miss.send(None)
            except StopIteration as end:
                self.install(end.value)
            except TranslationFault:
                pass
            else:
                self.misses.append(miss)
        return len(self.misses) < len(waiting)

    def pin(self) -> None:
        """Have the consumer use the first mapping that it holds."""
        if self.held and self.seat.state is State.JOINED:
            self.pinned.append((next(iter(self.held.values())), self.seat.begin_use()))

    def unpin(self) -> bool:
        """Have it end its first use; say whether there was one."""
        if not self.pinned:
            return False
        self.pinned.pop(0)[1].end()
        return True

    def install(self, answer: StampedTranslation) -> None:
        if answer.valid:
            mapping = answer.mapping
            self.held[mapping.first, mapping.last] = mapping.event("space", answer.seq)

    # -- the consumer --------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Do what an event says."""
        for one, use in self.pinned:
            if not isinstance(event, Map) and one.first <= event.last and one.last >= event.first:
                use.revoke()
        if self.caps & Cap.MAP:
            self._follow(event)
        else:
            self._demand(not isinstance(event, Map), f"a MAP for a cacher: {event}")
            held = self.held.items()
            self.held = {edges: one for edges, one in held if one.last < event.first or one.first > event.last}
        if self.contract.pow2:
            blocks = list(IovaRange(event.first, event.last).split_pow2())
            self._demand(len(blocks) == 1, f"no aligned power of two: {event}")
        aligned = not (event.first | event.last + 1) & (self.contract.granule - 1)
        self._demand(aligned, f"less than the granule: {event}")

    def _follow(self, event: Event) -> None:
        overlapping = [one for one in self.held.values() if one.first <= event.last and one.last >= event.first]
        match event:
            case Map():
                self._demand(not overlapping, f"a MAP over a live mapping: {event}")
                self.held[event.first, event.last] = event
                self.without.discard(event.target)
            case Unmap():
                for one in overlapping:
                    inside = one.first >= event.first and one.last <= event.last
                    self._demand(inside, f"an UNMAP that cuts {one}: {event}")
                    del self.held[one.first, one.last]
                exact = [(one.first, one.last) for one in overlapping] == [(event.first, event.last)]
                self._demand(exact or not self.contract.exact, f"an UNMAP of what is not held: {event}")
            case DevIotlbUnmap():
                pass

    # -- the judge -----------------------------------------------------------------

    def judge(self) -> None:
        """Law 1: what the daemon believes to be out of use is not held."""
        used = [*self.held.values(), *(one for one, _ in self.pinned)]
        stale = [one for one in used if one.target in self.gone]
        if not stale or self.seat.fenced:
            return
        covered = min((self._covered(member) for member in self.daemon.members), default=self.space.seq)
        for one in stale:
            self._demand(self.gone[one.target] > covered, f"{one} is held, and covered up to {covered}")

    def _covered(self, member: Member) -> int:
        """Return up to which number the daemon believes that a member uses nothing that was removed."""
        if member.state is State.GONE:
            return self.space.seq
        if member.state is State.UNPROVEN:
            return -1
        present = member.where.present
        return self.space.seq if present is None else present.covered

    def settle(self) -> None:
        """Let everything be carried over and done; then both ends agree."""
        self.back()
        for _ in range(400):
            self.place.run_timers()
            moved = [self.unpin(), self.send(), self.down(), self.up(), self.wake(), self.work()]
            self.judge()
            if not any(moved) and not self.place.timers:
                now = self.daemon.now
                self._demand(now is not None and not now.member.ready, "more waits than is acknowledged")
                if self._quiet():
                    break
                self.daemon.want()
        else:
            raise Broken("it does not come to rest")
        if self.caps & Cap.MAP:
            table = {(one.first, one.last): one.target for one in self._table() if one.target not in self.without}
            held = {edges: one.target for edges, one in self.held.items()}
            self._demand(held == table, f"held {held}, mapped {table}")
        self._demand(self.seat.first_turn.is_set(), "it is not current")

    def _quiet(self) -> bool:
        now = self.daemon.now
        return now is not None and not now.member.mailbox.refused and now.member.completion.acked == now.member.handed

    def _table(self) -> list[Map]:
        parts: list[Map] = []
        for one in self.space.walk(0, PAGES * PAGE - 1, 100):
            event = one.event("space", 0)
            blocks = (
                IovaRange(one.first, one.last).split_pow2() if self.contract.pow2 else [IovaRange(one.first, one.last)]
            )
            for block in blocks:
                target = event.target + block.first - event.first
                parts.append(Map("space", 0, block.first, block.last, target, event.perm))
        return parts

    def _demand(self, kept: bool, what: str) -> None:
        if not kept:
            raise Broken(what)
