"""What is published can be published: a table takes all of it, and changes at each."""

import pytest

from bench.daemon.events import MAP, PAGE, Change, Pages, decode_many, decode_one, messages
from iommubus.table import Table


def apply(table: Table, changes: list[Change]) -> None:
    for kind, iova, target in changes:
        last = iova + PAGE - 1
        if kind == MAP:
            assert table.insert(iova, last, target, 3)
        else:
            assert len(table.remove(iova, last)) == 1


def test_pages_come_and_go_in_the_same_order() -> None:
    pages, table = Pages(), Table()

    apply(table, pages.changes("map", 300))
    apply(table, pages.changes("mixed", 1000))
    assert len(table) == 300

    apply(table, pages.changes("unmap", 300))
    assert not len(table)


@pytest.mark.parametrize("script", ["in order", "at random"])
def test_a_window_moves_over_the_gaps_and_leaves_nothing(script: str) -> None:
    pages, table = Pages(), Table()
    apply(table, pages.changes("fill", 200))

    changes = pages.changes("in order" if script == "in order" else "at random", 1000)
    assert len(changes) == 1000
    apply(table, changes)

    assert len(table) == 200


def test_messages_carry_each_change_once_and_in_order() -> None:
    changes = Pages().changes("mixed", 10)

    single = [decode_one(message) for message in messages(5, changes, 1)]
    batches = [decode_many(message) for message in messages(5, changes, 4)]

    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [event for batch in batches for event in batch] == single
    assert [event.seq for event in single] == list(range(5, 15))
    assert [(event.kind, event.iova, event.target) for event in single] == [tuple(change) for change in changes]
