"""Buses with one mistake each, for suites that have to find it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from anyio import sleep_forever
from anyio.lowlevel import checkpoint

from iommubus import (
    Batch,
    Bus,
    Cap,
    Endpoint,
    Event,
    EventBus,
    IovaRange,
    Lost,
    Map,
    Mapping,
    Memory,
    Observed,
    Observer,
    Perm,
    Subscription,
    SyncReport,
    Translation,
    Unmap,
    Use,
)
from iommubus.bus.abc import SYNC_TIMEOUT, AddressSpace
from iommubus.bus.reports import ObserverStatistics, SubscriptionStatistics
from iommubus.errors import CaseFailed
from iommubus.testing import Case, MakeBus, PassingBus, PassingEndpoint, PassingSpace

T = TypeVar("T")


async def failing(cases: Iterable[Case]) -> set[str]:
    """Run cases; return the names of those that failed."""
    failed: set[str] = set()
    for case in cases:
        try:
            await case.run()
        except CaseFailed:
            failed.add(case.name)
    return failed


# -- what can be overridden ------------------------------------------------------


class PassingSubscription(Subscription):
    """A subscription that is another one."""

    def __init__(self, inner: Subscription) -> None:
        self.inner = inner
        self.name = inner.name

    @property
    def fenced(self) -> bool:
        return self.inner.fenced

    def check_use(self) -> None:
        self.inner.check_use()

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Event]:
        return aiter(self.inner)

    def batches(self) -> AsyncIterator[Batch]:
        return self.inner.batches()

    def ack(self, batch: Batch) -> None:
        self.inner.ack(batch)

    def fail(self, event: Event, error: Exception) -> None:
        self.inner.fail(event, error)

    async def wait_current(self) -> None:
        await self.inner.wait_current()

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        return await self.inner.translate(iova, perm)

    def use(self, thing: object = None) -> Use:
        return self.inner.use(thing)

    def backing(self, memory: Memory) -> memoryview:
        return self.inner.backing(memory)

    def descriptor(self, memory: Memory) -> int:
        return self.inner.descriptor(memory)

    async def close(self) -> None:
        await self.inner.close()

    def statistics(self) -> SubscriptionStatistics:
        return self.inner.statistics()


class PassingObserver(Observer):
    """An observer that is another one."""

    def __init__(self, inner: Observer) -> None:
        self.inner = inner

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Observed]:
        return aiter(self.inner)

    def statistics(self) -> ObserverStatistics:
        return self.inner.statistics()


class FaultySpace(PassingSpace):
    """A space whose subscriptions are wrapped, too."""

    async def fence(self, subscription: Subscription | str) -> bool:
        return await super().fence(
            subscription.inner if isinstance(subscription, PassingSubscription) else subscription
        )


class FaultyBus(PassingBus):
    """A bus whose spaces, subscriptions and observers are of the kinds that it names."""

    space_kind: type[FaultySpace] = FaultySpace
    subscription_kind: type[PassingSubscription] = PassingSubscription
    observer_kind: type[PassingObserver] = PassingObserver
    endpoint_kind: type[PassingEndpoint] = PassingEndpoint

    def __init__(self, inner: EventBus) -> None:
        super().__init__(inner)
        self.subscriptions: list[PassingSubscription] = []  # so that none is collected

    async def create_space(self, name: str, **options: Any) -> AddressSpace:
        return self.space_kind(await super().create_space(name, **options))

    async def create_endpoint(self, name: str) -> Endpoint:
        return self.endpoint_kind(await super().create_endpoint(name))

    def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
        self.subscriptions.append(self.subscription_kind(super().subscribe(endpoint, caps, **options)))
        return self.subscriptions[-1]

    def observe(self, *patterns: str, **options: Any) -> Observer:
        return self.observer_kind(super().observe(*patterns, **options))


def maker(kind: Callable[[EventBus], EventBus]) -> MakeBus:
    """Return what makes a faulty bus around a sound one."""

    @asynccontextmanager
    async def make() -> AsyncGenerator[EventBus]:
        async with Bus() as bus:
            yield kind(bus)

    return make


# -- mistakes of a bus -----------------------------------------------------------


class SyncsAtOnce(FaultySpace):
    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        await checkpoint()
        return SyncReport((), timeout)


class SyncsWithNewcomers(FaultySpace):
    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        while not all(one.current for one in self.statistics().subscriptions.values()):
            await checkpoint()
        return await super().sync(timeout)


class ReportsNobody(FaultySpace):
    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        report = await super().sync(timeout)
        return SyncReport((), report.seconds)


class ReturnsNothing(FaultySpace):
    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        super().unmap(iova, size)
        return ()


class AppliesOneByOne(FaultySpace):
    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        for change in changes:
            super().apply([change])


class RemapsTheSameAgain(FaultySpace):
    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        super().unmap(iova, size)
        super().map(iova, size, target, perm, memory=memory)


class DrainsForever(FaultySpace):
    async def drain(self) -> None:
        await sleep_forever()


class NeverCloses(FaultySpace):
    async def close(self) -> None:
        await checkpoint()


class CannotInvalidate(FaultySpace):
    def invalidate_device(self, iova: int, size: int) -> None:
        """Forget it."""


class FencesNobody(FaultySpace):
    async def fence(self, subscription: Subscription | str) -> bool:  # noqa: ARG002 - the mistake
        await checkpoint()
        return True


class UnmapsNothingAtAll(FaultySpace):
    def unmap_all(self) -> Sequence[Mapping]:
        return ()


class TakesEverySize(FaultySpace):
    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        super().map(iova & ~0xFFF, (size + 0xFFF) & ~0xFFF, target & ~0xFFF, perm or Perm.R, memory=memory)


class Edited(AsyncIterator[T]):
    """A stream some of whose elements are given twice, changed, or not at all."""

    def __init__(self, inner: AsyncIterator[T], edit: Callable[[T], list[T]]) -> None:
        self._inner = inner
        self._edit = edit
        self._ready: list[T] = []

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready = self._edit(await anext(self._inner))
        return self._ready.pop(0)


class LosesUnmaps(PassingSubscription):
    def __aiter__(self) -> AsyncIterator[Event]:
        return Edited(super().__aiter__(), lambda event: [event] * (not isinstance(event, Unmap)))


class LosesWhatOverflowed(PassingSubscription):
    """Knows an event by its number: what was conflated seems to be an old one."""

    def __aiter__(self) -> AsyncIterator[Event]:
        seen: set[int] = set()

        def first_of_its_number(event: Event) -> list[Event]:
            new = event.seq not in seen
            seen.add(event.seq)
            return [event] * new

        return Edited(super().__aiter__(), first_of_its_number)


class LosesAtBreak(PassingSubscription):
    """Takes one event ahead, for an iterator that may be given up."""

    def __aiter__(self) -> AsyncIterator[Event]:
        behind: list[Event] = []

        def one_ahead(event: Event) -> list[Event]:
            behind.append(event)
            return [behind.pop(0)] * (len(behind) > 1)

        return Edited(super().__aiter__(), one_ahead)


class TellsTwice(PassingSubscription):
    def __aiter__(self) -> AsyncIterator[Event]:
        return Edited(super().__aiter__(), lambda event: [event, event])


class TellsOldTargets(PassingSubscription):
    """Crops a MAP and leaves its target where it was: to the next page, that is."""

    def __aiter__(self) -> AsyncIterator[Event]:
        return Edited(super().__aiter__(), lambda event: [stale(event)])


def stale(event: Event) -> Event:
    if isinstance(event, Map) and event.target & 0xF_FFFF:
        return Map(event.space, event.seq, event.first, event.last, event.target & ~0xF_FFFF, event.perm)
    return event


class IsAlwaysCurrent(PassingSubscription):
    async def wait_current(self) -> None:
        await checkpoint()


class FailsSilently(PassingSubscription):
    def fail(self, event: Event, error: Exception) -> None:
        """Forget it."""


class AlwaysLeavesClean(PassingSubscription):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(None, None, None)


class NeverLeaves(PassingSubscription):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stay."""


class LeavesUnclean(PassingSubscription):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(ValueError, ValueError(), None)


class NeverClosed(PassingSubscription):
    async def close(self) -> None:
        await checkpoint()


class Eternal(Translation):
    """An answer that never ends."""

    def __init__(self, inner: Translation) -> None:
        self.mapping, self.seq = inner.mapping, inner.seq

    @property
    def valid(self) -> bool:
        return True


class AnswersForEver(PassingSubscription):
    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        return Eternal(await super().translate(iova, perm))


class AnswersFromMemory(PassingSubscription):
    """Keeps what it has answered, and what anybody else has mapped, too."""

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Translation:
        try:
            return await super().translate(iova, perm)
        except LookupError:
            raise
        except Exception:  # noqa: BLE001 - this is the mistake
            return Remembered(Mapping(iova, iova, 0, perm), 0)


class Remembered(Translation):
    def __init__(self, mapping: Mapping, seq: int) -> None:
        self.mapping, self.seq = mapping, seq

    @property
    def valid(self) -> bool:
        return False


class LosesSilently(PassingObserver):
    def __aiter__(self) -> AsyncIterator[Observed]:
        return Edited(super().__aiter__(), lambda event: [event] * (not isinstance(event, Lost)))


class ObservesTwice(PassingObserver):
    def __aiter__(self) -> AsyncIterator[Observed]:
        return Edited(super().__aiter__(), lambda event: [event, event])


def with_space(kind: type[FaultySpace]) -> MakeBus:
    return maker(type(kind.__name__, (FaultyBus,), {"space_kind": kind}))


def with_subscription(kind: type[PassingSubscription]) -> MakeBus:
    return maker(type(kind.__name__, (FaultyBus,), {"subscription_kind": kind}))


class SyncsEverything(FaultyBus):
    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ARG002, ASYNC109
        return await super().sync(timeout=timeout)


class ObservesEverything(FaultyBus):
    def observe(self, *patterns: str, **options: Any) -> Observer:  # noqa: ARG002 - the mistake
        return super().observe(**options)


class ObserverIsDeaf(FaultyBus):
    observer_kind = LosesSilently


class ObserverTellsTwice(FaultyBus):
    observer_kind = ObservesTwice


class WaitsForNothing(FaultyBus):
    async def wait_space(self, name: str) -> AddressSpace:
        return self.spaces()[0] if self.spaces() else await self.create_space(name)


class BusNeverCloses(FaultyBus):
    async def close(self) -> None:
        await checkpoint()


def with_option(**wrong: object) -> MakeBus:
    """Return what makes a bus whose subscriptions always have these options."""

    class Wrong(FaultyBus):
        def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
            return super().subscribe(endpoint, caps, **options | wrong)

    return maker(Wrong)


def without_option(*names: str) -> MakeBus:
    """Return what makes a bus that forgets these options of a subscription."""

    class Forgetful(FaultyBus):
        def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
            kept = {name: value for name, value in options.items() if name not in names}
            return super().subscribe(endpoint, caps, **kept)

    return maker(Forgetful)


def with_mask(caps: Cap) -> MakeBus:
    """Return what makes a bus that gives these kinds to everybody who asks for UNMAP."""

    class Generous(FaultyBus):
        def subscribe(self, endpoint: str, caps_wanted: Cap, **options: Any) -> Subscription:  # type: ignore[override]
            return super().subscribe(endpoint, caps_wanted | caps, **options)

    return maker(Generous)


def with_space_option(**wrong: object) -> MakeBus:
    """Return what makes a bus whose spaces always have these options."""

    class Wrong(FaultyBus):
        async def create_space(self, name: str, **options: Any) -> AddressSpace:
            return await super().create_space(name, **options | wrong)

    return maker(Wrong)


def with_names(change: Callable[[str], str]) -> MakeBus:
    """Return what makes a bus that changes the names of its spaces."""

    class Renaming(FaultyBus):
        async def create_space(self, name: str, **options: Any) -> AddressSpace:
            return await super().create_space(change(name), **options)

    return maker(Renaming)


FAULTS: Final[dict[str, MakeBus]] = {
    **{kind.__name__: with_space(kind) for kind in FaultySpace.__subclasses__()},
    **{kind.__name__: with_subscription(kind) for kind in PassingSubscription.__subclasses__()},
    **{kind.__name__: maker(kind) for kind in FaultyBus.__subclasses__()},
    "tells everybody of MAPs": with_mask(Cap.IOTLB),
    "ignores ranges": without_option("ranges"),
    "ignores first and last": without_option("first", "last"),
    "ignores capacities": without_option("capacity"),
    "ignores how it is acknowledged": without_option("ack"),
    "stops everybody by a lease": without_option("stops", "on_fence"),
    "forgets on_fence": without_option("on_fence"),
    "forgets names": without_option("name"),
    "stops nobody": with_option(stops="exit", on_fence=None),
    "splits everywhere": with_space_option(straddle="split"),
    "splits nowhere": with_space_option(straddle="refuse"),
    "has no reserved ranges": with_space_option(reserved=()),
    "has no last address": with_space_option(last=2**64 - 1),
    "tells no producer of the demand": with_space_option(demand_changed=None),
    "offers everything": with_space_option(offers=Cap.ALL),
    "mends names": with_names(lambda name: name.strip("*?[]0") or "space"),
}
"""Buses with one mistake each."""
