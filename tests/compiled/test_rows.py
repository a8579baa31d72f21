"""The compiled rows are those in Python: the same bytes, the same events, and never an opinion of their own."""

import gc
import random
import struct
import sys
from collections.abc import Callable, Sequence
from ctypes import c_ubyte
from typing import Any, Final

import msgspec
import pytest
from msgspec import Raw

from iommubus.caps import Perm
from iommubus.errors import BadMessage
from iommubus.events import DevIotlbUnmap, Lost, Map, Memory, Observed, Unmap
from iommubus.wire import runs
from iommubus.wire.codec import MALFORMED
from iommubus.wire.messages.rows import EVENT_LIMIT, Run, WatchedRun
from iommubus.wire.messages.values import MemoryName
from tests.wire.implementations import BUILT, NOT_BUILT

pytestmark = NOT_BUILT

LAST: Final = 2**64 - 1
MEMORIES: Final = tuple(Memory(name, generation, 1 << 40) for name, generation in [("ram", 1), ("rom", 2), ("ram", 3)])
EDGES: Final = sorted({0, LAST, *(at for bits in (7, 8, 15, 16, 31, 32, 63) for at in (2**bits - 1, 2**bits))})
"""Where a number begins to be written in another form."""

OPTIONS: Final = (1, 2, 15, 16, 17)
"""How many events there are: an array is written in another form from 16 on."""


# -- what there is to compare --------------------------------------------------


def some_number(at_random: random.Random) -> int:
    return at_random.choice([at_random.choice(EDGES), at_random.getrandbits(at_random.randint(1, 64))])


def some_event(at_random: random.Random, space: str, *, watched: bool) -> Observed:
    seq, one, other = (some_number(at_random) for _ in range(3))
    first, last = min(one, other), max(one, other)
    match at_random.randrange(5 if watched else 4):
        case 0:
            return Unmap(space, seq, first, last)
        case 1:
            return DevIotlbUnmap(space, seq, first, last)
        case 4:
            return Lost(space, seq, first)
        case _:
            target = min(some_number(at_random), LAST - (last - first))
            perm = at_random.choice([Perm.R, Perm.W, Perm.RW])
            return Map(space, seq, first, last, target, perm, at_random.choice([None, *MEMORIES]))


def some_events(
    at_random: random.Random, *, watched: bool = False, spaces: Sequence[str] = ("vtd0",)
) -> list[Observed]:
    count = at_random.choice(OPTIONS)
    return [some_event(at_random, at_random.choice(spaces), watched=watched) for _ in range(count)]


def in_python(act: Callable[[], Any]) -> Any:
    """Do something without what is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "COMPILED", None)
        return act()


def judged(data: bytes, names: Sequence[Memory], *, watched: bool) -> list[Any] | None:
    """Return what the Python code makes of rows; `None` if it refuses them."""
    kind = WatchedRun if watched else Run
    try:
        return runs.from_any_rows("message", "rows", kind("vtd0", Raw(data), list(map(MemoryName.of, names))))
    except (BadMessage, *MALFORMED):
        return None


def agree(data: bytes, names: tuple[Memory, ...], *, watched: bool) -> bool:
    """See that what is taken here is taken there, and means the same; say whether it was."""
    found = BUILT.unpack(data, "vtd0", names, watched)
    if found is None:
        return False
    assert found == judged(data, names, watched=watched), data.hex(" ")
    assert all(type(one.perm) is Perm for one in found if isinstance(one, Map))
    return True


# -- both directions -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_bytes_are_the_same(seed: int) -> None:
    """And the memories, and where a run ends: wherever it begins."""
    at_random = random.Random(seed)  # noqa: S311 - the same every time
    for _ in range(1000):
        events = some_events(at_random, watched=True, spaces=("vtd0", "vtd1", "vtd1", "vtd1"))
        start = at_random.randint(0, len(events))
        rows, memories, end = BUILT.pack(at_random.choice([list, tuple])(events), start)
        named = list(map(MemoryName.of, memories))
        assert (Raw(rows), named, end) == in_python(lambda: runs.to_rows(events, start))  # noqa: B023 - called here


@pytest.mark.parametrize("count", range(60, 70))
def test_there_is_room_for_rows_of_any_length(count: int) -> None:
    """Short ones, and then as many of the longest as there are, in memory that grows meanwhile."""
    short, rest = [Unmap("s", 0, 0, 0)] * (count % 7), [Memory(str(at), 1, 1) for at in range(EVENT_LIMIT)]
    events: list[Observed] = [
        *short,
        *(Map("s", LAST, LAST - 1, LAST, LAST - 1, Perm.RW, memory) for memory in rest[: count * 20]),
    ]
    rows, memories, end = BUILT.pack(events, 0)
    assert (Raw(rows), list(map(MemoryName.of, memories)), end) == in_python(lambda: runs.to_rows(events))


@pytest.mark.parametrize("seed", range(10))
def test_the_events_are_the_same(seed: int) -> None:
    at_random = random.Random(seed)  # noqa: S311 - the same every time
    for _ in range(1000):
        watched = at_random.random() < 0.5
        events = some_events(at_random, watched=watched)
        rows, memories, _ = BUILT.pack(events, 0)
        found = BUILT.unpack(rows, "vtd0", tuple(memories), watched)
        assert found == events == judged(rows, memories, watched=watched)
        assert list(map(type, found)) == list(map(type, events))


def any_form(at_random: random.Random, number: int) -> bytes:
    """Return a number in any form that holds it, also a longer one than has to be."""
    forms = [struct.pack(">BQ", 0xCF, number)]
    for code, letter, top in [(0xCC, "B", 8), (0xCD, "H", 16), (0xCE, "I", 32), (0xD0, "b", 7), (0xD1, "h", 15),
                              (0xD2, "i", 31), (0xD3, "q", 63)]:  # fmt: skip
        if number < 1 << top:
            forms.append(struct.pack(f">B{letter}", code, number))
    if number < 0x80:
        forms.append(bytes([number]))
    return at_random.choice(forms)


def any_head(at_random: random.Random, count: int) -> bytes:
    """Return the beginning of an array in any form."""
    forms = [struct.pack(">BH", 0xDC, count), struct.pack(">BI", 0xDD, count)]
    return at_random.choice([*forms, bytes([0x90 + count])] if count < 16 else forms)


def test_numbers_may_be_written_longer_than_they_have_to_be() -> None:
    """They are not plain in the place of a tag alone."""
    at_random = random.Random(5)  # noqa: S311 - the same every time
    taken = 0
    for _ in range(5000):
        events = some_events(at_random)
        rows, memories, _ = BUILT.pack(events, 0)
        data = any_head(at_random, len(events))
        for row in msgspec.msgpack.decode(rows):
            data += bytes([0x90 + len(row), row[0]]) + b"".join(any_form(at_random, number) for number in row[1:])
        assert agree(data, tuple(memories), watched=False)
        assert BUILT.unpack(data, "vtd0", tuple(memories), False) == events
        strange = data[:-1] + any_form(at_random, data[-1] & 0x7F)
        taken += agree(strange, tuple(memories), watched=False)
    assert taken


# -- bytes of strangers --------------------------------------------------------------


def damaged(at_random: random.Random, good: bytes) -> bytes:
    """Change bytes, cut them out, put some in, double some, or cut the rest off."""
    data = bytearray(good)
    for _ in range(at_random.randint(1, 3)):
        at, length = at_random.randint(0, len(data)), at_random.randint(0, 3)
        match at_random.randrange(4):
            case 0:
                data[at : at + length] = at_random.randbytes(length)
            case 1:
                data[at : at + length] = at_random.randbytes(at_random.randint(0, 3))
            case 2:
                data[at:at] = data[at : at + 12]
            case _:
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_rows_are_judged_alike(seed: int) -> None:
    at_random = random.Random(seed)  # noqa: S311 - the same every time
    taken = refused = 0
    for _ in range(4000):
        watched = at_random.random() < 0.5
        rows, memories, _ = BUILT.pack(some_events(at_random, watched=watched)[: at_random.randint(1, 4)], 0)
        data = damaged(at_random, rows)
        names = tuple(memories[: at_random.randint(0, 3)])
        if agree(data, names, watched=watched):
            taken += 1
        elif judged(data, names, watched=watched) is None:
            refused += 1
    assert taken > 40
    assert refused > 400


def test_rows_that_end_too_early_are_never_plain() -> None:
    at_random = random.Random(3)  # noqa: S311 - the same every time
    for _ in range(300):
        rows, memories, _ = BUILT.pack(some_events(at_random), 0)
        for length in range(len(rows)):
            cut = (c_ubyte * length).from_buffer_copy(rows)  # with no byte behind it, for a sanitizer
            assert BUILT.unpack(cut, "vtd0", tuple(memories), False) is None
        assert BUILT.unpack(rows + b"\x00", "vtd0", tuple(memories), False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x90\x90",
        b"\xdc",
        b"\xdc\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\x00\x00\x10\x01" + b"\x94\x01\x00\x00\x00" * 4097,
        b"\xdc\x10\x01" + b"\x94\x01\x00\x00\x00" * 4097,
        b"\xdc\x10\x00" + b"\x94\x01\x00\x00\x00" * 4095,
        b"\x91\x94\x03\x00\x00\x00",
        b"\x91\x94\x01\x00\x01\x00",
        b"\x91\x94\x01\x00\x00\xff",
        b"\x91\x94\x01\x00\x00\xc0",
        b"\x91\x94\x01\x00\x00\xca\x00\x00\x00\x00",
        b"\x91\x94\x01\x00\x00\xd0\x80",
        b"\x91\x94\x01\x00\x00\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
        b"\x91\x95\x02\x00\x00\x00\x00",
        b"\x91\x96\x02\x00\x00\x00\x00\x00",
        b"\x91\x96\x02\x00\x00\x00\x00\x04",
        b"\x91\x97\x02\x00\x00\x00\x00\x03\x02",
        b"\x91\x97\x02\x00\x00\x00\x00\x03\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x91\x97\x02\x00\x00\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00",
        b"\x91\x93\x08\x01\x01",
        b"\x91\x80\x01\x00\x00\x00",
    ],
)
def test_what_is_wrong_is_refused(data: bytes) -> None:
    assert BUILT.unpack(data, "vtd0", MEMORIES[:1], False) is None
    assert judged(data, MEMORIES[:1], watched=False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x91\x95\x01\x00\x00\x00\x07",
        b"\x91\x98\x02\x00\x00\x00\x00\x03\x00\xc0",
        b"\x91\xdc\x00\x04\x01\x00\x00\x00",
        b"\x91\x94\xcc\x01\x00\x00\x00",
    ],
)
def test_what_is_strange_and_right_is_left_to_python(data: bytes) -> None:
    """What a newer end adds behind a row, and what no end writes."""
    assert BUILT.unpack(data, "vtd0", (), False) is None
    assert judged(data, (), watched=False) is not None


def test_as_many_rows_are_plain_as_a_message_may_have() -> None:
    data = b"\xdc\x10\x00" + b"\x94\x01\x00\x00\x00" * EVENT_LIMIT
    assert BUILT.unpack(data, "vtd0", (), False) == [Unmap("vtd0", 0, 0, 0)] * EVENT_LIMIT


# -- events that are not plain -----------------------------------------------------------


class OtherName(str):
    """Text that is not quite `str`."""

    __slots__ = ()


class OtherNumber(int):
    """A number that is not quite `int`."""


@pytest.mark.parametrize(
    "event",
    [
        Unmap("s", -1, 0, 0),
        Unmap("s", 2**64, 0, 0),
        Unmap("s", 1.5, 0, 0),  # type: ignore[arg-type]
        Unmap("s", True, 0, 0),
        Unmap("s", OtherNumber(1), 0, 0),
        Map("s", 1, 0, 0, 0, 3),  # type: ignore[arg-type]
        Map("s", 1, 0, 0, 0, Perm(0)),
        Map("s", 1, 0, 0, 0, Perm.R, "ram"),  # type: ignore[arg-type]
        Memory("s", 1, 1),
        None,
    ],
)
def test_what_is_no_plain_event_is_left_to_python(event: Any) -> None:
    assert BUILT.pack([event], 0) is None
    assert BUILT.pack([Unmap("s", 1, 0, 0), event], 0) is None
    assert BUILT.pack([Unmap(OtherName("s"), 1, 0, 0)], 0) is None


def test_what_is_asked_wrongly_is_said() -> None:
    calls: list[tuple[Any, ...]] = [(), ([],), ({}, 0), ([], "0")]
    for wrong in calls:
        with pytest.raises(TypeError):
            BUILT.pack(*wrong)
    calls = [(), (b"", "s", []), (b"", "s", [], False), ("text", "s", (), False)]
    for wrong in calls:
        with pytest.raises(TypeError):
            BUILT.unpack(*wrong)
    assert BUILT.pack([], 1) is None
    assert BUILT.pack([], -1) is None


def test_equal_memories_are_one() -> None:
    events = [Map("s", 1, 0, 0, 0, Perm.R, Memory("ram", 1, 9)) for _ in range(3)]
    rows, memories, _ = BUILT.pack(events, 0)
    assert memories == [Memory("ram", 1, 9)]
    assert BUILT.unpack(rows, "s", tuple(memories), False) == events


# -- memory ------------------------------------------------------------------------------------


def test_nothing_is_kept() -> None:
    """Whatever comes out, and wherever it stops, as many objects are there as before."""
    at_random = random.Random(7)  # noqa: S311 - the same every time
    events = some_events(at_random, watched=True) + [Map("vtd0", 1, 0, 0, 0, Perm.R, each) for each in MEMORIES] * 20
    rows, memories, _ = BUILT.pack(events, 0)
    space, names = "vtd" + str(len(events)), tuple(memories)
    last = rows[:-1] + b"\x7f"  # wrong in its last row

    def act() -> None:
        BUILT.pack(events, 0)
        BUILT.pack([*events, None], 0)
        BUILT.unpack(rows, space, names, True)
        BUILT.unpack(last, space, names, True)

    act()
    gc.collect()
    counts = [sys.getrefcount(each) for each in (space, names, *names, *events, Map, Unmap, Lost, Memory, *Perm)]
    blocks = sys.getallocatedblocks()
    for _ in range(500):
        act()
    assert sys.getallocatedblocks() - blocks < 100
    assert counts == [
        sys.getrefcount(each) for each in (space, names, *names, *events, Map, Unmap, Lost, Memory, *Perm)
    ]
