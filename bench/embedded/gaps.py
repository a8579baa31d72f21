"""A million mappings come and go, and nobody else should have to wait.

A gap is the time that one pass of the event loop took, seen by a task that does
nothing but pass: by the clock on the wall, where everything else that the
machine does counts too, and in processor time of the thread, which is what the
bus is answerable for.  The target is on the latter.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Final

from iommubus import Bus, Cap, Map, Subscription
from iommubus.errors import SubscriptionClosed, SyncFailed

from ..rows import Row
from .scale import MILLION, filled
from .workload import PAGE, RW, SPACE

GAP_MS: Final = 10.0

PATIENCE: Final = 0.01
"""Seconds given to a sync that is to fail."""

CHANGES: Final = 2048
"""Changes made after that: enough for the bus to look through what it remembers."""


class Ticker:
    """A task that passes through the loop again and again, and notes the gaps.

    Attributes:
        wall: The gaps in milliseconds, on the wall.
        busy: The same, in processor time of the thread.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.busy: list[float] = []

    async def run(self) -> None:
        """Pass until cancelled."""
        wall, busy = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            wall_now, busy_now = time.perf_counter(), time.thread_time()
            self.wall.append(1e3 * (wall_now - wall))
            self.busy.append(1e3 * (busy_now - busy))
            wall, busy = wall_now, busy_now


class Gaps:
    """What several repetitions of one case took.

    Args:
        case: What was done.
    """

    def __init__(self, case: str) -> None:
        self.case = case
        self.tickers: list[Ticker] = []
        self.milliseconds: list[float] = []

    @asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Run a ticker beside the block, one repetition."""
        ticker = Ticker()
        self.tickers.append(ticker)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ticker.run())
            await asyncio.sleep(0)
            start = time.perf_counter()
            yield
            self.milliseconds.append(1e3 * (time.perf_counter() - start))
            await asyncio.sleep(0)
            task.cancel()

    def rows(self) -> list[Row]:
        """Return the gaps, and how long the whole took."""
        longest = median(max(ticker.busy) for ticker in self.tickers)
        return [
            Row(
                case=self.case,
                subject="longest gap, processor time",
                value=round(longest, 2),
                unit="ms",
                target=f"<= {GAP_MS:g}",
                met=longest <= GAP_MS,
            ),
            self._row("longest gap of all, processor time", max(max(ticker.busy) for ticker in self.tickers)),
            self._row("longest gap, wall", median(max(ticker.wall) for ticker in self.tickers)),
            self._row("usual gap, wall", median(median(ticker.wall) for ticker in self.tickers)),
            self._row("from start to end", median(self.milliseconds)),
        ]

    def _row(self, subject: str, value: float) -> Row:
        return Row(case=self.case, subject=subject, value=round(value, 3), unit="ms")


async def measure(rounds: int) -> list[Row]:
    """Let a subscriber join a million mappings, and take them all away again."""
    replay, removal = Gaps("replay of 1,000,000 mappings"), Gaps("unmap_all of 1,000,000 mappings")
    failure = Gaps("unmap_all of 1,000,000 mappings, and a sync that fails")
    calls: list[float] = []
    for _ in range(rounds):
        async with filled(MILLION) as bus:
            calls.append(await come_and_go(bus, replay, removal))
        async with filled(MILLION) as bus:
            await fail(bus, failure)
    call = Row(case=removal.case, subject="the call alone", value=round(median(calls), 3), unit="ms")
    return [*replay.rows(), *removal.rows(), call, *failure.rows()]


async def come_and_go(bus: Bus, replay: Gaps, removal: Gaps) -> float:
    """Return the milliseconds that `unmap_all` took."""
    space = bus.space(SPACE)
    async with bus.subscribe(SPACE, Cap.IOTLB) as events, asyncio.TaskGroup() as tasks:
        async with replay.ticking():
            consumer = tasks.create_task(mirror(events))
            await events.wait_current()
        async with removal.ticking():
            start = time.perf_counter()
            removed = space.unmap_all()
            milliseconds = 1e3 * (time.perf_counter() - start)
            await space.sync()
        await events.close()
        if len(removed) != MILLION or await consumer != MILLION:
            raise RuntimeError("mappings went missing")
    return milliseconds


async def fail(bus: Bus, failure: Gaps) -> None:
    """Take all mappings away from a subscriber that never lets go, and go on with the work."""
    space = bus.space(SPACE)
    async with bus.subscribe(SPACE, Cap.UNMAP), failure.ticking():
        space.unmap_all()
        with suppress(SyncFailed):
            await space.sync(timeout=PATIENCE)
            raise RuntimeError("a sync succeeded without its subscriber")
        for _ in range(CHANGES):
            space.map(0, PAGE, 0, RW)
            space.unmap(0, PAGE)
            await asyncio.sleep(0)


async def mirror(events: Subscription) -> int:
    """Return how many mappings came, once the subscription is closed from outside."""
    count = 0
    with suppress(SubscriptionClosed):
        async for batch in events.batches():
            for event in batch:
                if type(event) is Map:
                    count += 1
    return count
