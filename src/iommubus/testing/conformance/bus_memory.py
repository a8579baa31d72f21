"""Cases for a bus: memories, what leads into them, and what is read there (contract, laws 1 and 9)."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from ...caps import Cap, Perm
from ...consumers.mirror import Mirror
from ...errors import (
    AccessDenied,
    BadMemory,
    MappingError,
    MemoryInUse,
    MemoryNameTaken,
    NoBacking,
    PastMemory,
    UnknownMemory,
)
from ...events import Memory
from ...mapping import Mapping
from ...ranges import IovaRange
from .demands import demand, demand_raised
from .failures import failure_of
from .keeping import keep
from .scene import PAGE, Scene, Stage

SIZE: Final = 4 * PAGE
"""Bytes in the memories of these cases."""


async def events_carry_the_memory(stage: Stage) -> None:
    """Contract: whatever names a target says which memory it is an offset into, if it is one."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    follower = await scene.enter(name="early")
    held = Mapping(0, PAGE - 1, PAGE, Perm.RW, ram)
    scene.space.map(0, PAGE, PAGE, Perm.RW, memory=ram)
    await scene.sync()
    demand("a MAP says what its target is an offset into", follower.holds(), [held])
    async with stage.bus.subscribe("space", Cap.IOTLB) as late:
        event = await anext(aiter(late))
        demand("so does a replay", event, held.event("space", event.seq))
        demand("so does an answer", (await late.translate(0)).mapping, held)
    follower.gate.shut()
    demand("so does what was removed", list(scene.space.unmap(0, PAGE)), [held])
    (await failure_of(scene.space.sync)).demand_missing("early", held)
    follower.gate.open()
    await scene.sync()


async def a_descriptor_is_the_same_memory(stage: Stage) -> None:
    """Contract: a consumer can hand a memory on to a device that is not in its process."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    scene.space.map(0, PAGE, PAGE, Perm.RW, memory=ram)
    async with stage.bus.subscribe("space", Cap.IOTLB) as events:
        await anext(aiter(events))
        fd = events.descriptor(ram)
        try:
            os.pwrite(fd, b"seen", PAGE)
        finally:
            os.close(fd)
    demand("what is written there is what is mapped", bytes(stage.bus.memory_view(ram)[PAGE : PAGE + 4]), b"seen")


async def another_memory_is_another_mapping(stage: Stage) -> None:
    """Law 6: the same offset into another memory is a change in place; into the same one it is nothing."""
    scene = await stage.scene()
    ram, rom = [await stage.bus.add_memory(name, SIZE) for name in ("ram", "rom")]
    follower = await scene.enter()
    for memory in (ram, ram, rom, rom, None):
        scene.space.remap(0, PAGE, 0, Perm.R, memory=memory)
        await scene.sync()
        demand("what is held leads into the memory", follower.holds(), [Mapping(0, PAGE - 1, 0, Perm.R, memory)])
    demand("what is the same is not told", len(follower.seen), 5)


async def a_map_past_the_end_of_its_memory_is_refused(stage: Stage) -> None:
    """Law 9: a mapping ends in its memory; to the last byte it is taken, and a byte further it is not."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    scene.space.map(8 * PAGE, SIZE, 0, Perm.R, memory=ram)
    scene.space.map(16 * PAGE, PAGE, SIZE - PAGE, Perm.R, memory=ram)
    odd = await stage.bus.add_memory("odd", SIZE - 1)
    demand_refused(scene, ram, SIZE, PastMemory, target=SIZE, size=PAGE, memory="ram@1", memory_size=SIZE)
    demand_refused(scene, odd, SIZE - PAGE, PastMemory, memory="odd@1", memory_size=SIZE - 1)


async def a_map_into_an_unknown_memory_is_refused(stage: Stage) -> None:
    """Contract: what was removed, is of an older generation or was never added is no memory of this bus."""
    scene = await stage.scene()
    old = await stage.bus.add_memory("ram", SIZE)
    stage.bus.remove_memory(old)
    demand_refused(scene, old, 0, UnknownMemory, memory="ram", generation=1, present=0)
    ram = await stage.bus.add_memory("ram", SIZE)
    demand("a name that comes back is the next generation", ram, Memory("ram", 2, SIZE))
    for stranger, present in ((old, 2), (Memory("rom", 1, SIZE), 0), (Memory("ram", 2, SIZE + PAGE), 2)):
        values = {"memory": stranger.name, "generation": stranger.generation, "present": present}
        demand_refused(scene, stranger, 0, UnknownMemory, **values)
        for use in (stage.bus.memory_view, stage.bus.remove_memory):
            with demand_raised(UnknownMemory, **values):
                use(stranger)
    scene.space.map(0, PAGE, 0, Perm.R, memory=ram)


def demand_refused(scene: Scene, memory: Memory, target: int, kind: type[MappingError], /, **values: object) -> None:
    """Demand that a page at 0 cannot lead there, however it is asked for, and that nothing was published."""
    before = scene.space.statistics().seq
    with demand_raised(kind, **values):
        scene.space.map(0, PAGE, target, Perm.R, memory=memory)
    with demand_raised(kind, **values):
        scene.space.remap(0, PAGE, target, Perm.R, memory=memory)
    with demand_raised(kind, **values):
        scene.space.apply([IovaRange(0, scene.size - 1), Mapping(0, PAGE - 1, target, Perm.R, memory)])
    demand("what is refused publishes nothing", scene.space.statistics().seq, before)


async def a_memory_in_use_stays(stage: Stage) -> None:
    """Contract: while a mapping of an open space leads into a memory, that cannot be removed; the mapping is named."""
    ram = await stage.bus.add_memory("ram", SIZE)
    one, two = [await stage.scene(name) for name in ("one", "two")]
    for scene in (one, two):
        scene.space.map(PAGE, PAGE, 0, Perm.W, memory=ram)
        with demand_raised(MemoryInUse, memory="ram@1", space=scene.space.name, first=PAGE, last=2 * PAGE - 1):
            stage.bus.remove_memory(ram)
        demand("a memory in use is still there", stage.bus.memory_view(ram).nbytes, SIZE)
        if scene is one:
            scene.space.unmap_all()
    await two.space.close()
    stage.bus.remove_memory(ram)
    with demand_raised(UnknownMemory, memory="ram"):
        stage.bus.memory_view(ram)


async def names_of_memories_are_unique_while_they_are_used(stage: Stage) -> None:
    """Contract: a memory has a name of its own, bytes, and a descriptor that has as many."""
    await stage.bus.add_memory("ram", SIZE)
    with demand_raised(MemoryNameTaken, name="ram"):
        await stage.bus.add_memory("ram", SIZE)
    for name, size in (("", SIZE), ("rom", 0)):
        with demand_raised(BadMemory, name=name, size=size):
            await stage.bus.add_memory(name, size)
    with file_of(b"short") as file, demand_raised(BadMemory, name="rom", size=SIZE):
        await stage.bus.add_memory("rom", SIZE, file)
    await stage.scene("ram")


@contextmanager
def file_of(content: bytes, flags: int = os.O_RDWR) -> Generator[int]:
    """Give a descriptor of a file in memory, opened with ``flags``."""
    made = os.memfd_create("conformance")
    try:
        os.write(made, content)
        own = os.open(f"/proc/self/fd/{made}", flags)
        try:
            yield own
        finally:
            os.close(own)
    finally:
        os.close(made)


# -- bytes -------------------------------------------------------------------------------


async def what_the_producer_writes_is_what_a_consumer_reads(stage: Stage) -> None:
    """Contract: both look at the same bytes, at once, and each sees what the other writes."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    mirror = await keep(stage, Mirror, Cap.IOTLB)
    scene.space.map(8 * PAGE, 2 * PAGE, PAGE, Perm.RW, memory=ram)
    scene.space.map(20 * PAGE, PAGE, 0, Perm.RW)
    await scene.sync()
    whole, part = stage.bus.memory_view(ram), mirror.view(9 * PAGE - 4, 8, Perm.W)
    demand("new memory is all zero", bytes(part), bytes(8))
    whole[2 * PAGE - 4 : 2 * PAGE + 4] = b"producer"
    demand("a consumer reads what its producer wrote", bytes(part), b"producer")
    part[:] = b"consumer"
    demand("a producer reads what its consumer wrote", bytes(whole[2 * PAGE - 4 : 2 * PAGE + 4]), b"consumer")
    demand("nothing else was written", whole.nbytes - bytes(whole).count(0), 8)
    with demand_raised(NoBacking, iova=20 * PAGE):
        mirror.view(20 * PAGE)
    del part


async def a_view_ends_with_its_mapping(stage: Stage) -> None:
    """Law 1: when the UNMAP was applied a view is released, so that nobody reads through it."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    mirror = await keep(stage, Mirror, Cap.IOTLB)
    for page in range(2):
        scene.space.map(page * PAGE, PAGE, page * PAGE, Perm.RW, memory=ram)
    await scene.sync()
    gone, kept = mirror.view(0), mirror.view(PAGE)
    scene.space.unmap(0, PAGE)
    await scene.sync()
    with demand_raised(ValueError):
        gone[0]
    demand("what is still mapped can be read", kept[0], 0)


async def what_may_only_be_read_cannot_be_written(stage: Stage) -> None:
    """Contract: a view can be written where the mapping allows it and the memory can be; else that is refused."""
    scene = await stage.scene()
    ram = await stage.bus.add_memory("ram", SIZE)
    with file_of(bytes(range(256)) * (SIZE // 256), os.O_RDONLY) as file:
        rom = await stage.bus.add_memory("rom", SIZE, file)
    mirror = await keep(stage, Mirror, Cap.IOTLB)
    scene.space.map(0, PAGE, 0, Perm.R, memory=ram)
    scene.space.map(PAGE, PAGE, PAGE, Perm.RW, memory=rom)
    await scene.sync()
    for iova in (0, PAGE):
        demand("what may only be read is viewed so", mirror.view(iova).readonly, wanted=True)
        with demand_raised(AccessDenied, wanted=int(Perm.RW), granted=int(Perm.R)):
            mirror.view(iova, perm=Perm.RW)
    demand("a file shows its bytes", bytes(mirror.view(PAGE + 5, 3)), b"\5\6\7")
    demand("its producer cannot write it either", stage.bus.memory_view(rom).readonly, wanted=True)


CASES: Final = (
    events_carry_the_memory,
    a_descriptor_is_the_same_memory,
    another_memory_is_another_mapping,
    a_map_past_the_end_of_its_memory_is_refused,
    a_map_into_an_unknown_memory_is_refused,
    a_memory_in_use_stays,
    names_of_memories_are_unique_while_they_are_used,
    what_the_producer_writes_is_what_a_consumer_reads,
    a_view_ends_with_its_mapping,
    what_may_only_be_read_cannot_be_written,
)
