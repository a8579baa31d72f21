"""A file that a peer sends many times is one memory, for as long as anything refers to it."""

import os

import pytest

from iommubus import Bus, Cap, Perm
from iommubus.bridging.memories import PeerMemories
from iommubus.errors import BadMemory, UnknownMemory
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
