"""What a mapping leads to has an address in this process, which stays."""

import ctypes

import pytest

from iommubus import Bus, Cap, Map, Mapping, Perm
from iommubus.bridging.addresses import Addresses
from iommubus.errors import NoBacking, UnknownMemory
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
