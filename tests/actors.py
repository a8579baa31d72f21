"""What the tests of the bus share: a bus with one space, and small ways to drive a consumer."""

import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from iommubus import Bus, Cap, MapFailure, Mapping, Missing, Perm
from iommubus.bus.member import Member
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import SyncFailed

T = TypeVar("T")

PAGE: Final = 0x1000
TARGET: Final = 0x8000_0000

SOON: Final = 0.02
"""Seconds that a `sync` gets which has to fail."""

ROUNDS: Final = 30
"""Turns of the loop after which everybody has done what can be done; the longest chain has a handful."""


class BackendError(Exception):
    """What a consumer's back end says when it cannot."""


@asynccontextmanager
async def open_space(name: str = "space", **options: Any) -> AsyncGenerator[tuple[Bus, LocalSpace], None]:
    """Give a bus with one space."""
    async with Bus() as bus:
        yield bus, await bus.create_space(name, **options)


def member_of(subscription: StreamSubscription) -> Member:
    """Return what the bus keeps of a subscription; nobody outside can see it."""
    member = subscription._seat  # pyright: ignore[reportPrivateUsage]
    assert isinstance(member, Member)
    return member


def map_page(space: LocalSpace, page: int, count: int = 1, *, perm: Perm = Perm.RW) -> Mapping:
    """Map pages to where their number says; return the mapping."""
    first = page * PAGE
    space.map(first, count * PAGE, TARGET + first, perm)
    return Mapping(first, first + count * PAGE - 1, TARGET + first, perm)


def unmap_page(space: LocalSpace, page: int, count: int = 1) -> list[Mapping]:
    return list(space.unmap(page * PAGE, count * PAGE))


def mappings(space: LocalSpace) -> list[Mapping]:
    """Return what is in the table."""
    return space.walk(0, space.shape.last, 1_000_000)


async def settle() -> None:
    """Let everybody do what can be done without this task."""
    for _ in range(ROUNDS):
        await checkpoint()


async def take(stream: AsyncIterator[T], count: int) -> list[T]:
    """Return the next ``count`` of a stream."""
    return [await anext(stream) for _ in range(count)]


async def apply_all(stream: AsyncIterator[T], apply: Callable[[T], object]) -> None:
    """Apply all that comes without waiting for anybody, and acknowledge it."""

    async def follow() -> None:
        async for item in stream:
            apply(item)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await settle()
        tasks.cancel_scope.cancel()


async def ask(stream: AsyncIterator[object]) -> None:
    """Ask for the next one, which acknowledges, and do not wait for it."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)


@dataclass
class Verdict:
    """What a `sync` that failed says."""

    missing: list[Missing]
    failures: list[MapFailure]
    text: str


def verdict(failed: SyncFailed) -> Verdict:
    """Return what an error says, typed."""
    missing = [entry for entry in failed.missing if isinstance(entry, Missing)]
    failures = [entry for entry in failed.failures if isinstance(entry, MapFailure)]
    assert (missing, failures) == (list(failed.missing), list(failed.failures))
    return Verdict(missing, failures, str(failed))


async def failing_sync(space: LocalSpace, timeout: float = SOON) -> Verdict:  # noqa: ASYNC109 - the bus's own
    """Return how a `sync` that has to fail did so."""
    with pytest.raises(SyncFailed) as caught:
        await space.sync(timeout=timeout)
    return verdict(caught.value)


async def forget(bus: Bus, step: Callable[[StreamSubscription], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Enter a subscription, do something with it, and lose it to the garbage collector."""
    subscription = bus.subscribe("space", options.pop("caps", Cap.IOTLB), **options)
    await subscription.__aenter__()
    await step(subscription)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del subscription
    assert [warning.category for warning in caught] == [ResourceWarning]
