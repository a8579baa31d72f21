"""Who plays in a story: producers that map and unmap, consumers of every kind, each a process.

A player connects, does what it does until it is told to rest, and leaves clean.
What it meets on the way is part of the story: it tries again.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio

from iommubus import (
    AddressSpace,
    Batch,
    Cap,
    Endpoint,
    Event,
    EventBus,
    Fenced,
    Iotlb,
    IovaRange,
    Map,
    Mapping,
    MappingError,
    MappingFailed,
    Mirror,
    Perm,
    Pin,
    StateError,
    SubscribeError,
    Subscription,
    SyncFailed,
    TranslationFault,
    Unmap,
)
from iommubus.errors import IommubusError, MustShare, NameTaken
from tests.truth import PAGE, Held, by_page, numbers
from tests.world import Connect, Machine, nap

PAGES: Final = 32
"""Pages of each space."""

PIECE: Final = 4
"""Most pages that are mapped at once."""

LONG_USE: Final = 5.0
"""Most seconds that something is pinned: longer than a lease."""

PATIENCE: Final = 1.5
"""Seconds that a producer gives a `sync`."""


class CannotApplyError(Exception):
    """What a consumer's back end says when it cannot."""


class Quarrel(Exception):
    """Why a consumer leaves in the middle of something."""


class Player:
    """A process that takes part.

    Args:
        machine: Where.
        name: What it is called.
        connect: How it gets a bus.

    Attributes:
        resting: Set when it has to leave.
        calm: Whether nothing is to be left to chance any more.
    """

    def __init__(self, machine: Machine, name: str, connect: Connect) -> None:
        self.machine = machine
        self.name = name
        self.process = machine.process(name)
        self.resting = anyio.Event()
        self.calm = False
        self.dice = machine.dice
        self._connect = connect

    def succeed(self, before: "Player") -> None:
        """Come in the place of one that was killed."""

    def begin(self) -> None:
        """Start the process."""
        self._task = self.process.start_main(self.run)

    async def end(self) -> None:
        """Have it leave, and wait until it has; raise what went wrong in it."""
        self.resting.set()
        if not self.process.killed:
            await self._task

    @property
    def broken(self) -> BaseException | None:
        """What went wrong in it."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    async def run(self) -> None:
        """Connect, and live, until told to rest."""
        while not self.resting.is_set():
            try:
                async with self._connect(self.name) as bus:
                    self.machine.note("connected")
                    await self.live(bus)
            except IommubusError as error:
                self.machine.note("gave up: {!r}", error)
                await nap(self.dice, 0.5)

    async def live(self, bus: EventBus) -> None:
        """Do what it does, until told to rest."""
        raise NotImplementedError

    def held(self) -> Iterator[Held]:
        """Return what can be used now."""
        return iter(())

    def likes(self, chance: float) -> bool:
        """Say whether it does something that it does now and then."""
        return not self.calm and self.dice.random() < chance

    async def pause(self, most: float) -> None:
        """Wait for some time, or until told to rest."""
        with anyio.move_on_after(self.dice.uniform(0, most)):
            await self.resting.wait()


# -- producers -------------------------------------------------------------------


class Producer(Player):
    """Maps and unmaps at random, waits for everybody now and then, and moves its endpoints about.

    Args:
        names: Names of its spaces.
        pull: Whether these keep no table.
    """

    def __init__(self, machine: Machine, name: str, connect: Connect, names: Sequence[str], *, pull: bool) -> None:
        super().__init__(machine, name, connect)
        self.names = names
        self.pull = pull
        self.straddle: Any = self.dice.choice(["split", "refuse"])
        self.spaces: dict[str, AddressSpace] = {}
        self.endpoint: Endpoint | None = None
        self.settled = False
        self.closed: list[AddressSpace] = []  # and somebody may still use something of theirs
        self.let_go: set[str] = set()  # names of spaces that were closed, which are synced by themselves
        self.steps: Sequence[Callable[[str], None]] = (
            (self.map, self.map, self.unmap)
            if pull
            else (self.map, self.map, self.map, self.unmap, self.apply, self.remap)
        )

    def succeed(self, before: Player) -> None:
        """Know which spaces were closed: what is made under their names are others, which do not answer for them."""
        if isinstance(before, Producer):
            self.let_go |= before.let_go

    @property
    def endpoint_name(self) -> str:
        """Name of the endpoint that it moves about."""
        return f"{self.names[0]}-device"

    async def live(self, bus: EventBus) -> None:
        self.closed.clear()  # nobody can ask for those any more
        await self._make(bus)
        while not self.resting.is_set():
            await self.step(bus)
        for space in list(self.spaces.values()):
            await space.close()
            self.machine.truth.unmap_all(space.name)
        if self.endpoint is not None:
            self.machine.truth.attach(self.endpoint.name, None)
            await self.endpoint.close()

    async def _make(self, bus: EventBus) -> None:
        for name in self.names:
            self.spaces[name] = await self._patiently(partial(self._create, bus, name))
            self.machine.truth.create(name, another=name in self.let_go)
            self.machine.note("made {}", name)
        self.endpoint = await self._patiently(partial(bus.create_endpoint, self.endpoint_name))
        self.machine.truth.attach(self.endpoint_name, None)

    async def _create(self, bus: EventBus, name: str) -> AddressSpace:
        if self.pull:
            return await bus.create_space(
                name, last=PAGES * PAGE - 1, offers=Cap.UNMAP, translate=self._answering(name)
            )
        return await bus.create_space(name, last=PAGES * PAGE - 1, straddle=self.straddle)

    async def _patiently(self, make: Callable[[], Awaitable[Any]]) -> Any:
        """Try again while the daemon believes that the one before is still there."""
        while True:
            try:
                return await make()
            except NameTaken as taken:
                self.machine.note("{}", taken)
                await anyio.sleep(0.3)

    def _answering(self, name: str) -> Callable[[int, Perm], Awaitable[Mapping | None]]:
        async def answer(iova: int, _: Perm) -> Mapping | None:
            target = self.machine.truth.pages(name).get(iova // PAGE)
            await nap(self.dice, 0.2)
            first = iova // PAGE * PAGE
            return None if target is None else Mapping(first, first + PAGE - 1, target, Perm.RW)

        return answer

    async def step(self, bus: EventBus) -> None:
        """Do one thing."""
        if self.calm:
            if not self.settled:
                await self.settle(bus)
            await self.pause(1)
            return
        name = self.dice.choice(self.names)
        for _ in range(self.dice.randint(1, 6)):
            self.dice.choice(self.steps)(name)
        if self.likes(0.4):
            await self.sync(bus, name)
        elif self.likes(0.1):
            await self.spaces[name].drain()
        elif self.likes(0.1):
            self.move()
        elif self.likes(0.03):
            await self.replace(bus, name)
        await self.pause(0.2)

    # -- what it publishes ---------------------------------------------------------

    def _where(self) -> tuple[int, int]:
        page = self.dice.randrange(PAGES)
        return page, self.dice.randint(1, min(PIECE, PAGES - page))

    def map(self, name: str) -> None:
        """Map some pages, if they are free."""
        page, count = self._where()
        if self.machine.truth.is_free(name, page, count):
            target = self.machine.truth.map(name, page, count)
            if not self.pull:
                self.spaces[name].map(page * PAGE, count * PAGE, target, Perm.RW)
            self.machine.note("{}: map {}+{} -> {:#x}", name, page, count, target)

    def unmap(self, name: str) -> None:
        """Unmap some pages, or everything."""
        page, count = (0, PAGES) if self.likes(0.1) else self._where()
        with suppress(MappingError):  # what would cut a mapping is refused in some spaces
            self.spaces[name].unmap(page * PAGE, count * PAGE)
            self.machine.truth.unmap(name, page, count)
            self.machine.note("{}: unmap {}+{}", name, page, count)

    def remap(self, name: str) -> None:
        """Put something in the place of what is there."""
        page, count = self._where()
        truth = self.machine.truth
        try:
            self.spaces[name].unmap(page * PAGE, count * PAGE)
        except MappingError:
            return
        truth.unmap(name, page, count)
        self.spaces[name].remap(page * PAGE, count * PAGE, truth.map(name, page, count), Perm.RW)
        self.machine.note("{}: remap {}+{}", name, page, count)

    def apply(self, name: str) -> None:
        """Unmap and map at once."""
        page, count = self._where()
        truth, first = self.machine.truth, page * PAGE
        try:
            self.spaces[name].unmap(first, count * PAGE)
        except MappingError:
            return
        truth.unmap(name, page, count)
        changes: list[Mapping | IovaRange] = []
        for each in range(page, page + count):
            target = truth.map(name, each, 1)
            changes.append(Mapping(each * PAGE, each * PAGE + PAGE - 1, target, Perm.RW))
        changes.append(IovaRange(first, first + PAGE - 1))
        truth.unmap(name, page, 1)
        self.spaces[name].apply(changes)
        self.machine.note("{}: apply {}+{}", name, page, count)

    def move(self) -> None:
        """Attach its endpoint to a space of its, or to none."""
        name = self.dice.choice([*self.names, None])
        assert self.endpoint is not None
        if self.machine.truth.space_of(self.endpoint.name) == name:
            return
        with suppress(SubscribeError):  # a container elsewhere
            if name is None:
                self.endpoint.detach()
            else:
                self.endpoint.attach(self.spaces[name])
            self.machine.truth.attach(self.endpoint.name, name)
            self.machine.note("{} is in {} now", self.endpoint.name, name)

    async def replace(self, bus: EventBus, name: str) -> None:
        """Close a space, and make another one of its name."""
        truth = self.machine.truth
        since = self._emptied(name)
        self.let_go.add(name)
        await self.spaces[name].close()
        try:
            await self.spaces[name].sync(timeout=PATIENCE)
        except SyncFailed:
            self.closed.append(self.spaces[name])
        else:
            self.machine.judge([name], since)
        self.machine.note("closed {}", name)
        self.spaces[name] = await self._patiently(lambda: self._create(bus, name))
        truth.create(name, another=True)

    def _emptied(self, name: str) -> int:
        truth = self.machine.truth
        truth.unmap_all(name)
        if self.endpoint is not None and truth.space_of(self.endpoint.name) == name:
            truth.attach(self.endpoint.name, None)
        truth.attach(name, None)
        return truth.now()

    async def sync(self, bus: EventBus, name: str, timeout: float = PATIENCE) -> bool:  # noqa: ASYNC109
        """Wait until nobody uses what was unmapped, and look; say whether that was promised."""
        names = self.names if self.likes(0.3) else [name]
        since = self.machine.truth.now()
        self.machine.note("sync {} at {}", ", ".join(names), since)
        try:
            if len(names) == 1:
                await self.spaces[name].sync(timeout=timeout)
            else:
                await bus.sync(*names, timeout=timeout)
        except SyncFailed as failed:
            self.machine.note("{}", failed)
            return False
        self.machine.note("synced {} of {}", ", ".join(names), since)
        self.machine.judge(names, since)
        return True

    async def settle(self, bus: EventBus) -> None:
        """Wait until everybody has everything."""
        for name in self.names:
            while not await self.sync(bus, name):
                await nap(self.dice, 0.4)
        while self.closed:
            with suppress(SyncFailed):
                await self.closed[-1].sync(timeout=PATIENCE)
                self.closed.pop()
        self.settled = True


# -- consumers -------------------------------------------------------------------


class Consumer(Player):
    """Follows an endpoint, or several.

    Args:
        endpoints: Their names.

    Attributes:
        current: Whether it was told of everything once, since it subscribed.
        refused: Whether it needs endpoints in one space that are not.
        failed: Numbers of pages that it could not map.
    """

    def __init__(self, machine: Machine, name: str, connect: Connect, endpoints: Sequence[str]) -> None:
        super().__init__(machine, name, connect)
        self.endpoints = endpoints
        self.subscription: Subscription | None = None
        self.current = False
        self.refused = False
        self.fenced = ""
        self.failed: set[int] = set()
        self.pins: dict[Pin, int] = {}  # and how often the daemon had been restarted
        self.slow = self.dice.choice([0.0, 0.0, 0.05, 0.5])

    async def live(self, bus: EventBus) -> None:
        while not self.resting.is_set():
            try:
                self.refused = False
                await self.subscribe(bus)
            except MustShare:
                self.refused = True
                await self.pause(1)
            except Quarrel:
                self.machine.note("left unclean")
                await self.pause(1)
                self.drop()
            if self.fenced:
                self.machine.note("fenced: {}", self.fenced)
                self.fenced = ""
                await self.pause(1)

    async def subscribe(self, bus: EventBus) -> None:
        """Subscribe, and follow until something happens."""
        endpoint: Any = self.endpoints[0] if len(self.endpoints) == 1 else self.endpoints
        async with self.open(bus, endpoint) as subscription:
            self.subscription = subscription
            self.machine.note("subscribed to {}", endpoint)
            self.use(subscription)
            with suppress(Fenced):
                await self._follow(subscription)
            self.drop()

    async def _follow(self, subscription: Subscription) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_end, subscription, tasks.cancel_scope)
            tasks.start_soon(self._wait_current, subscription)
            tasks.start_soon(self.work)
            await self.stay()
            tasks.cancel_scope.cancel()
        if self.likes(0.5):
            raise Quarrel

    async def stay(self) -> None:
        """Wait until it wants to leave."""
        while not self.resting.is_set():
            await self.pause(3)
            if self.likes(0.3):
                return

    async def _until_end(self, subscription: Subscription, scope: anyio.CancelScope) -> None:
        try:
            await self.follow(subscription)
            self.machine.note("the stream has ended")
        except Fenced as fenced:
            self.fenced = fenced.reason
        scope.cancel()

    async def _wait_current(self, subscription: Subscription) -> None:
        try:
            await subscription.wait_current()
        except MappingFailed as failed:
            self.machine.note("{}", failed)
        except (Fenced, StateError):
            return
        self.current = True
        self.machine.note("current")

    def open(self, bus: EventBus, endpoint: Any) -> Subscription:
        """Return the subscription that it wants."""
        raise NotImplementedError

    def use(self, subscription: Subscription) -> None:
        """Keep what comes from a subscription."""
        raise NotImplementedError

    async def follow(self, subscription: Subscription) -> None:
        """Follow it to its end."""
        raise NotImplementedError

    async def work(self) -> None:
        """Do something with what it has."""

    def drop(self) -> None:
        """Forget everything that it has."""
        self.release_all()
        self.current = False

    def release_all(self) -> None:
        """Use nothing any more."""
        for pin in list(self.pins):
            self.release(pin)

    def kept(self) -> Iterator[Mapping]:
        """Return what it has, usable or not."""
        raise NotImplementedError

    def may_use(self) -> bool:
        """Say whether it may use what it has."""
        if self.subscription is None:
            return False
        try:
            self.subscription.check_use()
        except (Fenced, StateError):
            return False
        return True

    def held(self) -> Iterator[Held]:
        usable = self.may_use()
        found = [*(self.kept() if usable else ()), *(pin.mapping for pin in self.pins if usable or self._outlives(pin))]
        return (Held(endpoint, mapping) for mapping in found for endpoint in self.endpoints)

    def add_pin(self, pin: Pin) -> None:
        """Keep a pin."""
        self.pins[pin] = self.machine.restarts
        self.machine.note("pinned {}", pin.mapping)

    def release(self, pin: Pin) -> None:
        """Use a pin no longer."""
        if self.pins.pop(pin, None) is not None:
            pin.release()
            self.machine.note("released {}", pin.mapping)

    def _outlives(self, pin: Pin) -> bool:
        """Say whether a pin has to be waited for beyond the end of the lease.

        That takes somebody who knows of it: the daemon that was told, of a process that it can see.
        """
        told = self.subscription is None or self.machine.uses.get(self.subscription.name, self.machine.embedded)
        return bool(told) and self.machine.seen and self.pins[pin] == self.machine.restarts

    def differs(self) -> str:
        """Say how what it has differs from what there is, when all is quiet; empty if it does not."""
        return ""


class Shadower(Consumer):
    """Copies everything, as VFIO does; in one of several ways.

    Attributes:
        setback: Whether it ever could not remove something.
    """

    def __init__(self, machine: Machine, name: str, connect: Connect, endpoints: Sequence[str]) -> None:
        super().__init__(machine, name, connect, endpoints)
        self.manual = self.dice.random() < 0.4
        self.fails = self.dice.choice([0.0, 0.0, 0.05])
        self.options: dict[str, Any] = self.dice.choice(
            [{}, {}, {"pow2": True}, {"exact": True}, {"capacity": 3}, {"granule": PAGE, "pow2": True, "exact": True}]
        )
        self.mirror: Mirror | None = None
        self.unacknowledged: Batch | None = None
        self.setback = False

        first = self.dice.randrange(PAGES // 2) if self.dice.random() < 0.2 else 0
        self.wanted = range(first, self.dice.randrange(first + 4, PAGES) if first else PAGES)
        if first:
            self.options = {**self.options, "first": first * PAGE, "last": self.wanted.stop * PAGE - 1}

    def open(self, bus: EventBus, endpoint: Any) -> Subscription:
        return bus.subscribe(endpoint, Cap.IOTLB, ack="manual" if self.manual else "next", **self.options)

    def use(self, subscription: Subscription) -> None:
        self.mirror = Mirror(subscription)

    async def follow(self, subscription: Subscription) -> None:
        if not self.manual:
            async for event in subscription:
                await self._apply(subscription, event)
            return
        async for batch in subscription.batches():
            for event in iterate(batch):
                await self._apply(subscription, event)
            self.unacknowledged = batch
            if not self.likes(0.3):
                self._acknowledge(subscription)

    def _acknowledge(self, subscription: Subscription) -> None:
        if self.unacknowledged is not None:
            batch, self.unacknowledged = self.unacknowledged, None
            with suppress(Fenced, StateError):
                subscription.ack(batch)

    async def _apply(self, subscription: Subscription, event: Event) -> None:
        if self.slow and self.likes(0.5):
            await nap(self.dice, self.slow)
        assert self.mirror is not None
        if isinstance(event, Map | Unmap) and self.likes(self.fails):
            self.machine.note("fails {}", event)
            self.setback = self.setback or isinstance(event, Unmap)
            if isinstance(event, Map):
                self.failed |= set(numbers(Mapping(event.first, event.last, event.target, event.perm)))
            subscription.fail(event, CannotApplyError(str(event)))
            return
        self.mirror.apply(event)
        self.machine.note("{}", event)

    async def work(self) -> None:
        while True:
            await nap(self.dice, 0.5)
            if self.subscription is not None:
                self._acknowledge(self.subscription)
            if self.likes(0.2) and self.mirror is not None:
                with suppress(TranslationFault, Fenced, StateError):
                    pin = self.mirror.pin(self.dice.randrange(PAGES) * PAGE)
                    self.add_pin(pin)
                    await nap(self.dice, LONG_USE if self.likes(0.3) else 0.5)
                    self.release(pin)

    def drop(self) -> None:
        super().drop()
        self.mirror = self.unacknowledged = None

    def kept(self) -> Iterator[Mapping]:
        return iter(()) if self.mirror is None else iter(self.mirror)

    def differs(self) -> str:
        truth = self.machine.truth
        spaces = {truth.space_of(endpoint) for endpoint in self.endpoints}
        there = truth.pages(spaces.pop() if len(spaces) == 1 else None)
        here = by_page(self.kept())
        there = {page: target for page, target in there.items() if page in self.wanted}
        missing = {page: target for page, target in there.items() if here.get(page) != target}
        missing = {page: target for page, target in missing.items() if target // PAGE not in self.failed}
        more = {page: target for page, target in here.items() if there.get(page) != target}
        return f"{self.name} lacks {missing} and has {more}" if missing or more else ""


class Device(Shadower):
    """Hardware that copies everything, and goes on with it until it is stopped."""

    def __init__(self, machine: Machine, name: str, connect: Connect, endpoints: Sequence[str]) -> None:
        super().__init__(machine, name, connect, endpoints)
        self.options = {**self.options, "stops": "exit"}
        self.can_stop = self.dice.random() < 0.7
        self.running: list[Mirror] = []

    def open(self, bus: EventBus, endpoint: Any) -> Subscription:
        self.running = []
        on_fence = partial(self._stop, self.running) if self.can_stop else None
        options: dict[str, Any] = {"ack": "manual" if self.manual else "next", **self.options}
        return bus.subscribe(endpoint, Cap.IOTLB, on_fence=on_fence, **options)

    async def subscribe(self, bus: EventBus) -> None:
        try:
            await super().subscribe(bus)
        finally:
            if self.running:  # it left in the middle of something, or was fenced
                await self._reset()

    async def _reset(self) -> None:
        """Stop the hardware by other means, and vouch for that."""
        await self.pause(1)
        self.running.clear()
        self.drop()
        if self.subscription is not None and not (self.can_stop and self.likes(0.5)):
            await self.subscription.close()

    def use(self, subscription: Subscription) -> None:
        super().use(subscription)
        assert self.mirror is not None
        self.running.append(self.mirror)

    async def _stop(self, running: list[Mirror]) -> None:
        await nap(self.dice, 0.3)
        if self.likes(0.3):
            raise CannotApplyError("the device does not answer")
        running.clear()
        if running is self.running:
            self.release_all()
        self.machine.note("the device is stopped")

    def drop(self) -> None:
        super().drop()
        self.running.clear()

    def kept(self) -> Iterator[Mapping]:
        return (mapping for mirror in self.running for mapping in mirror)

    def may_use(self) -> bool:
        return True


class Cacher(Consumer):
    """Asks for what it needs, as vhost does, pins it, and forgets what it is told to."""

    def __init__(self, machine: Machine, name: str, connect: Connect, endpoints: Sequence[str]) -> None:
        super().__init__(machine, name, connect, endpoints)
        self.capacity = self.dice.choice([2, 8, 64])
        self.iotlb: Iotlb | None = None

    def open(self, bus: EventBus, endpoint: Any) -> Subscription:
        return bus.subscribe(endpoint, Cap.UNMAP)

    def use(self, subscription: Subscription) -> None:
        self.iotlb = Iotlb(subscription, capacity=self.capacity)

    async def follow(self, subscription: Subscription) -> None:
        assert self.iotlb is not None
        async for event in subscription:
            if self.slow and self.likes(0.5):
                await nap(self.dice, self.slow)
            self.iotlb.apply(event)
            self.machine.note("{}", event)

    async def work(self) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(self._translate)

    async def _translate(self) -> None:
        while True:
            await nap(self.dice, 0.6)
            if self.iotlb is None or self.calm:
                continue
            iova = self.dice.randrange(PAGES) * PAGE
            try:
                if self.likes(0.3):
                    await self._pin(iova)
                else:
                    found = await self.iotlb.translate(iova)
                    self.machine.note("{:#x} leads to {:#x}", iova, found.target)
            except (TranslationFault, Fenced, StateError) as fault:
                self.machine.note("{!r}", fault)

    async def _pin(self, iova: int) -> None:
        assert self.iotlb is not None
        pin = await self.iotlb.pin(iova)
        self.add_pin(pin)
        try:
            await nap(self.dice, LONG_USE if self.likes(0.3) else 0.5)
        finally:
            self.release(pin)

    def drop(self) -> None:
        super().drop()
        self.iotlb = None

    def kept(self) -> Iterator[Mapping]:
        return iter(()) if self.iotlb is None else iter(self.iotlb)


def iterate(batch: Batch) -> Iterator[Event]:
    """Return the events of a batch, which may become fewer meanwhile."""
    place = 0
    while place < len(batch):
        yield batch[place]
        place += 1
