"""Structures as tables: what is read, what is written, and what is refused."""

from enum import IntEnum, IntFlag
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st
from msgspec import Struct

from iommubus.abi.fields import LITTLE, Layout, by_kind, fixed, raw, s32, u8, u16, u32, u64
from iommubus.errors import AbiError, BadField, BadLength


class Colour(IntEnum):
    RED = 1
    BLUE = 3


class Switches(IntFlag):
    UP = 1
    DOWN = 4


class Thing(Struct, frozen=True):
    colour: Colour
    switches: Switches
    near: int
    far: int
    file: int
    padding: bytes


def check_thing(thing: Thing) -> None:
    if thing.near > thing.far:
        raise BadField("thing", "near", thing.near, "not more than far")


THING: Final = Layout(
    Thing,
    "thing",
    fixed("size", "I", 26),
    u8("colour", Colour),
    u16("switches", Switches),
    u32("near"),
    u64("far"),
    s32("file"),
    raw("padding", 2),
    fixed("reserved", "B"),
    order=LITTLE,
    check=check_thing,
)
BYTES: Final = bytes.fromhex("1a000000 03 0500 10000000 0000000000000080 ffffffff abcd 00")
VALUE: Final = Thing(Colour.BLUE, Switches.UP | Switches.DOWN, 16, 2**63, -1, b"\xab\xcd")


def changed(at: int, value: int) -> bytes:
    return BYTES[:at] + bytes([value]) + BYTES[at + 1 :]


def test_a_structure_is_read_and_written_without_gaps() -> None:
    decoded = THING.decode(BYTES)

    assert decoded == VALUE
    assert (type(decoded.colour), type(decoded.switches)) == (Colour, Switches)
    assert THING.encode(VALUE) == BYTES
    assert THING.size == THING.least == THING.most == len(BYTES) == 26
    assert [THING.offset(field.name) for field in THING.fields] == [0, 4, 5, 7, 11, 19, 23, 25]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_is_read(kind: type[bytes | bytearray | memoryview]) -> None:
    assert THING.decode(kind(BYTES)) == VALUE


@pytest.mark.parametrize("length", [0, 1, 25, 27])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadLength) as caught:
        THING.decode(BYTES.ljust(30, b"\0")[:length])

    assert (caught.value.message, caught.value.length, caught.value.least, caught.value.most) == (
        "thing",
        length,
        26,
        26,
    )


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (0, 0x1D, "size of thing is 0x1d, allowed: 0x1a"),
        (4, 2, "colour of thing is 0x2, allowed: one of 1, 3"),
        (5, 6, "switches of thing is 0x6, allowed: the bits 0x5"),
        (25, 9, "reserved of thing is 0x9, allowed: 0x0"),
        (18, 0, "near of thing is 0x10, allowed: not more than far"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_when_it_is_read(at: int, value: int, sentence: str) -> None:
    with pytest.raises(BadField) as caught:
        THING.decode(changed(at, value))

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("colour", 2, "colour of thing is 0x2, allowed: one of 1, 3"),
        ("switches", 8, "switches of thing is 0x8, allowed: the bits 0x5"),
        ("switches", -1, "switches of thing is -0x1, allowed: the bits 0x5"),
        ("near", 2**32, "near of thing is 0x100000000, allowed: 0x0..0xffffffff"),
        ("near", -1, "near of thing is -0x1, allowed: 0x0..0xffffffff"),
        ("far", 2**64, "far of thing is 0x10000000000000000, allowed: 0x0..0xffffffffffffffff"),
        ("file", 2**31, "file of thing is 0x80000000, allowed: -0x80000000..0x7fffffff"),
        ("file", -(2**31) - 1, "file of thing is -0x80000001, allowed: -0x80000000..0x7fffffff"),
        ("padding", b"a", "padding of thing has 2 bytes, got 1"),
        ("padding", b"abc", "padding of thing has 2 bytes, got 3"),
        ("far", 15, "near of thing is 0x10, allowed: not more than far"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_when_it_is_written(field: str, value: Any, sentence: str) -> None:
    fields = {name: getattr(VALUE, name) for name in Thing.__struct_fields__}

    with pytest.raises(AbiError) as caught:
        THING.encode(Thing(**{**fields, field: value}))

    assert str(caught.value) == sentence


def test_the_widest_numbers_fit() -> None:
    fields = Layout(
        Thing,
        "thing",
        u8("colour"),
        u16("switches"),
        u32("near"),
        u64("far"),
        s32("file"),
        raw("padding", 1),
        order=LITTLE,
    )
    widest = Thing(255, 65535, 2**32 - 1, 2**64 - 1, -(2**31), b"\xff")  # type: ignore[arg-type]

    assert fields.encode(widest) == b"\xff" * 15 + bytes.fromhex("00000080ff")
    assert fields.decode(fields.encode(widest)) == widest


@given(st.binary(max_size=40) | st.binary(min_size=26, max_size=26))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = THING.decode(data)
    except AbiError:
        return
    assert THING.encode(value) == data


def test_layouts_are_found_by_their_values() -> None:
    assert by_kind([THING]) == {Thing: THING}
