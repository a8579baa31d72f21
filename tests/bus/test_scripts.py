"""Random scripts of one producer and many consumers, beside an array of pages that cannot be wrong.

After every sync that succeeded: each current shadower's mirror is the array, cropped to its ranges, but for the MAPs
that it said it could not apply; no cacher holds a translation that the array has not; kinds are in the mask, ranges in
the subscription.  A notifier equals the array at all times; an observer has seen or lost every number.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import pytest
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from iommubus import (
    Batch,
    Bus,
    Cap,
    Event,
    Iotlb,
    IovaRange,
    Lost,
    Map,
    Mapping,
    Mirror,
    Notifier,
    Observer,
    Perm,
    Unmap,
)
from iommubus.bus.abc import Acknowledge, Straddling
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import AccessDenied, Fenced, NotMapped, Overlap, Straddle, SyncFailed, UnknownName
from iommubus.events import KINDS
from tests.actors import PAGE, BackendError, Verdict, verdict
from tests.loops import every_loop

PAGES: Final = 24
HOLE: Final = (10, 12)
STEPS: Final = 50
SCRIPTS: Final = 200
PARTS: Final = 4

Ranges = list[tuple[int, int]]
WHOLE: Final[Ranges] = [(0, PAGES * PAGE - 1)]
AROUND: Final[Ranges] = [(0, HOLE[0] * PAGE - 1), ((HOLE[1] + 1) * PAGE, PAGES * PAGE - 1)]
LOW: Final[Ranges] = [(3 * PAGE, 9 * PAGE - 1)]

Page = tuple[int, Perm] | None
"""Where a page leads, and what is allowed there."""


class Model:
    """What is mapped: for each page, and which mapping it belongs to."""

    def __init__(self, straddle: Straddling) -> None:
        self.pages: list[Page] = [None] * PAGES
        self.owner: list[int] = [0] * PAGES
        self.straddle: Straddling = straddle
        self.count = 0

    def copy(self) -> "Model":
        twin = Model(self.straddle)
        twin.pages, twin.owner, twin.count = list(self.pages), list(self.owner), self.count
        return twin

    def map(self, first: int, last: int, target: int, perm: Perm) -> bool:
        """Map pages; return whether that is legal."""
        run = range(first, last + 1)
        wanted: list[Page] = [(target + (page - first) * PAGE, perm) for page in run]
        owners = {self.owner[page] for page in run}
        if owners != {0}:
            same = self.pages[first : last + 1] == wanted and len(owners) == 1
            return same and self.owner.count(*owners) == len(run)
        self.count += 1
        for page in run:
            self.pages[page], self.owner[page] = wanted[page - first], self.count
        return True

    def unmap(self, first: int, last: int) -> bool:
        """Unmap pages; return whether that is legal."""
        cut = [
            owner
            for inside, outside in ((first, first - 1), (last, last + 1))
            if 0 <= outside < PAGES and (owner := self.owner[inside]) and self.owner[outside] == owner
        ]
        if cut and self.straddle == "refuse":
            return False
        for page in range(first, last + 1):
            self.pages[page], self.owner[page] = None, 0
        if len(cut) == 2 and cut[0] == cut[1]:  # both parts survive, as mappings of their own
            self.count += 1
            for page in range(last + 1, PAGES):
                if self.owner[page] == cut[0]:
                    self.owner[page] = self.count
        return True


def crop(pages: list[Page], ranges: Ranges) -> list[Page]:
    inside = {page for first, last in ranges for page in range(first // PAGE, last // PAGE + 1)}
    return [content if page in inside else None for page, content in enumerate(pages)]


def spread(mappings: list[Mapping]) -> list[Page]:
    pages: list[Page] = [None] * PAGES
    for mapping in mappings:
        for offset in range(0, mapping.size, PAGE):
            assert pages[(mapping.first + offset) // PAGE] is None
            pages[(mapping.first + offset) // PAGE] = (mapping.target + offset, mapping.perm)
    return pages


@dataclass
class Script:
    """The world of one script."""

    dice: random.Random
    bus: Bus
    space: LocalSpace
    model: Model
    may_fail: bool = True
    failed_maps: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    consumers: dict[str, "Consumer"] = field(default_factory=dict[str, "Consumer"])

    async def dawdle(self, most: int) -> None:
        for _ in range(self.dice.randrange(most + 1)):
            await checkpoint()


@dataclass
class Consumer:
    """One subscriber in a task of its own."""

    script: Script
    name: str
    caps: Cap
    ranges: Ranges
    capacity: int
    ack: Acknowledge
    slow: int
    fails: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    without: dict[int, Page] = field(default_factory=dict[int, Page])
    clean: bool = False
    counts: bool = False  # for MAP, in the last sync

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        script = self.script
        subscription = script.bus.subscribe(
            "space", self.caps, ranges=self.ranges, capacity=self.capacity, ack=self.ack, name=self.name
        )
        with self.scope:
            try:
                async with subscription as events:
                    self.events = events
                    self.mirror, self.iotlb = Mirror(events), Iotlb(events)
                    script.consumers[self.name] = self
                    task_status.started()
                    with anyio.CancelScope() as self.inner:
                        await self.follow(events)
                    if not self.clean:
                        raise BackendError  # noqa: TRY301 - this is how the block is left
            except* (BackendError, Fenced):
                pass
        script.consumers.pop(self.name, None)

    async def follow(self, events: StreamSubscription) -> None:
        async with anyio.create_task_group() as tasks:
            if self.caps == Cap.UNMAP:
                tasks.start_soon(self.miss)
            if self.ack == "manual":
                await self.follow_batches(events, tasks)
            else:
                async for event in events:
                    await self.script.dawdle(self.slow)
                    self.apply(event)
            tasks.cancel_scope.cancel()

    async def follow_batches(self, events: StreamSubscription, tasks: TaskGroup) -> None:
        async for batch in events.batches():
            await self.script.dawdle(self.slow)
            for event in batch:
                self.apply(event)
            tasks.start_soon(self.acknowledge, batch)

    async def acknowledge(self, batch: Batch) -> None:
        await self.script.dawdle(5)
        self.events.ack(batch)

    async def miss(self) -> None:
        """Use the cache, and fill it."""
        dice = self.script.dice
        while True:
            await checkpoint()
            try:
                await self.iotlb.translate(dice.randrange(PAGES) * PAGE, Perm.R)
            except (NotMapped, AccessDenied):
                continue

    def apply(self, event: Event) -> None:
        script = self.script
        assert KINDS[type(event)] & self.caps
        assert any(first <= event.first <= event.last <= last for first, last in self.ranges)
        if script.may_fail and script.dice.random() < self.fails:
            self.fail(event)
            return
        self.mirror.apply(event)
        self.iotlb.apply(event)
        if isinstance(event, Unmap):
            for page in range(event.first // PAGE, event.last // PAGE + 1):
                self.without.pop(page, None)

    def fail(self, event: Event) -> None:
        if isinstance(event, Map):
            for page, content in enumerate(spread([Mapping(event.first, event.last, event.target, event.perm)])):
                if content is not None:
                    self.without[page] = content
            if self.events.statistics().current:
                self.script.failed_maps.append((self.name, event.first, event.last))
        self.events.fail(event, BackendError(event))

    def check(self) -> None:
        """Compare with the array of pages; only a sync that succeeded makes that true."""
        truth = crop(self.script.model.pages, self.ranges)
        if self.caps & Cap.MAP and self.counts:
            pages = spread(list(self.mirror))
            for page, content in self.without.items():
                assert pages[page] is None
                pages[page] = content
            assert pages == truth, (self, pages, truth)
        if self.caps == Cap.UNMAP:
            for page in range(PAGES):
                entry = self.iotlb.lookup(page * PAGE, Perm(0))
                if entry is not None:
                    assert (entry.target + page * PAGE - entry.first, entry.perm) == truth[page]


KINDS_OF_CONSUMER: Final[list[tuple[Cap, Ranges, int, Acknowledge, int, float]]] = [
    (Cap.IOTLB, WHOLE, 4096, "next", 0, 0),
    (Cap.IOTLB, AROUND, 4096, "next", 1, 0),
    (Cap.IOTLB, WHOLE, 1, "next", 6, 0),
    (Cap.IOTLB, AROUND, 4, "next", 4, 0),
    (Cap.IOTLB, LOW, 2, "next", 2, 0.1),
    (Cap.IOTLB, WHOLE, 4096, "next", 1, 0.05),
    (Cap.IOTLB, AROUND, 3, "manual", 2, 0.03),
    (Cap.IOTLB, WHOLE, 4096, "manual", 0, 0),
    (Cap.UNMAP, WHOLE, 4096, "next", 0, 0),
    (Cap.UNMAP, AROUND, 2, "next", 5, 0.05),
    (Cap.DEVIOTLB_UNMAP, WHOLE, 2, "next", 3, 0.1),
    (Cap.ALL, AROUND, 2, "next", 3, 0.03),
]


class Producer:
    """Does what the dice say, to the space and to the array of pages."""

    def __init__(self, script: Script, tasks: TaskGroup) -> None:
        self.script = script
        self.tasks = tasks
        self.joined = 0

    async def join(self) -> None:
        self.joined += 1
        choice = self.script.dice.choice(KINDS_OF_CONSUMER)
        consumer = Consumer(self.script, f"consumer {self.joined}", *choice)
        await self.tasks.start(consumer.run)

    async def leave(self) -> None:
        """Have somebody leave clean, be cancelled, or be fenced."""
        if not self.script.consumers:
            return
        consumer = self.script.dice.choice(list(self.script.consumers.values()))
        del self.script.consumers[consumer.name]  # what it holds from here on is nobody's business
        way = self.script.dice.randrange(4)
        if way == 0:
            with suppress(UnknownName):  # it is just leaving
                await self.script.space.fence(consumer.events)
        elif way == 1:
            consumer.scope.cancel()
        else:
            consumer.clean = way == 2
            consumer.inner.cancel()

    def run_of_pages(self) -> tuple[int, int]:
        first = self.script.dice.randrange(PAGES)
        return first, min(PAGES - 1, first + self.script.dice.choice([0, 0, 0, 1, 2, 5]))

    def change(self) -> Mapping | IovaRange:
        first, last = self.run_of_pages()
        dice = self.script.dice
        if dice.random() < 0.5:
            return IovaRange(first * PAGE, (last + 1) * PAGE - 1)
        target = dice.randrange(1000) * PAGE
        return Mapping(first * PAGE, (last + 1) * PAGE - 1, target, dice.choice([Perm.R, Perm.W, Perm.RW]))

    def follow(self, model: Model, change: Mapping | IovaRange) -> bool:
        first, last = change.first // PAGE, change.last // PAGE
        if isinstance(change, Mapping):
            return model.map(first, last, change.target, change.perm)
        return model.unmap(first, last)

    def publish(self) -> None:
        change = self.change()
        space = self.script.space
        if isinstance(change, Mapping):
            self.expect([change], lambda: space.map(change.first, change.size, change.target, change.perm))
        else:
            self.expect([change], lambda: space.unmap(change.first, change.size))

    def remap(self) -> None:
        change = self.change()
        if isinstance(change, Mapping):
            model = self.script.model
            first, last = change.first // PAGE, change.last // PAGE
            if model.copy().map(first, last, change.target, change.perm):
                return  # the same again is nothing, which the other steps show
            there = IovaRange(change.first, change.last)
            self.expect(
                [there, change],
                lambda: self.script.space.remap(change.first, change.size, change.target, change.perm),
            )

    def apply(self) -> None:
        changes = [self.change() for _ in range(self.script.dice.randrange(1, 6))]
        self.expect(changes, lambda: self.script.space.apply(changes))

    def expect(self, changes: list[Mapping | IovaRange], call: Callable[[], object]) -> None:
        """Do it, all or nothing."""
        model = self.script.model.copy()
        if all(self.follow(model, change) for change in changes):
            call()
            self.script.model = model
        else:
            before = self.script.space.statistics()
            with pytest.raises((Overlap, Straddle)):
                call()
            assert self.script.space.statistics() == before

    async def sync(self) -> None:
        """Sync until it succeeds; what it reports on the way has to be true."""
        script = self.script
        succeeded = False
        while not succeeded:
            for consumer in script.consumers.values():
                consumer.counts = consumer.events.statistics().current
            try:
                await script.space.sync(timeout=20)
                succeeded = True
            except SyncFailed as failed:
                self.judge(verdict(failed))
                script.may_fail = script.may_fail and script.dice.random() < 0.5
        for consumer in script.consumers.values():
            consumer.check()
        script.may_fail = True

    def judge(self, failed: Verdict) -> None:
        """Check that each failure is one, reported once, and that the missing are so for an UNMAP."""
        for failure in failed.failures:
            self.script.failed_maps.remove((failure.subscriber, failure.first, failure.last))
        for missing in failed.missing:
            assert "could not unmap" in missing.reason
            assert isinstance(missing.cause, BackendError)

    async def step(self) -> None:
        dice = self.script.dice
        kind = dice.random()
        if kind < 0.6:
            self.publish()
        elif kind < 0.68:
            self.remap()
        elif kind < 0.74:
            self.apply()
        elif kind < 0.78:
            first, last = self.run_of_pages()
            self.script.space.invalidate_device(first * PAGE, (last - first + 1) * PAGE)
        elif kind < 0.88:
            await self.sync()
        elif kind < 0.95:
            await self.join()
        else:
            await self.leave()
        await self.script.dawdle(4)


class Notified:
    """A notifier's copy of the pages."""

    def __init__(self) -> None:
        self.pages: list[Page] = [None] * PAGES

    def follow(self, event: Event) -> None:
        if isinstance(event, Map):
            mapping = Mapping(event.first, event.last, event.target, event.perm)
            for page, content in enumerate(spread([mapping])):
                if content is not None:
                    assert self.pages[page] is None
                    self.pages[page] = content
        elif isinstance(event, Unmap):
            self.pages[event.first // PAGE : event.last // PAGE + 1] = [None] * (event.size // PAGE)


async def observe(observer: Observer) -> None:
    """See, or be told to have lost, every number in order."""
    seen = 0
    async for event in observer:
        seen += event.count if isinstance(event, Lost) else 1
        assert seen == event.seq


async def run(producer: Producer, notified: Notified) -> None:
    """Play the steps, and let everything succeed in the end."""
    script = producer.script
    for _ in range(3):
        await producer.join()
    for _ in range(STEPS):
        await producer.step()
        assert notified.pages == script.model.pages
    for _ in range(2):
        script.may_fail = False
        await producer.sync()


async def play(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a script, no secret
    straddle: Straddling = dice.choice(["refuse", "split"])
    async with Bus() as bus:
        space = await bus.create_space("space", last=PAGES * PAGE - 1, offers=Cap.ALL, straddle=straddle)
        notified = Notified()
        space.register(Notifier(notified.follow, Cap.ALL))
        async with (
            bus.observe("*", capacity=dice.choice([3, 1000])) as observer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(observe, observer)
            await run(Producer(Script(dice, bus, space, Model(straddle)), tasks), notified)
            while observer.statistics().lag:
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert space.statistics().old_pieces == 0


@pytest.mark.parametrize("part", range(PARTS))
@every_loop
async def test_scripts(part: int) -> None:
    """Laws 1, 3, 4, 6, 7 and 8; I1, I3 to I5, I7, I8, I11, I17, I20, I23 and I25, together."""
    for seed in range(part, SCRIPTS, PARTS):
        try:
            await play(seed)
        except BaseException as error:
            error.add_note(f"script {seed}")
            raise
