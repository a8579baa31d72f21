"""Leases, beside a model so simple that it cannot be wrong; and what a restart waits for."""

import itertools
import sys

import pytest

from iommubus.service.proof.leases import ExitMember, Leases, Recovery

STEPS: list[tuple[str, str, float]] = [
    *itertools.product(["grant"], "ab", [1.0, 3.0]),
    ("drop", "a", 0.0),
    ("wait", "", 1.0),
    ("wait", "", 2.5),
]


def test_a_lease_holds_until_its_end_and_no_longer() -> None:
    """In all histories of five steps: a lease ends at the last moment that was ever promised."""
    for script in itertools.product(STEPS, repeat=5):
        play(script)


def play(script: tuple[tuple[str, str, float], ...]) -> None:
    """Play one history beside a model, and compare after each step."""
    leases, model, now = Leases[str](), dict[str, float](), 100.0
    for action, holder, seconds in script:
        if action == "grant":
            model[holder] = max(now + seconds, model.get(holder, 0.0))
            assert leases.grant(holder, seconds, now) == model[holder], script
        elif action == "drop":
            model.pop(holder, None)
            leases.drop(holder)
        else:
            now += seconds
        ended = {holder for holder, until in model.items() if until < now}
        assert set(leases.expire(now)) == ended, script
        model = {holder: until for holder, until in model.items() if holder not in ended}
        assert {holder: leases.until(holder) for holder in "ab"} == {holder: model.get(holder) for holder in "ab"}
        assert leases.next_end() == min(model.values(), default=None), script
        assert len(leases) == len(model), script


def test_those_that_ran_out_first_come_first() -> None:
    leases = Leases[str]()
    for holder, seconds in ("b", 2.0), ("c", 3.0), ("a", 1.0):
        leases.grant(holder, seconds, 0.0)
    assert leases.expire(3.0) == ["a", "b"]
    assert leases.expire(3.0) == []
    assert leases.expire(3.1) == ["c"]


def test_renewals_take_no_memory() -> None:
    """A subscriber renews for months; what is kept of that is bounded by how many there are."""
    leases, holders = Leases[object](), [object() for _ in range(5)]
    before = [sys.getrefcount(holder) for holder in holders]
    for now in range(1000):
        for holder in holders:
            leases.grant(holder, 10.0, float(now))
    assert all(sys.getrefcount(holder) <= count + 30 for holder, count in zip(holders, before, strict=True))
    assert set(leases.expire(1009.1)) == set(holders)


# -- after a restart ---------------------------------------------------------

A = ExitMember(7, 1000, "a")
B = ExitMember(8, 1001, "b")
B_TWICE = ExitMember(8, 1001, "c")
KEPT = ExitMember(8, 1001, "d", 9, 1002)


def test_no_sync_completes_before_the_longest_lease_has_run_out() -> None:
    recovery = Recovery(10.0, [], 100.0)
    for now, left in (100.0, 10.0), (109.5, 0.5), (110.0, 0.0):
        assert not recovery.over(now)
        assert recovery.leases_end(now) == left
        assert recovery.reasons(now) == [f"leases of before the restart run for another {left:.3g} s"]
    assert recovery.over(110.1)
    assert recovery.reasons(110.1) == []


def test_who_stops_by_exit_is_waited_for_until_it_is_back_or_gone() -> None:
    """However long that takes; and each subscription of a process is waited for."""
    recovery = Recovery(0.0, [A, B, B_TWICE], 100.0)
    assert not recovery.over(1e9)
    assert recovery.reasons(1e9) == [
        f"{who} is neither back nor gone since the restart"
        for who in ("a of process 7", "b of process 8", "c of process 8")
    ]
    recovery.back("a")
    recovery.back("nobody")
    assert recovery.processes == {(7, 1000), (8, 1001)}
    assert recovery.ended((8, 1000)) == []  # another one of that number
    assert recovery.ended((7, 1000)) == []  # who was back before
    assert recovery.waiting == {B, B_TWICE}
    assert set(recovery.ended((8, 1001))) == {B, B_TWICE}
    assert recovery.processes == set()
    assert recovery.over(1e9)


@pytest.mark.parametrize("first", [0, 1])
def test_who_named_a_holder_is_gone_when_both_processes_have_ended(first: int) -> None:
    processes = [(B.pid, B.start), (9, 1002)]
    recovery = Recovery(0.0, [KEPT, A], 100.0)
    assert recovery.reasons(1e9)[1] == "d of process 8, kept by process 9 is neither back nor gone since the restart"
    assert recovery.ended((7, 1000)) == [A]
    assert recovery.ended(processes[first]) == []
    assert recovery.waiting == {KEPT}
    assert recovery.ended(processes[1 - first]) == [KEPT]
    assert recovery.over(1e9)


def test_where_nothing_was_granted_nothing_is_waited_for() -> None:
    assert Recovery(0.0, [], 100.0).over(100.1)
