"""Leases: how long a subscriber may use what it holds without another word.

The daemon is the one who waits longer.  A subscriber counts from the moment at
which it sent what renews its lease, the daemon from the moment at which that
arrived; so a lease that has run out here ran out there before (law 8).

After a restart nobody knows who held what under a lease, only how long the
longest was and which processes were to be waited for.  A `Recovery` says what
still stands in the way of a `sync`.

Times are seconds of one clock that never goes back; no function here reads it.
"""

from collections.abc import Hashable, Iterable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

from msgspec import Struct

Holder = TypeVar("Holder", bound=Hashable)

Started = tuple[int, int]
"""A process: its number, and when it started."""


class Leases(Generic[Holder]):
    """Who has a lease, and until when."""

    __slots__ = ("_queue", "_until")

    def __init__(self) -> None:
        self._until: dict[Holder, float] = {}
        self._queue: list[tuple[float, int, Holder]] = []  # also ends that were put off meanwhile

    def __len__(self) -> int:
        return len(self._until)

    def grant(self, holder: Holder, seconds: float, now: float) -> float:
        """Give a lease, or renew one; return when it ends.

        A renewal never shortens it: what was promised before may be in use.
        """
        until = max(now + seconds, self._until.get(holder, now))
        self._until[holder] = until
        heappush(self._queue, (until, id(holder), holder))
        if len(self._queue) > 2 * len(self._until) + 16:
            self._queue = [(end, id(each), each) for each, end in self._until.items()]
            heapify(self._queue)
        return until

    def until(self, holder: Holder) -> float | None:
        """Return when a lease ends; `None` if there is none."""
        return self._until.get(holder)

    def drop(self, holder: Holder) -> None:
        """Forget a lease whose holder has let go of everything."""
        self._until.pop(holder, None)

    def expire(self, now: float) -> list[Holder]:
        """Forget the leases that have run out, and return their holders, the longest out first.

        At its very end a lease still holds.
        """
        ended: list[Holder] = []
        while self._skim() and self._queue[0][0] < now:
            _, _, holder = heappop(self._queue)
            del self._until[holder]
            ended.append(holder)
        return ended

    def next_end(self) -> float | None:
        """Return when the next one ends; `None` if there is none."""
        return self._queue[0][0] if self._skim() else None

    def _skim(self) -> bool:
        """Take ends that hold no more off the queue; say whether one is left."""
        while self._queue and self._until.get(self._queue[0][2]) != self._queue[0][0]:
            heappop(self._queue)
        return bool(self._queue)


class ExitMember(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A subscription that is proven stopped by the end of its process.

    Without a holder it is written as it was before there were any.  With one, a daemon of
    before that does not read the record, and serves nobody rather than wait for too few.

    Attributes:
        pid: Number of the process.
        start: When it started, in ticks since boot; the two name it for as long
            as the machine is up.
        subscription: Id of the subscription.
        holder: Number of the process that keeps what it was given; 0 if there is none.
        holder_start: When that one started.
    """

    pid: int
    start: int
    subscription: str
    holder: int = 0
    holder_start: int = 0

    def __str__(self) -> str:
        also = f", kept by process {self.holder}" if self.holder else ""
        return f"{self.subscription} of process {self.pid}{also}"

    @property
    def processes(self) -> frozenset[Started]:
        """The processes that all have to end."""
        own = (self.pid, self.start)
        return frozenset([own, (self.holder, self.holder_start)] if self.holder else [own])


class Recovery:
    """What a daemon that was restarted waits for before it completes a `sync`.

    Args:
        longest: Seconds of the longest lease that was granted before; 0 if none was.
        exits: Who was to be proven stopped by the end of a process.
        now: When this daemon started.
    """

    __slots__ = ("_running", "_until", "_waiting")

    def __init__(self, longest: float, exits: Iterable[ExitMember], now: float) -> None:
        self._until = now + longest if longest else -inf
        self._waiting = set(exits)
        self._running = {process for member in self._waiting for process in member.processes}

    def back(self, subscription: str) -> None:
        """Note that a subscription has come back, after it dropped everything."""
        self._waiting = {member for member in self._waiting if member.subscription != subscription}

    def ended(self, process: Started) -> list[ExitMember]:
        """Note that a process has ended; return who is gone by that: no process of theirs is left."""
        self._running.discard(process)
        gone = [member for member in self._waiting if not member.processes & self._running]
        self._waiting.difference_update(gone)
        return gone

    @property
    def processes(self) -> frozenset[Started]:
        """The processes that have not ended, as far as is known."""
        return frozenset(self._running)

    @property
    def waiting(self) -> frozenset[ExitMember]:
        """Who is neither back nor gone."""
        return frozenset(self._waiting)

    def leases_end(self, now: float) -> float:
        """Return in how many seconds the last lease of before has run out; 0 if it has."""
        return max(self._until - now, 0.0)

    def leases_over(self, now: float) -> bool:
        """Say whether all leases of before have run out; at its very end one still holds."""
        return now > self._until

    def over(self, now: float) -> bool:
        """Say whether nothing stands in the way any more."""
        return self.leases_over(now) and not self._waiting

    def reasons(self, now: float) -> list[str]:
        """Return what stands in the way, in words."""
        reasons: list[str] = []
        if not self.leases_over(now):
            reasons.append(f"leases of before the restart run for another {self.leases_end(now):.3g} s")
        reasons += sorted(f"{member} is neither back nor gone since the restart" for member in self._waiting)
        return reasons
