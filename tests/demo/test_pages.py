"""Pages, against hand-written maps and unmaps."""

import pytest

from iommubus.caps import Perm
from iommubus.demo.pages import PAGES_LIMIT, Pages, TooManyPages, crop
from iommubus.ranges import LAST


def test_a_mapping_is_as_many_pages_as_it_is_long() -> None:
    pages = Pages(0x1000)

    pages.map(0x1000, 0x2FFF, 0x8000, Perm.RW)

    assert pages.targets == {0x1000: (0x8000, Perm.RW), 0x2000: (0x9000, Perm.RW)}
    assert repr(pages) == "<2 pages of 0x1000 bytes>"


def test_a_later_mapping_wins() -> None:
    pages = Pages(0x1000)
    pages.map(0x1000, 0x2FFF, 0x8000, Perm.RW)

    pages.map(0x2000, 0x2FFF, 0x1000, Perm.R)

    assert pages.targets == {0x1000: (0x8000, Perm.RW), 0x2000: (0x1000, Perm.R)}


@pytest.mark.parametrize(("first", "last"), [(0x1000, 0x1FFF), (0, 0x1FFF), (0, LAST)])
def test_an_unmap_removes_and_names_the_pages_it_covers(first: int, last: int) -> None:
    pages = Pages(0x1000)
    pages.map(0x1000, 0x1FFF, 0x8000, Perm.RW)
    pages.map(LAST - 0xFFF, LAST, 0, Perm.RW)

    gone = pages.unmap(first, last)

    assert gone == [0x1000] + [LAST - 0xFFF] * (last == LAST)
    assert len(pages) == 2 - len(gone)


def test_more_pages_than_the_limit_are_refused_before_they_are_made() -> None:
    pages = Pages(0x1000)
    pages.map(0, 0xFFF, 0, Perm.R)

    with pytest.raises(TooManyPages, match=r"0x1000\.\.0x100000fff makes more than 1,048,576 pages of 0x1000 bytes"):
        pages.map(0x1000, 0x1000 + PAGES_LIMIT * 0x1000 - 1, 0, Perm.R)

    assert len(pages) == 1


def test_a_range_is_cropped_to_ranges() -> None:
    assert list(crop(0x1000, 0x5FFF, ((0, 0x1FFF), (0x4000, LAST)))) == [(0x1000, 0x1FFF), (0x4000, 0x5FFF)]
    assert list(crop(0x2000, 0x3FFF, ((0, 0x1FFF), (0x4000, LAST)))) == []
