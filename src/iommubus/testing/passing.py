"""A bus and a space that hand everything on to others: what is overridden is different.

The suites put these between an implementation and the bus it is given, to see
what it does; a test can make a faulty bus of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ..bus.abc import (
    SYNC_TIMEOUT,
    AddressSpace,
    Endpoint,
    EventBus,
    Observer,
    Subscription,
)
from ..bus.reports import BusStatistics, SpaceStatistics, SyncReport
from ..caps import Cap, Perm
from ..events import Memory
from ..mapping import Mapping
from ..ranges import IovaRange


class PassingSpace(AddressSpace):
    """A space that is another one.

    Args:
        inner: The space that does everything.
    """

    def __init__(self, inner: AddressSpace) -> None:
        self.inner = inner
        self.name = inner.name
        self.offers = inner.offers

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        self.inner.map(iova, size, target, perm, memory=memory)

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        return self.inner.unmap(iova, size)

    def unmap_all(self) -> Sequence[Mapping]:
        return self.inner.unmap_all()

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        self.inner.remap(iova, size, target, perm, memory=memory)

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        self.inner.apply(changes)

    def invalidate_device(self, iova: int, size: int) -> None:
        self.inner.invalidate_device(iova, size)

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        return await self.inner.sync(timeout)

    async def drain(self) -> None:
        await self.inner.drain()

    async def fence(self, subscription: Subscription | str) -> bool:
        return await self.inner.fence(subscription)

    async def close(self) -> None:
        await self.inner.close()

    def statistics(self) -> SpaceStatistics:
        return self.inner.statistics()


class PassingEndpoint(Endpoint):
    """An endpoint that is another one.

    Args:
        inner: The endpoint that does everything.
    """

    def __init__(self, inner: Endpoint) -> None:
        self.inner = inner
        self.name = inner.name

    @property
    def space(self) -> AddressSpace | None:
        return self.inner.space

    def attach(self, space: AddressSpace) -> None:
        self.inner.attach(space.inner if isinstance(space, PassingSpace) else space)

    def detach(self) -> None:
        self.inner.detach()

    async def close(self) -> None:
        await self.inner.close()


class PassingBus(EventBus):
    """A bus that is another one.

    Args:
        inner: The bus that does everything.
    """

    def __init__(self, inner: EventBus) -> None:
        self.inner = inner

    async def create_space(self, name: str, **options: Any) -> AddressSpace:
        return await self.inner.create_space(name, **options)

    async def create_endpoint(self, name: str) -> Endpoint:
        return PassingEndpoint(await self.inner.create_endpoint(name))

    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        return await self.inner.add_memory(name, size, fd)

    def remove_memory(self, memory: Memory) -> None:
        self.inner.remove_memory(memory)

    def memory_view(self, memory: Memory) -> memoryview:
        return self.inner.memory_view(memory)

    def subscribe(self, endpoint: str | Iterable[str], caps: Cap, **options: Any) -> Subscription:
        return self.inner.subscribe(endpoint, caps, **options)

    def observe(self, *patterns: str, **options: Any) -> Observer:
        return self.inner.observe(*patterns, **options)

    async def sync(self, *patterns: str, timeout: float = SYNC_TIMEOUT) -> SyncReport:
        return await self.inner.sync(*patterns, timeout=timeout)

    def spaces(self) -> tuple[AddressSpace, ...]:
        return self.inner.spaces()

    async def wait_space(self, name: str) -> AddressSpace:
        return await self.inner.wait_space(name)

    async def close(self) -> None:
        await self.inner.close()

    def statistics(self) -> BusStatistics:
        return self.inner.statistics()
