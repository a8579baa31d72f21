"""Ranges as other people say them: none is empty, none wraps, and what cannot be said is cut."""

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.extents import MIDDLE, ends, halves, sayable, sized
from iommubus.errors import BadField
from iommubus.ranges import LAST, IovaRange

ADDRESSES = st.integers(0, LAST) | st.sampled_from([0, 1, MIDDLE - 1, MIDDLE, LAST - 1, LAST])


@pytest.mark.parametrize(
    ("first", "size", "last"), [(0, 1, 0), (LAST, 1, LAST), (0, LAST, LAST - 1), (1, LAST, LAST), (0, 2**64, LAST)]
)
def test_a_size_names_a_last_byte(first: int, size: int, last: int) -> None:
    assert sized("message", "size", first, size) == IovaRange(first, last)


@pytest.mark.parametrize(
    ("first", "size", "sentence"),
    [
        (0x1000, 0, "length of message is 0x0, allowed: 0x1..0xfffffffffffff000 from 0x1000"),
        (LAST, 2, "length of message is 0x2, allowed: 0x1..0x1 from 0xffffffffffffffff"),
        (1, 2**64, "length of message is 0x10000000000000000, allowed: 0x1..0xffffffffffffffff from 0x1"),
    ],
)
def test_an_empty_range_and_one_that_wraps_are_refused(first: int, size: int, sentence: str) -> None:
    with pytest.raises(BadField) as caught:
        sized("message", "length", first, size)

    assert str(caught.value) == sentence


def test_inclusive_ends_may_meet_and_may_not_cross() -> None:
    assert ends("message", "end", LAST, LAST) == IovaRange(LAST, LAST)
    assert ends("message", "end", 0, LAST) == IovaRange(0, LAST)
    with pytest.raises(BadField, match="end of message is 0xfff, allowed: 0x1000"):
        ends("message", "end", 0x1000, 0xFFF)


@given(ADDRESSES, ADDRESSES)
def test_halves_add_up_and_meet_in_the_middle(one: int, other: int) -> None:
    where = IovaRange(min(one, other), max(one, other))

    pieces = halves(where)

    assert (pieces[0].first, pieces[-1].last) == (where.first, where.last)
    assert sum(piece.size for piece in pieces) == where.size
    assert len(pieces) == 1 + (where.first < MIDDLE <= where.last)
    assert all(piece.last < MIDDLE or piece.first >= MIDDLE for piece in pieces)


@given(ADDRESSES, ADDRESSES)
def test_only_the_whole_space_has_a_size_that_64_bits_do_not_hold(one: int, other: int) -> None:
    where = IovaRange(min(one, other), max(one, other))

    assert sayable(where) == (halves(where) if where == IovaRange(0, LAST) else (where,))


def test_the_whole_space_is_said_in_two_halves() -> None:
    assert sayable(IovaRange(0, LAST)) == (IovaRange(0, 2**63 - 1), IovaRange(2**63, LAST))
    assert sayable(IovaRange(0, LAST - 1)) == (IovaRange(0, LAST - 1),)
