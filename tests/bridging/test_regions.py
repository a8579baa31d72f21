"""The memory table of a front end, at each of its edges."""

import itertools

import pytest

from iommubus.abi.vhost_user import MemRegion, Region
from iommubus.bridging.regions import SLOTS, Backed, Regions
from iommubus.errors import BadField
from iommubus.events import Memory

RAM = Memory("ram", 1, 0x10000)
ROM = Memory("rom", 1, 0x2000)

LOW = Backed(Region(guest_address=0, size=0x4000, user_address=0x7000_0000, mmap_offset=0x1000), RAM)
NEXT = Backed(Region(guest_address=0x10_0000, size=0x2000, user_address=0x7000_4000, mmap_offset=0xE000), RAM)
FAR = Backed(Region(guest_address=0xFFFF_E000, size=0x2000, user_address=2**64 - 0x2000, mmap_offset=0), ROM)

TABLE = Regions([FAR, LOW, NEXT])


@pytest.mark.parametrize(
    ("address", "size", "found"),
    [
        (0x7000_0000, 1, (RAM, 0x1000)),
        (0x7000_0000, 0x4000, (RAM, 0x1000)),
        (0x7000_3FFF, 1, (RAM, 0x4FFF)),
        (0x7000_4000, 0x2000, (RAM, 0xE000)),
        (2**64 - 1, 1, (ROM, 0x1FFF)),
        (0x6FFF_FFFF, 1, None),
        (0x6FFF_FFFF, 2, None),
        (0x7000_0000, 0x4001, None),  # one region has it all, or none
        (0x7000_6000, 1, None),
        (2**64 - 0x2001, 2, None),
        (2**64 - 1, 2, None),
        (0, 2**64, None),
    ],
)
def test_an_address_is_found_in_the_region_that_has_all_of_it(
    address: int, size: int, found: tuple[Memory, int] | None
) -> None:
    assert TABLE.find(address, size) == found


def test_every_table_finds_what_the_list_of_its_regions_has() -> None:
    """
    All tables of three pages out of eight, each asked for every piece.
    """
    memory = Memory("pages", 1, 16)
    for starts in itertools.combinations(range(0, 16, 2), 3):
        table = Regions(Backed(Region(0, 2, start, start // 2), memory) for start in reversed(starts))
        for address, size in itertools.product(range(18), (1, 2, 3)):
            expected = [
                (memory, start // 2 + address - start) for start in starts if start <= address <= start + 2 - size
            ]
            assert table.find(address, size) == (expected[0] if expected else None), (starts, address, size)


def test_a_region_comes_and_goes_and_the_table_before_stays_what_it_was() -> None:
    small = Regions([LOW])

    larger = small.added(FAR)
    again, gone = larger.removed(MemRegion(0xFFFF_E000, 0x2000, 2**64 - 0x2000, mmap_offset=77))

    assert (list(small), list(larger), list(again), gone) == ([LOW], [LOW, FAR], [LOW], FAR)
    assert len(larger) == 2


@pytest.mark.parametrize(
    "other",
    [
        Region(1, 0x2000, 2**64 - 0x2000, 0),
        Region(0xFFFF_E000, 0x1000, 2**64 - 0x2000, 0),
        Region(0xFFFF_E000, 0x2000, 2**64 - 0x3000, 0),
    ],
)
def test_what_is_removed_is_told_by_all_that_describes_it(other: Region) -> None:
    with pytest.raises(BadField, match="a region there is"):
        TABLE.removed(other)


@pytest.mark.parametrize("first", [0x6FFF_F001, 0x7000_0000, 0x7000_3FFF])
def test_regions_that_overlap_are_refused(first: int) -> None:
    with pytest.raises(BadField, match="disjoint"):
        TABLE.added(Backed(Region(0, 0x1000, first, 0), RAM))


@pytest.mark.parametrize(("size", "offset"), [(0x2001, 0), (1, 0x2000), (0x1001, 0x1000)])
def test_a_region_lies_in_its_file(size: int, offset: int) -> None:
    with pytest.raises(BadField, match="its file has"):
        Regions([Backed(Region(0, size, 0x1000, offset), ROM)])


def test_there_is_room_for_so_many() -> None:
    regions = [Backed(Region(page, 1, page, 0), RAM) for page in range(SLOTS)]

    with pytest.raises(BadField, match="at most"):
        Regions(regions).added(Backed(Region(SLOTS, 1, SLOTS, 0), RAM))
