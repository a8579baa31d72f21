"""A deterministic event loop that tries schedules: every one with so many deviations from the usual order.

asyncio runs what is ready first come, first served, and so most orders in which
tasks could meet never happen in a test.  Here each choice among what is ready is
a branch: `explore` runs a case again and again until every schedule was tried
that deviates at most ``deviations`` times from the oldest-first order.  Time is
virtual: a timer may go off at any moment, in the order of the timers, and waiting
costs nothing.  A schedule that fails is a list of numbers, and replays exactly.
"""

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, Final

STEPS: Final = 20_000
"""Most callbacks of one run: a schedule that goes on for ever is a failure, too."""


class Deadlock(AssertionError):
    """Nothing is ready and no timer runs, but the case is not over."""


class ChoosingLoop(asyncio.BaseEventLoop):
    """Runs what is ready in an order that is chosen.

    Args:
        plan: At which choice which deviation is taken: how much younger than the
            oldest the one is that runs.  What is not in it is oldest first.

    Attributes:
        widths: How many could have run, at each choice.
    """

    def __init__(self, plan: dict[int, int]) -> None:
        super().__init__()
        self.widths: list[int] = []
        self.choosing = False
        self._plan = plan
        self._now = 0.0
        self._steps = 0
        self._ready: list[Any] = []  # asyncio's own, which need not be a deque here

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    def _write_to_self(self) -> None:
        """Wake nobody: there is one thread, and nothing to wait for."""

    def _run_once(self) -> None:
        """Run one callback that is ready, or the next timer."""
        self._steps += 1
        assert self._steps < STEPS, "the schedule does not end"
        ready = [handle for handle in self._own("_ready") if not handle.cancelled()]
        timers = sorted(timer for timer in self._own("_scheduled") if not timer.cancelled())
        width = len(ready) + bool(timers)
        if not width:
            raise Deadlock
        choice = self._choose(width)
        if choice < len(ready):
            handle = ready.pop(choice)
        else:
            handle = timers.pop(0)
            handle._scheduled = False
            self._now = max(self._now, handle.when())
        self._own("_ready")[:] = ready
        self._own("_scheduled")[:] = timers
        handle._run()

    def _own(self, name: str) -> list[Any]:
        """Return one of the lists that asyncio keeps: what is ready, and the timers."""
        queue: list[Any] = getattr(self, name)
        return queue

    def _choose(self, width: int) -> int:
        if width == 1 or not self.choosing:
            return 0
        self.widths.append(width)
        return min(self._plan.get(len(self.widths) - 1, 0), width - 1)


def run(case: Callable[[ChoosingLoop], Coroutine[Any, Any, None]], plan: dict[int, int]) -> list[int]:
    """Run a case by one schedule; return how many could have run at each choice.

    The case sets ``choosing`` on the loop when the part begins that matters.
    """
    loop = ChoosingLoop(plan)
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(case(loop))
        loop.choosing = False
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert events._get_running_loop() is None
    return loop.widths


def explore(case: Callable[[ChoosingLoop], Coroutine[Any, Any, None]], deviations: int) -> int:
    """Try every schedule with at most so many deviations; return how many there were.

    Raises:
        AssertionError: A schedule failed; its note has the plan to `run` it again.
    """
    count = 0
    waiting: list[dict[int, int]] = [{}]
    while waiting:
        plan = waiting.pop()
        count += 1
        try:
            widths = run(case, plan)
        except BaseException as failure:
            failure.add_note(f"schedule {plan}")
            raise
        if len(plan) < deviations:
            after = max(plan, default=-1) + 1
            waiting += [plan | {at: choice} for at in range(after, len(widths)) for choice in range(1, widths[at])]
    return count
