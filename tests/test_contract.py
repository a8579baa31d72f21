"""What consumers can take: events rounded, split, and given as they were mapped."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, strategies as st

from iommubus.caps import Cap, Perm
from iommubus.contract import Contract, Fitting
from iommubus.errors import BadContract, GranuleRefused, Misaligned
from iommubus.events import DevIotlbUnmap, Event, Map, Unmap
from iommubus.ranges import LAST

EXACT: Final = Contract(exact=True)


def map_of(first: int, last: int, target: int = 0x8000) -> Map:
    return Map("s", 1, first, last, target + first, Perm.RW)


def unmap_of(first: int, last: int) -> Unmap:
    return Unmap("s", 2, first, last)


def spans(events: Sequence[Event]) -> list[tuple[str, int, int]]:
    return [(type(event).__name__[0], event.first, event.last) for event in events]


def fitted(fitting: Fitting, *events: Event, number: int = 1) -> list[Event]:
    given_, refused = fitting.fit(events, number)
    assert refused == []
    return given_


# -- what cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize("granule", [0, -1, 3, 0x1001])
def test_a_granule_is_a_power_of_two(granule: int) -> None:
    with pytest.raises(BadContract):
        Contract(granule)


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(BadContract):
        Contract(limit=0)
    assert Contract(limit=1).limit == 1


@pytest.mark.parametrize("contract", [EXACT, Contract(limit=4)])
def test_what_is_about_mappings_needs_map(contract: Contract) -> None:
    contract.check_mask(Cap.IOTLB)
    with pytest.raises(BadContract):
        contract.check_mask(Cap.UNMAP)
    Contract(granule=2, pow2=True).check_mask(Cap.UNMAP)


def test_ranges_end_where_the_granule_does() -> None:
    contract = Contract(granule=0x10)
    contract.check_ranges([(0, 0xF), (0x20, LAST)])
    for ranges in ([(1, 0x10)], [(0, 0x10)]):
        with pytest.raises(Misaligned):
            contract.check_ranges(ranges)


def test_a_shadower_cannot_have_a_larger_granule_than_the_space() -> None:
    """Who copies a mapping of 4 KiB cannot copy it in pieces of 64."""
    contract = Contract(granule=0x10)
    for caps, granule in (Cap.IOTLB, 0x10), (Cap.IOTLB, 0x20), (Cap.UNMAP, 8):
        contract.check_space("s", granule, caps)
    with pytest.raises(GranuleRefused):
        contract.check_space("s", 8, Cap.IOTLB)


def test_the_plain_contract_is_plain() -> None:
    assert Contract().plain
    assert not any(each.plain for each in (Contract(2), Contract(pow2=True), EXACT, Contract(limit=9)))


def test_a_contract_stays_what_it_is() -> None:
    with pytest.raises(AttributeError):
        setattr(EXACT, "exact", False)  # noqa: B010 - what a type checker forbids


def test_the_size_of_a_range_that_does_not_fit_is_named() -> None:
    with pytest.raises(Misaligned, match="size 0xe is no multiple of the granule 0x10"):
        Contract(granule=0x10).check_ranges([(0x20, 0x2D)])


# -- rounding -------------------------------------------------------------------------------


def test_what_a_cacher_must_forget_is_rounded_out() -> None:
    fitting = Fitting(Contract(granule=0x10))

    assert spans(fitted(fitting, unmap_of(0x13, 0x21), DevIotlbUnmap("s", 3, 0x30, 0x3F))) == [
        ("U", 0x10, 0x2F),
        ("D", 0x30, 0x3F),
    ]
    assert spans(fitted(fitting, unmap_of(LAST, LAST))) == [("U", LAST - 0xF, LAST)]


def test_what_fits_comes_as_it_is() -> None:
    event = unmap_of(0x10, 0x1F)

    assert fitted(Fitting(Contract(granule=0x10)), event)[0] is event


# -- powers of two ----------------------------------------------------------------------------

EDGES = st.one_of(st.integers(0, 64), st.integers(0, LAST), st.integers(LAST - 64, LAST))


@given(one=EDGES, two=EDGES)
def test_powers_of_two_are_aligned_and_add_up(one: int, two: int) -> None:
    """I6: disjoint, in order, aligned, all of it; a MAP's target moves along."""
    first, last = min(one, two), max(one, two)
    fitting = Fitting(Contract(pow2=True))
    event = Map("s", 1, first, last, 0, Perm.R)
    parts = fitted(fitting, event)

    assert parts[0].first == first
    assert parts[-1].last == last
    assert all(before.last + 1 == after.first for before, after in pairwise(parts))
    for part in parts:
        assert isinstance(part, Map)
        assert part.size & (part.size - 1) == 0
        assert part.first % part.size == 0
        assert part.target == part.first - first


@given(
    mappings=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=8),
    cut=st.tuples(st.integers(0, 40), st.integers(1, 30)),
)
def test_a_split_unmap_never_cuts_a_split_map(mappings: list[tuple[int, int]], cut: tuple[int, int]) -> None:
    """What an UNMAP of whole mappings is split into contains whole pieces of them."""
    fitting, held, whole = Fitting(Contract(pow2=True)), list[Event](), list[Map]()
    for first, size in mappings:
        event = map_of(first, first + size - 1)
        if not any(event.first <= other.last and event.last >= other.first for other in whole):
            whole.append(event)
            held += fitted(fitting, event)
    low, high = cut[0], sum(cut) - 1
    touched = [event for event in whole if event.first <= high and event.last >= low]
    low, high = min([low, *(event.first for event in touched)]), max([high, *(event.last for event in touched)])
    for block in fitted(fitting, unmap_of(low, high)):
        for piece in held:
            inside = block.first <= piece.first <= piece.last <= block.last
            assert inside or piece.last < block.first or piece.first > block.last


def test_what_must_be_forgotten_is_split_whole() -> None:
    fitting = Fitting(Contract(pow2=True))

    assert spans(fitted(fitting, unmap_of(3, 8), DevIotlbUnmap("s", 3, 1, 2))) == [
        ("U", 3, 3),
        ("U", 4, 7),
        ("U", 8, 8),
        ("D", 1, 1),
        ("D", 2, 2),
    ]


def test_a_failure_is_nothing_to_one_who_counts_nothing() -> None:
    fitting = Fitting(Contract(pow2=True))
    later: list[Event] = []
    fitting.refuse(map_of(0, 3), later)
    assert fitting.held is None


# -- exact --------------------------------------------------------------------------------------


def test_every_unmap_names_one_mapping_as_it_was_mapped() -> None:
    """vfio-user DMA_UNMAP: address and size match a previous DMA_MAP."""
    fitting = Fitting(EXACT)
    fitted(fitting, map_of(0, 3), map_of(4, 4), map_of(8, 9))

    assert spans(fitted(fitting, unmap_of(0, 15))) == [("U", 0, 3), ("U", 4, 4), ("U", 8, 9)]
    assert fitted(fitting, unmap_of(0, 15)) == []
    assert fitting.held == 0


def test_exact_and_powers_of_two_give_the_blocks_that_were_mapped() -> None:
    fitting = Fitting(Contract(exact=True, pow2=True))
    mapped = fitted(fitting, map_of(3, 8))

    assert [part[1:] for part in spans(mapped)] == [(3, 3), (4, 7), (8, 8)]
    assert [part[1:] for part in spans(fitted(fitting, unmap_of(0, LAST)))] == [(3, 3), (4, 7), (8, 8)]


def test_an_unmap_of_a_mapping_that_failed_is_not_given() -> None:
    """The device answers an UNMAP of what it never mapped by ENOENT."""
    fitting = Fitting(EXACT)
    lost, kept = map_of(0, 3), map_of(4, 7)
    fitted(fitting, lost, kept)
    fitting.refuse(lost, [])

    assert spans(fitted(fitting, unmap_of(0, 7))) == [("U", 4, 7)]


def test_an_unmap_of_a_mapping_that_failed_is_taken_out_of_what_is_in_hand() -> None:
    fitting = Fitting(EXACT)
    batch = fitted(fitting, map_of(0, 3), map_of(4, 7), unmap_of(0, 7), map_of(0, 3, 0x9000))
    later = batch[1:]
    lost = batch[0]
    assert isinstance(lost, Map)
    fitting.refuse(lost, later)

    assert spans(later) == [("M", 4, 7), ("U", 4, 7), ("M", 0, 3)]
    assert fitting.held == 1


@pytest.mark.parametrize("beside", [(1, 1), (3, 3)])
def test_only_an_unmap_that_touches_the_mapping_that_failed_is_taken_out(beside: tuple[int, int]) -> None:
    fitting = Fitting(EXACT)
    fitted(fitting, map_of(*beside))
    lost, other, gone = fitted(fitting, map_of(2, 2), unmap_of(*beside), unmap_of(2, 2))
    later: list[Event] = [other, gone]
    assert isinstance(lost, Map)
    fitting.refuse(lost, later)

    assert later == [other]


def test_what_is_taken_back_is_held_again() -> None:
    fitting = Fitting(EXACT)
    fitted(fitting, map_of(0, 3), map_of(4, 7))
    gone = fitted(fitting, unmap_of(0, 7), map_of(0, 7), number=2)
    fitting.take_back(gone)

    assert spans(fitted(fitting, unmap_of(0, 15))) == [("U", 0, 3), ("U", 4, 7)]


# -- limit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pow2", [False, True])
def test_one_mapping_too_many_is_refused(*, pow2: bool) -> None:
    """T39: and the next one is taken again once there is room."""
    fitting = Fitting(Contract(limit=2, pow2=pow2))
    one, two, three = map_of(0, 1), map_of(2, 3), map_of(4, 5)

    assert fitting.fit((one, two, three), 1) == ([one, two], [three])
    assert fitted(fitting, unmap_of(0, 1), three) == [unmap_of(0, 1), three]
    assert fitting.held == 2


def test_a_mapping_that_does_not_fit_in_pieces_is_refused_whole() -> None:
    fitting = Fitting(Contract(limit=2, pow2=True))

    assert fitting.fit((map_of(3, 8),), 1) == ([], [map_of(3, 8)])
    assert fitting.held == 0


def test_a_removal_that_is_taken_back_counts_again() -> None:
    fitting = Fitting(Contract(limit=2))
    fitted(fitting, map_of(0, 1), map_of(2, 3))
    gone = fitted(fitting, unmap_of(0, 3), number=2)
    fitting.take_back(gone)

    assert fitting.held == 2
    assert fitting.fit((map_of(4, 5),), 3)[1] == [map_of(4, 5)]


def test_without_exactness_the_unmap_of_a_mapping_that_failed_stays_in_hand() -> None:
    """It names more than the consumer holds, which such a consumer bears."""
    fitting = Fitting(Contract(limit=3))
    lost, *later = fitted(fitting, map_of(0, 3), unmap_of(0, 3))
    assert isinstance(lost, Map)
    fitting.refuse(lost, later)

    assert spans(later) == [("U", 0, 3)]


def test_only_what_is_taken_back_is_held_again() -> None:
    fitting = Fitting(EXACT)
    fitted(fitting, map_of(0, 3), map_of(4, 7))
    one, two = fitted(fitting, unmap_of(0, 7), number=2)
    fitting.take_back([two])

    assert fitting.held == 1
    assert spans(fitted(fitting, unmap_of(0, 7), number=3)) == [("U", 4, 7)]
    assert (one.first, one.last) == (0, 3)


def test_a_limit_leaves_unmaps_as_they_are() -> None:
    fitting = Fitting(Contract(limit=3))
    fitted(fitting, map_of(0, 1), map_of(4, 5))

    assert spans(fitted(fitting, unmap_of(0, 15))) == [("U", 0, 15)]
    assert fitting.held == 0


def test_what_was_acknowledged_is_forgotten() -> None:
    """I27: the log of removals is as long as what is in hand."""
    fitting = Fitting(EXACT)
    for number in range(1, 100):
        fitted(fitting, map_of(0, 3), unmap_of(0, 3), number=number)
        fitting.acknowledge(number - 1)

    assert len(fitting._log) == 1  # pyright: ignore[reportPrivateUsage] - nobody outside can see it


def test_nothing_is_counted_where_nobody_needs_it() -> None:
    assert Fitting(Contract(pow2=True)).held is None
