"""The suite for a producer: what an emulated IOMMU has to get right.

The producer gets a bus that watches it, with subscribers on every space that it
makes; it maps, unmaps and syncs as it likes, and ends.  It is run anew in each
case, and may leave its spaces open.
"""

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Final

import anyio

from ...bus.abc import EventBus
from ...bus.bus import Bus
from ...caps import Cap
from ...errors import DemandRefused, SyncFailed
from ...events import Event, Lost, Unmap
from ..oracle import WHOLE
from .bus import PATIENCE, MakeBus
from .case import Case, ConformanceReport, law_of, name_of, run_cases
from .demands import demand
from .follower import Follower
from .scene import Stage
from .watch import Log, WatchedBus, WatchedSpace

EVERYTHING: Final = 1_000_000
"""Events that an observer may fall behind: more than a producer on trial makes."""

Producer = Callable[[EventBus], Awaitable[object]]
"""Makes spaces, publishes and syncs, and returns."""


class Hearing:
    """One run of a producer, and those who attend.

    Args:
        stage: A bus, and a place for tasks.
        producer: What is on trial.
    """

    def __init__(self, stage: Stage, producer: Producer) -> None:
        self.stage = stage
        self.log = Log()
        self.bus = WatchedBus(stage.bus, self.log, self._attend)
        self.followers: dict[Follower, WatchedSpace] = {}
        self.gave_up = False
        self._producer = producer
        self._options: dict[str, Any] | None = None
        self._failing: Collection[type[Event]] = ()
        self._dawdle = 0

    async def run(self) -> None:
        """Run the producer where nobody attends."""
        await self._producer(self.bus)

    async def run_before(self, *, dawdle: int = 0, failing: Collection[type[Event]] = (), **options: Any) -> None:
        """Run the producer, with a follower on each of its spaces; it may give up when a sync fails."""
        self._options, self._dawdle, self._failing = options, dawdle, failing
        self.log.on_failure = self._mend
        try:
            await self._producer(self.bus)
        except* SyncFailed:
            self.gave_up = True
            if not failing:
                raise

    async def settle(self) -> None:
        """Demand that each follower holds what is mapped in the end."""
        for follower, space in self.followers.items():
            if space.open:
                await space.inner.sync(timeout=self.stage.patience / 2)
            else:
                await follower.wait_end()
            if space.offers & Cap.MAP:
                demand(f"a follower of {space.name} holds what is mapped", follower.holds(), sorted(space.live))

    # -- inside ----------------------------------------------------------------

    async def _attend(self, space: WatchedSpace) -> None:
        if self._options is None:
            return
        try:
            await self._follow(space, space.offers)
        except* DemandRefused:  # a producer may have no use for shadowers
            await self._follow(space, space.offers & ~Cap.MAP)

    async def _follow(self, space: WatchedSpace, caps: Cap) -> None:
        subscription = self.stage.bus.subscribe(space.name, caps, **(self._options or {}))
        follower = Follower(subscription, (space.name,), caps, WHOLE, dawdle=self._dawdle, failing=self._failing)
        await self.stage.tasks.start(follower.run)
        self.followers[follower] = space

    def _mend(self) -> None:
        for follower in self.followers:
            follower.failing = ()


ProducerCase = Callable[[Hearing], Awaitable[None]]


async def it_runs_where_nobody_attends(hearing: Hearing) -> None:
    """Contract: a producer needs no subscriber, and ends."""
    await hearing.run()


async def it_makes_a_space(hearing: Hearing) -> None:
    """Contract: a producer makes a space and publishes something: one that does nothing shows nothing."""
    await hearing.run()
    published = sum(space.statistics().seq for space in hearing.bus.watched)
    demand("something is published", published > 0, wanted=True)


async def numbers_rise(hearing: Hearing) -> None:
    """Law 3: every event of a space has the next number."""
    async with hearing.stage.bus.observe("*", capacity=EVERYTHING) as observer:
        await hearing.run()
        wanted = {space.name: space.statistics().seq for space in hearing.bus.spaces()}
        seen: dict[str, int] = dict.fromkeys(wanted, 0)
        stream = aiter(observer)
        while any(seen[name] < seq for name, seq in wanted.items()):
            event = await anext(stream)
            if event.space in seen and not isinstance(event, Lost):
                demand(f"{event} has the next number", event.seq, seen[event.space] + 1)
                seen[event.space] = event.seq


async def a_shadower_can_follow_it(hearing: Hearing) -> None:
    """Law 6: a shadower sees no MAP over a live mapping and no cut, and ends with what is mapped."""
    await hearing.run_before()
    await hearing.settle()


async def a_slow_shadower_can_follow_it(hearing: Hearing) -> None:
    """Law 3: the same for one whose mailbox is full all the time."""
    await hearing.run_before(dawdle=5, capacity=1)
    await hearing.settle()


async def what_it_unmapped_is_synced(hearing: Hearing) -> None:
    """Law 1: when a producer ends, a sync has covered everything that it took away."""
    await hearing.run_before(dawdle=2)
    demand("everything that was unmapped is synced", hearing.log.unsynced, [])


async def it_reuses_nothing_before_a_sync(hearing: Hearing) -> None:
    """Law 1: a page that was unmapped is mapped elsewhere only after a sync that began after that."""
    await hearing.run_before(dawdle=2)
    demand("no page is reused before a sync", hearing.log.reused, [])


async def it_reuses_nothing_after_a_sync_that_failed(hearing: Hearing) -> None:
    """Law 7: after a sync that failed, what was unmapped stays out of use until one has succeeded."""
    await hearing.run_before(failing=(Unmap,))
    demand("no page is reused after a sync that failed", hearing.log.reused, [])
    if not hearing.gave_up:
        demand("everything that was unmapped is synced in the end", hearing.log.unsynced, [])


CASES: Final[tuple[ProducerCase, ...]] = (
    it_runs_where_nobody_attends,
    it_makes_a_space,
    numbers_rise,
    a_shadower_can_follow_it,
    a_slow_shadower_can_follow_it,
    what_it_unmapped_is_synced,
)

REUSE: Final[tuple[ProducerCase, ...]] = (
    it_reuses_nothing_before_a_sync,
    it_reuses_nothing_after_a_sync_that_failed,
)
"""Cases that a producer may leave out which knows better when a page is free."""


def producer_cases(
    producer: Producer, *, reuse: bool = True, make_bus: MakeBus = Bus, patience: float = PATIENCE
) -> tuple[Case, ...]:
    """Return the cases for a producer.

    Args:
        producer: What is looked at; run anew for each case.
        reuse: Whether a target must not be mapped again before a `sync`; not to
            be asked of a producer that knows by other means when a page is free.
        make_bus: Makes the bus that it is given.
        patience: Seconds that a case gets.
    """
    return tuple(
        Case(name_of(case), law_of(case), partial(run, make_bus, case, producer, patience), patience)
        for case in (*CASES, *(REUSE if reuse else ()))
    )


async def check_producer(
    producer: Producer, *, reuse: bool = True, make_bus: MakeBus = Bus, patience: float = PATIENCE
) -> ConformanceReport:
    """Run every case for a producer; takes what `producer_cases` takes.

    Raises:
        ConformanceFailed: Some cases failed.
    """
    cases = producer_cases(producer, reuse=reuse, make_bus=make_bus, patience=patience)
    return await run_cases("producer", cases)


async def run(make_bus: MakeBus, case: ProducerCase, producer: Producer, patience: float) -> None:
    """Run one case on a bus of its own."""
    async with make_bus() as bus, anyio.create_task_group() as tasks:
        await case(Hearing(Stage(bus, tasks, patience), producer))
        tasks.cancel_scope.cancel()
