"""The picture of a tiny history, cell by cell."""

from itertools import pairwise

import pytest

from iommubus.caps import Perm
from iommubus.demo.picture import Band, Picture, bands, clusters, draw
from iommubus.demo.script import LookupStep, MapStep, Step, UnmapStep
from iommubus.ranges import LAST

RW = Perm.RW


def mapped(seconds: float | None, page: int, pages: int = 1, space: str = "s") -> MapStep:
    return MapStep(1, seconds, space, page, page + pages * 0x1000 - 1, 0, RW)


def unmapped(seconds: float | None, page: int, pages: int = 1) -> UnmapStep:
    return UnmapStep(1, seconds, "s", page, page + pages * 0x1000 - 1)


def test_a_cell_is_the_share_of_its_pages_averaged_over_its_time() -> None:
    history: list[Step] = [
        mapped(10.0, 0x0, 2),
        LookupStep(1, 10.5, "s", 0x0, 0x0),
        mapped(10.0, 0x9000, space="another"),
        unmapped(11.0, 0x0),
        mapped(12.0, 0x2000),
        unmapped(13.5, 0x2000),
        unmapped(14.0, 0x1000),
    ]

    assert draw(history, "s", 0x1000, width=4, height=2) == Picture(
        "s",
        "seconds",
        4.0,
        [Band(0x2000, 0x3FFF, 1, [0.0, 0.0, 1.0, 0.5]), Band(0x0, 0x1FFF, 2, [1.0, 0.5, 0.5, 0.5])],
    )


def test_without_times_every_event_takes_as_long_as_another() -> None:
    history: list[Step] = [mapped(None, 0x0), unmapped(None, 0x0), mapped(None, 0x0), unmapped(None, 0x0)]

    picture = draw(history, "s", 0x1000, width=2, height=1)

    assert picture == Picture("s", "events", 4.0, [Band(0x0, 0xFFF, 1, [0.5, 0.5])])


def test_a_clock_that_goes_back_or_stands_still_draws_something() -> None:
    back = draw([mapped(5.0, 0x0), unmapped(7.0, 0x0), mapped(6.0, 0x0)], "s", 0x1000, width=2, height=1)
    still = draw([mapped(5.0, 0x0), unmapped(5.0, 0x0)], "s", 0x1000, width=2, height=1)

    assert back == Picture("s", "seconds", 2.0, [Band(0x0, 0xFFF, 1, [1.0, 1.0])])
    assert still == Picture("s", "events", 2.0, [Band(0x0, 0xFFF, 1, [1.0, 0.0])])


def test_a_map_over_a_live_one_is_not_counted_twice() -> None:
    picture = draw([mapped(None, 0x0, 2), mapped(None, 0x1000)], "s", 0x1000, width=1, height=1)

    assert picture is not None
    assert picture.bands == [Band(0x0, 0x1FFF, 2, [1.0])]


def test_addresses_far_apart_are_drawn_with_a_gap_between_them() -> None:
    picture = draw([mapped(None, 0x0), mapped(None, LAST - 0xFFF)], "s", 0x1000, width=2, height=8)

    assert picture is not None
    assert picture.bands == [Band(LAST - 0xFFF, LAST, 1, [0.0, 1.0]), None, Band(0x0, 0xFFF, 1, [1.0, 1.0])]


def test_a_space_in_which_nothing_was_mapped_has_no_picture() -> None:
    assert draw([unmapped(1.0, 0x0)], "s", 0x1000, width=4, height=4) is None


def test_bands_are_round_and_no_more_than_there_is_room() -> None:
    touched = list(range(0xFFD00000, 0x100000000, 0x1000))

    found = bands(touched, 0x1000, 16)

    assert found[0] == (0xFFD00000, 0xFFD3FFFF)
    assert found[-1] == (0xFFFC0000, 0xFFFFFFFF)
    assert len(found) == 12


def test_bands_of_neighbouring_clusters_do_not_overlap() -> None:
    touched = [0x7FF000, 0x800000, 0x900000]

    found = bands(touched, 0x1000, 8)

    assert all(above[0] > below[1] for below, above in pairwise(found))
    assert all(any(first <= page <= last for first, last in found) for page in touched)


@pytest.mark.parametrize(
    ("touched", "most", "groups"),
    [
        ([0x0, 0x1000, 0x2000], 4, [[0x0, 0x1000, 0x2000]]),
        ([0x0, 0x100000], 4, [[0x0], [0x100000]]),
        ([0x0, 0x100000], 1, [[0x0, 0x100000]]),
        ([0x0, 0x1000, 0x100000, 0x40000000], 4, [[0x0, 0x1000], [0x100000], [0x40000000]]),
        ([0x0, 0x100000, 0x40000000], 2, [[0x0, 0x100000], [0x40000000]]),
    ],
)
def test_clusters_are_cut_at_the_largest_gaps(touched: list[int], most: int, groups: list[list[int]]) -> None:
    assert clusters(touched, 0x1000, most) == groups
