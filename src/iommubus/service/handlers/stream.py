"""One remote subscription: hand-overs out, acknowledgements and failures in.

It has no task.  The mailbox says that there is something, and the connection asks for
it at the end of the loop's turn, as long as the window has room.  What was sent is
kept until it is acknowledged, because a failure names an event by its place.

A failure of something that was acknowledged breaks the protocol: a `sync` may have
relied on that acknowledgement, so whoever takes it back cannot be trusted any more.
"""

from collections import deque
from typing import Final, Protocol

from msgspec import Struct

from ...bus.attachment import State
from ...bus.member import Member
from ...bus.reports import MapFailure
from ...errors import BadMessage, TooManyMappings
from ...events import Event
from ...wire.failures import to_error, to_failure
from ...wire.messages import Message, syncing
from ...wire.messages.subscribing import AckWanted, DeliverPacked, Ended, Fail, Fenced, ReplayFailed
from ...wire.messages.values import ENTRY_LIMIT, MemoryName, clip_text
from ..packing import NOTHING, Packer, Portion
from ..proof.watch import Watch

LOOKS: Final = 16
"""Hand-overs that are tried in one turn of the loop until one has events: dirty ranges may
have nothing in them."""


class Sent(Struct):
    """A hand-over that was sent and is not acknowledged.

    Attributes:
        number: Its number.
        events: Its events, as they were sent.
        left: Those of them that were not taken back since.
        size: Bytes that it took.
    """

    number: int
    events: tuple[Event, ...]
    left: list[Event]
    size: int


class Outlet(Protocol):
    """Where a subscription speaks.

    Attributes:
        packer: Encodes hand-overs.
    """

    packer: Packer

    def send(self, message: Message | DeliverPacked, /) -> int:
        """Say something; return how many bytes that takes."""
        ...

    def wake(self, stream: "Stream", /) -> None:
        """Have `Stream.flush` called at the end of the loop's turn."""
        ...

    def show(self, memories: tuple[MemoryName, ...], /) -> None:
        """Have the client given the descriptors of memories, if it was not."""
        ...

    def fenced(self, stream: "Stream", /) -> None:
        """Hear that the subscription is not to be told of anything any more."""
        ...


class Stream:
    """The hand-overs of one subscription.

    Args:
        watch: What proves it stopped; it has the member.
        outlet: Where it speaks.
        window: Bytes that may be unacknowledged before it waits.

    Attributes:
        number: Number of the subscription.
        member: What the bus keeps of it.
        watch: The same.
        unacknowledged: Bytes that were sent and not acknowledged.
    """

    def __init__(self, watch: Watch, outlet: Outlet, window: int) -> None:
        self.number = watch.number
        self.member: Member = watch.member
        self.watch = watch
        self.unacknowledged = 0
        self._outlet = outlet
        self._window = window
        self._sent: deque[Sent] = deque()
        self._last = 0  # number of the last hand-over that was sent
        self._acked = 0
        self._fails = 0
        self._wanted = 0  # hand-over up to which a prompt acknowledgement was asked for
        self._told_current = False  # that the first replay is through,
        self._turn = 0  # once this hand-over is acknowledged
        self._told_end = False
        self._over = False

    def begin(self) -> None:
        """Begin to hand over: the client was told its number."""
        self.member.completion.on_wait = self._look_at_waits
        self.member.tell_ready(self._wake)
        self._wake()

    def stop(self) -> None:
        """Say nothing more: it has left, or its connection is lost."""
        self._over = True
        self._sent.clear()
        self.unacknowledged = 0
        self.member.completion.on_wait = None

    # -- what is said ---------------------------------------------------------------

    def flush(self) -> None:
        """Say what there is to say, one hand-over at most."""
        member = self.member
        if self._over:
            return
        if member.state is not State.JOINED:
            self._say_fenced()
            return
        if self._told_end:
            return
        if self.unacknowledged < self._window:
            self._hand_over()
        self._look_at_turn()
        if member.ended and not member.ready:
            self._say_end()
        elif self.unacknowledged < self._window:
            if member.ready:
                self._wake()
            else:
                member.tell_ready(self._wake)

    def want_acks(self) -> None:
        """Ask for what was sent to be acknowledged promptly."""
        if self._wanted < self._last and self._sent:
            self._wanted = self._last
            self._outlet.send(AckWanted(self.number))

    def _hand_over(self) -> None:
        for _ in range(LOOKS):
            if not self.member.ready:
                return
            events = self.member.take()
            if events:
                self._deliver(self.member.handed, events)
                return

    def _deliver(self, number: int, events: list[Event]) -> None:
        portions = self._outlet.packer.pack(events)
        for portion in portions:  # before the first event that leads there, which would wait
            self._outlet.show(portion.memories)
        self._look_at_failures(number)
        size = 0
        for portion in portions[:-1]:
            size += self._outlet.send(self._message(number, portion, more=True))
        size += self._outlet.send(self._last_message(number, portions[-1]))
        left = events.copy()
        self._sent.append(Sent(number, tuple(events), left, size))
        self.member.hand.give(number, left)
        self._last = number
        self.unacknowledged += size

    def _message(self, number: int, portion: Portion, *, more: bool) -> DeliverPacked:
        return DeliverPacked(self.number, number, portion.runs, more=more, fails=self._fails)

    def _last_message(self, number: int, portion: Portion) -> DeliverPacked:
        """Return the last message of a hand-over, which says how far all is."""
        member = self.member
        current = not self._told_current and member.turned_by(number)
        end = member.ended and not member.ready
        prompt = member.waited_for or current
        if current:
            self._told_current, self._turn = True, number
        self._told_end |= end
        if prompt:
            self._wanted = number
        return DeliverPacked(self.number, number, portion.runs, False, current, end, prompt, self._fails)

    def _look_at_turn(self) -> None:
        """Say that the first replay is through, where the last hand-over did not say so."""
        if self._told_current or not self.member.turned_by(self.member.handed):
            return
        self._look_at_failures(self.member.handed)
        self._told_current, self._turn = True, self._last
        message = DeliverPacked(self.number, self._last, NOTHING, current=True, prompt=True, fails=self._fails)
        self._outlet.send(message)

    def _look_at_failures(self, number: int) -> None:
        """Say what of the first replay is past its limit, if it ends with hand-over ``number``."""
        if self._told_current or not self.member.turned_by(number):
            return
        failures = [
            syncing.MapFailure(
                failure.subscriber, failure.space, failure.first, failure.last, to_failure(failure.cause), failure.count
            )
            for failure in self._past_limit()
        ]
        for at in range(0, len(failures), ENTRY_LIMIT):
            self._outlet.send(ReplayFailed(self.number, failures[at : at + ENTRY_LIMIT]))

    def _past_limit(self) -> list[MapFailure]:
        """Return what of the first replay could not be handed over; what failed at the client is known there."""
        failures = self.member.first_failures.pop_all()
        return [failure for failure in failures if isinstance(failure.cause, TooManyMappings)]

    def _say_end(self) -> None:
        if not self._told_end:
            self._told_end = True
            self._outlet.send(Ended(self.number))

    def _say_fenced(self) -> None:
        if self.member.fenced:
            self._outlet.send(Fenced(self.number, clip_text(self.member.reason)))
        self._outlet.fenced(self)

    # -- what is heard --------------------------------------------------------------

    def acknowledge(self, number: int) -> None:
        """Take an acknowledgement.

        Raises:
            BadMessage: There was no such hand-over.
        """
        if number > self._last:
            raise BadMessage("Ack", "number", str(number), f"the last hand-over had {self._last}")
        self._acked = max(self._acked, number)
        full = self.unacknowledged >= self._window
        while self._sent and self._sent[0].number <= number:
            self.unacknowledged -= self._sent.popleft().size
        current = self.member.first_turn.is_set()
        self.member.acknowledge(number)
        if not current:
            self._look_at_current()
        if full or not self._told_current or self.member.ready or self.member.ended or not self.member.live:
            self._wake()

    def fail(self, message: Fail) -> Event:
        """Take it that an event could not be applied; return the event.

        One that was taken back meanwhile, because another failed before it, comes again anyway.

        Raises:
            BadMessage: There is no such event, or it was acknowledged.
        """
        sent = self._find(message.number)
        if message.index >= len(sent.events):
            raise BadMessage("Fail", "index", str(message.index), f"the hand-over had {len(sent.events)} events")
        event = sent.events[message.index]
        self._fails += 1
        if any(left is event for left in sent.left):
            self.member.fail(event, to_error(message.failure))
            sent.left[:] = [left for left in sent.left if left is not event]
        self._wake()
        return event

    # -- inside ------------------------------------------------------------------

    def _find(self, number: int) -> Sent:
        if number <= self._acked:
            raise BadMessage("Fail", "number", str(number), "it was acknowledged, and that cannot be taken back")
        for sent in self._sent:
            if sent.number == number:
                return sent
        raise BadMessage("Fail", "number", str(number), "there was no such hand-over")

    def _look_at_current(self) -> None:
        """See whether the first replay is through by an acknowledgement."""
        if self.member.first_turn.is_set():
            for (
                failure
            ) in self._past_limit():  # of what was handed over since the client was told; the next sync says so
                self.member.map_failures.put(failure)
        elif self._told_current and self._acked >= self._turn:
            self._told_current = False  # it was moved meanwhile, and what is there has to be read first

    def _wake(self) -> None:
        self._outlet.wake(self)

    def _look_at_waits(self) -> None:
        """Somebody began to wait: for what was sent, perhaps."""
        if self.member.waited_for:
            self.want_acks()
