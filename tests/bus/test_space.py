"""A space: publishing checks, changes the table, and tells; all of it or nothing."""

from collections.abc import Callable

import pytest

from iommubus import LAST, Cap, DevIotlbUnmap, Event, IovaRange, Map, Mapping, Mirror, Perm, Unmap
from iommubus.bus.abc import Straddling
from iommubus.bus.space import LocalSpace
from iommubus.errors import NoTranslator, Overlap, Straddle
from tests.actors import PAGE, map_page, mappings, open_space, take, unmap_page
from tests.loops import every_loop


@every_loop
async def test_what_removes_nothing_publishes_nothing() -> None:
    """T10, I12: unmapping what is not mapped is fine, takes no number, and is told to nobody."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        assert list(space.unmap(0, 0x1000)) == []
        assert list(space.unmap_all()) == []
        space.apply([IovaRange(0, 0xFFF)])
        space.apply([])
        assert space.statistics().seq == 0
        assert events.statistics().lag == 0


@every_loop
async def test_the_same_mapping_again_publishes_nothing() -> None:
    """T8: an identical MAP is no-op; any other over a live mapping is refused."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        map_page(space, 0)
        map_page(space, 0)
        space.remap(0, PAGE, 0x8000_0000, Perm.RW)
        assert space.statistics().seq == 1
        assert events.statistics().lag == 1
        with pytest.raises(Overlap):
            map_page(space, 0, perm=Perm.R)


@every_loop
async def test_unmap_returns_what_it_removed() -> None:
    async with open_space() as (_, space):
        held = [map_page(space, page) for page in (3, 1, 7)]
        assert list(space.unmap(0, 4 * PAGE)) == [held[1], held[0]]
        assert list(space.unmap_all()) == [held[2]]
        assert mappings(space) == []


@every_loop
async def test_an_in_place_change_is_an_unmap_and_a_map() -> None:
    """Law 6, I7, T13: adjacent in number, also where only the permission changes; a cacher sees the UNMAP."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB) as shadower,
        bus.subscribe("space", Cap.UNMAP) as cacher,
    ):
        map_page(space, 0)
        space.remap(0, PAGE, 0x8000_0000, Perm.R)
        space.remap(PAGE, PAGE, 0, Perm.R)
        changed = [Unmap("space", 2, 0, 0xFFF), Map("space", 3, 0, 0xFFF, 0x8000_0000, Perm.R)]
        assert (await take(aiter(shadower), 4))[1:] == [*changed, Map("space", 4, 0x1000, 0x1FFF, 0, Perm.R)]
        assert await take(aiter(cacher), 1) == changed[:1]
        assert cacher.statistics().lag == 0


@every_loop
async def test_splitting_publishes_whole_mappings_and_survivors() -> None:
    """Law 6, I11: with `straddle="split"`; refused by default, and then nothing changes."""
    async with open_space(straddle="split") as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        map_page(space, 0, 4)
        map_page(space, 4, 4)
        stream = aiter(events)
        await take(stream, 2)
        removed = space.unmap(2 * PAGE, 4 * PAGE)
        assert [(piece.first // PAGE, piece.size // PAGE) for piece in removed] == [(2, 2), (4, 2)]
        assert await take(stream, 3) == [
            Unmap("space", 3, 0, 8 * PAGE - 1),
            Map("space", 4, 0, 2 * PAGE - 1, 0x8000_0000, Perm.RW),
            Map("space", 5, 6 * PAGE, 8 * PAGE - 1, 0x8000_6000, Perm.RW),
        ]
    async with open_space() as (_, space):
        map_page(space, 0, 4)
        with pytest.raises(Straddle):
            unmap_page(space, 2)
        assert len(mappings(space)) == 1


@every_loop
async def test_apply_is_all_or_nothing() -> None:
    """`apply`: one that cannot be undoes those before it, survivors of cuts as well, and publishes nothing."""
    for straddle in ("refuse", "split"):
        async with open_space(straddle=straddle) as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
            map_page(space, 0, 4)
            map_page(space, 8, 2)
            before = mappings(space)
            cut = [IovaRange(PAGE, 2 * PAGE - 1)] if straddle == "split" else []
            with pytest.raises(Overlap):
                space.apply(
                    [
                        *cut,
                        IovaRange(8 * PAGE, 10 * PAGE - 1),
                        Mapping(8 * PAGE, 9 * PAGE - 1, 0, Perm.R),
                        Mapping(0, PAGE - 1, 0x5000, Perm.R),
                    ]
                )
            assert mappings(space) == before
            assert space.statistics().seq == 2
            assert events.statistics().lag == 2


@every_loop
async def test_apply_undoes_when_its_changes_raise() -> None:
    """`apply`: the changes may come from a generator, and that may fail or publish by itself."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:

        def failing() -> object:
            yield Mapping(0, PAGE - 1, 0, Perm.R)
            raise LookupError

        with pytest.raises(LookupError):
            space.apply(failing())  # type: ignore[arg-type]
        assert mappings(space) == []

        def publishing() -> object:
            yield Mapping(0, PAGE - 1, 0, Perm.R)
            map_page(space, 5)

        space.apply(publishing())  # type: ignore[arg-type]
        seen = await take(aiter(events), 2)
        assert [(event.seq, event.first // PAGE) for event in seen] == [(1, 5), (2, 0)]


@every_loop
async def test_a_pull_space_publishes_every_unmap() -> None:
    """Section 3: there every UNMAP is published, may name what was never mapped, and takes a number."""
    async with open_space(offers=Cap.UNMAP) as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        assert list(space.unmap(0, 0x2000)) == []
        space.apply([IovaRange(0, 0xFFF), IovaRange(0, 0xFFF)])
        space.unmap_all()
        assert [event.seq for event in await take(aiter(events), 4)] == [1, 2, 3, 4]
        with pytest.raises(NoTranslator):
            await events.translate(0)


@every_loop
async def test_device_invalidations_go_to_those_who_asked() -> None:
    """I2, I4: DEVIOTLB_UNMAP is a kind of its own; it changes nothing in the table."""
    async with (
        open_space(offers=Cap.ALL) as (bus, space),
        bus.subscribe("space", Cap.DEVIOTLB_UNMAP, first=0x1000, last=0x2FFF) as device,
        bus.subscribe("space", Cap.IOTLB) as shadower,
    ):
        map_page(space, 0)
        space.invalidate_device(0, 0x4000)
        unmap_page(space, 0)
        assert await take(aiter(device), 1) == [DevIotlbUnmap("space", 2, 0x1000, 0x2FFF)]
        seen: list[Event] = await take(aiter(shadower), 2)
        assert [event.seq for event in seen] == [1, 3]
        assert device.statistics().lag == 0


@every_loop
async def test_old_pieces_are_forgotten_by_themselves() -> None:
    """Law 1: what nobody can use any more is not remembered, also where nobody calls sync, and some get no events."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, first=2**40) as elsewhere,
        bus.subscribe("space", Cap.IOTLB) as shadower,
    ):
        stream = aiter(shadower)
        for _ in range(3000):
            map_page(space, 0)
            unmap_page(space, 0)
            await take(stream, 2)
        assert elsewhere.statistics().lag == 0
        assert space.statistics().old_pieces < 2048


@every_loop
async def test_the_ends_of_the_address_space() -> None:
    """I13, T1, T2: 0 and 2^64-1 are addresses like any other."""
    async with open_space(granule=1) as (bus, space), bus.subscribe("space", Cap.IOTLB, first=LAST, last=LAST) as top:
        space.map(LAST, 1, LAST, Perm.R)
        space.map(0, 1, 0, Perm.R)
        space.unmap(0, 2**64)
        assert await take(aiter(top), 2) == [
            Map("space", 1, LAST, LAST, LAST, Perm.R),
            Unmap("space", 3, LAST, LAST),
        ]


@every_loop
async def test_publishing_never_waits() -> None:
    """Law 2, I27: whoever does not read, and however much is published, it goes on at once and in bounded room."""
    async with (
        open_space() as (bus, space),
        bus.subscribe("space", Cap.IOTLB, capacity=4) as shadower,
        bus.subscribe("space", Cap.UNMAP, capacity=4) as cacher,
    ):
        for _ in range(100):
            for page in range(16):
                map_page(space, 2 * page)
            for page in range(16):
                unmap_page(space, 2 * page)
        assert space.statistics().seq == 3200
        assert shadower.statistics().lag <= 4 + 16
        assert cacher.statistics().lag <= 4 + 4


Removal = Callable[[LocalSpace], object]

REMOVALS: list[tuple[str, Straddling, Removal]] = [
    ("unmap", "refuse", lambda space: space.unmap(0, 8 * PAGE)),
    ("unmap_all", "refuse", lambda space: space.unmap_all()),
    ("unmap_all of a space that splits", "split", lambda space: space.unmap_all()),
    ("a cut", "split", lambda space: space.unmap(5 * PAGE, PAGE)),
    ("remap", "refuse", lambda space: space.remap(4 * PAGE, 4 * PAGE, 0, Perm.R)),
    ("apply", "refuse", lambda space: space.apply([IovaRange(0, 8 * PAGE - 1), Mapping(0, PAGE - 1, 0, Perm.R)])),
    ("the end of the space", "refuse", lambda space: space.shut()),
]


@pytest.mark.parametrize(("straddle", "remove"), [way[1:] for way in REMOVALS], ids=[way[0] for way in REMOVALS])
@pytest.mark.parametrize("capacity", [1, 100])
@every_loop
async def test_every_way_to_unmap_reaches_those_who_ask_for_nothing_else(
    straddle: Straddling, remove: Removal, capacity: int
) -> None:
    """T26: a flush of everything too, for a cacher of all and for one of a part, slow or not."""
    async with (
        open_space(straddle=straddle) as (bus, space),
        bus.subscribe("space", Cap.UNMAP, capacity=capacity) as whole,
        bus.subscribe("space", Cap.UNMAP, first=5 * PAGE, last=6 * PAGE - 1, capacity=capacity) as part,
    ):
        map_page(space, 4, 4)
        map_page(space, 20)
        unmap_page(space, 20)
        remove(space)
        for cacher in (whole, part):
            told = await anext(cacher.batches())
            assert {type(event) for event in told} == {Unmap}
            assert any(event.first <= 5 * PAGE and event.last >= 6 * PAGE - 1 for event in told)


@every_loop
async def test_a_change_of_the_page_size_removes_the_old_pieces() -> None:
    """T12: a large mapping becomes small ones, and these a large one; a shadower sees no cut and no overlap."""
    count = 512
    large = Mapping(0, count * PAGE - 1, 0x4000_0000, Perm.RW)
    small = [Mapping(page * PAGE, page * PAGE + PAGE - 1, large.target + page * PAGE, Perm.RW) for page in range(count)]
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        mirror = Mirror(events)
        stream = aiter(events)
        space.map(large.first, large.size, large.target, large.perm)
        space.apply([IovaRange(large.first, large.last), *small])
        for event in await take(stream, 2 + count):
            mirror.apply(event)
        assert list(mirror) == mappings(space) == small
        space.remap(large.first, large.size, large.target, large.perm)
        for event in await take(stream, 2):
            mirror.apply(event)
        assert list(mirror) == mappings(space) == [large]
