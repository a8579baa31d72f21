"""What has to be taken away from a consumer whose connection is lost."""

import pytest

from iommubus.caps import Cap, Perm
from iommubus.client.holding import Holding
from iommubus.contract import Contract
from iommubus.events import DevIotlbUnmap, Map, Unmap
from iommubus.mapping import Mapping
from iommubus.ranges import LAST

EVERYWHERE = ((0, LAST),)


def map_of(first: int, last: int) -> Map:
    return Map("space", 7, first, last, first, Perm.RW)


def test_no_more_is_taken_away_than_was_given() -> None:
    """A device may have no room for the range of all addresses, and no mapping is cut."""
    holding = Holding(Cap.IOTLB, ((0, 99), (200, 299), (400, 499)), Contract(), "endpoint")
    holding.give([map_of(210, 219), Unmap("space", 8, 400, 410), map_of(50, 59)], 1)
    assert holding.touched
    assert holding.all_gone(2) == [Unmap("space", 7, 50, 99), Unmap("space", 7, 200, 219)]
    holding.let_go()
    assert holding.all_gone(3) == []
    holding.give([map_of(20, 29)], 4)
    assert holding.all_gone(5) == [Unmap("space", 7, 20, 29)]


@pytest.mark.parametrize(("caps", "kind"), [(Cap.UNMAP, Unmap), (Cap.DEVIOTLB_UNMAP, DevIotlbUnmap)])
def test_answers_are_taken_away_from_a_cacher(caps: Cap, kind: type[Unmap | DevIotlbUnmap]) -> None:
    holding = Holding(caps, EVERYWHERE, Contract(granule=0x1000, pow2=True), "endpoint")
    holding.answer(Mapping(0x3800, 0x4FFF, 0, Perm.R))
    assert holding.all_gone(1) == [kind("endpoint", 0, 0x3000, 0x3FFF), kind("endpoint", 0, 0x4000, 0x4FFF)]


def test_an_exact_consumer_forgets_mapping_by_mapping() -> None:
    holding = Holding(Cap.IOTLB, EVERYWHERE, Contract(exact=True), "endpoint")
    holding.give([map_of(0, 9), map_of(20, 29), map_of(30, 39)], 1)
    holding.give([Unmap("space", 8, 20, 29)], 2)
    assert [(event.first, event.last) for event in holding.all_gone(3)] == [(0, 9), (30, 39)]
    assert holding.all_gone(4) == []
