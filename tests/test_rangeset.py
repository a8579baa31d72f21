"""Sets of marked ranges, driven through every reachable state beside a dict of addresses."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from iommubus.ranges import LAST
from iommubus.rangeset import RangeSet

Marks = dict[int, bool]
"""The model: each address of the set, with the mark of its range."""

Triple = tuple[int, int, bool]


def every_range(base: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield every range on ``size`` addresses from ``base``."""
    for first in range(base, base + size):
        for last in range(first, base + size):
            yield first, last


def runs(marks: Marks) -> list[Triple]:
    """Return the model's ranges: runs of addresses without a gap, marked if any of them is."""
    found: list[Triple] = []
    for address in sorted(marks):
        if found and found[-1][1] + 1 == address:
            first, _, mark = found.pop()
            found.append((first, address, mark or marks[address]))
        else:
            found.append((address, address, marks[address]))
    return found


def level(marks: Marks) -> Marks:
    """Give every address of a run the mark of the run."""
    return {address: mark for first, last, mark in runs(marks) for address in range(first, last + 1)}


def made(ranges: list[Triple]) -> RangeSet:
    """Return a set of these ranges, which neither overlap nor touch."""
    result = RangeSet()
    for first, last, mark in ranges:
        assert result.add(first, last, mark=mark) == (first, last)
    return result


def check(ranges: RangeSet, marks: Marks) -> None:
    """Compare the whole set with the model, and look for what must not be in it."""
    found = list(ranges)
    assert found == runs(marks)
    assert len(ranges) == len(found)
    assert bool(ranges) is bool(marks)
    assert all(type(mark) is bool for _, _, mark in found)
    assert all(one[1] + 1 < two[0] for one, two in pairwise(found))


def check_reads(ranges: RangeSet, marks: Marks, base: int, size: int) -> None:
    """Compare what every range and every address is answered."""
    for first, last in every_range(base, size):
        inside = [address in marks for address in range(first, last + 1)]
        assert ranges.overlaps(first, last) is any(inside)
        assert ranges.covers(first, last) is all(inside)
    for address in range(base, base + size):
        behind = [(max(first, address), last) for first, last, _ in runs(marks) if last >= address]
        assert ranges.at_or_after(address) == (behind[0] if behind else None)


def do(name: str, first: int, last: int, before: list[Triple]) -> tuple[RangeSet, Marks]:
    """Do one thing to the set and to the model, compare what is returned, and return both."""
    ranges = made(before)
    marks = {address: mark for low, high, mark in before for address in range(low, high + 1)}
    window = range(first, last + 1)
    if name in {"add", "add marked"}:
        marks |= {address: marks.get(address, False) or name == "add marked" for address in window}
        marks = level(marks)
        joined = next((low, high) for low, high, _ in runs(marks) if low <= first <= high)
        assert ranges.add(first, last, mark=name == "add marked") == joined
    elif name == "discard":
        marks = {address: mark for address, mark in marks.items() if address not in window}
        ranges.discard(first, last)
    elif name == "pop":
        popped = [(low, high) for low, high, _ in before if low <= last and high >= first]
        gone = {address for low, high in popped for address in range(low, high + 1)}
        marks = {address: mark for address, mark in marks.items() if address not in gone}
        assert ranges.pop_overlapping(first, last) == popped
    elif name == "take":
        assert ranges.take_marked() == [(low, high) for low, high, mark in before if mark]
        marks = dict.fromkeys(marks, False)
    else:
        ranges.clear()
        marks = {}
    return ranges, marks


@pytest.mark.parametrize("base", [0, LAST - 5])
def test_every_step_in_every_state(base: int) -> None:
    """At both ends of the space, whatever was done before, each step does what it does to a dict of addresses."""
    steps = [(name, *edges) for name in ("add", "add marked", "discard", "pop") for edges in every_range(base, 6)]
    steps += [("take", 0, 0), ("clear", 0, 0)]
    seen: set[tuple[Triple, ...]] = {()}
    todo: list[tuple[Triple, ...]] = [()]
    while todo:
        state = list(todo.pop())
        check_reads(made(state), {at: mark for low, high, mark in state for at in range(low, high + 1)}, base, 6)
        for step in steps:
            ranges, marks = do(*step, state)
            check(ranges, marks)
            if (after := tuple(ranges)) not in seen:
                seen.add(after)
                todo.append(after)

    assert len(seen) == 239  # each run of addresses marked or not


def test_an_empty_set_answers() -> None:
    """Nothing overlaps, covers, follows, is popped or taken; discarding and closing gaps change nothing."""
    ranges = RangeSet()

    ranges.discard(0, LAST)
    ranges.close_gaps(0)
    ranges.clear()

    assert not ranges.overlaps(0, LAST)
    assert not ranges.covers(0, 0)
    assert ranges.at_or_after(0) is None
    assert ranges.pop_overlapping(0, LAST) == []
    assert ranges.take_marked() == []
    assert list(ranges) == []
    assert len(ranges) == 0
    assert repr(ranges) == "<empty>"


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ((0, 0), [(0, 0), (10, 19), (30, 39), (LAST - 9, LAST)]),
        ((0, 8), [(0, 8), (10, 19), (30, 39), (LAST - 9, LAST)]),
        ((0, 9), [(0, 19), (30, 39), (LAST - 9, LAST)]),
        ((20, 20), [(10, 20), (30, 39), (LAST - 9, LAST)]),
        ((21, 28), [(10, 19), (21, 28), (30, 39), (LAST - 9, LAST)]),
        ((29, 29), [(10, 19), (29, 39), (LAST - 9, LAST)]),
        ((20, 29), [(10, 39), (LAST - 9, LAST)]),
        ((12, 13), [(10, 19), (30, 39), (LAST - 9, LAST)]),
        ((5, 44), [(5, 44), (LAST - 9, LAST)]),
        ((40, LAST - 11), [(10, 19), (30, LAST - 11), (LAST - 9, LAST)]),
        ((41, LAST - 10), [(10, 19), (30, 39), (41, LAST)]),
        ((40, LAST - 10), [(10, 19), (30, LAST)]),
        ((LAST, LAST), [(10, 19), (30, 39), (LAST - 9, LAST)]),
        ((0, LAST), [(0, LAST)]),
    ],
)
def test_what_touches_is_joined_and_a_gap_of_one_is_kept(new: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    """A range joins those it overlaps or touches, and nothing over a gap, however small; its edges are returned."""
    ranges = made([(10, 19, False), (30, 39, False), (LAST - 9, LAST, False)])

    edges = ranges.add(*new, mark=False)

    assert [(first, last) for first, last, _ in ranges] == expected
    assert edges in expected
    assert edges[0] <= new[0] <= new[1] <= edges[1]


@pytest.mark.parametrize("marks", [(True, False, False), (False, True, False), (False, False, True)])
def test_one_mark_is_enough(marks: tuple[bool, bool, bool]) -> None:
    """Whichever of the ranges that grow together has a mark, the result has it."""
    ranges = made([(0, 9, marks[0]), (20, 29, marks[2])])

    ranges.add(10, 19, mark=marks[1])

    assert list(ranges) == [(0, 29, True)]


def test_marks_stay_where_they_are() -> None:
    """A mark belongs to its own range alone, through discarding from its front, its middle and its end."""
    ranges = made([(0, 9, False), (20, 29, True), (40, 49, False)])

    ranges.discard(24, 25)
    ranges.discard(0, 0)
    ranges.discard(49, 49)
    ranges.discard(10, 19)

    assert list(ranges) == [(1, 9, False), (20, 23, True), (26, 29, True), (40, 48, False)]
    assert ranges.take_marked() == [(20, 23), (26, 29)]
    assert ranges.take_marked() == []
    assert list(ranges) == [(1, 9, False), (20, 23, False), (26, 29, False), (40, 48, False)]


def test_the_edges_of_the_space_can_be_discarded() -> None:
    """The first and the last byte go like any other, and what is left ends next to them."""
    ranges = made([(0, LAST, True)])

    ranges.discard(0, 0)
    ranges.discard(LAST, LAST)

    assert list(ranges) == [(1, LAST - 1, True)]
    assert not ranges.overlaps(0, 0)
    assert not ranges.overlaps(LAST, LAST)


def test_a_set_is_printed_for_people() -> None:
    """Ranges are in hexadecimal, a star marks the marked ones."""
    assert (
        repr(made([(0x1000, 0x1FFF, True), (0x3000, LAST, False)])) == "<0x1000..0x1fff*, 0x3000..0xffffffffffffffff>"
    )


# -- closing gaps ------------------------------------------------------------

SPREAD: list[Triple] = [(0, 9, False), (12, 13, True), (20, 20, False), (23, 29, False), (34, LAST, False)]
"""Five ranges; the gaps between them have 2, 6, 2 and 4 addresses."""


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (6, SPREAD),
        (5, SPREAD),
        (4, [(0, 13, True), (20, 20, False), (23, 29, False), (34, LAST, False)]),
        (3, [(0, 13, True), (20, 29, False), (34, LAST, False)]),
        (2, [(0, 13, True), (20, LAST, False)]),
        (1, [(0, LAST, True)]),
        (0, [(0, LAST, True)]),
    ],
)
def test_the_smallest_gaps_are_closed_first(count: int, expected: list[Triple]) -> None:
    """No more ranges are joined than necessary, those with the least between them first, then the lower ones."""
    ranges = made(SPREAD)

    ranges.close_gaps(count)

    assert list(ranges) == expected


@pytest.mark.parametrize("marked", range(3))
def test_a_bridged_gap_keeps_the_mark(marked: int) -> None:
    """Of the ranges on either side of a gap one mark is enough, and the others keep their own."""
    ranges = made([(0, 0, marked == 0), (2, 2, marked == 1), (8, 8, marked == 2)])

    ranges.close_gaps(2)

    assert list(ranges) == [(0, 2, marked < 2), (8, 8, marked == 2)]


def test_one_range_has_no_gap() -> None:
    """A single range stays, whatever is asked for."""
    ranges = made([(5, 9, True)])

    ranges.close_gaps(0)

    assert list(ranges) == [(5, 9, True)]


@pytest.mark.parametrize("seed", range(20))
def test_many_ranges_at_once_are_the_same_as_one_after_the_other(seed: int) -> None:
    """
    However they overlap and touch, marks included.
    """
    numbers = random.Random(seed)  # noqa: S311 - it is no secret
    one_by_one, at_once = RangeSet(), RangeSet()
    for mark in (False, True, False):
        edges = [sorted(numbers.choices([*range(60), LAST - 1, LAST], k=2)) for _ in range(numbers.randrange(12))]
        for first, last in edges:
            one_by_one.add(first, min(last, first + 3), mark=mark)
        at_once.add_all([(first, min(last, first + 3)) for first, last in edges], mark=mark)

        assert list(at_once) == list(one_by_one)


def test_gaps_are_closed_in_one_go_and_marks_stay() -> None:
    """
    The smallest first, the lower of equal ones, and whoever was marked makes the whole so.
    """
    ranges = RangeSet()
    for first, mark in ((0, False), (3, True), (5, False), (9, False), (12, False), (14, True), (40, False)):
        ranges.add(first, first, mark=mark)

    ranges.close_gaps(4)

    assert list(ranges) == [(0, 5, True), (9, 9, False), (12, 14, True), (40, 40, False)]
    ranges.close_gaps(4)
    assert len(ranges) == 4
    ranges.close_gaps(0)
    assert list(ranges) == [(0, 40, True)]
