"""Percentiles, and verdicts over made-up results."""

import pytest
from msgspec import structs

from iommubus.abi.qemu_trace import Family
from iommubus.demo.judge import Violation
from iommubus.demo.result import Lookups, Moves, Published, Received, Result, judge_result, percentile, summarise
from iommubus.demo.source import Expected

VIOLATION = Violation("s", "vfio", 1, 0, 2, 0x1000, "unmapped", "-> 0x8000 RW")
EXPECTED = Expected(maps=3, unmaps=2, pages=1, lookups=4, moves=1)

GOOD = Result(
    title="log",
    processes=1,
    family=Family.VIRTIO_IOMMU,
    lines=9,
    seconds=0.5,
    published=[Published("s", False, 3, 2, 1, 1)],
    received=[
        Received("s", "vfio", "", 3, 2, conflations=0),
        Received("s", "vfio-slow", "", 3, 2, conflations=1, may_conflate=True),
        Received("s", "notifier", "", 3, 2),
    ],
    remaps=0,
    moves=Moves(endpoints=1, of_trace=1, left=0, returned=1),
    sync_seconds=[0.001, 0.003, 0.002],
    checks=9,
    lookups=Lookups(of_trace=True, asked=4, answered=4, agreed=4),
    skipped={},
    quiet={},
    damaged=0,
    damage=[],
    violations=[],
    failures=[],
    reasons=[],
)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([7.0], 0.0, 7.0),
        ([7.0], 0.99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.51, 3.0),
        ([float(each) for each in range(1, 101)], 0.99, 99.0),
        ([4.0, 1.0], 1.0, 4.0),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_nothing_is_to_be_said_against_what_was_expected() -> None:
    assert judge_result(GOOD, EXPECTED) == []
    assert judge_result(GOOD, None) == []


def test_violations_and_failures_are_reasons() -> None:
    result = structs.replace(GOOD, violations=[VIOLATION], failures=["the sync after line 2 failed"])

    assert judge_result(result, None) == [str(VIOLATION), "the sync after line 2 failed"]


def test_only_the_slow_one_may_conflate() -> None:
    result = structs.replace(GOOD, received=[Received("s", "vfio", "", 3, 2, conflations=2)])

    assert judge_result(result, None) == ["vfio on s conflated 2 times, and only the slow one may"]


def test_every_figure_that_differs_from_a_known_log_is_a_reason() -> None:
    expected = Expected(maps=1, unmaps=1, pages=0, lookups=5, moves=2)

    assert judge_result(structs.replace(GOOD, received=[]), expected) == [
        "3 MAPs published, expected 1",
        "2 UNMAPs published, expected 1",
        "1 pages mapped at the end, expected 0",
        "1 moves of endpoints, expected 2",
        "4 lookups asked, expected 5",
        "4 lookups answered, expected 5",
        "4 lookups answered as the trace says, expected 5",
        "the slow subscriber never conflated, and was to",
    ]


def test_a_summary_has_the_figures_in_round_units() -> None:
    summary = summarise(GOOD)

    assert (summary.ok, summary.events, summary.syncs) == (True, 5, 3)
    assert (summary.sync_p50_us, summary.sync_p99_us) == (2000.0, 3000.0)
    assert summary.events_per_second == 10.0
    assert summary.moves == GOOD.moves
    assert structs.replace(GOOD, seconds=0.0).rate == 0.0
