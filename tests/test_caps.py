"""Masks have QEMU's values, and a consumer may not ask for MAP alone."""

import pytest

from iommubus.caps import Cap, Perm, check_mask
from iommubus.errors import EmptyMask, MapAlone, UnknownCapability


def test_values_are_those_of_qemu() -> None:
    """A mask can be compared with one in a trace: IOMMUNotifierFlag and IOMMUAccessFlags."""
    assert {cap.name: cap.value for cap in Cap.__members__.values()} == {
        "UNMAP": 0x1,
        "MAP": 0x2,
        "DEVIOTLB_UNMAP": 0x4,
        "IOTLB": 0x3,
        "ALL": 0x7,
    }
    assert {perm.name: perm.value for perm in Perm.__members__.values()} == {"R": 0x1, "W": 0x2, "RW": 0x3}


def test_composites_are_made_of_the_single_ones() -> None:
    """IOTLB and ALL are nothing but unions."""
    assert Cap.MAP | Cap.UNMAP is Cap.IOTLB
    assert Cap.IOTLB | Cap.DEVIOTLB_UNMAP is Cap.ALL
    assert Perm.R | Perm.W is Perm.RW


@pytest.mark.parametrize("caps", [1, 3, 4, 5, 7])
def test_every_sound_mask_is_accepted(caps: int) -> None:
    """Of the masks 0..7, all that name a kind and no MAP without UNMAP come back as `Cap`."""
    mask = check_mask(caps)

    assert type(mask) is Cap
    assert mask == caps


def test_a_mask_that_asks_for_nothing_is_refused() -> None:
    """A mask of 0 is a mistake, not a quiet subscription."""
    with pytest.raises(EmptyMask) as refused:
        check_mask(0)

    assert refused.value.caps == 0


@pytest.mark.parametrize("caps", [Cap.MAP, Cap.MAP | Cap.DEVIOTLB_UNMAP])
def test_map_without_unmap_is_refused(caps: int) -> None:
    """Who is never told to let go may not hold; an invalidation of the device's TLB does not tell it."""
    with pytest.raises(MapAlone) as refused:
        check_mask(caps)

    assert refused.value.caps == caps
    assert type(refused.value.caps) is int


@pytest.mark.parametrize("caps", [8, 9, 2 | 8, 7 | 8, 1 << 64, -1, -8])
def test_unknown_bits_are_refused(caps: int) -> None:
    """A bit that means nothing may be a newer kind of event: better refused than never delivered."""
    with pytest.raises(UnknownCapability) as refused:
        check_mask(caps)

    assert (refused.value.caps, refused.value.known) == (caps, 7)
    assert type(refused.value.known) is int
