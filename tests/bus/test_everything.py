"""Everything at once: spaces, endpoints that move, containers, subscribers of every kind, beside a judge.

The judge knows each page by its target, which is never given twice.  So it can say when a page died, who uses it
still, since when, and whether a sync that returned should have kept it from that.  One that raised has to name it.
"""

import gc
import random
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from iommubus import LAST, Bus, Cap, DevIotlbUnmap, Event, IovaRange, Map, Mapping, Notifier, Perm, Unmap
from iommubus.bus.abc import Acknowledge, Use
from iommubus.bus.endpoint import LocalEndpoint
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import Fenced, IommubusError, SubscribeError, SyncFailed
from tests.actors import PAGE, BackendError, mappings, verdict

PAGES: Final = 16
STEPS: Final = 120
SEEDS: Final = 60
MOST: Final = 9
PATIENCE: Final = 5.0
"""Seconds for a `sync` that nobody holds up: it is over at once, or it hangs."""

DEVICE: Final = Cap.DEVIOTLB_UNMAP
SPACES: Final[dict[str, dict[str, Any]]] = {
    "table": {"offers": Cap.ALL},
    "split": {"straddle": "split"},
    "pull": {"offers": Cap.UNMAP | DEVICE},
}
CONTRACTS: Final[list[dict[str, Any]]] = [
    {},
    {},
    {"exact": True},
    {"pow2": True},
    {"exact": True, "pow2": True},
    {"limit": 3},
]
RANGES: Final = [[(0, LAST)], [(0, LAST)], [(0, 5 * PAGE - 1), (9 * PAGE, LAST)], [(3 * PAGE, 11 * PAGE - 1)]]


def pages_of(first: int, last: int, target: int) -> Iterator[tuple[int, int]]:
    """Yield each page that a mapping has: its address and its target."""
    for offset in range(0, last - first + 1, PAGE):
        yield first + offset, target + offset


@dataclass
class Held:
    """One mapping that a subscriber may use, since when, and whether it is pinned."""

    first: int
    last: int
    target: int
    since: int
    use: Use | None = None


@dataclass(eq=False)
class Actor:
    """One subscriber; strict about what it is given."""

    world: "World"
    name: str
    names: tuple[str, ...]
    caps: Cap
    options: dict[str, Any]
    fails: float
    slow: int
    ack: Acknowledge
    held: list[Held] = field(default_factory=list[Held])
    pins: list[Held] = field(default_factory=list[Held])
    left: list[tuple[LocalSpace, int]] = field(default_factory=list[tuple[LocalSpace, int]])
    without: set[int] = field(default_factory=set[int])
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    state: str = "new"
    leave: str = "unclean"
    fence_fails: bool = False
    stopped: bool = False
    events: StreamSubscription | None = None

    @property
    def exit(self) -> bool:
        return bool(self.options["stops"] == "exit")

    @property
    def moves(self) -> bool:
        """Whether it follows its endpoints still."""
        return self.state == "live" and self.events is not None and not self.events.fenced

    def uses(self) -> list[Held]:
        """Return what it may use at this moment."""
        if self.stopped:
            return []
        if self.state == "live":
            assert self.events
            if self.exit or not self.events.fenced:
                return self.held + self.pins
        return self.held + self.pins if self.exit and self.state == "unclean" else self.pins

    async def on_fence(self) -> None:
        await checkpoint()
        if self.fence_fails:
            self.fence_fails = False
            raise BackendError
        self.stopped = True
        self.unpin()

    def unpin(self) -> None:
        for pin in self.pins:
            assert pin.use
            pin.use.end()
        self.pins.clear()

    # -- following -----------------------------------------------------------------

    async def run(self) -> None:
        events = self.world.bus.subscribe(self.names, self.caps, ack=self.ack, name=self.name, **self.options)
        with self.scope, suppress(BackendError, Fenced, SubscribeError):
            async with events:
                self.events, self.state = events, "live"
                self.world.actors.append(self)
                with anyio.CancelScope() as self.inner:
                    await self.follow(events)
                if self.leave == "unclean" and self.inner.cancel_called:
                    raise BackendError
                self.held.clear()
                self.state = "unclean" if self.pins else "clean"
        if self.state == "live":
            self.state = "unclean"
        await self.world.dawdle(30)
        self.unpin()
        if self.leave == "mended" and self.events is not None:
            self.held.clear()
            await events.close()

    async def follow(self, events: StreamSubscription) -> None:
        if self.ack == "next":
            async for event in events:
                await self.world.dawdle(self.slow)
                self.apply(event)
            return
        async for batch in events.batches():
            await self.world.dawdle(self.slow)
            at = 0
            while at < len(batch):  # what fails may shorten it
                self.apply(batch[at])
                at += 1
            self.world.tasks.start_soon(self.acknowledge, batch)

    async def acknowledge(self, batch: Any) -> None:
        await self.world.dawdle(8)
        assert self.events
        with suppress(IommubusError):
            self.events.ack(batch)

    def apply(self, event: Event) -> None:
        events, dice = self.events, self.world.dice
        assert events
        self.check(event)
        if self.world.failing and dice.random() < self.fails:
            if isinstance(event, Map):
                self.without.update(target for _, target in pages_of(event.first, event.last, event.target))
            events.fail(event, BackendError(event))
        elif isinstance(event, Map):
            self.held.append(Held(event.first, event.last, event.target, self.world.now))
        elif isinstance(event, DevIotlbUnmap) and self.caps & Cap.MAP:
            pass
        else:
            self.held = [one for one in self.held if one.first > event.last or one.last < event.first]
            for pin in self.pins:
                if pin.first <= event.last and pin.last >= event.first:
                    assert pin.use
                    pin.use.revoke()

    def check(self, event: Event) -> None:
        """Check what a strict consumer would choke on."""
        touched = [one for one in self.held if one.first <= event.last and one.last >= event.first]
        assert any(first <= event.first <= event.last <= last for first, last in self.options["ranges"])
        if self.options.get("pow2"):
            size = event.last - event.first + 1
            assert size & (size - 1) == 0 == event.first % size, event
        if isinstance(event, Map):
            assert self.caps & Cap.MAP
            assert not touched, (event, touched)
            assert len(self.held) < self.options.get("limit", LAST)
        elif isinstance(event, Unmap) and self.caps & Cap.MAP:
            assert all(event.first <= one.first <= one.last <= event.last for one in touched), (event, touched)
            if self.options.get("exact"):
                assert [(event.first, event.last)] == [(one.first, one.last) for one in touched]

    # -- using -----------------------------------------------------------------------

    async def miss(self) -> None:
        events, world = self.events, self.world
        assert events
        iova, asked = world.dice.randrange(PAGES) * PAGE, world.now
        with suppress(IommubusError):
            answer = await events.translate(iova)
            if answer.valid and not self.caps & Cap.MAP:
                new = Held(answer.mapping.first, answer.mapping.last, answer.mapping.target, asked)
                self.held = [one for one in self.held if one.first > new.last or one.last < new.first]
                self.held.append(new)

    async def pin(self) -> None:
        world = self.world
        if self.events and self.held and self.state == "live" and not self.events.fenced:
            one = world.dice.choice(self.held)
            with suppress(IommubusError):
                pin = Held(one.first, one.last, one.target, one.since, self.events.use())
                self.pins.append(pin)
                await world.dawdle(40)
                if pin in self.pins:
                    self.pins.remove(pin)
                    assert pin.use
                    pin.use.end()


class World:
    """The producer's side, and the judge."""

    def __init__(self, seed: int, bus: Bus, tasks: TaskGroup) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
        self.bus = bus
        self.tasks = tasks
        self.now = 0
        self.failing = True
        self.spaces: dict[str, LocalSpace] = {}
        self.closed: list[LocalSpace] = []
        self.endpoints: dict[str, LocalEndpoint | None] = {"d0": None, "d1": None}
        self.actors: list[Actor] = []
        self.owner: dict[int, tuple[LocalSpace, int]] = {}  # each target: its space and address
        self.died: dict[int, int] = {}
        self.ended: dict[LocalSpace, int] = {}
        self.invalidated: list[tuple[LocalSpace, int, int, int]] = []
        self.pulled: dict[int, int] = {}
        self.told: dict[LocalSpace, dict[int, int]] = {}
        self.targets = count(1)
        self.numbers = count(1)
        self.returned = 0

    async def dawdle(self, most: int) -> None:
        for _ in range(self.dice.randrange(most + 1)):
            await checkpoint()

    # -- what is mapped -----------------------------------------------------------------

    def table(self, space: LocalSpace) -> dict[int, int]:
        """Return the addresses by target."""
        if space.pull:
            return {target: iova for iova, target in self.pulled.items()} if space not in self.ended else {}
        return {target: iova for one in mappings(space) for iova, target in pages_of(one.first, one.last, one.target)}

    def change(self, space: LocalSpace, step: Any) -> None:
        """Change a table, and note who died."""
        before = self.table(space)
        with suppress(IommubusError):
            step()
        after = self.table(space)
        self.now += 1
        for target, iova in after.items():
            self.owner[target] = (space, iova)
        for target in before.keys() - after.keys():
            self.died[target] = self.now
        if space in self.told and space not in self.ended:
            assert self.told[space] == after

    def fresh(self) -> int:
        return next(self.targets) << 32

    def notify(self, space: LocalSpace) -> None:
        told = self.told[space] = {}

        def notice(event: Event) -> None:
            if isinstance(event, Map):
                told.update({target: iova for iova, target in pages_of(event.first, event.last, event.target)})
            else:
                for target in [target for target, iova in told.items() if event.first <= iova <= event.last]:
                    del told[target]

        space.register(Notifier(notice, Cap.IOTLB))

    async def translate(self, iova: int, perm: Perm) -> Mapping | None:
        target = self.pulled.get(iova)
        await self.dawdle(12)
        return None if target is None else Mapping(iova, iova + PAGE - 1, target, perm | Perm.R)

    def publish(self) -> None:
        dice = self.dice
        space = dice.choice([*self.spaces.values()])
        first = dice.randrange(PAGES)
        size = min(dice.choice((1, 1, 2, 3, 4)), PAGES - first)
        iova, length = first * PAGE, size * PAGE
        verb = dice.choices(("map", "unmap", "remap", "apply", "all", "device"), (8, 6, 3, 2, 2, 2))[0]
        if verb == "device":
            with suppress(IommubusError):
                space.invalidate_device(iova, length)
                self.now += 1
                self.invalidated.append((space, iova, iova + length - 1, self.now))
        elif space.pull:
            self.change(space, lambda: self.pull(space, verb, iova, length))
        else:
            one = Mapping(iova, iova + length - 1, self.fresh(), Perm.RW)
            far = IovaRange(0, dice.randrange(1, PAGES + 1) * PAGE - 1)
            steps: dict[str, Any] = {
                "map": lambda: space.map(iova, length, one.target, Perm.RW),
                "unmap": lambda: space.unmap(iova, length),
                "remap": lambda: space.remap(iova, length, one.target, Perm.RW),
                "apply": lambda: space.apply(dice.sample([far, one], 2)),
                "all": space.unmap_all,
            }
            for page, target in pages_of(one.first, one.last, one.target):
                self.owner[target] = (space, page)
            self.change(space, steps[verb])
            for target in {target for _, target in pages_of(one.first, one.last, one.target)} - self.table(
                space
            ).keys():
                self.died.setdefault(target, self.now)  # mapped and unmapped in one

    def pull(self, space: LocalSpace, verb: str, iova: int, length: int) -> None:
        if verb == "all":
            self.pulled.clear()
            space.unmap_all()
            return
        for page in range(iova, iova + length, PAGE):
            if verb == "map":
                self.pulled.setdefault(page, self.fresh())
            else:
                self.pulled.pop(page, None)
        if verb != "map":
            space.unmap(iova, length)

    # -- who is where ---------------------------------------------------------------------

    def place(self, actor: Actor) -> LocalSpace | None:
        places = {self.where(name) for name in actor.names}
        return places.pop() if len(places) == 1 else None

    def where(self, name: str) -> LocalSpace | None:
        if name in SPACES:
            return self.spaces.get(name)
        endpoint = self.endpoints[name]
        return None if endpoint is None else endpoint.space

    def leaving(self) -> Any:
        """Note where everybody is; return what notes who has left that."""
        moved = [actor for actor in self.actors if actor.moves]
        before = [(actor, place) for actor in moved if (place := self.place(actor)) is not None]
        full = {space for space in self.spaces.values() if space.pull or self.table(space)}

        def note() -> None:
            self.now += 1
            for actor, place in before:
                if self.place(actor) is not place and (place in full or actor.caps != DEVICE):
                    actor.left.append((place, self.now))

        return note

    async def create(self, name: str) -> None:
        options: dict[str, Any] = {**SPACES[name], **({"translate": self.translate} if name == "pull" else {})}
        space = self.spaces[name] = await self.bus.create_space(name, last=PAGES * PAGE - 1, **options)
        if not space.pull:
            self.notify(space)

    async def move(self) -> None:
        dice, name = self.dice, self.dice.choice([*self.endpoints])
        endpoint = self.endpoints[name]
        note = self.leaving()
        if endpoint is None:
            self.endpoints[name] = await self.bus.create_endpoint(name)
        elif (way := dice.randrange(8)) == 0:
            await endpoint.close()
            self.endpoints[name] = None
        elif way == 1:
            endpoint.detach()
        else:
            with suppress(IommubusError):
                endpoint.attach(dice.choice([*self.spaces.values()]))
        note()

    async def renew(self) -> None:
        name = self.dice.choice([*self.spaces])
        space = self.spaces[name]
        note = self.leaving()
        before = self.table(space)
        del self.spaces[name]
        await space.close()
        self.now += 1
        self.ended[space] = self.now
        self.died.update(dict.fromkeys(before, self.now))
        if space.pull:
            self.pulled.clear()
        self.closed.append(space)
        note()
        await self.dawdle(4)
        await self.create(name)

    # -- the audience ---------------------------------------------------------------------

    def subscriber(self) -> Actor:
        dice = self.dice
        caps = dice.choice((Cap.IOTLB, Cap.IOTLB, Cap.ALL, Cap.UNMAP, Cap.UNMAP, DEVICE, Cap.UNMAP | DEVICE))
        names = dice.choice((("d0",), ("d1",), ("d0", "d1"), ("table",), ("split",), ("pull",), ("pull",)))
        contract = dice.choice(CONTRACTS) if caps & Cap.MAP else dice.choice(({}, {"pow2": True}))
        options: dict[str, Any] = {"ranges": dice.choice(RANGES), "capacity": dice.choice((1, 2, 5, 4096)), **contract}
        options["stops"] = dice.choice(("lease", "exit"))
        actor = Actor(
            self, f"{'-'.join(names)}#{next(self.numbers)}", names, caps, options,
            fails=dice.choice((0, 0, 0.4)), slow=dice.choice((0, 2, 8)), ack=dice.choice(("next", "manual")),
        )  # fmt: skip
        actor.fence_fails = dice.random() < 0.5
        if actor.exit:
            options["on_fence"] = actor.on_fence
        return actor

    def part(self) -> None:
        live = [actor for actor in self.actors if actor.state == "live"]
        if live:
            actor = self.dice.choice(live)
            actor.leave = self.dice.choice(("clean", "unclean", "mended"))
            (actor.scope if self.dice.random() < 0.2 else actor.inner).cancel()

    async def lose(self) -> None:
        """Subscribe, take something, and forget the handle."""
        actor = self.subscriber()
        events = self.bus.subscribe(actor.names, actor.caps, name=actor.name, **actor.options)
        with suppress(IommubusError):
            await events.__aenter__()
            stream = aiter(events)
            actor.fails, actor.events, actor.state = 0, events, "live"
            while events.statistics().lag and self.dice.random() < 0.7:
                actor.apply(await anext(stream))
            actor.state = "unclean"
            self.actors.append(actor)
            del stream
        actor.events = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del events
            gc.collect(0)

    async def fence(self) -> None:
        live = [actor for actor in self.actors if actor.state == "live" and self.place(actor) is not None]
        if live:
            actor = self.dice.choice(live)
            place = self.place(actor)
            assert place
            with suppress(IommubusError):
                await place.fence(actor.name)

    # -- judging ----------------------------------------------------------------------------

    async def sync(self, space: LocalSpace | None) -> None:
        """Sync one space, or all; hold the outcome against what everybody uses at that moment."""
        called, present = self.now, self.actors.copy()
        spaces = [*self.bus.spaces()] if space is None else [space]
        failure: SyncFailed | None = None
        try:
            await (self.bus.sync(timeout=PATIENCE) if space is None else space.sync(timeout=PATIENCE))
        except SyncFailed as failed:
            failure = failed
        stale = list(self.stale(present, spaces, called))
        if failure is None:
            self.returned += 1
            assert not stale, ([(actor.name, actor.state, hex(target)) for actor, target in stale], called)
        else:
            check_named(failure, stale)

    def stale(self, actors: list[Actor], spaces: list[LocalSpace], called: int) -> Iterator[tuple[Actor, int]]:
        for actor in actors:
            for held in actor.uses():
                for _, target in pages_of(held.first, held.last, held.target):
                    space, iova = self.owner[target]
                    if space in spaces and self.is_stale(actor, held, target, space, iova, called):
                        yield actor, target

    def is_stale(self, actor: Actor, held: Held, target: int, space: LocalSpace, iova: int, called: int) -> bool:
        if any(place is space and held.since < at <= called for place, at in actor.left):
            return True
        if actor.caps != DEVICE:
            return self.died.get(target, LAST) <= called
        return self.ended.get(space, LAST) <= called or any(
            place is space and first <= iova <= last and held.since < at <= called
            for place, first, last, at in self.invalidated
        )

    def compare(self) -> None:
        """Compare every shadower that has drained with the table."""
        for actor in self.actors:
            if actor.state != "live" or not actor.caps & Cap.MAP or actor.events is None or actor.events.fenced:
                continue
            place = self.place(actor)
            truth = {} if place is None else self.table(place)
            ranges = actor.options["ranges"]
            truth = {at: to for at, to in truth.items() if any(low <= to <= high for low, high in ranges)}
            held = {at: to for one in actor.held for to, at in pages_of(one.first, one.last, one.target)}
            assert held.items() <= truth.items(), (actor.name, held, truth)
            if "limit" not in actor.options:
                assert truth.keys() - held.keys() <= actor.without, (actor.name, held, truth)

    async def quiesce(self) -> None:
        """Have everybody apply everything, and compare."""
        self.failing = False
        for _ in range(3):
            for space in (*self.spaces.values(), *self.closed):
                await self.sync(space)
        for _ in range(200):
            await checkpoint()
        self.compare()
        self.failing = True

    async def step(self) -> None:
        dice = self.dice
        await self.dawdle(2)
        action = dice.choices(
            ("publish", "move", "renew", "join", "part", "lose", "fence", "sync", "sync all", "miss", "pin", "quiesce"),
            (30, 8, 1, 8, 3, 2, 1, 8, 3, 16, 14, 1),
        )[0]
        live = [actor for actor in self.actors if actor.state == "live"]
        if action == "publish":
            self.publish()
        elif action == "join" and len(live) < MOST:
            self.tasks.start_soon(self.subscriber().run)
        elif action == "part":
            self.part()
        elif action == "sync":
            self.tasks.start_soon(self.sync, dice.choice([*self.spaces.values(), *self.closed]))
        elif action == "sync all":
            self.tasks.start_soon(self.sync, None)
        elif action in {"miss", "pin"} and live:
            self.tasks.start_soon(getattr(dice.choice(live), action))
        elif action in {"move", "renew", "lose", "fence", "quiesce"}:
            await getattr(self, action)()


def check_named(failed: SyncFailed, stale: list[tuple[Actor, int]]) -> None:
    """Check that everybody acknowledges in time, and that who may use something old is named with that."""
    entries = verdict(failed).missing
    assert not [entry for entry in entries if "did not" in entry.reason], failed
    for actor, target in stale:
        pieces = [entry.pieces for entry in entries if entry.subscriber == actor.name]
        known = [one for found in pieces for one in found if one.target <= target < one.target + one.size]
        assert known or any(found.truncated for found in pieces), (actor.name, hex(target), failed)


async def leave_all(world: World) -> None:
    """Have everybody go, and nothing left of them."""
    for actor in world.actors:
        if actor.state == "live":
            actor.leave = "clean"
            actor.inner.cancel()
    for _ in range(100):
        await checkpoint()
    for space in (*world.spaces.values(), *world.closed):
        for _ in range(2):  # the first may run an on_fence that fails
            with suppress(SyncFailed):
                await space.sync(timeout=PATIENCE)
        await space.sync(timeout=PATIENCE)
        counters = space.statistics()
        assert (counters.subscriptions, counters.leaving, counters.unproven) == ({}, (), ())
        assert counters.old_pieces == 0
    assert world.bus.statistics().endpoints.keys() <= SPACES.keys() | world.endpoints.keys()


async def play(seed: int) -> int:
    """Play one world; return how many syncs returned."""
    async with anyio.create_task_group() as watching, Bus() as bus, anyio.create_task_group() as tasks:
        world = World(seed, bus, tasks)
        for name in SPACES:
            await world.create(name)
        observer = bus.observe(capacity=8)
        await observer.__aenter__()

        async def watch() -> None:
            async for _ in observer:
                await world.dawdle(5)

        watching.start_soon(watch)
        for _ in range(STEPS):
            await world.step()
        await world.quiesce()
        await leave_all(world)
        watching.cancel_scope.cancel()
        return world.returned
    raise AssertionError


@pytest.mark.parametrize("seed", range(SEEDS))
def test_everything_at_once(seed: int) -> None:
    """Laws 1, 3, 4, 6, 7, 8 and 10, in a world where everything happens."""
    assert anyio.run(play, seed) > 0
