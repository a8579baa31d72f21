"""What a watched producer does is written down."""

import pytest
from anyio.lowlevel import checkpoint

from iommubus import Bus, Cap, IovaRange, Mapping, Perm
from iommubus.errors import SyncFailed, UnknownName
from iommubus.testing.conformance.watch import Log, Removal, WatchedBus, WatchedSpace
from tests.actors import PAGE
from tests.loops import every_loop

RW = Perm.RW


async def nobody(_: WatchedSpace) -> None:
    await checkpoint()


@every_loop
async def test_what_is_live_and_what_is_unsynced_is_known() -> None:
    async with Bus() as bus:
        log = Log()
        watched = WatchedBus(bus, log, nobody)
        space = await watched.create_space("s", straddle="split", offers=Cap.ALL)
        space.map(0, 4 * PAGE, 0, RW)
        space.map(0, 4 * PAGE, 0, RW)
        space.unmap(PAGE, PAGE)
        assert sorted(space.live) == [Mapping(0, 0xFFF, 0, RW), Mapping(0x2000, 0x3FFF, 0x2000, RW)]
        space.remap(0, PAGE, 0x8000, RW)
        space.remap(0, PAGE, 0x8000, RW)
        space.apply(change for change in (IovaRange(0x2000, 0x3FFF), Mapping(0x5000, 0x5FFF, 0x9000, RW)))
        space.invalidate_device(0, PAGE)
        assert [str(removal) for removal in log.unsynced] == [
            "0x1000..0x1fff -> 0x1000 <Perm.RW: 3> of s",
            "0x0..0xfff -> 0x0 <Perm.RW: 3> of s",
            "0x2000..0x3fff -> 0x2000 <Perm.RW: 3> of s",
            "0x0..0xfff of s",
        ]
        await space.sync()
        assert log.unsynced == []
        assert log.reused == []
        await watched.close()
        assert len(log.unsynced) == 2
        assert watched.spaces() == ()


@every_loop
async def test_a_sync_over_patterns_covers_what_it_names() -> None:
    async with Bus() as bus:
        log = Log()
        watched = WatchedBus(bus, log, nobody)
        one, other = await watched.create_space("a/1"), await watched.create_space("b/1")
        for space in (one, other):
            space.map(0, PAGE, 0, RW)
            space.unmap_all()
        await watched.sync("a/*")
        assert [removal.space for removal in log.unsynced] == [other]
        await watched.sync()
        assert log.unsynced == []


@every_loop
async def test_a_sync_that_fails_covers_nothing() -> None:
    async with Bus() as bus:
        log, told = Log(), list[int]()
        log.on_failure = lambda: told.append(1)
        space = await WatchedBus(bus, log, nobody).create_space("s")
        async with bus.subscribe("s", Cap.UNMAP):
            space.map(0, PAGE, 0, RW)
            space.unmap(0, PAGE)
            with pytest.raises(SyncFailed):
                await space.sync(timeout=0.01)
        assert (len(log.unsynced), log.failed, told) == (1, 1, [1])


@every_loop
async def test_a_space_that_is_waited_for_is_the_watched_one() -> None:
    async with Bus() as bus:
        watched = WatchedBus(bus, Log(), nobody)
        space = await watched.create_space("s")
        assert await watched.wait_space("s") is space
        await bus.create_space("another producer's")
        with pytest.raises(UnknownName):
            await watched.wait_space("another producer's")


@pytest.mark.parametrize(
    ("first", "last", "target", "here", "elsewhere"),
    [
        (0x1000, 0x2FFF, 0x8000, False, True),  # the same pages in their place
        (0x2000, 0x2FFF, 0x9000, False, True),
        (0x0000, 0x3FFF, 0x7000, False, True),  # and others around them
        (0x1000, 0x1FFF, 0x9000, True, True),
        (0x8000, 0x8FFF, 0x9000, True, True),
        (0x8000, 0x8FFF, 0xA000, False, False),  # right behind
        (0x8000, 0x8FFF, 0x7000, False, False),  # right before
    ],
)
@every_loop
async def test_a_page_is_reused_unless_it_is_put_back(
    first: int, last: int, target: int, here: bool, elsewhere: bool
) -> None:
    async with Bus() as bus:
        watched = WatchedBus(bus, Log(), nobody)
        space, other = await watched.create_space("s"), await watched.create_space("t")
        removal = Removal(space, 0x1000, 0x2FFF, Mapping(0x1000, 0x2FFF, 0x8000, RW))
        mapping = Mapping(first, last, target, RW)

        assert removal.reused_by(space, mapping) == here
        assert removal.reused_by(other, mapping) == elsewhere
        assert not Removal(space, 0, 0xFFFF).reused_by(other, mapping)
