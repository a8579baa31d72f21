"""The measurements notice what is lost, what is doubled and what comes out of order."""

import pytest

from bench.daemon.check import ACK, Acks, Check, Run, finished
from bench.daemon.events import HELLO, Change, Pages, encode, messages
from iommubus import Map, Perm


def changes(count: int) -> list[Change]:
    return Pages().changes("map", count)


def check(run: Run) -> tuple[Check, list[str]]:
    told: list[str] = []
    made = Check(7, lambda: told.append("told"))
    made.expect(run)
    return made, told


@pytest.mark.parametrize("batch", [1, 4])
def test_a_run_is_done_when_all_of_it_was_seen(batch: int) -> None:
    seen, told = check(Run(1, 8, batch))
    *most, last = messages(1, changes(8), batch)

    assert [seen.take(message) for message in most] == [None] * len(most)
    assert not finished([seen])
    assert not told

    assert seen.take(last) is None
    assert seen.done
    assert finished([seen])
    assert told == ["told"]
    assert seen.fault is None


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "order", [(1, 2), (0, 0, 1), (0, 2, 1)], ids=["the first is lost", "one comes twice", "two change places"]
)
def test_what_does_not_come_in_order_is_a_fault(batch: int, order: tuple[int, ...]) -> None:
    seen, told = check(Run(1, 3 * batch, batch))
    sent = list(messages(1, changes(3 * batch), batch))

    for place in order:
        seen.take(sent[place])

    assert seen.fault is not None
    assert told
    assert finished([seen])
    assert not seen.done


def test_the_next_run_begins_where_the_last_one_ended() -> None:
    seen, _ = check(Run(1, 2))
    for message in messages(1, changes(2), 1):
        seen.take(message)

    seen.expect(Run(3, 1))
    assert seen.fault is None

    seen.expect(Run(5, 1))
    assert "is at number 3, not at 5" in str(seen.fault)


def test_acknowledgements_are_sent_when_they_are_due_and_in_the_end() -> None:
    seen, _ = check(Run(1, 5, ack_every=2))

    answers = [seen.take(message) for message in messages(1, changes(5), 1)]

    assert answers == [None, ACK.pack(7, 2), None, ACK.pack(7, 4), ACK.pack(7, 5)]


@pytest.mark.parametrize("batch", [1, 4])
def test_who_asks_is_answered_at_any_time(batch: int) -> None:
    seen, _ = check(Run(1, 4, batch))

    assert seen.take(encode(HELLO)) == ACK.pack(7, 0)
    assert seen.fault is None


def test_each_event_has_a_time_if_that_is_asked_for() -> None:
    seen, _ = check(Run(1, 3, stamps=True))

    for message in messages(1, changes(3), 1):
        seen.take(message)

    assert len(seen.stamps) == 3
    assert seen.stamps == sorted(seen.stamps)
    assert seen.seen_at == seen.stamps[-1]


def event(seq: int) -> Map:
    return Map("space", seq, 0, 0xFFF, 0, Perm.RW)


def test_hand_overs_are_checked_too_once_a_run_has_begun() -> None:
    seen = Check(0, lambda: None)
    seen.see([event(3), event(9)])  # the replay: what was there before
    assert seen.fault is None

    seen.expect(Run(10, 3))
    seen.see([event(10), event(11)])
    assert not finished([seen])
    seen.see([event(12)])
    assert finished([seen])

    seen.see([event(14)])
    assert "expected number 13" in str(seen.fault)


def test_who_wants_nothing_must_get_nothing() -> None:
    seen, _ = check(Run(1, 0))
    assert seen.done

    seen.expect(Run(100, 0))
    assert seen.fault is None

    seen.see([event(1)])
    assert seen.fault is not None


def test_all_have_acknowledged_when_the_last_one_has() -> None:
    told: list[str] = []
    acks = Acks(lambda: told.append("told"))
    acks.count(2)

    assert not acks.reached(5)
    acks.take(ACK.pack(0, 9))
    assert not told
    acks.take(ACK.pack(1, 4))
    assert not acks.reached(5)
    acks.take(ACK.pack(1, 5))
    assert told == ["told"]
    assert acks.reached(5)

    acks.take(ACK.pack(1, 0))  # the answer to a question that was asked twice
    assert acks.reached(5)


def test_who_comes_later_counts() -> None:
    acks = Acks(lambda: None)
    acks.count(1)
    acks.take(ACK.pack(0, 0))
    assert acks.reached(0)

    acks.count(2)
    assert not acks.reached(0)
