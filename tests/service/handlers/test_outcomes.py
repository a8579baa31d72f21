"""What became of a `sync` always fits a frame, and keeps at least as much out of use as it should."""

from collections.abc import Sequence

import pytest

from iommubus import Perm
from iommubus.bus.reports import MapFailure, Missing, Outcome, SyncReport
from iommubus.completion import How
from iommubus.errors import SyncFailed, UnknownName
from iommubus.ledger import OldPieces
from iommubus.mapping import Mapping
from iommubus.ranges import LAST
from iommubus.service.handlers.outcomes import LEAST, portions, refused, size, synced
from iommubus.wire.codec import encode
from iommubus.wire.framing import FRAME_LIMIT
from iommubus.wire.messages import Side
from iommubus.wire.messages.syncing import OUTCOME_LIMIT, Outcome as SaidOutcome
from iommubus.wire.messages.values import Range

LONG = "\N{OLD PERSIAN SIGN A}" * 255
"""A name of full length, four bytes a character."""


def pages(count: int, start: int = 0) -> list[Mapping]:
    return [Mapping(at << 40, (at << 40) + 0xFFF, LAST - 0xFFF, Perm.RW) for at in range(start, start + count)]


def old(named: Sequence[Mapping] = (), ranges: Sequence[tuple[int, int]] = ()) -> OldPieces:
    return OldPieces([list(named)], [(0, LAST)], list(ranges))


def test_a_small_report_is_one_answer() -> None:
    report = SyncReport((Outcome("vfio", "vtd0", How.ACKNOWLEDGED, 0.0012),), 0.0015)

    (answer,) = synced(19, report)

    assert (answer.request, answer.took_us, answer.more) == (19, 1500, False)
    assert answer.outcomes == [SaidOutcome("vfio", "vtd0", How.ACKNOWLEDGED, 1200)]


def test_a_report_of_nobody_is_an_answer() -> None:
    (answer,) = synced(19, SyncReport((), 0.0))

    assert (answer.outcomes, answer.more) == ([], False)


@pytest.mark.parametrize("name", ["vfio", LONG])
def test_a_long_report_is_several_answers_that_fit(name: str) -> None:
    outcomes = tuple(Outcome(name, name, How.ACKNOWLEDGED, at / 1e6) for at in range(2 * OUTCOME_LIMIT + 1))

    answers = list(synced(19, SyncReport(outcomes, 1.0)))

    assert [answer.more for answer in answers] == [True] * (len(answers) - 1) + [False]
    assert sum(len(answer.outcomes) for answer in answers) == len(outcomes)
    for answer in answers:
        encode(Side.DAEMON, answer)
    assert len(answers) == 3 or name is LONG


def test_there_is_always_a_portion() -> None:
    ranges = [Range(at, at) for at in range(3)]
    assert list(portions(ranges[:0], 3)) == [([], False)]
    assert list(portions(ranges, 2)) == [(ranges[:2], True), (ranges[2:], False)]


def test_a_failure_that_fits_is_told_whole() -> None:
    cause = UnknownName("x", ("y",))
    missing = Missing("vhost", "vtd0", "did not acknowledge", old(pages(2), [(1, 2)]), cause)
    failure = MapFailure("vfio", "vtd0", 0, 0xFFF, OSError(28, "no space"), 3)

    answer = refused(19, SyncFailed([missing], [failure]))

    assert (answer.request, answer.truncated) == (19, False)
    (said,) = answer.missing
    assert (said.subscriber, said.space, said.reason) == ("vhost", "vtd0", "did not acknowledge")
    assert [piece.mapping for piece in said.pieces] == pages(2)
    assert said.ranges == [Range(1, 2)]
    assert said.cause is not None
    assert said.cause.kind == "UnknownName"
    assert [(one.subscriber, one.count, one.cause.kind) for one in answer.failures] == [("vfio", 3, "OSError")]


@pytest.mark.parametrize("subscribers", [1, 2, 128, 200])
@pytest.mark.parametrize("count", [0, 1, 5000, 70_000])
@pytest.mark.parametrize("ranges", [0, 1, 4096])
def test_a_failure_always_fits_and_covers_all_that_is_in_use(subscribers: int, count: int, ranges: int) -> None:
    cause = UnknownName(LONG, tuple([LONG * 2] * 200))
    pieces = old(pages(count), [(at << 40, at << 40) for at in range(ranges)])
    failed = SyncFailed(
        [Missing(LONG, LONG, LONG * 3, pieces, cause) for _ in range(subscribers)],
        [MapFailure(LONG, LONG, 0, 1, cause) for _ in range(200)],
    )

    answer = refused(19, failed)

    assert len(encode(Side.DAEMON, answer)) <= FRAME_LIMIT + 4
    assert answer.truncated
    assert len(answer.missing) == min(subscribers, 128)
    for said in answer.missing:
        named = len(said.pieces)
        if named < count:
            assert said.ranges, "the producer has to know that there is more"
            assert max(each.last for each in said.ranges) >= pages(1, count - 1)[0].last
            assert min(each.first for each in said.ranges) <= pages(1, named)[0].first
        elif ranges:
            assert said.ranges


def test_the_least_that_is_said_fits_what_is_kept_for_it() -> None:
    missing = Missing(LONG, LONG, LONG * 3, old([], [(LAST - 1, LAST)]))

    (said,) = refused(2**64 - 1, SyncFailed([missing], [])).missing

    assert size(said) <= LEAST
