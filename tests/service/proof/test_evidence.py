"""What proves a subscriber stopped: the whole table, beside what the laws say in other words."""

import itertools

from iommubus.service.proof.evidence import Evidence, verdict

FLAGS = ("seen", "ended", "inherited", "lost", "lease_over", "fenced", "kept")
EVERY = [
    Evidence(**dict(zip(FLAGS, flags, strict=True)), uses=uses)
    for flags in itertools.product([False, True], repeat=len(FLAGS))
    for uses in (0, 2)
]


def test_who_keeps_what_it_holds_is_stopped_by_the_end_of_its_process_alone() -> None:
    """And by that of the process which keeps what it was given, if there is one: each alone proves nothing."""
    for known in EVERY:
        everybody_has_ended = known.ended and not known.kept
        assert (verdict("exit", known) == "its process has ended") is everybody_has_ended
        assert bool(verdict("exit", known)) is everybody_has_ended


def test_who_looks_before_each_use_is_stopped_by_any_of_three() -> None:
    """Its lease alone proves nothing of what is in use, as long as there is another way to know."""
    for known in EVERY:
        nobody_is_left = known.ended and known.lost and not known.inherited
        drained = known.fenced and known.uses == 0
        ran_out = known.lease_over and (known.uses == 0 or not known.seen)
        assert bool(verdict("lease", known)) is (nobody_is_left or drained or ran_out), known


def test_nothing_proves_nothing() -> None:
    assert verdict("lease", Evidence()) == verdict("exit", Evidence()) == ""


def test_the_reasons_are_told_apart() -> None:
    assert verdict("lease", Evidence(ended=True, lost=True)) == "its process has ended"
    assert verdict("lease", Evidence(fenced=True)) == "it uses nothing any more"
    assert verdict("lease", Evidence(lost=True, lease_over=True)) == "its lease has run out"
