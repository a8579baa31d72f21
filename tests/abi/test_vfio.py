"""VFIO type 1: what a container is told, what it says of itself, and the words of the bus."""

from typing import Final

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.vfio import (
    INFO,
    STRUCTURES,
    CapId,
    Info,
    InfoFlags,
    Ioctl,
    MapDma,
    MapFlags,
    UnmapDma,
    UnmapFlags,
    capabilities,
    decode,
    dma_avail,
    encode,
    iova_ranges,
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

VECTORS: Final[list[tuple[Ioctl, MapDma | UnmapDma | Info, str]]] = [
    (
        Ioctl.IOMMU_MAP_DMA,
        MapDma(32, MapFlags.READ | MapFlags.WRITE, 0x7F0000000000, 0x100000, 0x4000),
        "20000000 03000000 0000000000 7f0000 0000100000000000 0040000000000000",
    ),
    (
        Ioctl.IOMMU_UNMAP_DMA,
        UnmapDma(24, UnmapFlags(0), 0x100000, 0x4000),
        "18000000 00000000 0000100000000000 0040000000000000",
    ),
    (
        Ioctl.IOMMU_UNMAP_DMA,
        UnmapDma(24, UnmapFlags.ALL, 0, 0),
        "18000000 02000000 0000000000000000 0000000000000000",
    ),
    (
        Ioctl.IOMMU_GET_INFO,
        Info(84, InfoFlags.PGSIZES | InfoFlags.CAPS, 0x1000, 24),
        "54000000 03000000 0010000000000000 18000000 00000000",
    ),
    (
        Ioctl.IOMMU_GET_INFO,
        Info(24, 0x80000001, 0x40201000, 0, b"kern"),
        "18000000 01000080 0010204000000000 00000000 6b65726e",
    ),
]

RANGE_CAP: Final = (
    "0100 0100 48000000 02000000 00000000 0000000000000000 ffffdffe00000000 0000f0fe00000000 ffffffff7f000000"
)
AVAIL_CAP: Final = "0300 0100 00000000 feff0000"
CAPPED: Final = bytes.fromhex("64000000 03000000 0010000000000000 18000000 00000000")


def info(*parts: str) -> bytes:
    return CAPPED + b"".join(map(bytes.fromhex, parts))


@pytest.mark.parametrize(("ioctl", "value", "hexdump"), VECTORS)
def test_structures_hold_in_both_directions(ioctl: Ioctl, value: MapDma | UnmapDma | Info, hexdump: str) -> None:
    assert encode(value) == bytes.fromhex(hexdump)
    assert decode(ioctl, bytes.fromhex(hexdump)) == value


def test_flags_that_mean_nothing_are_refused() -> None:
    with pytest.raises(BadField, match="flags of vfio_iommu_type1_dma_map is 0x8"):
        encode(MapDma(32, MapFlags(8), 0, 0, 1))
    with pytest.raises(BadField, match="flags of vfio_iommu_type1_dma_unmap is 0x10"):
        decode(Ioctl.IOMMU_UNMAP_DMA, b"\x18\0\0\0\x10" + bytes(19))


@given(st.sampled_from(sorted(STRUCTURES)), st.binary(max_size=40) | st.binary(min_size=24, max_size=24))
def test_any_bytes_are_a_structure_or_refused(ioctl: Ioctl, data: bytes) -> None:
    try:
        value = decode(ioctl, data)
    except AbiError:
        return
    assert encode(value) == data


# -- the words of the bus ----------------------------------------------------


@pytest.mark.parametrize("perm", [Perm.R, Perm.W, Perm.RW])
def test_a_mapping_is_one_map(perm: Perm) -> None:
    (value,) = maps(IovaRange(0x1000, 0x2FFF), 0x7000, perm)

    assert value == MapDma(32, MapFlags(int(perm)), 0x7000, 0x1000, 0x2000)
    assert range_of(value) == IovaRange(0x1000, 0x2FFF)
    assert perm_of(value) == perm


def test_an_unmapping_is_never_cut_but_for_the_whole_space() -> None:
    """The kernel refuses an UNMAP that cuts a mapping: also one that ends at the top stays whole."""
    top = IovaRange(0x1000, LAST)

    assert unmaps(top, unmap_all=True) == (UnmapDma(24, UnmapFlags(0), 0x1000, 2**64 - 0x1000),)
    assert unmaps(top, unmap_all=False) == unmaps(top, unmap_all=True)
    assert range_of(unmaps(top, unmap_all=True)[0]) == top


def test_the_whole_space_is_unmapped_by_the_flag_or_in_two_halves() -> None:
    halves = UnmapDma(24, UnmapFlags(0), 0, HALF), UnmapDma(24, UnmapFlags(0), HALF, HALF)

    assert unmaps(WHOLE, unmap_all=True) == (UnmapDma(24, UnmapFlags.ALL, 0, 0),)
    assert unmaps(WHOLE, unmap_all=False) == halves
    assert range_of(UnmapDma(24, UnmapFlags.ALL, 0, 0)) == WHOLE
    assert [range_of(half) for half in halves] == [IovaRange(0, HALF - 1), IovaRange(HALF, LAST)]


def test_the_whole_space_is_mapped_in_two_halves() -> None:
    flags = MapFlags.READ

    assert maps(WHOLE, 0, Perm.R) == (MapDma(32, flags, 0, 0, HALF), MapDma(32, flags, HALF, HALF, HALF))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (UnmapDma(24, UnmapFlags(0), 0, 0), "size of vfio_iommu_type1_dma_unmap is 0x0"),
        (UnmapDma(24, UnmapFlags.ALL, 0, 1), "size of vfio_iommu_type1_dma_unmap is 0x1, allowed: 0x0 at 0x0"),
        (UnmapDma(24, UnmapFlags.ALL, 1, 0), "size of vfio_iommu_type1_dma_unmap is 0x0, allowed: 0x0 at 0x0"),
        (MapDma(32, MapFlags.READ, 0, LAST, 2), "size of vfio_iommu_type1_dma_map is 0x2"),
    ],
)
def test_a_range_that_is_empty_or_wraps_is_refused(value: MapDma | UnmapDma, sentence: str) -> None:
    with pytest.raises(BadField, match=sentence):
        range_of(value)


# -- what a container says of itself -----------------------------------------


def test_a_container_says_what_can_be_mapped_and_how_often() -> None:
    data = info(RANGE_CAP, AVAIL_CAP)

    assert iova_ranges(data) == (IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, 2**39 - 1))
    assert dma_avail(data) == 65534
    assert capabilities(data).keys() == {CapId.IOVA_RANGE, CapId.DMA_AVAIL}


def test_a_container_that_says_nothing_is_asked_for_nothing() -> None:
    silent = INFO.encode(Info(24, InfoFlags.PGSIZES, 0x1000, 24)) + bytes.fromhex(AVAIL_CAP)

    assert capabilities(silent) == {}
    assert iova_ranges(silent) == ()
    assert dma_avail(silent) is None
    assert capabilities(INFO.encode(Info(100, InfoFlags.CAPS, 0x1000, 0))) == {}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BadLength),
        (info(), BadField),
        (info("0300 0100 00000000")[:-1], BadField),
        (info("0300 0100 18000000 feff0000"), BadField),
        (info("0300 0100 1f000000 feff0000 00000000"), BadField),
        (info("0300 0100 0c000000 feff0000"), BadField),
        (info("0300 0100 00100000 feff0000"), BadField),
        (info("0300 0100 ffffffff feff0000"), BadField),
    ],
)
def test_a_chain_that_turns_back_or_leaves_is_refused(data: bytes, error: type[AbiError]) -> None:
    with pytest.raises(error):
        capabilities(data)


def test_ranges_that_are_cut_off_or_inverted_are_refused() -> None:
    with pytest.raises(BadField, match=r"nr_iovas of \w+ is 0x2, allowed: 0x0\.\.0x1"):
        iova_ranges(info("0100 0100 00000000 02000000 00000000" + "00" * 31))
    with pytest.raises(BadField, match="end of vfio_iova_range is 0x0"):
        iova_ranges(info("0100 0100 00000000 01000000 00000000 0100000000000000 0000000000000000"))
    with pytest.raises(BadLength):
        iova_ranges(info("0100 0100 00000000 0100"))
    with pytest.raises(BadLength):
        dma_avail(info("0300 0100 00000000 fe"))


@given(st.binary(max_size=80), st.integers(0, 90))
def test_any_chain_ends_or_is_refused(tail: bytes, offset: int) -> None:
    data = INFO.encode(Info(200, InfoFlags.CAPS, 0x1000, offset)) + tail
    for ask in (capabilities, iova_ranges, dma_avail):
        try:
            ask(data)
        except AbiError:
            continue
