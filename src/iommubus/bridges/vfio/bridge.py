"""A space in a VFIO container: what the guest maps is what its device reaches."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from msgspec import Struct

from ...abi.vfio import maps, unmaps
from ...bridging.addresses import Addresses
from ...bridging.telling import Notice, Tell, log
from ...bus.abc import Batch, EventBus, Subscription
from ...caps import Cap
from ...errors import BadMemory, BusClosed, IommubusError, NoBacking, PeerCannot, UnknownMemory
from ...events import Event, Map
from ...ranges import IovaRange
from .container import Call, Container, Setback, Step
from .words import negotiated

AT_ONCE: Final = 256
"""Events that are made ready for the kernel before it is told of the first: a millisecond's work of the loop, and
what is made ready again behind each event that is refused, of which a full container refuses every one."""


class VfioStatistics(NamedTuple):
    """Counters of one bridge."""

    #: MAPs that the kernel took
    maps: int
    #: UNMAPs that the kernel took
    unmaps: int
    #: events that were failed: the kernel refused them, or what they lead to is not here
    failed: int


class _Counts(Struct):
    maps: int = 0
    unmaps: int = 0
    failed: int = 0


class VfioBridge:
    """Keeps a container as its space is.

    An UNMAP is acknowledged once the kernel has taken the pages from the IOMMU.
    What the kernel refuses is failed, with its error: of a MAP the producer's
    next `sync` tells, of an UNMAP every one until it is done.

    Run it in the process that drives the device, and once.  However it is left,
    everything is unmapped first; only when that is refused, it leaves unclean.

    Args:
        bus: The bus.
        container: The container; it stays the caller's, and nobody else maps anything there.
        space: What the devices of the container see: an endpoint, or several that are always in one space.
        name: How reports call it.
        tell: Told what the container offers, and of trouble.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        container: Container,
        space: str | Iterable[str],
        name: str | None = None,
        tell: Tell = log,
    ) -> None:
        self._bus = bus
        self._container = container
        self._space = space
        self._name = name
        self._tell = tell
        self._lane = anyio.Lock()  # one thread at a time tells the kernel
        self._stopped = False
        self._counts = _Counts()
        self._registered = anyio.Event()
        self._events: Subscription | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Follow the space to its end, or until this is cancelled.

        Raises:
            SubscribeError: The space cannot be had by this container: its granule is smaller, say.
            KernelRefused: The container does not say what it is, or could not be emptied in the end.
            PeerCannot: It is full already.
            Fenced: It was fenced; everything was unmapped.
        """
        traits = await anyio.to_thread.run_sync(lambda: self._container.traits)
        self._tell(negotiated(self._container.name, traits))
        if traits.room == 0:
            raise PeerCannot(self._container.name, "room for a mapping", "it is full before anything is mapped in it")
        async with self._bus.subscribe(
            self._space,
            Cap.IOTLB,
            ranges=[(each.first, each.last) for each in traits.usable],
            granule=traits.granule,
            limit=traits.room,
            stops="exit",
            on_fence=self._stop,
            name=self._name,
        ) as events:
            self._events = events
            self._registered.set()
            task_status.started()
            try:
                await self._follow(events)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop()
                    with suppress(BusClosed):  # then there is nobody to promise it to
                        await events.close()

    async def wait_current(self) -> None:
        """Wait until all that was mapped when it came is in the container: the device can be started then.

        Raises:
            MappingFailed: Some of it could not be mapped.
            Fenced, SubscriptionClosed: It is over.
        """
        await self._registered.wait()
        if self._events is not None:
            await self._events.wait_current()

    def statistics(self) -> VfioStatistics:
        """Return its counters."""
        return VfioStatistics(self._counts.maps, self._counts.unmaps, self._counts.failed)

    # -- inside ------------------------------------------------------------------

    async def _follow(self, events: Subscription) -> None:
        addresses = Addresses(events)
        async for batch in events.batches():
            start = 0
            while start < len(batch):  # it gets shorter behind an UNMAP that fails
                start = await self._carry_out(events, addresses, batch, start)

    async def _carry_out(self, events: Subscription, addresses: Addresses, batch: Batch, start: int) -> int:
        """Do what a batch says from one place on, and return the place to go on at."""
        end = min(start + AT_ONCE, len(batch))
        steps, unreachable = self._steps(addresses, batch, range(start, end))
        async with self._lane:
            refused = await anyio.to_thread.run_sync(self._container.carry_out, steps, lambda: not self._stopped)
        setback = refused or unreachable
        done = steps if setback is None else [step for step in steps if step.place < setback.place]
        mapped = sum(isinstance(batch[step.place], Map) for step in done)
        self._counts.maps += mapped
        self._counts.unmaps += len(done) - mapped
        if setback is None:
            return end
        self._fail(events, batch[setback.place], setback.error)
        return setback.place + 1

    def _steps(self, addresses: Addresses, batch: Batch, places: range) -> tuple[list[Step], Setback | None]:
        """Return what to do up to the first event that leads to what is not here, and that one.

        It is failed when those before it are done, and not now: one of them may be refused, and what is behind
        that one is looked at again.
        """
        steps: list[Step] = []
        for place in places:
            try:
                steps.append(Step(place, self._calls(addresses, batch[place])))
            except UnknownMemory:  # its UNMAP is on its way
                continue
            except (NoBacking, BadMemory) as failure:
                return steps, Setback(place, failure)
        return steps, None

    def _calls(self, addresses: Addresses, event: Event) -> tuple[Call, ...]:
        where = IovaRange(event.first, event.last)
        if isinstance(event, Map):
            return maps(where, addresses.of(event), event.perm)
        return unmaps(where, unmap_all=self._container.traits.unmap_all)

    def _fail(self, events: Subscription, event: Event, error: IommubusError) -> None:
        self._counts.failed += 1
        if not isinstance(event, Map):
            self._tell(Notice(f"{event} could not be done, and every sync fails until it is: {error}", trouble=True))
        events.fail(event, error)

    async def _stop(self) -> None:
        """Have the device reach nothing any more; proven by the kernel's answer."""
        self._stopped = True
        async with self._lane:
            await anyio.to_thread.run_sync(self._container.empty)
