"""Events are values that keep their meaning when cropped and when encoded."""

import gc
from itertools import pairwise
from typing import Final

import msgspec
import pytest
from hypothesis import given, strategies as st

from iommubus.caps import Cap, Perm
from iommubus.events import KINDS, DevIotlbUnmap, Event, Lost, Map, Memory, Observed, Unmap, crop
from iommubus.ranges import LAST

VECTORS: Final[list[tuple[Observed, str]]] = [  # never edited; a change adds one
    (
        Map("vtd0", 1, 0x1000, 0x4FFF, 0x8000_0000, Perm.RW),
        "98 a3 6d6170 a4 76746430 01 cd 1000 cd 4fff ce 80000000 03 c0",
    ),
    (
        Map("s", 0x10000, 0, LAST, 0, Perm.R),
        "98 a3 6d6170 a1 73 ce 00010000 00 cf ffffffffffffffff 00 01 c0",
    ),
    (
        Map("s", 2, LAST, LAST, LAST, Perm.W),
        "98 a3 6d6170 a1 73 02 cf ffffffffffffffff cf ffffffffffffffff cf ffffffffffffffff 02 c0",
    ),
    (
        Map("vtd0", 1, 0x1000, 0x1FFF, 0x4000, Perm.RW, Memory("ram", 2, 0x10_0000)),
        "98 a3 6d6170 a4 76746430 01 cd 1000 cd 1fff cd 4000 03 93 a3 72616d 02 ce 00100000",
    ),
    (Unmap("vtd0", 2, 0x1000, 0x4FFF), "95 a5 756e6d6170 a4 76746430 02 cd 1000 cd 4fff"),
    (
        DevIotlbUnmap("vtd0", 3, 0, LAST),
        "95 ae 646576696f746c625f756e6d6170 a4 76746430 03 00 cf ffffffffffffffff",
    ),
    (Lost("vtd0", 9, 300), "94 a4 6c6f7374 a4 76746430 09 cd 012c"),
]

WITHOUT_MEMORY: Final = "97 a3 6d6170 a4 76746430 01 cd 1000 cd 4fff ce 80000000 03"
"""The first of them, as it was before a MAP could name a memory."""

RAM: Final = Memory("ram", 1, 2**64)

PERMS: Final = (Perm.R, Perm.W, Perm.RW)
ADDRESSES = st.one_of(st.integers(0, LAST), st.sampled_from([0, 1, 0xFFF, 0x1000, LAST - 1, LAST]))


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw any event."""
    first, last = sorted(draw(st.tuples(ADDRESSES, ADDRESSES)))
    space, seq = draw(st.text(max_size=8)), draw(st.integers(1, LAST))
    kind = draw(st.sampled_from([Map, Unmap, DevIotlbUnmap]))
    if kind is Map:
        target = draw(st.integers(0, LAST - (last - first)))
        memory = draw(st.sampled_from([None, Memory("", 1, LAST), Memory("ram", LAST, 1)]))
        return Map(space, seq, first, last, target, draw(st.sampled_from(PERMS)), memory)
    return Unmap(space, seq, first, last) if kind is Unmap else DevIotlbUnmap(space, seq, first, last)


# -- values ------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Map("s", 1, 0x1000, 0x2FFF, 0x5000, Perm.R),
        Unmap("s", 1, 0x1000, 0x2FFF),
        DevIotlbUnmap("s", 1, 0x1000, 0x2FFF),
    ],
)
def test_iova_and_size_are_the_names_that_ioctls_use(event: Event) -> None:
    """``iova`` is the first address, and ``size`` counts both ends."""
    assert event.iova == event.first == 0x1000
    assert event.size == 0x2000


@pytest.mark.parametrize(
    "event", [Map("s", 1, 0, LAST, 0, Perm.R), Unmap("s", 1, 0, LAST), DevIotlbUnmap("s", 1, 0, LAST)]
)
def test_an_event_may_be_about_the_whole_space(event: Event) -> None:
    """All 2^64 bytes are a size like any other, never 0."""
    assert event.size == 2**64


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Map("vtd0", 7, 0x1000, 0x1FFF, 0xABC000, Perm.RW), "vtd0#7 MAP 0x1000..0x1fff -> 0xabc000 <Perm.RW: 3>"),
        (
            Map("vtd0", 7, 0x1000, 0x1FFF, 0xABC000, Perm.RW, Memory("ram", 2, 2**32)),
            "vtd0#7 MAP 0x1000..0x1fff -> ram@2+0xabc000 <Perm.RW: 3>",
        ),
        (Unmap("vtd0", 8, 0x1000, 0x1FFF), "vtd0#8 UNMAP 0x1000..0x1fff"),
        (DevIotlbUnmap("vtd0", 9, 0, LAST), "vtd0#9 DEVIOTLB_UNMAP 0x0..0xffffffffffffffff"),
        (Lost("vtd0", 10, 300), "vtd0#10 LOST 300 events"),
    ],
)
def test_events_are_printed_for_people(event: Observed, text: str) -> None:
    """A line in a log has the space, the number, the kind and the range."""
    assert str(event) == text


def test_events_cannot_be_changed() -> None:
    """One event is handed to many subscribers, so it is frozen, comparable and hashable."""
    for event, _ in VECTORS:
        assert len({event, msgspec.structs.replace(event)}) == 1
        assert msgspec.structs.replace(event, seq=0) != event
        with pytest.raises(AttributeError):
            setattr(event, "seq", 0)  # noqa: B010


def test_events_are_no_work_for_the_garbage_collector() -> None:
    """Mailboxes hold many events; a collection looks into none of them."""
    assert not any(gc.is_tracked(event) for event, _ in VECTORS)
    assert not gc.is_tracked(RAM)


def test_kinds_of_different_meaning_are_never_equal() -> None:
    """An UNMAP is not a device invalidation, though they carry the same fields."""
    unmap: Event = Unmap("s", 1, 2, 3)
    device: Event = DevIotlbUnmap("s", 1, 2, 3)

    assert unmap != device


def test_each_kind_needs_its_own_capability() -> None:
    """The kinds are QEMU's three, and together they are what a mask can ask for."""
    assert dict(KINDS) == {Map: Cap.MAP, Unmap: Cap.UNMAP, DevIotlbUnmap: Cap.DEVIOTLB_UNMAP}
    assert sum(KINDS.values()) == Cap.ALL
    assert all(type(cap) is Cap for cap in KINDS.values())


# -- bytes -------------------------------------------------------------------


@pytest.mark.parametrize(("event", "hexdump"), VECTORS)
def test_vectors_hold_in_both_directions(event: Observed, hexdump: str) -> None:
    """Each golden vector, an array that begins with its tag, encodes to its bytes and decodes back."""
    payload = bytes.fromhex(hexdump)

    assert msgspec.msgpack.encode(event) == payload
    assert msgspec.msgpack.decode(payload, type=Observed) == event


def test_a_map_that_names_no_memory_may_be_shorter() -> None:
    """The last field came later: who leaves it out means a bare address."""
    assert msgspec.msgpack.decode(bytes.fromhex(WITHOUT_MEMORY), type=Observed) == VECTORS[0][0]


@given(events())
def test_encoding_loses_nothing(event: Event) -> None:
    """Any event comes back from its bytes equal, of its own type, its permission still a `Perm`."""
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Observed)

    assert again == event
    assert type(again) is type(event)
    if isinstance(again, Map):
        assert type(again.perm) is Perm


# -- cropping ----------------------------------------------------------------


def test_small_events_crop_like_sets_of_addresses() -> None:
    """On six addresses, for every event and window: what is left is the intersection, targets and all."""
    every = [(first, last) for first in range(6) for last in range(first, 6)]
    for first, last in every:
        reached = {address: 100 + address - first for address in range(first, last + 1)}
        for low, high in every:
            shared = {address: target for address, target in reached.items() if low <= address <= high}
            for event in (
                Map("s", 5, first, last, 100, Perm.W, RAM),
                Unmap("s", 5, first, last),
                DevIotlbUnmap("s", 5, first, last),
            ):
                part = crop(event, low, high)

                if part is None:
                    assert not shared
                    continue
                assert type(part) is type(event)
                assert (part.space, part.seq) == ("s", 5)
                assert list(range(part.first, part.last + 1)) == list(shared)
                if isinstance(part, Map):
                    assert part.target == shared[part.first]
                    assert part.perm is Perm.W
                    assert part.memory is RAM


@pytest.mark.parametrize("event", [Map("s", 1, 8, 15, 0, Perm.R), Unmap("s", 1, 8, 15), DevIotlbUnmap("s", 1, 8, 15)])
@pytest.mark.parametrize("window", [(8, 15), (7, 16), (0, LAST), (8, LAST), (0, 15)])
def test_an_event_inside_the_window_is_handed_on_as_it_is(event: Event, window: tuple[int, int]) -> None:
    """The usual case makes no new object."""
    assert crop(event, *window) is event


@given(events(), st.lists(ADDRESSES, max_size=6))
def test_pieces_over_a_partition_add_up(event: Event, cuts: list[int]) -> None:
    """Cropped to the parts of the space, however it is divided, an event loses and gains no address."""
    starts = [*sorted({0, *cuts}), LAST + 1]
    pieces = [part for first, behind in pairwise(starts) if (part := crop(event, first, behind - 1)) is not None]

    assert pieces[0].first == event.first
    assert pieces[-1].last == event.last
    assert all(piece.last + 1 == after.first for piece, after in pairwise(pieces))
    for piece in pieces:
        assert (type(piece), piece.space, piece.seq) == (type(event), event.space, event.seq)
        if isinstance(event, Map) and isinstance(piece, Map):
            assert piece.target - piece.first == event.target - event.first
            assert piece.perm is event.perm
            assert piece.memory == event.memory
