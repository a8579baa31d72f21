"""A consumer on trial: it follows a space of which is known what must be held."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Any, Final, NamedTuple, Protocol

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from ...bus.abc import EventBus, Subscription
from ...caps import Cap
from ...errors import Fenced, StateError, TranslationFault
from ...mapping import Mapping
from ..oracle import WHOLE, Ranges, beyond, joined
from ..passing import PassingBus
from .demands import demand, until
from .scene import PAGE, Scene

ENDPOINT: Final = "space"
"""What a consumer is asked to subscribe to."""

Holds = Callable[[], Iterable[Mapping]]
"""Returns what a consumer may use now."""


class Usage(NamedTuple):
    """What a consumer hands to the suite that has a cache to be filled.

    A plain `Holds` does for a shadower, and for a cacher that asks of its own
    accord.
    """

    #: returns what it may use now
    holds: Holds
    #: makes one access, as a device does, to an address; may raise `TranslationFault`
    access: Callable[[int], Awaitable[object]]


class Consumer(Protocol):
    """A consumer, as the suite starts it in a task.

    It subscribes to the endpoint, says ``task_status.started(...)`` once that
    is registered, follows to the end of the stream, and can be cancelled.
    """

    async def __call__(self, bus: EventBus, endpoint: str, /, *, task_status: TaskStatus[Holds | Usage]) -> object:
        """Consume."""
        ...


class Seat(NamedTuple):
    """What a consumer has subscribed to."""

    endpoint: str
    caps: Cap
    ranges: Ranges
    subscription: Subscription


class TightBus(PassingBus):
    """A bus whose mailboxes are small, and that remembers who subscribed.

    Args:
        inner: The bus behind it.
        capacity: Events that a mailbox holds; `None`: as many as was asked for.
    """

    def __init__(self, inner: EventBus, capacity: int | None) -> None:
        super().__init__(inner)
        self.seats: list[Seat] = []
        self._capacity = capacity

    def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
        if self._capacity is not None:
            options["capacity"] = self._capacity
        ranges = ranges_of(options)
        subscription = super().subscribe(endpoint, caps, **options)
        names = (endpoint,) if isinstance(endpoint, str) else tuple(endpoint)
        self.seats += [Seat(name, caps, ranges, subscription) for name in names]
        return subscription


def ranges_of(options: dict[str, Any]) -> Ranges:
    """Return the ranges that the options of a subscription name."""
    ranges: Iterable[tuple[int, int]] | None = options.get("ranges")
    if ranges is not None:
        options["ranges"] = list(ranges)  # it may be an iterator, and is looked at twice
        return tuple(options["ranges"])
    return ((options.get("first", WHOLE[0][0]), options.get("last", WHOLE[0][1])),)


class Trial:
    """One consumer in one scene.

    Args:
        scene: What it is to follow.
        consumer: What is on trial.
        caps: The mask it is expected to subscribe with.
        capacity: Events that its mailbox holds; `None`: as it wants.
    """

    def __init__(self, scene: Scene, consumer: Consumer, caps: Cap, capacity: int | None) -> None:
        self.scene = scene
        self.ended = False
        self.usage: Usage | None = None
        self._consumer = consumer
        self._caps = caps
        self._bus = TightBus(scene.bus, capacity)
        self._scope = anyio.CancelScope()
        self._holds: Holds = list
        self._dice = Random(0)

    @property
    def shadows(self) -> bool:
        """Whether it has to hold all there is."""
        return bool(self._caps & Cap.MAP)

    @property
    def ranges(self) -> Ranges:
        """The ranges in which it has subscribed."""
        return [edges for seat in self._bus.seats for edges in seat.ranges]

    @property
    def subscribers(self) -> list[str]:
        """The names of its subscriptions."""
        return sorted(seat.subscription.name for seat in self._bus.seats)

    async def start(self) -> None:
        """Start the consumer; a shadower is current when this returns."""
        handed: Holds | Usage = await self.scene.stage.tasks.start(self._run)
        if isinstance(handed, Usage):
            self.usage = handed
            self.scene.stage.tasks.start_soon(self._traffic)
        self._holds = handed.holds if isinstance(handed, Usage) else handed
        masks = {(seat.endpoint, seat.caps) for seat in self._bus.seats}
        demand("a consumer subscribes to its endpoint, with its mask", masks, {(ENDPOINT, self._caps)})
        if self.shadows:
            await until(lambda: all(seat.subscription.statistics().current for seat in self._bus.seats))

    async def settle(self) -> None:
        """Sync, and demand that it holds what it may, and goes on."""
        await self.scene.sync()
        self.check()
        demand("a consumer goes on while its space is open", self.ended, wanted=False)

    def check(self) -> None:
        """Demand that it holds what it may: a shadower all there is, a cacher nothing else."""
        held = list(self._holds())
        there = self.scene.pages.mappings(self.ranges)
        if self.shadows:
            demand("a shadower holds exactly what is mapped in its ranges", joined(held), joined(there))
        else:
            demand("a cacher holds nothing that was removed", beyond(held, there), [])

    async def fill(self) -> None:
        """Have a cacher ask for every page, if the suite can make it do so."""
        await self.touch(*range(0, self.scene.size, PAGE))

    async def touch(self, *iovas: int) -> None:
        """Have a cacher ask for addresses, if the suite can make it do so."""
        if self.usage is not None:
            for iova in iovas:
                await access(self.usage, iova)

    async def wait_holding(self) -> None:
        """Wait until it holds something."""
        await self.fill()
        await until(lambda: any(True for _ in self._holds()))

    async def cancel(self) -> None:
        """Cancel the consumer, and wait until it is gone."""
        self._scope.cancel()
        await self.wait_end()

    async def wait_end(self) -> None:
        """Wait until it is gone."""
        await until(lambda: self.ended)

    # -- inside ----------------------------------------------------------------

    async def _run(self, *, task_status: TaskStatus[Holds | Usage]) -> None:
        with self._scope:
            await self._consumer(self._bus, ENDPOINT, task_status=task_status)
        self.ended = True

    async def _traffic(self) -> None:
        """Make accesses all the time, so that answers race with removals."""
        while self.usage is not None and not self.ended and not self._scope.cancel_called:
            await access(self.usage, self._dice.randrange(0, self.scene.size, PAGE))
            await checkpoint()


async def access(usage: Usage, iova: int) -> None:
    """Make one access; a fault is an answer, too, and so is that the consumer has left."""
    with suppress(TranslationFault, Fenced, StateError):
        await usage.access(iova)
