"""What a mapping leads to has an address in this process, which stays."""

import ctypes
import os
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from pathlib import Path

import pytest

from iommubus import Bus, Cap, Map, Mapping, Perm
from iommubus.bridging.addresses import Addresses
from iommubus.errors import BadMemory, NoBacking, UnknownMemory
from tests.loops import every_loop

PAGE = 0x1000


@every_loop
async def test_the_address_leads_to_the_bytes_of_the_memory() -> None:
    async with Bus() as bus:
        space = await bus.create_space("space")
        ram = await bus.add_memory("ram", 4 * PAGE)
        bus.memory_view(ram)[2 * PAGE : 2 * PAGE + 4] = b"here"
        space.map(0, PAGE, 2 * PAGE, Perm.RW, memory=ram)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            addresses = Addresses(events)
            event = await anext(aiter(events))
            assert isinstance(event, Map)
            address = addresses.of(event)
            assert ctypes.string_at(address, 4) == b"here"
            assert addresses.of(event) == address  # and is asked of the bus once
            ctypes.memset(address, ord("x"), 4)
            assert bytes(bus.memory_view(ram)[2 * PAGE : 2 * PAGE + 4]) == b"xxxx"
            space.unmap_all()
            bus.remove_memory(ram)
            assert ctypes.string_at(address, 4) == b"xxxx"  # whoever was told of it may still use it


@every_loop
async def test_a_bare_address_leads_nowhere_here() -> None:
    async with Bus() as bus:
        await bus.create_space("space")
        ram = await bus.add_memory("ram", PAGE)
        bus.remove_memory(ram)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            addresses = Addresses(events)
            with pytest.raises(NoBacking):
                addresses.of(Mapping(0, PAGE - 1, 0x8000, Perm.RW))
            with pytest.raises(UnknownMemory):
                addresses.of(Mapping(0, PAGE - 1, 0, Perm.RW, ram))


@every_loop
async def test_what_can_only_be_read_is_the_file_itself_and_no_copy(tmp_path: Path) -> None:
    """
    A kernel pins the pages that it finds there, and those of a private copy are nobody's any more.
    """
    path = tmp_path / "ram"
    path.write_bytes(b"old ".ljust(PAGE, b"\0"))
    async with Bus() as bus:
        space = await bus.create_space("space")
        with path.open("rb") as readable:
            ram = await bus.add_memory("ram", PAGE, readable.fileno())
        space.map(0, PAGE, 0, Perm.R, memory=ram)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            event = await anext(aiter(events))
            assert isinstance(event, Map)
            addresses = Addresses(events)
            address = addresses.of(event)

            assert b"r--s" in mode_of(address)
            with path.open("r+b") as written:
                written.write(b"new ")
            assert ctypes.string_at(address, 4) == b"new "


@every_loop
async def test_what_nobody_can_write_may_be_a_copy() -> None:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"same".ljust(PAGE, b"\0"))
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
    async with Bus() as bus:
        await bus.create_space("space")
        ram = await bus.add_memory("ram", PAGE, fd)
        os.close(fd)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            addresses = Addresses(events)

            assert ctypes.string_at(addresses.of(Mapping(0, PAGE - 1, 0, Perm.R, ram)), 4) == b"same"
            with pytest.raises(BadMemory, match="can only be read in this process"):
                addresses.of(Mapping(0, PAGE - 1, 0, Perm.RW, ram))


def mode_of(address: int) -> bytes:
    """Return the line of the kernel's list of what is mapped in this process that has an address."""
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split(b"-"))
        if first <= address < last:
            return line
    raise AssertionError(hex(address))


@every_loop
async def test_what_cannot_be_mapped_any_more_is_bad_memory(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(2 * PAGE))
    async with Bus() as bus:
        space = await bus.create_space("space")
        fd = os.open(path, os.O_RDONLY)
        rom = await bus.add_memory("rom", 2 * PAGE, fd)
        os.close(fd)
        space.map(0, PAGE, 0, Perm.R, memory=rom)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            events.backing(rom)  # it is mapped for Python, and not yet for the kernel
            os.truncate(path, PAGE)
            with pytest.raises(BadMemory, match="mmap length is greater"):
                Addresses(events).of(Mapping(0, PAGE - 1, 0, Perm.R, rom))
