"""Memories are named once, checked when they come, and outlive every mapping into them."""

import gc
import mmap
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from fcntl import F_ADD_SEALS, F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, cast

import anyio.to_thread
import pytest

from iommubus import Bus, Cap, IovaRange, Map, Mapping, Memory, Notifier, Perm
from iommubus.bus.memory import Backing, Memories
from iommubus.errors import (
    BadMemory,
    BusClosed,
    Fenced,
    MappingError,
    MemoryInUse,
    MemoryNameTaken,
    NameTaken,
    NotEntered,
    PastMemory,
    SubscriptionClosed,
    UnknownMemory,
    WrongThread,
)
from tests.actors import PAGE, mappings, open_space
from tests.loops import every_loop

SIZE: Final = 4 * PAGE


def descriptors() -> int:
    """Return how many this process has open."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def file_of(size: int, flags: int = os.O_RDWR) -> Generator[int]:
    """Give a descriptor of a file of this size."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        fd = os.open(file.name, flags)
        try:
            yield fd
        finally:
            os.close(fd)


# -- adding ------------------------------------------------------------------


@every_loop
async def test_a_memory_without_a_descriptor_is_new_and_all_zero() -> None:
    async with Bus() as bus:
        ram = await bus.add_memory("ram", SIZE)
        view = bus.memory_view(ram)

        assert ram == Memory("ram", 1, SIZE)
        assert str(ram) == "ram@1"
        assert view.nbytes == SIZE
        assert not view.readonly
        assert bytes(view) == bytes(SIZE)


def test_what_the_bus_makes_can_neither_shrink_nor_grow() -> None:
    """A view past the end of a file kills its process; and nobody whom it is sent to can add a seal."""
    memories = Memories()
    fd = memories.find(memories.add("ram", SIZE, None)).fd
    assert fd is not None

    assert fcntl(fd, F_GET_SEALS) == F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)
    assert not os.get_inheritable(fd)
    memories.close()


@every_loop
async def test_a_descriptor_is_duplicated() -> None:
    """The caller keeps theirs, and both are of the same bytes; the file may be larger."""
    async with Bus() as bus:
        with file_of(SIZE) as fd:
            ram = await bus.add_memory("ram", SIZE - 1, fd)
            os.pwrite(fd, b"before", 16)
        view = bus.memory_view(ram)
        assert view.nbytes == SIZE - 1
        assert bytes(view[16:22]) == b"before"
        assert not view.readonly


@every_loop
async def test_a_memory_that_cannot_be_written_is_viewed_read_only() -> None:
    """Be it opened for reading alone, or sealed against writing."""
    async with Bus() as bus:
        sealed = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(sealed, b"rom")
        fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE)
        with file_of(3, os.O_RDONLY) as fd:
            for name, of, held in (("file", fd, bytes(3)), ("sealed", sealed, b"rom")):
                view = bus.memory_view(await bus.add_memory(name, 3, of))
                assert view.readonly
                assert bytes(view) == held
                with pytest.raises(TypeError):
                    view[0] = 1
        os.close(sealed)


@every_loop
async def test_what_can_only_be_read_shows_what_others_write() -> None:
    """Its mapping is a private one, and stays in step with the file because nobody writes through it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(2 * PAGE))
        file.flush()
        async with Bus() as bus:
            fd = os.open(file.name, os.O_RDONLY)
            view = bus.memory_view(await bus.add_memory("rom", 2 * PAGE, fd))
            os.close(fd)
            for at in (0, PAGE, 0):
                os.pwrite(file.fileno(), bytes([view[at] + 7]), at)
                assert view[at] == os.pread(file.fileno(), 1, at)[0]
            assert (view[0], view[PAGE]) == (14, 7)


@every_loop
@pytest.mark.parametrize("size", [0, -1, 2**63, 2**64])
async def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    before = descriptors()
    async with Bus() as bus:
        inside = descriptors()
        with pytest.raises(BadMemory, match="cannot be") as refused:
            await bus.add_memory("ram", size)
        assert (refused.value.name, refused.value.size) == ("ram", size)
        assert descriptors() == inside >= before
        assert await bus.add_memory("ram", 1) == Memory("ram", 1, 1)


@every_loop
async def test_a_descriptor_that_will_not_do_is_refused() -> None:
    """A view past the end of its file would be a SIGBUS; nothing is left open."""
    reader, writer = os.pipe()
    async with Bus() as bus:
        with file_of(SIZE) as fd, file_of(SIZE, os.O_WRONLY) as write_only:
            inside = descriptors()
            for of, size, reason in (
                (fd, SIZE + 1, f"its file has {SIZE:#x}"),
                (write_only, SIZE, "its descriptor cannot be read"),
                (reader, 1, "its descriptor is of no regular file"),
                (-1, 1, "Bad file descriptor"),
                (2**80, 1, "int"),
            ):
                with pytest.raises(BadMemory, match=reason):
                    await bus.add_memory("ram", size, of)
            assert descriptors() == inside
    os.close(reader)
    os.close(writer)


@every_loop
async def test_a_descriptor_that_cannot_be_mapped_is_refused() -> None:
    """An attribute of the kernel is a regular file with a size, and ``O_PATH`` hides that nothing can be read."""
    attribute = os.open("/sys/kernel/uevent_seqnum", os.O_RDONLY)
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(SIZE)
        path_only = os.open(file.name, os.O_PATH)
        async with Bus() as bus:
            inside = descriptors()
            for of, reason in ((attribute, "No such device"), (path_only, "Bad file descriptor")):
                with pytest.raises(BadMemory, match=reason):
                    await bus.add_memory("ram", PAGE, of)
            assert descriptors() == inside
    os.close(attribute)
    os.close(path_only)


@every_loop
async def test_a_file_that_cannot_be_mapped_any_more_is_bad_memory() -> None:
    """Whoever has a descriptor of it may have made it shorter meanwhile."""
    async with Bus() as bus:
        with file_of(SIZE) as fd:
            ram = await bus.add_memory("ram", SIZE, fd)
            os.ftruncate(fd, 1)
        with pytest.raises(BadMemory, match="mmap length is greater"):
            bus.memory_view(ram)


def test_a_descriptor_that_was_adopted_and_cannot_be_mapped_is_bad_memory() -> None:
    memories = Memories()
    attribute = os.open("/sys/kernel/uevent_seqnum", os.O_RDONLY)
    ram = memories.announce("ram", PAGE)
    memories.adopt(ram, attribute)
    with pytest.raises(BadMemory, match="No such device"):
        memories.view(ram)
    memories.close()


@every_loop
async def test_a_name_is_taken_until_its_memory_is_removed() -> None:
    """Its next memory is the next generation, whatever others there were."""
    async with Bus() as bus:
        ram = await bus.add_memory("ram", 1)
        with pytest.raises(MemoryNameTaken, match="a memory named 'ram'"):
            await bus.add_memory("ram", 2)
        with pytest.raises(NameTaken):
            await bus.add_memory("ram", 1)
        with pytest.raises(BadMemory, match="empty"):
            await bus.add_memory("", 1)
        rom = await bus.add_memory("rom", 1)
        bus.remove_memory(ram)
        assert await bus.add_memory("ram", 2) == Memory("ram", 2, 2)
        assert rom == Memory("rom", 1, 1)


# -- mapping into it -----------------------------------------------------------


@every_loop
async def test_everybody_is_told_of_the_memory() -> None:
    """Replay, stream, notifier, translation and what an UNMAP returns say what the target is an offset into."""
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", SIZE)
        told: list[object] = []
        space.register(Notifier(told.append, Cap.IOTLB))
        held = Mapping(0, PAGE - 1, PAGE, Perm.RW, ram)
        space.map(0, PAGE, PAGE, Perm.RW, memory=ram)
        space.map(0, PAGE, PAGE, Perm.RW, memory=ram)
        assert told == [Map("space", 1, 0, PAGE - 1, PAGE, Perm.RW, ram)]
        async with bus.subscribe("space", Cap.IOTLB) as events:
            stream = aiter(events)
            assert await anext(stream) == held.event("space", 1)
            assert (await events.translate(0)).mapping == held
            space.remap(0, PAGE, 0, Perm.R, memory=ram)
            await anext(stream)
            assert await anext(stream) == Map("space", 3, 0, PAGE - 1, 0, Perm.R, ram)
        wanted = Mapping(PAGE, 2 * PAGE - 1, 0, Perm.R, ram)
        space.apply([wanted])
        assert list(space.unmap(PAGE, PAGE)) == [wanted]


@every_loop
async def test_a_remap_to_the_same_place_of_another_memory_is_a_change() -> None:
    async with open_space() as (bus, space):
        ram, rom = await bus.add_memory("ram", SIZE), await bus.add_memory("rom", SIZE)
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        space.remap(0, PAGE, 0, Perm.R, memory=ram)
        assert space.seq == 1
        space.remap(0, PAGE, 0, Perm.R, memory=rom)
        assert mappings(space) == [Mapping(0, PAGE - 1, 0, Perm.R, rom)]
        space.remap(0, PAGE, 0, Perm.R)
        assert mappings(space) == [Mapping(0, PAGE - 1, 0, Perm.R)]


async def refused_everywhere(bus: Bus, iova: int, target: int, memory: Memory, error: type[MappingError]) -> None:
    """See a page refused however it is asked for, and nothing changed."""
    (space,) = bus.spaces()
    page = Mapping(iova, iova + PAGE - 1, target, Perm.R, memory)
    before = mappings(space), space.statistics()
    with pytest.raises(error):
        space.map(iova, PAGE, target, Perm.R, memory=memory)
    with pytest.raises(error):
        space.remap(iova, PAGE, target, Perm.R, memory=memory)
    with pytest.raises(error):
        space.apply([IovaRange(0, space.shape.last), page])
    assert (mappings(space), space.statistics()) == before


@every_loop
async def test_a_map_past_the_end_of_its_memory_is_refused() -> None:
    """To its last byte it is accepted, and one further it is not."""
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", SIZE)
        odd = await bus.add_memory("odd", SIZE - 1)
        space.map(0, SIZE, 0, Perm.R, memory=ram)
        space.map(SIZE, PAGE, SIZE - PAGE, Perm.R, memory=ram)
        await refused_everywhere(bus, 0, SIZE, ram, PastMemory)
        await refused_everywhere(bus, 0, SIZE - PAGE, odd, PastMemory)
        await refused_everywhere(bus, 0, 2**63, ram, PastMemory)
        with pytest.raises(PastMemory) as refused:
            space.map(2 * SIZE, 2 * PAGE, SIZE - PAGE, Perm.R, memory=ram)
        error = refused.value
        assert (error.target, error.size) == (SIZE - PAGE, 2 * PAGE)
        assert (error.memory, error.memory_size) == ("ram@1", SIZE)


@every_loop
async def test_a_map_into_a_memory_that_is_not_there_is_refused() -> None:
    """One of an older generation, of another bus or of another size is not that of the name."""
    async with open_space() as (bus, space):
        old = await bus.add_memory("ram", SIZE)
        bus.remove_memory(old)
        await refused_everywhere(bus, 0, 0, old, UnknownMemory)
        ram = await bus.add_memory("ram", SIZE)
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        for stranger in (old, Memory("rom", 1, SIZE), Memory("ram", 2, SIZE + 1), Memory("ram", 3, SIZE)):
            await refused_everywhere(bus, PAGE, 0, stranger, UnknownMemory)
            with pytest.raises(LookupError):
                bus.memory_view(stranger)
            with pytest.raises(UnknownMemory) as refused:
                bus.remove_memory(stranger)
            error = refused.value
            assert (error.memory, error.generation) == (stranger.name, stranger.generation)
            assert error.present == (2 if stranger.name == "ram" else 0)
        with pytest.raises(TypeError, match="add_memory"):
            space.map(PAGE, PAGE, 0, Perm.R, memory=cast("Memory", "ram"))
        assert len(mappings(space)) == 1


# -- removing ------------------------------------------------------------------


@every_loop
async def test_a_memory_in_use_stays() -> None:
    """A mapping of any open space keeps it, whatever it allows; the one that does is named."""
    async with open_space("one") as (bus, one):
        two = await bus.create_space("two")
        ram = await bus.add_memory("ram", SIZE)
        for space, perm in ((one, Perm.R), (two, Perm.W), (two, Perm.RW)):
            space.map(PAGE, PAGE, 0, Perm.R)
            space.map(2 * PAGE, PAGE, 0, perm, memory=ram)
            with pytest.raises(MemoryInUse) as refused:
                bus.remove_memory(ram)
            error = refused.value
            assert (error.memory, error.space) == ("ram@1", space.name)
            assert (error.first, error.last) == (2 * PAGE, 3 * PAGE - 1)
            assert bus.memory_view(ram).nbytes == SIZE
            space.unmap_all()
        two.map(0, PAGE, 0, Perm.R, memory=ram)
        await two.close()
        bus.remove_memory(ram)


@every_loop
async def test_no_descriptor_outlives_its_memory() -> None:
    """It is closed with its memory or with the bus, its views included: once they are dropped, nothing is left."""
    before = descriptors()
    async with Bus() as bus:
        inside = descriptors()
        views: list[memoryview] = []
        for number in range(8):
            memory = await bus.add_memory(f"ram{number}", SIZE)
            if number % 2:
                views.append(bus.memory_view(memory))
            if number % 4 > 1:
                bus.remove_memory(memory)
        assert descriptors() > inside
        views[0][:4] = views[1][:4] = b"kept"
    assert [bytes(view[:4]) for view in views[:2]] == [b"kept", b"kept"]
    del views
    assert descriptors() == before


@every_loop
async def test_a_closed_bus_has_no_memories() -> None:
    async with Bus() as bus:
        ram = await bus.add_memory("ram", SIZE)
    for use in (bus.memory_view, bus.remove_memory):
        with pytest.raises(BusClosed):
            use(ram)
    with pytest.raises(BusClosed):
        await bus.add_memory("ram", SIZE)
    async with bus:
        with pytest.raises(UnknownMemory):
            bus.memory_view(ram)
        assert await bus.add_memory("ram", SIZE) == Memory("ram", 2, SIZE)


@every_loop
async def test_memories_belong_to_the_thread_of_the_bus() -> None:
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        ram = await bus.add_memory("ram", SIZE)
        calls: list[Any] = [
            lambda: bus.memory_view(ram),
            lambda: bus.remove_memory(ram),
            lambda: events.backing(ram),
            lambda: events.descriptor(ram),
            lambda: space.map(0, PAGE, 0, Perm.R, memory=ram),
        ]
        for call in calls:
            with pytest.raises(WrongThread):
                await anyio.to_thread.run_sync(call)


# -- looking at it -------------------------------------------------------------


@every_loop
async def test_a_consumer_sees_what_the_producer_writes_and_the_reverse() -> None:
    async with open_space() as (bus, _), bus.subscribe("space", Cap.IOTLB) as events:
        ram = await bus.add_memory("ram", SIZE)
        mine, theirs = bus.memory_view(ram), events.backing(ram)
        mine[0], theirs[-1] = 7, 9
        assert (theirs[0], mine[-1]) == (7, 9)
        mine.release()
        assert theirs[0] == bus.memory_view(ram)[0] == 7


@every_loop
async def test_a_consumer_hands_on_a_descriptor_of_its_own() -> None:
    async with open_space() as (bus, _), bus.subscribe("space", Cap.IOTLB) as events:
        ram = await bus.add_memory("ram", SIZE)
        fd = events.descriptor(ram)
        bus.remove_memory(ram)
        assert os.pwrite(fd, b"kept", 0) == 4  # it is the caller's, and closed by nobody else
        os.close(fd)


@every_loop
@pytest.mark.parametrize("which", ["backing", "descriptor"])
async def test_only_who_may_read_the_stream_sees_the_memory(which: str) -> None:
    async with open_space() as (bus, space):
        ram = await bus.add_memory("ram", SIZE)
        events = bus.subscribe("space", Cap.IOTLB)
        look = methodcaller(which, ram)
        with pytest.raises(NotEntered):
            look(events)
        async with events:
            with pytest.raises(UnknownMemory):
                methodcaller(which, Memory("ram", 2, SIZE))(events)
            await space.fence(events)
            with pytest.raises(Fenced):
                look(events)
        async with bus.subscribe("space", Cap.IOTLB) as others:
            pass
        with pytest.raises(SubscriptionClosed):
            look(others)


def test_nothing_is_mapped_before_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then once, for everybody."""
    mapped: list[int] = []
    real = mmap.mmap

    def watched(fd: int, size: int) -> mmap.mmap:
        mapped.append(size)
        return real(fd, size)

    monkeypatch.setattr("iommubus.bus.memory.mmap", watched)
    memories = Memories()
    ram = memories.add("ram", SIZE, None)
    assert mapped == []

    views = [memories.view(ram) for _ in range(3)]

    assert mapped == [SIZE]
    assert len({id(view) for view in views}) == 3
    memories.close()


def test_a_backing_can_be_closed_while_it_is_looked_at() -> None:
    """The bytes stay for as long as the view; the descriptor does not."""
    with file_of(SIZE) as fd:
        backing = Backing(Memory("ram", 1, SIZE), os.dup(fd))
        view = backing.view()
        backing.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(backing.fd or -1)
        view[0] = 3
        assert os.pread(fd, 1, 0) == b"\3"


def test_a_memory_of_another_process_gets_its_descriptor_later() -> None:
    memories = Memories()
    ram = memories.announce("ram", SIZE, generation=3)
    assert ram == Memory("ram", 3, SIZE)
    with pytest.raises(BadMemory, match="not in this process"):
        memories.view(ram)
    with pytest.raises(MemoryNameTaken):
        memories.announce("ram", SIZE)
    fd = os.memfd_create("test")
    with pytest.raises(BadMemory, match="its file has 0x0"):
        memories.supply(ram, fd)
    os.ftruncate(fd, SIZE)
    memories.supply(ram, fd)
    os.pwrite(fd, b"there", 0)
    os.close(fd)
    assert bytes(memories.view(ram)[:5]) == b"there"
    with pytest.raises(BadMemory, match="already"):
        memories.supply(ram, 0)
    memories.remove(ram)
    with pytest.raises(UnknownMemory):
        memories.supply(ram, 0)
    assert memories.announce("ram", SIZE).generation == 4
    memories.close()
