"""A device's access to memory goes through its cache, and never reaches what was unmapped (law 1)."""

import os

import anyio
import pytest

from iommubus import Bus, Cap, Iotlb, Mapping, Memory, Perm
from iommubus.bridging.dma import Dma, Miss
from iommubus.errors import AccessDenied, Fenced, NoBacking, NotMapped
from tests.loops import every_loop

PAGE = 0x1000


class Table:
    """A producer's page table."""

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory
        self.pages: dict[int, tuple[int, Perm]] = {}

    async def walk(self, iova: int, _: Perm) -> Mapping | None:
        page = iova & -PAGE
        if page not in self.pages:
            return None
        target, allowed = self.pages[page]
        return Mapping(page, page + PAGE - 1, target, allowed, self.memory)


async def read(dma: Dma, iova: int, size: int) -> bytes:
    """Read, asking for what is missing."""
    while True:
        try:
            return dma.read(iova, size)
        except Miss as miss:
            await dma.translate(miss)


async def write(dma: Dma, iova: int, data: bytes) -> None:
    while True:
        try:
            dma.write(iova, data)
        except Miss as miss:
            await dma.translate(miss)
        else:
            return


@every_loop
async def test_what_lies_in_several_pages_is_read_and_written_whole() -> None:
    async with Bus() as bus:
        memory = await bus.add_memory("ram", 4 * PAGE)
        table = Table(memory)
        table.pages = {0: (3 * PAGE, Perm.RW), PAGE: (0, Perm.RW), 2 * PAGE: (2 * PAGE, Perm.RW)}
        await bus.create_space("space", offers=Cap.UNMAP, translate=table.walk)
        async with bus.subscribe("space", Cap.UNMAP) as events:
            dma = Dma(events, Iotlb(events))
            data = os.urandom(PAGE + 20)
            with pytest.raises(Miss) as missing:
                dma.write(PAGE - 10, data)
            assert (missing.value.iova, missing.value.perm) == (PAGE - 10, Perm.W)

            await write(dma, PAGE - 10, data)

            assert await read(dma, PAGE - 10, len(data)) == data
            assert dma.read(PAGE - 10, 0) == b""
            view = bus.memory_view(memory)
            assert bytes(view[4 * PAGE - 10 :]) + bytes(view[:PAGE]) + bytes(view[2 * PAGE : 2 * PAGE + 10]) == data


@every_loop
async def test_an_access_that_is_not_allowed_is_refused() -> None:
    async with Bus() as bus:
        table = Table(await bus.add_memory("ram", PAGE))
        table.pages = {0: (0, Perm.R)}
        await bus.create_space("space", offers=Cap.UNMAP, translate=table.walk)
        async with bus.subscribe("space", Cap.UNMAP) as events:
            dma = Dma(events, Iotlb(events))
            assert await read(dma, 0, 1) == b"\0"
            with pytest.raises(AccessDenied):
                dma.write(0, b"x")
            with pytest.raises(NotMapped):
                await read(dma, PAGE - 1, 2)


@every_loop
async def test_a_memory_that_cannot_be_written_is_not() -> None:
    fd = os.memfd_create("read-only")
    os.ftruncate(fd, PAGE)
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    async with Bus() as bus:
        table = Table(await bus.add_memory("rom", PAGE, readable))
        table.pages = {0: (0, Perm.RW)}
        await bus.create_space("space", offers=Cap.UNMAP, translate=table.walk)
        async with bus.subscribe("space", Cap.UNMAP) as events:
            dma = Dma(events, Iotlb(events))
            assert await read(dma, 0, 1) == b"\0"
            with pytest.raises(AccessDenied):
                await write(dma, 0, b"x")
    os.close(fd)
    os.close(readable)


@every_loop
async def test_a_bare_address_has_no_bytes() -> None:
    async with Bus() as bus:
        table = Table(None)
        table.pages = {0: (0x8000_0000, Perm.RW)}
        await bus.create_space("space", offers=Cap.UNMAP, translate=table.walk)
        async with bus.subscribe("space", Cap.UNMAP) as events:
            with pytest.raises(NoBacking, match="0x80000010"):
                await read(Dma(events, Iotlb(events)), 0x10, 1)


async def until_fenced(iotlb: Iotlb) -> None:
    with pytest.raises(Fenced):
        await iotlb.run()


@every_loop
async def test_what_was_unmapped_is_missed_and_what_is_fenced_is_refused() -> None:
    async with Bus() as bus, anyio.create_task_group() as tasks:
        table = Table(await bus.add_memory("ram", PAGE))
        table.pages = {0: (0, Perm.RW)}
        space = await bus.create_space("space", offers=Cap.UNMAP, translate=table.walk)
        async with bus.subscribe("space", Cap.UNMAP, name="device") as events:
            iotlb = Iotlb(events)
            dma = Dma(events, iotlb)
            tasks.start_soon(until_fenced, iotlb)
            await read(dma, 0, 1)
            space.unmap(0, PAGE)
            await space.sync()
            with pytest.raises(Miss):
                dma.read(0, 1)
            await read(dma, 0, 1)
            assert await space.fence("device")
            with pytest.raises(Fenced):
                dma.read(0, 1)
            reached = True
    assert reached
