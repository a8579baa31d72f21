"""Ranges name every byte of the space, the last one too, and split without loss."""

import gc

import pytest
from hypothesis import given, strategies as st

from iommubus.errors import EmptyRange, InvertedRange, RangeWraps
from iommubus.ranges import LAST, IovaRange

ADDRESSES = st.one_of(
    st.integers(0, LAST),
    st.integers(0, 64).map(lambda bits: min(1 << bits, LAST)),
    st.integers(0, 64).map(lambda bits: (1 << bits) - 1),
    st.integers(0, 4096),
    st.integers(LAST - 4096, LAST),
)
"""Any address, with many at the edges of power-of-two blocks and of the space."""

RANGES = st.tuples(ADDRESSES, ADDRESSES).map(sorted).map(lambda edges: IovaRange(*edges))


def blocks(first: int, last: int, max_bits: int = 64) -> list[tuple[int, int]]:
    """Return the power-of-two blocks of a range, each as its first address and its mask."""
    return [(block.first, block.size - 1) for block in IovaRange(first, last).split_pow2(max_bits)]


# -- ranges ------------------------------------------------------------------


def test_last_is_the_highest_64_bit_address() -> None:
    """The space ends at 2^64 - 1, and that address belongs to it."""
    assert LAST == 0xFFFF_FFFF_FFFF_FFFF


@pytest.mark.parametrize(
    ("first", "last", "size"),
    [
        (0, 0, 1),
        (0, 1, 2),
        (7, 7, 1),
        (0x1000, 0x1FFF, 0x1000),
        (LAST, LAST, 1),
        (LAST - 1, LAST, 2),
        (1, LAST, 2**64 - 1),
        (0, LAST - 1, 2**64 - 1),
        (0, LAST, 2**64),
    ],
)
def test_a_range_has_both_its_ends(first: int, last: int, size: int) -> None:
    """A range is the same by its ends and by its size, up to all 2^64 bytes."""
    window = IovaRange(first, last)

    assert (window.first, window.last, window.size) == (first, last, size)
    assert IovaRange.sized(first, size) == window


@pytest.mark.parametrize(("first", "last"), [(1, 0), (LAST, LAST - 1), (LAST, 0), (LAST + 2, LAST + 1), (-1, -2)])
def test_an_inverted_range_is_refused(first: int, last: int) -> None:
    """A range of no bytes cannot be written down, wherever it lies."""
    with pytest.raises(InvertedRange) as refused:
        IovaRange(first, last)

    assert (refused.value.first, refused.value.last) == (first, last)


@pytest.mark.parametrize(
    ("first", "last", "size"), [(-1, 0, 2), (-1, -1, 1), (0, LAST + 1, LAST + 2), (LAST + 1, LAST + 1, 1)]
)
def test_a_range_outside_the_space_is_refused(first: int, last: int, size: int) -> None:
    """No end of a range lies outside 0..2^64-1, not even by one byte."""
    with pytest.raises(RangeWraps) as refused:
        IovaRange(first, last)

    assert (refused.value.iova, refused.value.size) == (first, size)


@pytest.mark.parametrize("size", [0, -1, -(2**64)])
@pytest.mark.parametrize("iova", [0, LAST, -1, LAST + 1])
def test_a_size_below_one_is_refused(iova: int, size: int) -> None:
    """Size 0 never means "everything"; this is said before anything else."""
    with pytest.raises(EmptyRange) as refused:
        IovaRange.sized(iova, size)

    assert (refused.value.iova, refused.value.size) == (iova, size)


@pytest.mark.parametrize(
    ("iova", "size"), [(LAST, 2), (LAST + 1, 1), (1, 2**64), (0, 2**64 + 1), (-1, 1), (-1, 2), (-4096, 4096)]
)
def test_a_size_that_leaves_the_space_is_refused(iova: int, size: int) -> None:
    """``iova + size`` never wraps round: it is refused, with the values asked for."""
    with pytest.raises(RangeWraps) as refused:
        IovaRange.sized(iova, size)

    assert (refused.value.iova, refused.value.size) == (iova, size)


def test_small_ranges_overlap_and_clip_like_sets_of_addresses() -> None:
    """For every pair of ranges on six addresses: `overlaps` and `clip` are intersection."""
    every = [IovaRange(first, last) for first in range(6) for last in range(first, 6)]
    for one in every:
        for other in every:
            shared = set(range(one.first, one.last + 1)) & set(range(other.first, other.last + 1))
            clipped = one.clip(other)

            assert one.overlaps(other) is bool(shared)
            assert (set(range(clipped.first, clipped.last + 1)) if clipped else set()) == shared


@given(RANGES, RANGES)
def test_overlap_and_clip_agree_anywhere(one: IovaRange, other: IovaRange) -> None:
    """Clipping is symmetric, lies inside both, and is there exactly where two ranges overlap."""
    shared = one.clip(other)

    assert shared == other.clip(one)
    assert one.overlaps(other) is other.overlaps(one) is (shared is not None)
    if shared is not None:
        assert shared.first in {one.first, other.first}
        assert shared.last in {one.last, other.last}
        assert one.clip(shared) == other.clip(shared) == shared


def test_ranges_are_values() -> None:
    """Ranges compare by address, can be keys, cannot be changed, and print both ends."""
    ranges = [IovaRange(2, 3), IovaRange(0, LAST), IovaRange(2, 2), IovaRange(0, 1)]

    assert sorted(ranges) == [IovaRange(0, 1), IovaRange(0, LAST), IovaRange(2, 2), IovaRange(2, 3)]
    assert len({*ranges, IovaRange(2, 3)}) == 4
    assert str(IovaRange(0xFEE00000, LAST)) == "0xfee00000..0xffffffffffffffff"
    with pytest.raises(AttributeError):
        setattr(ranges[0], "first", 0)  # noqa: B010
    assert not gc.is_tracked(ranges[0])


# -- power-of-two blocks -----------------------------------------------------


def test_vector_the_whole_space_is_one_block() -> None:
    """[0, 2^64-1] has a mask of all ones, not two halves."""
    assert blocks(0, LAST) == [(0, LAST)]
    assert list(IovaRange(0, LAST).split_pow2()) == [IovaRange(0, LAST)]


def test_vector_all_but_the_first_page() -> None:
    """[0x1000, 2^64-1] doubles its blocks up to the end of the space: 52 of them."""
    assert blocks(0x1000, LAST) == [(1 << bits, (1 << bits) - 1) for bits in range(12, 64)]


def test_vector_below_the_interrupt_window() -> None:
    """[0, 0xfedfffff], what x86 maps below its MSI window, takes 10 blocks, halving."""
    assert blocks(0, 0xFEDFFFFF) == [
        (0x0000_0000, 0x7FFFFFFF),
        (0x8000_0000, 0x3FFFFFFF),
        (0xC000_0000, 0x1FFFFFFF),
        (0xE000_0000, 0x0FFFFFFF),
        (0xF000_0000, 0x07FFFFFF),
        (0xF800_0000, 0x03FFFFFF),
        (0xFC00_0000, 0x01FFFFFF),
        (0xFE00_0000, 0x007FFFFF),
        (0xFE80_0000, 0x003FFFFF),
        (0xFEC0_0000, 0x001FFFFF),
    ]


def test_vector_above_the_interrupt_window() -> None:
    """[0xfef00000, 2^39-1], with 39-bit addresses, takes 9 blocks, growing."""
    expected = [(0xFEF0_0000, 0xFFFFF), (0xFF00_0000, 0xFFFFFF)]
    expected += [(1 << bits, (1 << bits) - 1) for bits in range(32, 39)]

    assert blocks(0xFEF00000, 2**39 - 1, 39) == expected
    assert len(expected) == 9


def test_vector_three_blocks() -> None:
    """[0x3000, 0x8fff] grows to its middle and shrinks again."""
    assert blocks(0x3000, 0x8FFF) == [(0x3000, 0xFFF), (0x4000, 0x3FFF), (0x8000, 0xFFF)]


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [(0x1000, LAST - 0x1000, 2 * (63 - 12)), (1, LAST - 1, 2 * 63), (0, LAST - 1, 64), (1, LAST, 64)],
)
def test_the_most_blocks(first: int, last: int, count: int) -> None:
    """The worst range of all has 2 * 63 blocks: no consumer needs a buffer larger than 2 * 64."""
    assert len(blocks(first, last)) == count


@pytest.mark.parametrize("address", [0, 1, 2, 0x1000, LAST - 1, LAST])
def test_one_byte_is_one_block(address: int) -> None:
    """A single byte splits into itself."""
    assert blocks(address, address) == [(address, 0)]


@pytest.mark.parametrize(
    ("max_bits", "expected"),
    [
        (0, [(at, 0) for at in range(2, 9)]),
        (1, [(2, 1), (4, 1), (6, 1), (8, 0)]),
        (2, [(2, 1), (4, 3), (8, 0)]),
        (64, [(2, 1), (4, 3), (8, 0)]),
    ],
)
def test_no_block_is_larger_than_allowed(max_bits: int, expected: list[tuple[int, int]]) -> None:
    """A consumer with fewer mask bits gets more, smaller blocks."""
    assert blocks(2, 8, max_bits) == expected


@pytest.mark.parametrize(("max_bits", "count"), [(64, 1), (63, 2), (62, 4), (60, 16)])
def test_the_whole_space_in_limited_blocks(max_bits: int, count: int) -> None:
    """VFIO type1 takes the whole space in two halves only; other limits behave alike."""
    size = 2**max_bits

    assert blocks(0, LAST, max_bits) == [(at * size, size - 1) for at in range(count)]


@given(RANGES, st.integers(0, 64))
def test_splitting_is_lossless(window: IovaRange, spare: int) -> None:
    """Blocks are aligned powers of two, disjoint, in order, the largest possible, and add up to the range."""
    max_bits = max(spare, window.size.bit_length() - 6)  # so that there are not millions of them
    at = window.first

    for block in window.split_pow2(max_bits):
        assert block.first == at
        assert block.size.bit_count() == 1
        assert block.first % block.size == 0
        assert block.size <= 2**max_bits
        assert block.last <= window.last
        doubled = 2 * block.size
        assert doubled > 2**max_bits or at % doubled or at + doubled - 1 > window.last
        at += block.size

    assert at == window.last + 1


@given(RANGES)
def test_there_are_never_more_than_128_blocks(window: IovaRange) -> None:
    """Without a limit on their size, at most 2 * 64 blocks make up any range."""
    assert 1 <= len(list(window.split_pow2())) <= 128
