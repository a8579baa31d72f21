"""That no event was lost, and what was acknowledged: pure, so that every client can use it from its callbacks.

A subscriber's `Check` sees each message first; a publisher's `Acks` sees what the
subscribers answer.  Peers acknowledge by a message of their own: the number of the
subscriber and that of the last event that it has applied.
"""

import time
from collections.abc import Callable, Sequence
from struct import Struct as Layout
from typing import Final

from msgspec import Struct, ValidationError

from iommubus import Event as BusEvent

from .events import decode_many, decode_one

NEVER: Final = 1 << 62
"""A number that no event reaches."""

NOTHING: Final = -1
"""A number that no event has."""

ACK: Final = Layout("<HQ")
"""An acknowledgement: who, and up to which event."""

Payload = bytes | memoryview
Take = Callable[[Payload], bytes | None]
"""Takes a message that arrived; returns what is to be answered, if anything."""


class Disorder(Exception):
    """A subscriber saw another event than the one it had to see next."""


class Run(Struct, frozen=True):
    """What a subscriber is to see.

    Attributes:
        first: Number of the first event.
        count: How many; if none, then nothing may come from now on.
        batch: Events in one message.
        ack_every: Events after which an acknowledgement is due, as it is after the last; 0 for none.
        stamps: Whether the time of each event is to be noted.
    """

    first: int
    count: int
    batch: int = 1
    ack_every: int = 0
    stamps: bool = False


class Check:
    """Checks that one subscriber sees every event, in order.

    Args:
        number: The subscriber's, from 0.
        on_change: Called when it has seen all that it was to see, or something else; from whatever
            thread the event came in.

    Attributes:
        expected: Number of the next event.
        done: Whether all of the run was seen.
        fault: What was seen instead.
        stamps: When each event was seen, by the monotonic clock, if that is asked for.
        seen_at: When the last one was.

    Until its first run it takes no notice of what iommubus hands over: that is what was there when it came.
    """

    def __init__(self, number: int, on_change: Callable[[], object]) -> None:
        self.expected = NEVER
        self.done = False
        self.fault: Disorder | None = None
        self.stamps: list[float] = []
        self.seen_at = 0.0
        self._number = number
        self._on_change = on_change
        self._take: Take = self._take_one
        self._due = NEVER  # number of the event before which something is to be done
        self._end = NEVER
        self._ack_every = 0
        self._next_ack = NEVER
        self._begin = NEVER  # number of the first event of the run, if times are noted

    def expect(self, run: Run) -> None:
        """Begin a run."""
        if self.expected not in {NEVER, NOTHING, run.first}:
            self._find(f"subscriber {self._number} is at number {self.expected}, not at {run.first}")
        self._take = self._take_one if run.batch == 1 else self._take_many
        self.done = run.count == 0
        self.stamps = []
        self.expected = run.first if run.count else NOTHING
        self._begin = run.first if run.stamps else NEVER
        self._end = run.first + run.count if run.count else NEVER
        self._ack_every = run.ack_every
        self._next_ack = run.first + run.ack_every if run.ack_every else NEVER
        self._set_due()

    def take(self, payload: Payload) -> bytes | None:
        """Take a message of a peer; return what is to be answered."""
        return self._take(payload)

    def see(self, events: Sequence[BusEvent]) -> None:
        """Take events of iommubus, which are acknowledged by asking for the next."""
        expected = self.expected
        if expected == NEVER:
            return
        for event in events:
            if event.seq != expected:
                self._find(f"subscriber {self._number} expected number {expected}, got {event}")
                return
            expected += 1
        self.expected = expected
        if expected >= self._due:
            self._reach()

    def _take_one(self, payload: Payload) -> bytes | None:
        event = decode_one(payload)
        if event.seq != self.expected:
            return self._stray(event.seq)
        self.expected += 1
        return self._reach() if self.expected >= self._due else None

    def _take_many(self, payload: Payload) -> bytes | None:
        expected = self.expected
        try:
            events = decode_many(payload)
        except ValidationError:  # somebody asks once more who is there
            return self._stray(decode_one(payload).seq)
        for event in events:
            if event.seq != expected:
                return self._stray(event.seq)
            expected += 1
        self.expected = expected
        return self._reach() if expected >= self._due else None

    def _stray(self, seq: int) -> bytes | None:
        """Answer who asks who is there; nothing else may come out of order."""
        if seq == 0:
            return ACK.pack(self._number, 0)
        self._find(f"subscriber {self._number} expected number {self.expected}, got {seq}")
        return None

    def _find(self, what: str) -> None:
        if self.fault is None:
            self.fault = Disorder(what)
            self._on_change()

    def _reach(self) -> bytes | None:
        """Do what is due: note the time, acknowledge, end the run."""
        now, answer = time.monotonic(), None
        if self._begin < NEVER:
            self.stamps += [now] * (self.expected - self._begin - len(self.stamps))
        if self.expected >= min(self._next_ack, self._end) and self._ack_every:
            answer = ACK.pack(self._number, self.expected - 1)
            self._next_ack = self.expected + self._ack_every
        if self.expected >= self._end:
            self.done, self.seen_at = True, now
            self._end = self._next_ack = self._begin = NEVER
            self._on_change()
        self._set_due()
        return answer

    def _set_due(self) -> None:
        every = self.expected + 1 if self._begin < NEVER else NEVER
        self._due = min(self._end, self._next_ack, every)


def finished(checks: Sequence[Check]) -> bool:
    """Say whether nothing is waited for any more: all are done, or one has found a fault."""
    return all(check.done for check in checks) or any(check.fault is not None for check in checks)


class Acks:
    """What the subscribers have acknowledged.

    Args:
        on_change: Called when all have acknowledged what is waited for; from whatever thread that came in.
    """

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._upto: list[int] = []
        self._awaited = NEVER
        self._on_change = on_change

    def count(self, subscribers: int) -> None:
        """Take it that there are so many subscribers now."""
        self._upto += [-1] * (subscribers - len(self._upto))

    def take(self, payload: Payload) -> None:
        """Take an acknowledgement."""
        who, seq = ACK.unpack(payload)
        if seq > self._upto[who]:
            self._upto[who] = seq
            if min(self._upto) >= self._awaited:
                self._awaited = NEVER
                self._on_change()

    def reached(self, seq: int) -> bool:
        """Say whether everybody has acknowledged up to an event; if not, `on_change` is called when it is so."""
        self._awaited = seq
        if min(self._upto) < seq:
            return False
        self._awaited = NEVER
        return True
