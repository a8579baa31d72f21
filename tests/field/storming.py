"""The processes of the storm, each started by its part: a producer, a cacher, a shadower, and a device's back end.

A page of memory says at its beginning to which address it belongs.  The producer
takes pages away, and gives each to another address once a `sync` has completed that began
after that: whoever reads an address of another page then was not done with it.

Each says one line of JSON when it is asked for its counters, by a line, and ends
when its standard input does.
"""

import hashlib
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskStatus

from iommubus import Cap, Iotlb, Mapping, Mirror, Perm, connect
from iommubus.bus.abc import AddressSpace, Subscription
from iommubus.errors import PeerLeft, SyncFailed, TranslationFault
from iommubus.events import Memory
from iommubus.ranges import LAST
from tests.bridges.vhost_user_backends import BackEnd

SPACE: Final = "storm"
PAGE: Final = 0x1000
SLOTS: Final = 4096
"""Addresses that are mapped and unmapped."""

PAGES: Final = 4 * SLOTS
"""Pages of memory: enough that some are free while others wait for a `sync`."""

BURST: Final = 256
"""Changes that are made in one go, before the connection is given a chance."""

BURSTS: Final = 32
"""How many of those come before a `sync`: far more changes than a mailbox has room for, so that they are conflated."""

FREE: Final = LAST
"""What a page says that belongs to no address."""

MOVES: Final = 8
"""One in so many addresses gets another page when it is mapped again; others get the same, which needs no `sync`."""

HOT: Final = 64
"""Addresses that a consumer reads at one time, so that it finds some in its cache."""

SEED: Final = 5


def digest(mappings: Iterable[Mapping]) -> str:
    """Return what is the same for the same mappings."""
    lines = (f"{each.first:x} {each.last:x} {each.target:x} {int(each.perm)}" for each in mappings)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stamp(memory: memoryview, page: int, iova: int) -> None:
    """Say in a page to which address it belongs."""
    memory[page * PAGE : page * PAGE + 8] = iova.to_bytes(8, "little")


class Producer:
    """Unmaps as fast as it can, and maps so that there is something to unmap."""

    def __init__(self, space: AddressSpace, memory: Memory, view: memoryview) -> None:
        self._space = space
        self._memory = memory
        self._view = view
        self._random = random.Random(SEED)  # noqa: S311 - what is unmapped, no secret
        self._mapped: dict[int, int] = {}  # page by address
        self._free = list(range(PAGES))
        self._gone: list[int] = []  # pages that may be in use until the next sync
        self.unmaps = self.syncs = self.failed = 0
        self.seconds: list[float] = []

    async def storm(self, seconds: float) -> None:
        """Unmap for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(BURSTS):
                self._burst()
                await anyio.sleep(0)
            await self._sync()

    def _burst(self) -> None:
        for _ in range(BURST):
            iova = self._random.randrange(SLOTS) * PAGE
            page = self._mapped.get(iova)
            if page is not None:
                self._space.unmap(iova, PAGE)
                self.unmaps += 1
            if page is None or not self._random.randrange(MOVES):
                page = self._move(iova, page)
            self._space.map(iova, PAGE, page * PAGE, Perm.RW, memory=self._memory)

    def _move(self, iova: int, page: int | None) -> int:
        """Return another page for an address, if one is free; the old one waits for a sync."""
        if not self._free:
            return self._mapped[iova]
        if page is not None:
            self._gone.append(page)
        new = self._mapped[iova] = self._free.pop()
        stamp(self._view, new, iova)
        return new

    async def _sync(self) -> None:
        """Wait until nobody uses the pages that are gone, and have them be free."""
        begin = time.monotonic()
        try:
            await self._space.sync(10)
        except SyncFailed as failed:
            self.failed += 1
            print(failed, file=sys.stderr)
            return
        self.seconds.append(time.monotonic() - begin)
        self.syncs += 1
        for page in self._gone:
            stamp(self._view, page, FREE)
        self._random.shuffle(self._gone)
        self._free += self._gone
        self._gone.clear()

    def report(self) -> dict[str, Any]:
        """Return its counters, and what is mapped."""
        table = [Mapping(iova, iova + PAGE - 1, page * PAGE, Perm.RW) for iova, page in sorted(self._mapped.items())]
        return {
            "unmaps": self.unmaps, "syncs": self.syncs, "failed": self.failed, "seconds": self.seconds,
            "mappings": len(table), "digest": digest(table),
        }  # fmt: skip


async def produce(address: str, seconds: str) -> None:
    """Be the producer, from the first line of standard input on."""
    async with connect(address, name="producer") as bus:
        space = await bus.create_space(SPACE)
        memory = await bus.add_memory("ram", PAGES * PAGE)
        producer = Producer(space, memory, bus.memory_view(memory))
        say({"ready": True})
        await heard()
        await producer.storm(float(seconds))
        await speak(producer.report)


# -- consumers ---------------------------------------------------------------------


class Reader:
    """Reads at random addresses, and holds what it sees against them."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)  # noqa: S311 - what is read, no secret
        self.reads = self.wrong = self._first = 0

    def see(self, iova: int, content: bytes | memoryview) -> None:
        """Take what was read at an address."""
        self.reads += 1
        self.wrong += int.from_bytes(content, "little") != iova

    def iova(self) -> int:
        """Return one of a few addresses, which are others now and then."""
        if not self.reads % (8 * HOT):
            self._first = self.random.randrange(SLOTS - HOT)
        return (self._first + self.random.randrange(HOT)) * PAGE


class Cacher(Reader):
    """A device in software, with an IOTLB; some of what it does takes a while, and is pinned."""

    def __init__(self, events: Subscription) -> None:
        super().__init__()
        self._events = events
        self._cache = Iotlb(events)

    async def run(self) -> None:
        """Follow the stream, and read meanwhile."""
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(self._read_on)
            await self._cache.run()
            tasks.cancel_scope.cancel()

    async def _read_on(self) -> None:
        while True:
            iova = self.iova()
            try:
                with await self._cache.pin(iova) as pin:
                    if not self.random.randrange(8):
                        await anyio.sleep(0.001)
                    self._read(iova, pin.mapping)
            except TranslationFault:
                pass
            await anyio.sleep(0.0005)

    def _read(self, iova: int, mapping: Mapping) -> None:
        if mapping.memory is not None:
            at = mapping.target + iova - mapping.first
            self.see(iova, self._events.backing(mapping.memory)[at : at + 8])

    def report(self) -> dict[str, Any]:
        """Return its counters."""
        counters = self._cache.statistics()
        return {"reads": self.reads, "wrong": self.wrong, "invalidations": counters.invalidations}


async def cache(address: str) -> None:
    """Be the cacher."""
    async with connect(address, name="cacher") as bus, bus.subscribe(SPACE, Cap.UNMAP, name="cacher") as events:
        cacher = Cacher(events)
        await consume(cacher.run, cacher.report)


async def shadow(address: str) -> None:
    """Be the shadower."""
    async with connect(address, name="shadower") as bus, bus.subscribe(SPACE, Cap.IOTLB, name="shadower") as events:
        mirror = Mirror(events)
        await consume(mirror.run, lambda: {"mappings": len(mirror), "digest": digest(mirror)})


class Device(Reader):
    """A back end that reads at random addresses, and asks for those that it does not know."""

    def __init__(self, end: BackEnd) -> None:
        super().__init__()
        self._end = end
        self._asked: set[int] = set()
        self.misses = 0

    async def run(self) -> None:
        """Serve, and read meanwhile."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end.run)
            await self._end.until(lambda: self._end.connected)
            for turn in range(1 << 62):
                if not turn % 100:
                    self._asked.clear()  # nobody says that there is no answer
                for _ in range(32):
                    self._read(self.iova())
                await anyio.sleep(0.005)

    def _read(self, iova: int) -> None:
        if self._end.has(iova):
            self._asked.discard(iova)
            self.see(iova, self._end.read(iova, 8))
        elif iova not in self._asked and self._end.connected:
            self._asked.add(iova)
            self.misses += 1
            with suppress(PeerLeft):  # the bridge ends before this does
                self._end.miss(iova)

    def report(self) -> dict[str, Any]:
        """Return its counters."""
        return {"reads": self.reads, "wrong": self.wrong, "misses": self.misses, "entries": len(self._end.cache)}


async def serve(path: str) -> None:
    """Be the device."""
    end = BackEnd(Path(path))
    end.keeps = False
    device = Device(end)
    await consume(device.run, device.report)


async def consume(run: Callable[[], Awaitable[object]], report: Callable[[], dict[str, Any]]) -> None:
    """Do something, and tell of it when asked, to the end of standard input."""
    async with anyio.create_task_group() as tasks:

        async def running(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await run()

        await tasks.start(running)
        say({"ready": True})
        await speak(report)
        tasks.cancel_scope.cancel()


# -- words -------------------------------------------------------------------------


async def heard() -> bool:
    """Wait for a line; say whether there was one."""
    return bool(await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True))


async def speak(report: Callable[[], dict[str, Any]]) -> None:
    """Say the counters at each line, and return at the end."""
    while await heard():
        say(report())


def say(document: dict[str, Any]) -> None:
    """Say something to who started this process."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


ROLES: Final[dict[str, Callable[..., Awaitable[None]]]] = {
    "producer": produce, "cacher": cache, "shadower": shadow, "device": serve,
}  # fmt: skip


if __name__ == "__main__":
    anyio.run(ROLES[sys.argv[1]], *sys.argv[2:])
