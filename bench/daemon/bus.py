"""iommubus as a subject: the real daemon, with its table, its checks, its range filter and its acknowledgements."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from iommubus import LAST, AddressSpace, Cap, EventBus, IovaRange, Mapping, Perm, Subscription, connect
from iommubus.errors import SubscriptionClosed

from .check import Check, finished
from .events import MAP, PAGE, Change
from .peer import Signal
from .subject import Follower, Publisher, Server, Subject

SPACE: Final = "vtd0/00:03.0"

DRAIN_EVERY: Final = 2048
"""Events published before it is waited for that mailboxes are half empty: as many as fit into the other half."""

TURN: Final = 256
"""Events published before the event loop has its turn, and what was published leaves."""

ELSEWHERE: Final = (1 << 50, (1 << 51) - 1)
"""Addresses that nothing of the workload is at."""


def space_name(number: int) -> str:
    """Return the name of a space."""
    return SPACE if number == 0 else f"{SPACE}.{number}"


class BusPublisher:
    """A producer.

    Args:
        bus: The daemon's.
        spaces: Its spaces, by number.
    """

    def __init__(self, bus: EventBus, spaces: list[AddressSpace]) -> None:
        self._bus = bus
        self._spaces = spaces

    async def meet(self, subscribers: int) -> None:
        """Wait for nothing: who has subscribed gets what is published."""

    async def publish(self, changes: Sequence[Change], batch: int) -> None:
        """Publish turn by turn, and drain in between."""
        space = self._spaces[0]
        for start in range(0, len(changes), TURN):
            if start % DRAIN_EVERY:
                await asyncio.sleep(0)
            elif start:
                await space.drain()
            publish(space, changes[start : start + TURN], batch)

    async def settle(self) -> None:
        """Wait until nobody uses what was unmapped."""
        await self._spaces[0].sync()

    async def spread(self, changes: Sequence[Change]) -> None:
        """Publish the same in all spaces, by turns, and drain each as one space alone would be."""
        published = 0
        for number, change in enumerate(changes):
            for space in self._spaces:
                publish(space, (change,), 1)
                published += 1
                if published % TURN == 0:
                    await asyncio.sleep(0)
            if number % DRAIN_EVERY == DRAIN_EVERY - 1:
                for space in self._spaces:
                    await space.drain()

    async def create(self, spaces: int) -> None:
        """Have so many spaces."""
        while len(self._spaces) < spaces:
            self._spaces.append(await self._bus.create_space(space_name(len(self._spaces))))


def publish(space: AddressSpace, changes: Sequence[Change], batch: int) -> None:
    """Publish changes one a call, or many a call."""
    if batch == 1:
        for kind, iova, target in changes:
            if kind == MAP:
                space.map(iova, PAGE, target, Perm.RW)
            else:
                space.unmap(iova, PAGE)
        return
    for start in range(0, len(changes), batch):
        space.apply(
            [
                Mapping(iova, iova + PAGE - 1, target, Perm.RW) if kind == MAP else IovaRange(iova, iova + PAGE - 1)
                for kind, iova, target in changes[start : start + batch]
            ]
        )


class BusFollower:
    """A shadower's connection, and its subscriptions: one, or one a space.

    Args:
        bus: The daemon's.
        stack: Ends the subscriptions.
        number: Its number.
        matching: Whether what is published is in its range.

    Attributes:
        checks: See everything that it gets, one a space.
    """

    def __init__(self, bus: EventBus, stack: AsyncExitStack, number: int, *, matching: bool) -> None:
        self.checks: list[Check] = []
        self._bus = bus
        self._stack = stack
        self._number = number
        self._range = (0, LAST) if matching else ELSEWHERE
        self._signal = Signal(threads=False)
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self, spaces: int) -> None:
        """Follow so many spaces."""
        while len(self.checks) < spaces:
            await self._join(space_name(len(self.checks)))

    async def wait(self) -> None:
        """Wait until all checks are done, or one has found a fault."""
        await self._signal.until(lambda: finished(self.checks))

    async def _join(self, space: str) -> None:
        first, last = self._range
        subscription = self._bus.subscribe(space, Cap.IOTLB, first=first, last=last)
        events = await self._stack.enter_async_context(subscription)
        check = Check(self._number, self._signal.set)
        task = asyncio.create_task(consume(events, check))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await events.wait_current()
        self.checks.append(check)


async def consume(events: Subscription, check: Check) -> None:
    """Give every hand-over to a check; asking for the next acknowledges it."""
    with suppress(SubscriptionClosed):
        async for batch in events.batches():
            check.see(batch)


class Iommubus(Subject):
    """The daemon."""

    name = "iommubus"
    lacks = ""
    libraries = ("anyio", "iommubus", "msgspec", "uvloop")

    def server(self, place: Path) -> Server:
        """Start ``iommubus serve`` at a Unix socket."""
        path = place / "bus.sock"
        limits = ("--set", "limits.spaces=1024")
        command = [sys.executable, "-m", "iommubus", "serve", "--listen", f"unix:{path}", "--log-level", "warning"]
        return Server([*command, *limits], path)

    @asynccontextmanager
    async def publisher(self, place: Path) -> AsyncGenerator[Publisher]:
        """Connect a producer, which makes a space."""
        async with connect(f"unix:{place / 'bus.sock'}") as bus:
            publisher = BusPublisher(bus, [])
            await publisher.create(1)
            yield publisher

    @asynccontextmanager
    async def subscriber(self, place: Path, number: int, *, matching: bool) -> AsyncGenerator[Follower]:
        """Connect a shadower of the space."""
        async with connect(f"unix:{place / 'bus.sock'}") as bus, AsyncExitStack() as stack:
            follower = BusFollower(bus, stack, number, matching=matching)
            await follower.follow(1)
            yield follower
