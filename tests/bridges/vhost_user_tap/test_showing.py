"""Entries that came are mapped, those that went are not, and memory is what the table says."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from iommubus import Bus, Cap, Perm
from iommubus.abi.vhost_user import MemRegion, Region
from iommubus.bridges.vhost_user_tap.reading import Dropped, Emptied, Entry, Plugged, Table, Unplugged
from iommubus.bridges.vhost_user_tap.showing import Shown
from iommubus.bridging.memories import PeerMemories
from iommubus.bus.abc import AddressSpace
from iommubus.errors import BusClosed, UnknownMemory
from iommubus.events import Memory
from iommubus.ranges import LAST, IovaRange
from tests.loops import every_loop
from tests.vhost_user_talk import BASE, RAM, memfd

WHOLE = Region(0, RAM, BASE, 0)


class Bench:
    """A `Shown` at work.

    Attributes:
        bus: Its bus.
        shown: It.
        troubles: What it told.
    """

    def __init__(self, bus: Bus, space: AddressSpace) -> None:
        self.bus = bus
        self.memories = PeerMemories(bus, "ram")
        self.troubles: list[tuple[str, str]] = []
        self.shown = Shown(space, self.memories, lambda kind, text: self.troubles.append((kind, text)))
        self.events: list[str] = []

    async def learn(self, act: Table | Plugged | Unplugged, *fds: int) -> None:
        await self.shown.show(act, list(fds))
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    async def enter(self, first: int, last: int, address: int, perm: Perm = Perm.RW) -> None:
        await self.shown.show(Entry(IovaRange(first, last), address, perm), [])

    async def drop(self, first: int, last: int) -> None:
        await self.shown.show(Dropped(IovaRange(first, last)), [])

    async def seen(self) -> list[str]:
        """Return what was published since it was asked last."""
        await anyio.wait_all_tasks_blocked()
        events, self.events[:] = list(self.events), []
        return events


@asynccontextmanager
async def bench() -> AsyncGenerator[Bench]:
    async with Bus() as bus, bus.observe("s*") as observer, anyio.create_task_group() as tasks:
        work = Bench(bus, await bus.create_space("s", granule=1, offers=Cap.ALL))

        async def watch() -> None:
            async for event in observer:
                work.events.append(str(event).partition(" ")[2].replace("<Perm.", "").partition(":")[0])

        tasks.start_soon(watch)
        yield work
        tasks.cancel_scope.cancel()


@every_loop
async def test_every_message_that_changes_something_leaves_its_trace() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE,)), memfd())
        await work.enter(0x1000, 0x2FFF, BASE + 0x4000)
        await work.enter(0x1000, 0x2FFF, BASE + 0x4000)
        await work.enter(0x1000, 0x2FFF, BASE + 0x8000, Perm.R)
        await work.drop(0x1000, 0x2FFF)
        await work.drop(0x1000, 0x2FFF)
        await work.drop(0, LAST)

        assert await work.seen() == [
            "MAP 0x1000..0x2fff -> ram1@1+0x4000 RW",
            "UNMAP 0x1000..0x2fff",
            "MAP 0x1000..0x2fff -> ram1@1+0x8000 R",
            "UNMAP 0x1000..0x2fff",
            "DEVIOTLB_UNMAP 0x1000..0x2fff",
            "DEVIOTLB_UNMAP 0x0..0xffffffffffffffff",
        ]


@every_loop
async def test_entries_go_whole_whatever_touches_them() -> None:
    async with bench() as work:
        for first in (0x1000, 0x3000, 0x5000):
            await work.enter(first, first + 0x1FFF, first)
        await work.seen()
        await work.drop(0x2000, 0x5000)
        await work.enter(0x1000, 0x3FFF, 0)
        await work.enter(0x3000, 0x4FFF, 0)

        assert await work.seen() == [
            "UNMAP 0x1000..0x6fff",
            "MAP 0x1000..0x3fff -> 0x0 RW",
            "UNMAP 0x1000..0x4fff",
            "MAP 0x3000..0x4fff -> 0x0 RW",
        ]


@every_loop
async def test_an_entry_that_allows_nothing_is_none() -> None:
    async with bench() as work:
        await work.enter(0x1000, 0x1FFF, 0)
        await work.enter(0x1000, 0x1FFF, 0, Perm(0))

        assert await work.seen() == ["MAP 0x1000..0x1fff -> 0x0 RW", "UNMAP 0x1000..0x1fff"]


@every_loop
async def test_outside_the_table_addresses_are_shown_as_they_come() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE,)), memfd())
        await work.enter(0x1000, 0x1FFF, BASE - 0x1000)
        await work.enter(0x2000, 0x2FFF, BASE + RAM - 0x800)

        assert [event.partition(" -> ")[2] for event in await work.seen()] == ["0x7efffffff000 RW", "0x7f00000ff800 RW"]


@every_loop
async def test_another_table_takes_everything_away_and_the_same_one_nothing() -> None:
    async with bench() as work:
        fd = memfd()
        await work.learn(Table((WHOLE,)), os.dup(fd))
        await work.enter(0x1000, 0x1FFF, BASE)
        await work.learn(Table((WHOLE,)), os.dup(fd))
        assert len(await work.seen()) == 1
        await work.learn(Table((Region(0, RAM, BASE, 0),)), memfd())
        assert await work.seen() == ["UNMAP 0x0..0xffffffffffffffff"]
        await work.enter(0x1000, 0x1FFF, BASE)
        assert await work.seen() == ["MAP 0x1000..0x1fff -> ram2@1+0x0 RW"]
        assert len(work.memories) == 1
        os.close(fd)


@every_loop
async def test_regions_come_and_go() -> None:
    async with bench() as work:
        other = MemRegion(RAM, RAM, BASE + RAM, 0)
        await work.learn(Table((WHOLE,)), memfd())
        await work.enter(0x1000, 0x1FFF, BASE)
        await work.learn(Plugged(other), memfd())
        await work.enter(0x2000, 0x2FFF, BASE + RAM)
        assert [event.partition(" -> ")[2] for event in await work.seen()] == ["ram1@1+0x0 RW", "ram2@1+0x0 RW"]
        await work.learn(Unplugged(MemRegion(RAM, RAM, BASE + RAM, 0x77)), memfd())
        await work.enter(0x2000, 0x2FFF, BASE + RAM)
        assert await work.seen() == ["UNMAP 0x0..0xffffffffffffffff", f"MAP 0x2000..0x2fff -> {BASE + RAM:#x} RW"]
        await work.learn(Unplugged(other))
        assert await work.seen() == []
        assert len(work.memories) == 1


@every_loop
async def test_a_table_that_cannot_be_is_none() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE, WHOLE)), memfd(), memfd())
        await work.enter(0x1000, 0x1FFF, BASE)
        await work.learn(Plugged(MemRegion(0, 2 * RAM, BASE, 0)), memfd())

        assert await work.seen() == [f"MAP 0x1000..0x1fff -> {BASE:#x} RW"]
        assert {kind for kind, _ in work.troubles} == {"table"}
        assert len(work.memories) == 0


@every_loop
async def test_a_region_more_that_cannot_be_leaves_the_table_as_it_is() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE,)), memfd())
        await work.enter(0x1000, 0x1FFF, BASE)
        await work.learn(Plugged(MemRegion(0, RAM, BASE, 0)), memfd())
        await work.enter(0x2000, 0x2FFF, BASE)

        assert [event.partition(" -> ")[2] for event in await work.seen()] == ["ram1@1+0x0 RW"] * 2
        assert len(work.memories) == 1


@every_loop
async def test_what_can_be_no_memory_is_shown_by_its_addresses() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE, Region(RAM, RAM, BASE + RAM, 0))), os.open("/dev/zero", os.O_RDWR), memfd())
        await work.enter(0x1000, 0x1FFF, BASE)
        await work.enter(0x2000, 0x2FFF, BASE + RAM)
        await work.learn(Table((WHOLE,)))

        assert [event.partition(" -> ")[2] for event in await work.seen()][:2] == [f"{BASE:#x} RW", "ram1@1+0x0 RW"]
        assert [kind for kind, _ in work.troubles] == ["memory"]


@every_loop
async def test_nothing_is_left_of_a_connection() -> None:
    async with bench() as work:
        await work.learn(Table((WHOLE,)), memfd())
        await work.enter(0x1000, 0x1FFF, BASE)
        memory = Memory("ram1", 1, RAM)
        assert len(work.bus.memory_view(memory)) == RAM
        work.shown.leave()

        with pytest.raises(UnknownMemory):
            work.bus.memory_view(memory)
        assert (await work.seen())[1:] == ["UNMAP 0x0..0xffffffffffffffff"]


@every_loop
async def test_all_entries_go_at_once() -> None:
    async with bench() as work:
        await work.enter(0x1000, 0x1FFF, 0)
        await work.shown.show(Emptied(), [])
        await work.shown.show(Emptied(), [])

        assert (await work.seen())[1:] == ["UNMAP 0x0..0xffffffffffffffff"]


class Closed(PeerMemories):
    """Memories of a bus that is closed."""

    async def take(self, fd: int) -> Memory:  # noqa: ARG002 - it is not looked at
        raise BusClosed


@every_loop
async def test_a_bus_that_is_closed_is_the_end() -> None:
    async with bench() as work:
        space = await work.bus.create_space("other", offers=Cap.ALL)
        shown = Shown(space, Closed(work.bus, "ram"), lambda _, text: pytest.fail(text))
        with pytest.raises(BusClosed):
            await shown.show(Table((WHOLE,)), [memfd()])
