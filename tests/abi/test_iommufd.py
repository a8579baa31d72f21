"""iommufd: what an I/O address space is told, and the words of the bus."""

from typing import Final

import pytest
from hypothesis import example, given, strategies as st

from iommubus.abi.iommufd import (
    STRUCTURES,
    Destroy,
    IoasAlloc,
    IoasAllowIovas,
    IoasCopy,
    IoasIovaRanges,
    IoasMap,
    IoasMapFile,
    IoasUnmap,
    Ioctl,
    MapFlags,
    Structure,
    decode,
    decode_ranges,
    encode,
    encode_ranges,
    maps,
    perm_of,
    range_of,
    unmaps,
)
from iommubus.caps import Perm
from iommubus.errors import AbiError, BadField, BadLength
from iommubus.ranges import LAST, IovaRange

WHOLE: Final = IovaRange(0, LAST)
HALF: Final = 2**63

VECTORS: Final[list[tuple[Ioctl, Structure, str]]] = [
    (Ioctl.DESTROY, Destroy(7), "08000000 07000000"),
    (Ioctl.IOAS_ALLOC, IoasAlloc(), "0c000000 00000000 00000000"),
    (Ioctl.IOAS_ALLOC, IoasAlloc(3), "0c000000 00000000 03000000"),
    (
        Ioctl.IOAS_IOVA_RANGES,
        IoasIovaRanges(3, 2, 0x7F00_0000_1000, 0x1000),
        "20000000 03000000 02000000 00000000 00100000007f0000 0010000000000000",
    ),
    (
        Ioctl.IOAS_ALLOW_IOVAS,
        IoasAllowIovas(3, 2, 0x7F00_0000_1000),
        "18000000 03000000 02000000 00000000 00100000007f0000",
    ),
    (
        Ioctl.IOAS_MAP,
        IoasMap(MapFlags.FIXED_IOVA | MapFlags.READABLE, 3, 0x7F00_0000_0000, 0x4000, 0x10_0000),
        "28000000 05000000 03000000 00000000 00000000007f0000 0040000000000000 0000100000000000",
    ),
    (
        Ioctl.IOAS_MAP_FILE,
        IoasMapFile(MapFlags.WRITEABLE, 3, -1, 0x2000, 0x4000, 0x10_0000),
        "28000000 02000000 03000000 ffffffff 0020000000000000 0040000000000000 0000100000000000",
    ),
    (
        Ioctl.IOAS_COPY,
        IoasCopy(MapFlags.FIXED_IOVA, 3, 4, 0x4000, 0x1000, 0x2000),
        "28000000 01000000 03000000 04000000 0040000000000000 0010000000000000 0020000000000000",
    ),
    (Ioctl.IOAS_UNMAP, IoasUnmap(3, 0x1000, 0x2000), "18000000 03000000 0010000000000000 0020000000000000"),
    (Ioctl.IOAS_UNMAP, IoasUnmap(3, 0, LAST), "18000000 03000000 0000000000000000 ffffffffffffffff"),
]


@pytest.mark.parametrize(("ioctl", "value", "hexdump"), VECTORS)
def test_structures_hold_in_both_directions(ioctl: Ioctl, value: Structure, hexdump: str) -> None:
    assert encode(value) == bytes.fromhex(hexdump)
    assert decode(ioctl, bytes.fromhex(hexdump)) == value


def test_every_structure_has_a_vector() -> None:
    assert {ioctl for ioctl, _, _ in VECTORS} == STRUCTURES.keys()


@pytest.mark.parametrize(
    ("ioctl", "hexdump", "sentence"),
    [
        (Ioctl.DESTROY, "0c000000 07000000", "size of iommu_destroy is 0xc, allowed: 0x8"),
        (Ioctl.IOAS_ALLOC, "0c000000 01000000 00000000", "flags of iommu_ioas_alloc is 0x1, allowed: 0x0"),
        (Ioctl.IOAS_MAP, "28000000 08000000" + "00" * 32, "flags of iommu_ioas_map is 0x8, allowed: the bits 0x7"),
        (
            Ioctl.IOAS_MAP,
            "28000000 01000000 03000000 01000000" + "00" * 24,
            "__reserved of iommu_ioas_map is 0x1, allowed: 0x0",
        ),
    ],
)
def test_sizes_flags_and_reserved_fields_are_checked(ioctl: Ioctl, hexdump: str, sentence: str) -> None:
    with pytest.raises(BadField) as caught:
        decode(ioctl, bytes.fromhex(hexdump))

    assert str(caught.value) == sentence


@given(st.sampled_from(sorted(STRUCTURES)), st.data())
def test_any_bytes_are_a_structure_or_refused(ioctl: Ioctl, data: st.DataObject) -> None:
    size = STRUCTURES[ioctl].size
    noise = size.to_bytes(4, "little") + data.draw(
        st.binary(max_size=40) | st.binary(min_size=size - 4, max_size=size - 4)
    )
    try:
        value = decode(ioctl, noise)
    except AbiError:
        return
    assert encode(value) == noise


def test_ranges_are_read_and_written_as_an_array() -> None:
    data = bytes.fromhex("0000000000000000 ffffdffe00000000 0000f0fe00000000 ffffffffffffffff")
    ranges = (IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, LAST))

    assert decode_ranges(data) == ranges
    assert encode_ranges(ranges) == data
    assert decode_ranges(b"") == ()
    with pytest.raises(BadLength, match="iommu_iova_range has 16 bytes, got 15"):
        decode_ranges(data[:-1])
    with pytest.raises(BadField, match="last of iommu_iova_range is 0x0"):
        decode_ranges(b"\1" + bytes(15))


# -- the words of the bus ----------------------------------------------------


@pytest.mark.parametrize(
    ("perm", "flags"),
    [(Perm.R, MapFlags.READABLE), (Perm.W, MapFlags.WRITEABLE), (Perm.RW, MapFlags.READABLE | MapFlags.WRITEABLE)],
)
def test_permissions_have_other_bits_here(perm: Perm, flags: MapFlags) -> None:
    (value,) = maps(5, IovaRange(0x1000, 0x2FFF), 0x7000, perm)

    assert value == IoasMap(MapFlags.FIXED_IOVA | flags, 5, 0x7000, 0x2000, 0x1000)
    assert perm_of(value) == perm
    assert range_of(value) == IovaRange(0x1000, 0x2FFF)


def test_a_map_of_a_file_and_a_copy_have_permissions_too() -> None:
    assert perm_of(IoasMapFile(MapFlags.READABLE, 1, 3, 0, 1, 0)) == Perm.R
    assert perm_of(IoasCopy(MapFlags.FIXED_IOVA, 1, 2, 1, 0, 0)) == Perm(0)
    assert range_of(IoasMapFile(MapFlags.READABLE, 1, 3, 0, LAST, 0)) == IovaRange(0, LAST - 1)


def test_a_length_of_all_ones_from_0_is_the_whole_space() -> None:
    assert unmaps(5, WHOLE) == (IoasUnmap(5, 0, LAST),)
    assert range_of(IoasUnmap(5, 0, LAST)) == WHOLE
    assert range_of(IoasUnmap(5, 1, LAST)) == IovaRange(1, LAST)


def test_everything_but_the_last_byte_is_not_sent_as_everything() -> None:
    assert unmaps(5, IovaRange(0, LAST - 1)) == (IoasUnmap(5, 0, HALF), IoasUnmap(5, HALF, HALF - 1))
    assert unmaps(5, IovaRange(1, LAST)) == (IoasUnmap(5, 1, LAST),)


def test_the_whole_space_is_mapped_in_two_halves() -> None:
    assert [range_of(value) for value in maps(5, WHOLE, 0, Perm.R)] == [IovaRange(0, HALF - 1), IovaRange(HALF, LAST)]
    assert [value.user_va for value in maps(5, WHOLE, 0, Perm.R)] == [0, HALF]


@given(st.integers(0, LAST), st.integers(0, LAST))
@example(0, LAST)
@example(0, LAST - 1)
@example(1, LAST)
def test_unmappings_are_read_back_as_what_they_take(one: int, other: int) -> None:
    where = IovaRange(min(one, other), max(one, other))

    ranges = [range_of(value) for value in unmaps(5, where)]

    assert (ranges[0].first, ranges[-1].last) == (where.first, where.last)
    assert sum(piece.size for piece in ranges) == where.size


@pytest.mark.parametrize(
    "value", [IoasUnmap(1, 0, 0), IoasUnmap(1, LAST, 2), IoasMap(MapFlags.READABLE, 1, 0, 2, LAST)]
)
def test_a_range_that_is_empty_or_wraps_is_refused(value: IoasMap | IoasUnmap) -> None:
    with pytest.raises(BadField, match="length of iommu_ioas_"):
        range_of(value)
