"""Ranges of a subscription are clipped to the space, and joined where they touch."""

import pytest

from iommubus import LAST, Cap
from iommubus.bus.endpoint import Endpoint
from iommubus.errors import InvertedRange, OutsideRanges, RangeWraps
from tests.actors import open_space
from tests.loops import every_loop

Ranges = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("wanted", "clipped"),
    [
        ([(0, LAST)], ((0, 0xFFFF),)),
        ([(0x100, 0x1FF)], ((0x100, 0x1FF),)),
        ([(0xFFFF, LAST)], ((0xFFFF, 0xFFFF),)),
        ([(0x200, 0x2FF), (0, 0xFF)], ((0, 0xFF), (0x200, 0x2FF))),
        ([(0, 0xFF), (0x100, 0x1FF)], ((0, 0x1FF),)),
        ([(0, 0xFF), (0x101, 0x1FF)], ((0, 0xFF), (0x101, 0x1FF))),
        ([(0, 0x1FF), (0x80, 0xFF)], ((0, 0x1FF),)),
        ([(0, 0xFF), (0x1_0000, LAST)], ((0, 0xFF),)),
    ],
)
@every_loop
async def test_clipping(wanted: Ranges, clipped: tuple[tuple[int, int], ...]) -> None:
    """Law 9: inclusive at both ends."""
    async with open_space(last=0xFFFF) as (_, space):
        assert Endpoint("space", space).clip(wanted) == clipped


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ([], OutsideRanges),
        ([(0x1_0000, LAST)], OutsideRanges),
        ([(1, 0)], InvertedRange),
        ([(0, LAST + 1)], RangeWraps),
        ([(-1, 5)], RangeWraps),
    ],
)
@every_loop
async def test_what_cannot_be_clipped(wanted: Ranges, kind: type[Exception]) -> None:
    async with open_space(last=0xFFFF) as (bus, _):
        with pytest.raises(kind):
            bus.subscribe("space", Cap.IOTLB, ranges=wanted)
