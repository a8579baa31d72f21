"""A follower believes nothing."""

import anyio
import pytest

from iommubus import Cap, DevIotlbUnmap, Event, Map, Mapping, Perm, Unmap
from iommubus.errors import PromiseBroken
from iommubus.testing.conformance.follower import Follower
from tests.actors import map_page, open_space, settle, unmap_page
from tests.loops import every_loop

RW = Perm.RW


@every_loop
async def test_what_should_never_have_come_is_named() -> None:
    async with open_space() as (bus, _):
        follower = Follower(bus.subscribe("space", Cap.IOTLB), ("space",), Cap.IOTLB, [(0, 0xFFFF)])
        follower.apply(Map("space", 1, 0x1000, 0x2FFF, 0x8000, RW))
        wrong: list[tuple[Event, str]] = [
            (Map("space", 2, 0x2000, 0x3FFF, 0, RW), "no MAP comes over a live mapping"),
            (Unmap("space", 2, 0x2000, 0x2FFF), "no UNMAP cuts a mapping"),
            (Unmap("space", 2, 0, 0x1FFF), "no UNMAP cuts a mapping"),
            (Unmap("other", 2, 0, 0xFFFF), "events name their space"),
            (Unmap("space", 2, 0, 0x1_0FFF), "lies in a range that was asked for"),
            (DevIotlbUnmap("space", 2, 0, 0xFFF), "is of a kind that was asked for"),
        ]
        for event, promise in wrong:
            with pytest.raises(PromiseBroken, match=promise):
                follower.apply(event)
        assert follower.holds() == [Mapping(0x1000, 0x2FFF, 0x8000, RW)]
        follower.apply(Unmap("space", 2, 0, 0xFFFF))
        assert follower.holds() == []


@every_loop
async def test_it_stands_at_its_gate_with_an_event_in_hand() -> None:
    async with open_space() as (bus, space), anyio.create_task_group() as tasks:
        follower = Follower(bus.subscribe("space", Cap.IOTLB), ("space",), Cap.IOTLB, [(0, 0xFFFF)], dawdle=2)
        await tasks.start(follower.run)
        follower.gate.shut()
        map_page(space, 0)
        await settle()
        assert (len(follower.seen), follower.holds()) == (1, [])
        follower.gate.open()
        follower.gate.open()
        await space.sync()
        assert len(follower.holds()) == 1
        follower.failing = (Unmap,)
        unmap_page(space, 0)
        await settle()
        assert len(follower.holds()) == 1
        follower.failing = ()
        await space.sync()
        await space.close()
        await follower.wait_end()
        assert follower.holds() == []
        assert len(follower.told(Map, 0, 0xFFF)) == 1
        assert follower.told(Map, 0x1000, 0x1FFF) == []
