"""Deadlines that are nearly always met: one timer for all of them.

A timer of the event loop for each costs some microseconds, and where thousands of
requests a second are answered in time none of them ever fires.
"""

import asyncio
from collections.abc import Callable
from math import inf

Late = Callable[[], object]


class Deadlines:
    """What is to be called back if it takes too long.

    A timer that runs for what was met meanwhile is left alone: when it fires, it is
    set for the next one.
    """

    __slots__ = ("_at", "_last", "_loop", "_open", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, tuple[float, Late]] = {}
        self._last = 0
        self._at = inf  # when the timer fires
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, seconds: float, late: Late) -> int:
        """Call back after so many seconds, unless it is met before; return its number."""
        when = self._loop.time() + seconds
        self._last += 1
        self._open[self._last] = when, late
        if when < self._at:
            self._set(when)
        return self._last

    def met(self, number: int) -> None:
        """Do not call back; one that was is left alone."""
        self._open.pop(number, None)

    def left(self, number: int) -> float:
        """Return how many seconds are left; 0 if it was called back."""
        when, _ = self._open.get(number, (0.0, None))
        return max(when - self._loop.time(), 0.0)

    def stop(self) -> None:
        """Call nobody back any more."""
        self._open.clear()
        self._set(inf)

    # -- inside ----------------------------------------------------------------

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = None if when == inf else self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        """Call back who is late, and wait for the next."""
        now = max(self._at, self._loop.time())  # a clock of the loop may stand a little before what it fires
        late = [number for number, (when, _) in self._open.items() if when <= now]
        due = [self._open.pop(number)[1] for number in late]
        self._set(min((when for when, _ in self._open.values()), default=inf))
        for call in due:
            call()
