"""A view of mapped memory shows the right bytes, and ends with its mapping or stops the removal."""

import ctypes
import gc
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import product
from pickle import PickleBuffer
from typing import Any, Final

import pytest

from iommubus import Cap, Mapping, Memory, Perm
from iommubus.bus.subscription import StreamSubscription
from iommubus.consumers.views import SWEEP, Views
from iommubus.errors import AccessDenied, EmptyRange, NoBacking, NotContiguous, UnknownMemory
from iommubus.table import Table
from tests.actors import member_of, open_space
from tests.loops import every_loop

SIZE: Final = 0x100
PATTERN: Final = bytes(range(SIZE))


@asynccontextmanager
async def views_of(*mappings: Mapping) -> AsyncGenerator[tuple[Views, Callable[..., memoryview]], None]:
    """Give views of a table with these mappings, and what gives one; ``RAM`` has the bytes of `PATTERN`."""
    async with open_space() as (bus, _), bus.subscribe("space", Cap.IOTLB) as events:
        bus.memory_view(await bus.add_memory("ram", SIZE))[:] = PATTERN
        await bus.add_memory("rom", SIZE)
        table = Table()
        for mapping in mappings:
            table.insert(mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory)
        views = Views(events)

        def give(iova: int, size: int | None = None, perm: Perm = Perm.R) -> memoryview:
            head = table.lookup(iova)
            assert head is not None
            return views.give(table, head, iova, size, perm)

        yield views, give


def holding(views: Views) -> int:
    """Return how many views hold back an acknowledgement."""
    subscription = views._subscription  # pyright: ignore[reportPrivateUsage] - nobody outside can see it
    assert isinstance(subscription, StreamSubscription)
    return member_of(subscription).uses.holding


RAM: Final = Memory("ram", 1, SIZE)
ROM: Final = Memory("rom", 1, SIZE)
WHOLE: Final = Mapping(0, SIZE - 1, 0, Perm.RW, RAM)


# -- what it shows -------------------------------------------------------------


@every_loop
async def test_a_view_shows_the_bytes_that_its_addresses_lead_to() -> None:
    """On six addresses, for every range that lies inside."""
    async with views_of(Mapping(2, 7, 100, Perm.RW, RAM)) as (_, give):
        for first in range(2, 8):
            assert bytes(give(first)) == PATTERN[98 + first : 106]
            for size in range(1, 9 - first):
                assert bytes(give(first, size)) == PATTERN[98 + first : 98 + first + size]
            with pytest.raises(NotContiguous):
                give(first, 9 - first)


@every_loop
async def test_a_range_of_no_bytes_has_no_view() -> None:
    async with views_of(WHOLE) as (_, give):
        for size in (0, -1, -(2**64)):
            with pytest.raises(EmptyRange) as refused:
                give(5, size)
            assert (refused.value.iova, refused.value.size) == (5, size)


@every_loop
async def test_neighbours_that_are_one_piece_of_memory_count_as_one() -> None:
    """Two of them, wherever the second leads and lies: one range if it goes on where the first ends."""
    for first, target, memory in product((8, 9), (107, 108, 109), (RAM, ROM, None)):
        second = Mapping(first, first + 7, target, Perm.R, memory)
        async with views_of(Mapping(0, 7, 100, Perm.R, RAM), second) as (_, give):
            assert bytes(give(4)) == PATTERN[104:108]
            if (first, target, memory) == (8, 108, RAM):
                assert bytes(give(4, 12)) == PATTERN[104:116]
                with pytest.raises(NotContiguous) as refused:
                    give(4, 13)
                assert refused.value.end == 15
                continue
            with pytest.raises(NotContiguous) as refused:
                give(4, 5)
            error = refused.value
            assert (error.first, error.last, error.end) == (4, 8, 7)


@every_loop
async def test_a_range_may_go_over_many_mappings() -> None:
    pieces = [Mapping(at, at, at, Perm.R, RAM) for at in range(SIZE)]
    async with views_of(*pieces) as (_, give):
        assert bytes(give(0, SIZE)) == PATTERN
        with pytest.raises(NotContiguous) as refused:
            give(1, 2**64)
        assert refused.value.end == SIZE - 1


@every_loop
async def test_a_bare_address_has_no_bytes() -> None:
    async with views_of(Mapping(4, 7, 100, Perm.RW)) as (_, give):
        with pytest.raises(NoBacking) as refused:
            give(6)
        assert (refused.value.iova, refused.value.target) == (6, 102)


@every_loop
async def test_a_memory_that_is_gone_has_no_bytes() -> None:
    async with views_of(Mapping(0, 7, 0, Perm.RW, Memory("ram", 2, SIZE))) as (_, give):
        with pytest.raises(UnknownMemory):
            give(0)


# -- what it allows ------------------------------------------------------------


@every_loop
async def test_a_view_can_be_written_where_every_mapping_allows_it() -> None:
    """Over two mappings, whatever each allows and whatever is asked for."""
    for one, two, wanted in product((Perm.R, Perm.W, Perm.RW), repeat=3):
        if wanted & ~one:
            continue  # the lookup of the first one's address refuses that
        async with views_of(Mapping(0, 7, 0, one, RAM), Mapping(8, 15, 8, two, RAM)) as (_, give):
            assert give(0, 8, wanted).readonly == (not one & Perm.W)
            if wanted & ~two:
                with pytest.raises(AccessDenied) as refused:
                    give(0, 16, wanted)
                error = refused.value
                assert (error.iova, error.wanted, error.granted) == (8, wanted, two)
                continue
            view = give(0, 16, wanted)
            assert view.readonly == (not one & two & Perm.W)
            if view.readonly:
                with pytest.raises(TypeError):
                    view[0] = 1
            else:
                view[0] = 1


@every_loop
async def test_a_memory_that_cannot_be_written_is_viewed_read_only(tmp_path: Any) -> None:
    """Whatever its mappings say; and to ask for writing is refused."""
    (tmp_path / "rom").write_bytes(PATTERN)
    async with open_space() as (bus, _), bus.subscribe("space", Cap.IOTLB) as events:
        with (tmp_path / "rom").open("rb") as file:
            rom = await bus.add_memory("rom", SIZE, file.fileno())
        head = Mapping(0, SIZE - 1, 0, Perm.RW, rom)
        views = Views(events)
        assert views.give(Table(), head, 0, None, Perm.R).readonly
        for wanted in (Perm.W, Perm.RW):
            with pytest.raises(AccessDenied) as refused:
                views.give(Table(), head, 0, None, wanted)
            assert (refused.value.wanted, refused.value.granted) == (wanted, Perm.R)


# -- how it ends ---------------------------------------------------------------


@every_loop
async def test_a_view_ends_with_any_of_its_addresses() -> None:
    """On eight addresses, for every view and every range: released if they share one, and not otherwise."""
    every = [(first, last) for first in range(8) for last in range(first, 8)]
    async with views_of(WHOLE) as (views, give):
        for (first, last), (low, high) in product(every, every):
            view = give(first, last - first + 1)
            views.take_back(low, high)
            if low <= last and high >= first:
                with pytest.raises(ValueError, match="released"):
                    view[0]
            else:
                assert view[0] == first
                view.release()


HOLDERS: Final[dict[str, Callable[[memoryview], object]]] = {
    "slice": lambda view: view[2:4],
    "slice of a slice": lambda view: view[2:8][1:],
    "cast": lambda view: view.cast("H"),
    "read-only": lambda view: view.toreadonly(),
    "copy": memoryview,
    "buffer": PickleBuffer,
    "view of a buffer": lambda view: memoryview(PickleBuffer(view)),
    "ctypes": (ctypes.c_char * 4).from_buffer,
    "ctypes of a slice": lambda view: (ctypes.c_char * 4).from_buffer(view[4:8]),
}
"""What may be made of a view that looks at its bytes after it."""


@every_loop
@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("dropped", [False, True])
async def test_what_is_made_of_a_view_holds_back_the_acknowledgement(kind: str, dropped: bool) -> None:
    """Also when the view itself was dropped long ago; once the last of it is gone, the removal goes on."""
    async with views_of(WHOLE) as (views, give):
        other = give(0, 16)
        view: memoryview | None = give(16, 16)
        assert view is not None
        holders = [HOLDERS[kind](view)]
        if dropped:
            view = None
        for _ in range(2):
            views.take_back(0, 31)
            assert holding(views) == 1
            with pytest.raises(ValueError, match="released"):
                other[0]
        holders.clear()
        view = None  # one that was exported could not be released, and is as good as new
        assert holding(views) == 0


@every_loop
async def test_garbage_that_looks_at_a_view_holds_back_the_acknowledgement_until_it_is_collected() -> None:
    """And the collector survives it, in whatever order it finds the parts."""
    async with views_of(WHOLE) as (views, give):
        gc.disable()
        try:
            for number in range(64):
                view = give(0, 16)
                part = view[number % 3 :]
                parts = (view, part, part[1:]), (part, view), (part[2:].cast("B"),), (view,)
                ring: list[object] = []
                ring += [parts[number % 4], ring]
                del view, part, parts, ring
            views.take_back(0, 15)
            assert holding(views) == 48
        finally:
            gc.enable()
        gc.collect()
        assert holding(views) == 0


@every_loop
async def test_a_copy_is_no_view() -> None:
    """What was copied out stops nothing."""
    async with views_of(WHOLE) as (views, give):
        copies = [bytes(give(0, 4)), array("B", give(0, 4)), give(0, 4).tolist()]
        views.take_back(0, 3)
        assert len(copies) == 3


@every_loop
async def test_views_that_were_dropped_cost_nothing() -> None:
    """They are forgotten in time, and those that are held are not."""
    async with views_of(WHOLE) as (views, give):
        kept = [give(at, 1) for at in range(SWEEP)]
        for _ in range(20 * SWEEP):
            give(0, 1)
            assert len(views._handed) <= 2 * SWEEP  # pyright: ignore[reportPrivateUsage]
        views.take_back(0, SWEEP - 1)
        for view in kept:
            with pytest.raises(ValueError, match="released"):
                view[0]
