"""A file that a peer sends many times is one memory, for as long as anything refers to it."""

import os
from itertools import count

import pytest

from iommubus import Bus, Cap, Perm
from iommubus.bridging import memories as module
from iommubus.bridging.memories import PeerMemories
from iommubus.errors import BadMemory, BusClosed, Disconnected, Stopping, UnknownMemory
from iommubus.events import Memory
from iommubus.testing.passing import PassingBus
from tests.loops import every_loop

SIZE = 0x4000


def memfd(size: int = SIZE) -> int:
    """Return a descriptor of a new file."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd


@every_loop
async def test_a_file_is_one_memory() -> None:
    one, other = memfd(), memfd(2 * SIZE)
    again = os.dup(one)
    async with Bus() as bus:
        memories = PeerMemories(bus, "guest.ram")
        taken = [await memories.take(fd) for fd in (one, other, again)]
        for fd in (one, other, again):
            os.close(fd)  # they stay the caller's, and are needed no longer

        assert [(memory.name, memory.size) for memory in taken] == [
            ("guest.ram1", SIZE), ("guest.ram2", 2 * SIZE), ("guest.ram1", SIZE),
        ]  # fmt: skip
        assert len(memories) == 2
        memories.let_go(taken[0])
        assert len(bus.memory_view(taken[0])) == SIZE
        memories.let_go(taken[2])
        with pytest.raises(UnknownMemory):
            bus.memory_view(taken[0])
        with pytest.raises(UnknownMemory):
            memories.let_go(taken[0])


@every_loop
async def test_all_go_with_the_peer() -> None:
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        fd = memfd()
        memory = await memories.take(fd)
        await memories.take(fd)
        os.close(fd)
        memories.clear()

        assert len(memories) == 0
        with pytest.raises(UnknownMemory):
            bus.memory_view(memory)


@every_loop
async def test_what_somebody_else_maps_stays() -> None:
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        fd = memfd()
        memory = await memories.take(fd)
        os.close(fd)
        space = await bus.create_space("space", offers=Cap.IOTLB)
        space.map(0, SIZE, 0, Perm.R, memory=memory)
        memories.clear()

        assert len(bus.memory_view(memory)) == SIZE


@every_loop
async def test_what_can_be_no_memory_is_refused() -> None:
    reading, writing = os.pipe()
    empty = memfd(0)
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        for fd in (reading, empty):
            with pytest.raises(BadMemory):
                await memories.take(fd)
        assert len(memories) == 0
    for fd in (reading, writing, empty):
        os.close(fd)


@every_loop
async def test_a_file_that_has_grown_or_is_open_in_another_way_is_another_memory() -> None:
    """What was read-only stays so, and what was short, too."""
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        fd = memfd()
        for_reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        readable, writable = await memories.take(for_reading), await memories.take(fd)
        os.ftruncate(fd, 2 * SIZE)
        longer = await memories.take(fd)
        os.close(for_reading)
        os.close(fd)

        assert len({readable, writable, longer}) == len(memories) == 3
        assert bus.memory_view(readable).readonly
        assert not bus.memory_view(writable).readonly
        assert longer.size == 2 * SIZE


@every_loop
async def test_a_peer_has_so_many_files_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_LIMIT", 1)
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        first, second = memfd(), memfd()
        await memories.take(first)
        with pytest.raises(BadMemory, match="has 1 files mapped already"):
            await memories.take(second)
        await memories.take(first)
        os.close(first)
        os.close(second)


@every_loop
async def test_where_the_bus_is_closed_already_they_are_only_forgotten() -> None:
    async with Bus() as bus:
        memories = PeerMemories(bus, "ram")
        fd = memfd()
        await memories.take(fd)
        os.close(fd)
    memories.clear()
    assert len(memories) == 0


@every_loop
async def test_one_peer_after_another_shares_the_numbers() -> None:
    """What another space still leads into keeps its name, and the next peer's files have others."""
    async with Bus() as bus:
        numbers = count(1)
        space = await bus.create_space("other", offers=Cap.IOTLB)
        for number in (1, 2):
            memories, fd = PeerMemories(bus, "ram", numbers), memfd()
            memory = await memories.take(fd)
            os.close(fd)
            assert memory.name == f"ram{number}"
            space.map(number * SIZE, SIZE, 0, Perm.R, memory=memory)
            memories.clear()


class Away(PassingBus):
    """A bus to which no memory can be added for some attempts.

    Args:
        inner: The bus.
        errors: What those attempts raise.
    """

    def __init__(self, inner: Bus, *errors: Exception) -> None:
        super().__init__(inner)
        self.errors = list(errors)

    async def add_memory(self, name: str, size: int, fd: int | None = None) -> Memory:
        if self.errors:
            raise self.errors.pop(0)
        return await super().add_memory(name, size, fd)


@every_loop
async def test_a_file_is_added_once_the_daemon_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0)
    async with Bus() as bus:
        away = Away(bus, Disconnected("unix:/nowhere", "it went away"), Stopping("soon"), Disconnected("", ""))
        memories, fd = PeerMemories(away, "ram"), memfd()
        memory = await memories.take(fd)
        os.close(fd)

        assert len(bus.memory_view(memory)) == SIZE
        assert (len(memories), away.errors) == (1, [])


@every_loop
async def test_a_bus_that_is_closed_is_not_waited_for() -> None:
    async with Bus() as bus:
        memories, fd = PeerMemories(Away(bus, BusClosed()), "ram"), memfd()
        with pytest.raises(BusClosed):
            await memories.take(fd)
        os.close(fd)
        assert len(memories) == 0
