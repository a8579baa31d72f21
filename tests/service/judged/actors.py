"""Who takes part, each in a process of its own, and does what it is told line by line.

A line is a command as JSON, and its answer another one.
"""

import asyncio
import os
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from math import inf
from typing import Any, Final

import msgspec

from iommubus import Cap, Event, Fenced, IommubusError, Map, Mirror, Perm, StateError, SyncFailed, Unmap
from iommubus.client.remote import RemoteBus, connect
from iommubus.client.seats import RemoteSubscription
from iommubus.service.serve import serve
from iommubus.service.settings.config import Config
from iommubus.transport.clock import boot_clock
from tests.service.judged.board import PAGES, Board

PAGE: Final = 0x1000

SPACE: Final = "space"

TICK: Final = 0.01
"""Seconds between two looks at the end of a lease."""

Line = dict[str, Any]


class Actor:
    """Does what it is told.

    Args:
        told: Where it is told.
    """

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._stack = AsyncExitStack()
        self.bus: RemoteBus | None = None

    async def run(self) -> None:
        """Do one command after the other, until there are no more."""
        self._told.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=self._told)
        while line := await reader.readline():
            command: Line = msgspec.json.decode(line)
            name = command.pop("do")
            try:
                answer: Line = await getattr(self, name)(**command) or {}
            except (IommubusError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()

    async def connect(self, address: str, name: str) -> None:
        """Connect, however long it takes until there is a daemon."""
        self.bus = await self._stack.enter_async_context(connect(address, name=name, patience=30.0))

    async def close(self) -> None:
        """Leave everything clean."""
        await self._stack.aclose()

    async def left(self) -> Line:
        """Say what is left of what was used: descriptors and tasks."""
        return {"descriptors": len(os.listdir("/proc/self/fd")), "tasks": len(asyncio.all_tasks())}  # noqa: PTH208


class Producer(Actor):
    """Maps and unmaps, and looks at the boards of all consumers the moment a `sync` has returned."""

    async def create(self) -> None:
        """Make the space."""
        assert self.bus is not None
        self.space = await self.bus.create_space(SPACE, last=PAGES * PAGE - 1)

    async def map(self, pages: list[int], targets: list[int]) -> None:
        """Map pages."""
        for page, target in zip(pages, targets, strict=True):
            self.space.map(page * PAGE, PAGE, target, Perm.RW)

    async def unmap(self, pages: list[int]) -> None:
        """Unmap pages."""
        for page in pages:
            self.space.unmap(page * PAGE, PAGE)

    async def sync(self, timeout: float, removed: list[int], boards: list[str]) -> Line:  # noqa: ASYNC109
        """Wait until nobody uses what was removed, and look whether somebody does."""
        try:
            await self.space.sync(timeout=timeout)
        except SyncFailed as failed:
            return {"failed": str(failed)}
        gone, stale = set(removed), list[str]()
        for path in boards:
            with Board(path) as board:
                usable = board.usable(boot_clock())
                stale += [
                    f"{path}: page {page} leads to {target:#x}" for page, target in usable.items() if target in gone
                ]
        return {"stale": stale}


class Consumer(Actor):
    """Copies everything onto its board.

    It is software with a lease, or hardware that goes on with what it has as long as
    its process lives.
    """

    def __init__(self, told: socket.socket) -> None:
        super().__init__(told)
        self._inner = AsyncExitStack()
        self._mirror: Mirror | None = None

    async def subscribe(self, stops: Any, board: str) -> None:
        """Subscribe, and follow from then on."""
        assert self.bus is not None
        self._board = self._stack.enter_context(Board(board))
        self._board.begin(os.getpid())
        subscription = self.bus.subscribe(SPACE, Cap.IOTLB, stops=stops)
        assert isinstance(subscription, RemoteSubscription)
        self._hardware = stops == "exit"
        await self._inner.enter_async_context(subscription)
        self._mirror = Mirror(subscription)
        self._tasks = [asyncio.ensure_future(work(subscription)) for work in (self._follow, self._look)]

    async def state(self) -> Line:
        """Say what it has."""
        for task in self._tasks:
            if task.done():
                task.result()
        mapped = [] if self._mirror is None else [[each.first // PAGE, each.target] for each in self._mirror]
        return {"mapped": mapped}

    async def leave(self) -> None:
        """Drop everything, and leave clean."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._clear()
        await self._inner.aclose()

    # -- inside ------------------------------------------------------------------

    async def _follow(self, subscription: RemoteSubscription) -> None:
        assert self._mirror is not None
        with suppress(Fenced, StateError):
            async for event in subscription:
                self._apply(event)
        if not self._hardware:
            self._clear()

    def _apply(self, event: Event) -> None:
        assert self._mirror is not None
        self._mirror.apply(event)
        for page in range(event.first // PAGE, event.last // PAGE + 1):
            if isinstance(event, Map):
                self._board.put(page, event.target + (page * PAGE - event.first))
            elif isinstance(event, Unmap):
                self._board.put(page, 0)

    async def _look(self, subscription: RemoteSubscription) -> None:
        """Keep on the board when the lease ends."""
        while True:
            seat: Any = getattr(subscription, "_remote")  # noqa: B009 - which no user needs to know
            self._board.until = inf if self._hardware else seat.lease_end
            await asyncio.sleep(TICK)

    def _clear(self) -> None:
        for page in range(PAGES):
            self._board.put(page, 0)


async def serve_at(told: socket.socket, settings: Line) -> None:
    """Be a daemon."""
    config = msgspec.convert(settings, Config)
    told.setblocking(False)
    loop = asyncio.get_running_loop()

    def ready(_: object) -> object:
        return loop.create_task(loop.sock_sendall(told, b"{}\n"))

    await serve(config, ready=ready)


def play(role: str, told: socket.socket, settings: Line) -> Coroutine[Any, Any, None]:
    """Return what somebody does."""
    match role:
        case "producer":
            return Producer(told).run()
        case "consumer":
            return Consumer(told).run()
        case _:
            return serve_at(told, settings)
