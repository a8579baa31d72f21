"""The mailbox: every short history of a small space, many long ones, and each edge by itself."""

import random
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from iommubus.caps import Perm
from iommubus.events import DevIotlbUnmap, Event, Map, Unmap
from iommubus.feed import Feed
from iommubus.mailbox import CAPACITY, DIRTY_LIMIT, PIECE, Mailbox
from iommubus.mapping import Mapping
from iommubus.ranges import LAST
from iommubus.table import Table

from .mailbox_model import MADE, CacherWorld, FollowingWorld, Step, World

Given = tuple[str, int, int]
"""The kind and the range of an event."""


def map_of(first: int, last: int, seq: int = 1) -> Map:
    return Map("s", seq, first, last, 0x1000 + first, Perm.RW)


def unmap_of(first: int, last: int, seq: int = 1) -> Unmap:
    return Unmap("s", seq, first, last)


def device_of(first: int, last: int, seq: int = 1) -> DevIotlbUnmap:
    return DevIotlbUnmap("s", seq, first, last)


def given(mailbox: Mailbox) -> list[Given]:
    """Return what a hand-over gives."""
    return [(type(event).__name__, event.first, event.last) for event in mailbox.hand_over("s", 99)]


def flags(mailbox: Mailbox) -> set[str]:
    """Return the names of the questions that the mailbox answers with yes."""
    return {name for name in ("ready", "owes_removal", "reading", "dirty", "half_full") if getattr(mailbox, name)}


def is_shared(mailbox: Mailbox) -> bool:
    """Ask anew whether it follows a feed."""
    return mailbox.shared


def is_quiet(mailbox: Mailbox) -> bool:
    """Ask anew whether it has nothing to remember, and nothing waits."""
    return mailbox.quiet


def table_of(*ranges: tuple[int, int]) -> Table:
    """Return a table of mappings as `map_of` makes them."""
    table = Table()
    for first, last in ranges:
        table.insert(first, last, (0x1000 + first) % 2**32, Perm.RW)
    return table


def read_again(mailbox: Mailbox, *ranges: tuple[int, int]) -> Mailbox:
    """Return the mailbox, with ranges to read from the table."""
    for first, last in ranges:
        mailbox.replay(first, last)
    return mailbox


def overflown(*events: Event, walk: Callable[[int, int, int], list[Mapping]] | None = None) -> Mailbox:
    """Return a mailbox in which all of these events, two at least, became ranges."""
    mailbox = Mailbox(walk, capacity=len(events) - 1)
    for event in events:
        mailbox.put(event)
    return mailbox


# -- the FIFO --------------------------------------------------------------------


def test_a_new_mailbox_has_nothing_to_give() -> None:
    mailbox = Mailbox(None)

    assert flags(mailbox) == set()
    assert mailbox.lag == 0
    assert mailbox.conflations == 0
    assert mailbox.refused == []
    assert mailbox.turn == (1, 0)
    assert given(mailbox) == []


def test_events_that_fit_come_out_as_they_went_in() -> None:
    """The usual case: the same objects, in the same order, and the cursor stays where it is."""
    mailbox = Mailbox(table_of().walk, capacity=6)
    events: list[Event] = [map_of(5, 6), device_of(1, 1), unmap_of(5, 6)]
    for event in events:
        mailbox.put(event)

    assert flags(mailbox) == {"ready", "owes_removal"}
    assert mailbox.lag == 3
    assert all(got is put for got, put in zip(mailbox.hand_over("s", 99), events, strict=True))
    assert flags(mailbox) == set()
    assert mailbox.turn == (1, 0)
    assert mailbox.conflations == 0


def test_a_hand_over_leaves_the_next_one_empty() -> None:
    mailbox = Mailbox(None)
    mailbox.put(unmap_of(1, 1))
    mailbox.hand_over("s", 1)

    assert given(mailbox) == []


def test_a_full_fifo_becomes_ranges_with_the_event_that_did_not_fit() -> None:
    """A range is held only where an UNMAP was in it; what touches is merged, over a gap nothing is."""
    table = table_of((0, 0), (4, 5))
    mailbox = overflown(map_of(0, 0), unmap_of(2, 2), unmap_of(3, 3), map_of(4, 5), walk=table.walk)

    assert mailbox.conflations == 1
    assert flags(mailbox) == {"ready", "owes_removal", "reading", "dirty"}
    assert mailbox.lag == 2  # 0..0 and, with the UNMAPs in it, 2..5
    assert given(mailbox) == [("Unmap", 2, 5), ("Map", 0, 0), ("Map", 4, 5)]
    assert flags(mailbox) == set()


def test_events_made_here_name_the_space_and_carry_its_latest_number() -> None:
    mailbox = overflown(device_of(2, 2, 3), unmap_of(0, 0, 4), walk=table_of((0, 0)).walk)

    assert mailbox.hand_over("vtd0", 7) == [
        Unmap("vtd0", 7, 0, 0),
        DevIotlbUnmap("vtd0", 7, 2, 2),
        Map("vtd0", 7, 0, 0, 0x1000, Perm.RW),
    ]


def test_after_an_overflow_events_elsewhere_go_through_the_fifo_again() -> None:
    """They are given first, and another overflow is another conflation."""
    mailbox = overflown(map_of(0, 0), map_of(1, 1), walk=table_of((0, 0), (1, 1)).walk)
    mailbox.put(map_of(8, 8))
    assert mailbox.lag == 2
    mailbox.put(unmap_of(9, 9))

    assert mailbox.lag == 2
    assert mailbox.conflations == 2
    assert given(mailbox) == [("Unmap", 8, 9), ("Map", 0, 0), ("Map", 1, 1)]


def test_a_change_inside_a_range_changes_nothing_about_it() -> None:
    """Nothing is held there: an UNMAP has nothing to take away, and a MAP is read in its turn."""
    mailbox = read_again(Mailbox(table_of((3, 3)).walk, capacity=9), (0, 9))
    mailbox.put(unmap_of(0, 9))
    mailbox.put(map_of(3, 3))

    assert not mailbox.owes_removal
    assert given(mailbox) == [("Map", 3, 3)]


def test_a_range_grows_by_the_whole_of_a_change_that_reaches_out_of_it() -> None:
    """From then on something may be held in it."""
    mailbox = read_again(Mailbox(table_of((3, 4)).walk, capacity=9), (0, 3))
    mailbox.put(map_of(3, 4))

    assert mailbox.owes_removal
    assert mailbox.lag == 1
    assert given(mailbox) == [("Unmap", 0, 4), ("Map", 3, 4)]


def test_what_is_in_the_fifo_is_given_before_what_became_of_it() -> None:
    """A range that grows over pages which the FIFO still speaks of is newer than the FIFO."""
    mailbox = read_again(Mailbox(table_of().walk, capacity=9), (0, 1))
    mailbox.put(map_of(2, 2))
    mailbox.put(unmap_of(1, 2))

    assert given(mailbox) == [("Map", 2, 2), ("Unmap", 0, 2)]


def test_half_full_is_more_than_half() -> None:
    mailbox = Mailbox(None, capacity=4)
    mailbox.put(unmap_of(0, 0))
    mailbox.put(unmap_of(2, 2))
    assert flags(mailbox) == {"ready", "owes_removal"}

    mailbox.put(unmap_of(4, 4))
    assert flags(mailbox) == {"ready", "owes_removal", "half_full"}


def test_lag_counts_what_waits_in_the_fifo_and_beside_it() -> None:
    mailbox = overflown(unmap_of(0, 0), unmap_of(2, 2), device_of(4, 4), walk=table_of().walk)
    mailbox.put(unmap_of(10, 10))
    mailbox.put(unmap_of(20, 20))
    assert mailbox.lag == 2 + 2 + 1

    mailbox.refuse(unmap_of(30, 30), [])
    mailbox.refuse(device_of(40, 40), [])
    mailbox.refuse(device_of(50, 50), [])
    assert mailbox.lag == 2 + 2 + 1 + 1 + 2


# -- the cursor --------------------------------------------------------------------


def test_a_replay_goes_in_pieces_and_gives_each_mapping_once() -> None:
    mailbox = read_again(Mailbox(table_of((0, 1), (3, 3), (4, 4), (8, 9), (12, 12)).walk, piece=2), (0, 9))

    assert flags(mailbox) == {"ready", "reading", "dirty"}
    assert given(mailbox) == [("Map", 0, 1), ("Map", 3, 3)]
    assert mailbox.turn == (1, 4)
    assert given(mailbox) == [("Map", 4, 4), ("Map", 8, 9)]
    assert mailbox.turn == (1, 10)
    assert not mailbox.ready


def test_a_piece_may_come_from_several_ranges() -> None:
    mailbox = Mailbox(table_of((0, 0), (4, 4), (8, 8), (9, 9)).walk, piece=3)
    read_again(mailbox, (0, 1), (4, 5), (8, 9))

    assert given(mailbox) == [("Map", 0, 0), ("Map", 4, 4), ("Map", 8, 8)]
    assert given(mailbox) == [("Map", 9, 9)]
    assert not mailbox.ready


def test_no_more_is_read_than_may_be_given_but_for_one() -> None:
    """The one more tells whether the range ends there; a huge table is not read for it."""
    table, limits = table_of(*((at, at) for at in range(9))), list[int]()

    def walk(first: int, last: int, limit: int) -> list[Mapping]:
        limits.append(limit)
        return table.walk(first, last, limit)

    mailbox = read_again(Mailbox(walk, piece=3), (0, 1), (3, 9))
    given(mailbox)
    assert limits == [4, 2]
    given(mailbox)
    assert limits == [4, 2, 4]


def test_empty_ranges_count_as_much_as_mappings() -> None:
    """One hand-over looks at no more ranges than it may give mappings, so that it ends soon."""
    mailbox = read_again(Mailbox(table_of((8, 8)).walk, piece=2), (0, 0), (2, 2), (4, 4), (6, 6), (8, 8))

    assert given(mailbox) == []
    assert mailbox.lag == 3
    assert given(mailbox) == []
    assert given(mailbox) == [("Map", 8, 8)]
    assert not mailbox.ready


def test_the_cursor_begins_its_next_round_where_a_hand_over_does() -> None:
    """No hand-over reads past the end of a round, and none is spent on the way back."""
    table = table_of((0, 0), (4, 4), (6, 6))
    mailbox = read_again(Mailbox(table.walk, piece=1), (0, 0), (4, 4))
    given(mailbox)
    mailbox.replay(0, 0)
    assert given(mailbox) == [("Map", 4, 4)]
    assert mailbox.turn == (1, 5)

    assert given(mailbox) == [("Map", 0, 0)]
    assert mailbox.turn == (2, 1)

    read_again(mailbox, (0, 0), (6, 6))
    assert given(mailbox) == [("Map", 6, 6)]
    mailbox = read_again(Mailbox(table.walk, piece=9), (4, 4))
    given(mailbox)
    read_again(mailbox, (0, 0), (6, 6))
    assert given(mailbox) == [("Map", 6, 6)]
    assert mailbox.turn == (1, 7)
    assert given(mailbox) == [("Map", 0, 0)]


@pytest.mark.parametrize("busy", [0, 2, 4, 6])
def test_no_range_starves_while_another_changes_all_the_time(busy: int) -> None:
    """One round of the cursor gives everything, however often one range is dirtied."""
    pages = [0, 2, 4, 6]
    mailbox = Mailbox(table_of(*((page, page) for page in pages)).walk, capacity=1, piece=1)
    read_again(mailbox, *((page, page) for page in pages))
    seen: set[Given] = set()
    for _ in pages:
        mailbox.put(unmap_of(busy, busy))
        mailbox.put(map_of(busy, busy))
        mailbox.replay(busy, busy)
        seen |= set(given(mailbox))

    assert {first for kind, first, _ in seen if kind == "Map"} == set(pages)


def test_a_mapping_across_the_cursor_has_its_turn_in_the_next_round() -> None:
    """It came when its first half had been read; what is behind it is read at once."""
    table = table_of((0, 3), (6, 6))
    mailbox = read_again(Mailbox(table.walk, piece=1), (0, 7))
    assert given(mailbox) == [("Map", 0, 3)]
    table.remove(0, 3)
    table.insert(2, 5, 0x2000, Perm.RW)
    mailbox.put(unmap_of(0, 3))
    mailbox.put(map_of(2, 5))

    assert given(mailbox) == [("Unmap", 0, 3), ("Unmap", 2, 7), ("Map", 6, 6)]
    assert mailbox.turn == (1, 7)
    assert given(mailbox) == []  # 7..7
    assert given(mailbox) == [("Map", 2, 5)]
    assert not mailbox.ready


def test_a_mapping_across_the_cursor_stays_dirty_to_its_last_page() -> None:
    """A range edge never cuts it: when it goes, unread, nothing of it is held."""
    table = table_of((0, 3), (6, 6))
    mailbox = read_again(Mailbox(table.walk, piece=1), (0, 6))
    given(mailbox)
    table.remove(0, 3)
    table.insert(2, 5, 0x2000, Perm.RW)
    mailbox.put(unmap_of(0, 3))
    mailbox.put(map_of(2, 5))
    assert given(mailbox) == [("Unmap", 0, 3), ("Unmap", 2, 6), ("Map", 6, 6)]
    table.remove(2, 5)
    mailbox.put(unmap_of(2, 5))

    assert flags(mailbox) == {"ready", "reading", "dirty"}
    assert given(mailbox) == []
    assert flags(mailbox) == set()


def test_a_mapping_across_the_cursor_may_be_the_last_there_is() -> None:
    """Even at the end of all addresses the cursor finds its way round."""
    table = table_of((LAST - 9, LAST - 5))
    mailbox = read_again(Mailbox(table.walk, piece=1), (LAST - 9, LAST))
    table.insert(LAST - 4, LAST - 4, 0, Perm.RW)
    assert given(mailbox) == [("Map", LAST - 9, LAST - 5)]
    table.remove(LAST - 9, LAST)
    table.insert(LAST - 6, LAST, 0, Perm.RW)
    mailbox.put(unmap_of(LAST - 9, LAST))

    assert given(mailbox) == [("Unmap", LAST - 9, LAST)]
    assert mailbox.turn == (1, LAST + 1)
    assert given(mailbox) == [("Map", LAST - 6, LAST)]
    assert not mailbox.ready


def test_a_turn_is_reached_when_the_cursor_is_back_or_nothing_waits() -> None:
    mailbox = read_again(Mailbox(table_of((0, 0), (2, 2), (4, 4)).walk, piece=1), (0, 0), (2, 2), (4, 4))
    given(mailbox)
    turn = mailbox.turn
    assert turn == (1, 1)
    assert mailbox.reached((0, 1))
    assert not mailbox.reached((0, 2))
    mailbox.replay(0, 0)
    given(mailbox)
    given(mailbox)
    assert not mailbox.reached(turn)

    mailbox.replay(2, 2)
    given(mailbox)
    assert mailbox.dirty
    assert mailbox.reached(turn)
    assert not mailbox.reached(mailbox.turn)

    given(mailbox)
    assert mailbox.reached(mailbox.turn)


@pytest.mark.parametrize("event", [map_of(0, 0), unmap_of(0, 0), device_of(0, 0)])
def test_no_turn_is_reached_while_something_waits_in_the_fifo(event: Event) -> None:
    """It may still overflow, and what was mapped then has to be read."""
    mailbox = Mailbox(table_of((0, 0)).walk)
    mailbox.put(event)
    turn = mailbox.turn
    assert not mailbox.reached(turn)

    given(mailbox)
    assert mailbox.reached(turn)


# -- cachers and device invalidations --------------------------------------------------


def test_a_cacher_is_given_ranges_whole_and_reads_nothing() -> None:
    mailbox = overflown(unmap_of(0, 0), unmap_of(8, 8), unmap_of(9, 9))

    assert flags(mailbox) == {"ready", "owes_removal", "dirty"}
    assert given(mailbox) == [("Unmap", 0, 0), ("Unmap", 8, 9)]
    assert not mailbox.ready
    assert given(mailbox) == []


def test_a_cachers_ranges_are_merged_over_the_smallest_gaps() -> None:
    """One more than the capacity is one too many; half of it are left."""
    mailbox = Mailbox(None, capacity=4, limit=1, on_limit=pytest.fail)
    for at in (0, 10, 910, 920, 0):
        mailbox.put(unmap_of(at, at))
    assert mailbox.lag == 4

    for at in (2000, 2010, 2020, 2030):
        mailbox.put(unmap_of(at, at))
    assert mailbox.lag == 4 + 4
    mailbox.put(unmap_of(2040, 2040))
    assert given(mailbox) == [("Unmap", 0, 920), ("Unmap", 2000, 2040)]


def test_device_invalidations_come_behind_the_unmaps_and_before_the_maps() -> None:
    mailbox = overflown(device_of(9, 9), map_of(0, 0), unmap_of(4, 4), walk=table_of((0, 0)).walk)

    assert mailbox.owes_removal
    assert given(mailbox) == [("Unmap", 4, 4), ("DevIotlbUnmap", 9, 9), ("Map", 0, 0)]
    assert not mailbox.ready


def test_a_device_invalidation_never_overtakes_an_unmap_that_became_a_range() -> None:
    mailbox = overflown(unmap_of(4, 4), unmap_of(8, 8), walk=table_of().walk)
    mailbox.put(device_of(4, 4))

    assert given(mailbox) == [("Unmap", 4, 4), ("Unmap", 8, 8), ("DevIotlbUnmap", 4, 4)]


def test_a_device_invalidation_needs_no_place_in_the_fifo() -> None:
    """It is given behind every UNMAP anyway, and so the FIFO need not become ranges for it."""
    mailbox = overflown(unmap_of(4, 4), device_of(4, 4), walk=table_of().walk)

    assert mailbox.conflations == 0
    assert mailbox.owes_removal
    assert given(mailbox) == [("Unmap", 4, 4), ("DevIotlbUnmap", 4, 4)]
    mailbox.put(device_of(5, 5, 8))
    assert mailbox.hand_over("s", 99) == [device_of(5, 5, 8)]


def test_a_device_invalidation_alone_is_owed_as_a_removal() -> None:
    mailbox = Mailbox(None, capacity=1)
    mailbox.put(device_of(1, 1))
    mailbox.hand_over("s", 1)
    mailbox.refuse(device_of(1, 1), [])
    mailbox.retry()

    assert flags(mailbox) == {"ready", "owes_removal"}


def test_device_invalidations_are_merged_over_the_smallest_gaps_for_a_shadower_too() -> None:
    mailbox = Mailbox(table_of().walk, capacity=4, limit=1, on_limit=pytest.fail)
    for at in (0, 2, 4, 6):
        mailbox.put(map_of(at, at))
    for at in (0, 10, 1000, 1010):
        mailbox.put(device_of(at, at))
    assert mailbox.lag == 4 + 4

    mailbox.put(device_of(1020, 1020))
    assert given(mailbox)[4:] == [("DevIotlbUnmap", 0, 10), ("DevIotlbUnmap", 1000, 1020)]


def test_a_shadowers_ranges_are_never_merged_but_given_up_beyond_the_limit() -> None:
    called: list[bool] = []
    mailbox = Mailbox(table_of().walk, capacity=1, limit=2, on_limit=lambda: called.append(True))
    for at in (0, 2, 4):
        mailbox.put(map_of(at, at))
    assert not called  # two ranges and one event

    mailbox.put(map_of(6, 6))
    assert called == [True]


def test_the_defaults_are_what_they_are_said_to_be() -> None:
    assert (CAPACITY, PIECE, DIRTY_LIMIT) == (4096, 1024, 131_072)


def test_the_default_capacity_and_piece_are_used() -> None:
    table = table_of(*((at, at) for at in range(PIECE + 1)))
    mailbox = Mailbox(table.walk)
    for at in range(CAPACITY):
        mailbox.put(map_of(2 * at, 2 * at))
    assert mailbox.lag == CAPACITY
    assert mailbox.conflations == 0

    mailbox.put(map_of(LAST, LAST))
    assert mailbox.conflations == 1
    mailbox.hand_over("s", 1)

    mailbox = read_again(Mailbox(table.walk), (0, LAST))
    assert len(given(mailbox)) == PIECE
    assert len(given(mailbox)) == 1


def test_the_default_limit_is_used() -> None:
    called: list[bool] = []
    mailbox = Mailbox(table_of().walk, on_limit=lambda: called.append(True))
    for at in range(0, 2 * DIRTY_LIMIT, 2):
        mailbox.replay(at, at)
    mailbox.put(map_of(0, 0))
    assert not called

    mailbox.replay(2 * DIRTY_LIMIT, 2 * DIRTY_LIMIT)
    mailbox.put(map_of(0, 0))
    assert called


# -- removals that failed ----------------------------------------------------------------


def test_a_failed_unmap_waits_until_somebody_asks_again() -> None:
    """A hand-over does not try again by itself: one that fails for ever would keep everybody busy."""
    mailbox = Mailbox(table_of().walk)
    mailbox.refuse(unmap_of(4, 7), [])

    assert mailbox.refused == [(4, 7)]
    assert flags(mailbox) == set()
    assert given(mailbox) == []
    assert mailbox.refused == [(4, 7)]
    assert mailbox.turn == (1, 0)  # nothing was read, and so the cursor did not move

    mailbox.retry()
    assert mailbox.refused == []
    assert flags(mailbox) == {"ready", "owes_removal", "reading", "dirty"}
    assert given(mailbox) == [("Unmap", 4, 7)]
    assert flags(mailbox) == set()


def test_a_failed_device_invalidation_comes_again_as_what_it_was() -> None:
    mailbox = Mailbox(None)
    hand: list[Event] = [unmap_of(4, 4)]
    mailbox.refuse(device_of(4, 7), hand)
    assert mailbox.refused == [(4, 7)]
    assert not mailbox.ready
    assert hand == [unmap_of(4, 4)]

    mailbox.retry()
    assert mailbox.refused == []
    assert given(mailbox) == [("DevIotlbUnmap", 4, 7)]


def test_what_failed_is_named_once() -> None:
    mailbox = Mailbox(None)
    mailbox.refuse(device_of(3, 7), [])
    mailbox.refuse(unmap_of(0, 4), [])
    mailbox.refuse(unmap_of(9, 9), [])

    assert mailbox.refused == [(0, 7), (9, 9)]


@pytest.mark.parametrize("event", [map_of(7, 9), unmap_of(2, 4)])
def test_what_comes_there_later_brings_a_failed_unmap_with_it(event: Event) -> None:
    """Nothing is handed over there before it."""
    mailbox = Mailbox(table_of().walk)
    mailbox.refuse(unmap_of(4, 7), [])
    mailbox.put(event)

    assert mailbox.refused == []
    assert given(mailbox) == [("Unmap", min(event.first, 4), max(event.last, 7))]


def test_what_comes_elsewhere_does_not() -> None:
    mailbox = Mailbox(table_of().walk)
    mailbox.refuse(unmap_of(4, 7), [])
    mailbox.refuse(device_of(14, 17), [])
    mailbox.put(unmap_of(3, 3))
    mailbox.put(map_of(8, 8))

    assert given(mailbox) == [("Unmap", 3, 3), ("Map", 8, 8)]
    assert mailbox.refused == [(4, 7), (14, 17)]
    mailbox.put(unmap_of(4, 4))
    assert given(mailbox) == [("Unmap", 4, 7), ("DevIotlbUnmap", 14, 17)]


def test_a_device_invalidation_brings_failed_ones_with_it() -> None:
    mailbox = Mailbox(table_of().walk)
    mailbox.refuse(device_of(4, 7), [])
    assert given(mailbox) == []
    mailbox.put(device_of(7, 8))

    assert mailbox.refused == []
    assert given(mailbox) == [("DevIotlbUnmap", 4, 8)]


def test_what_is_in_hand_behind_a_failed_unmap_waits_with_it() -> None:
    """And what overlaps that, and so on; the rest stays in the hand, in its order."""
    table = table_of((0, 0), (3, 4), (6, 6))
    mailbox = Mailbox(table.walk)
    hand: list[Event] = [
        map_of(9, 9), map_of(4, 5), device_of(1, 1), map_of(6, 6), unmap_of(2, 4), unmap_of(1, 2), device_of(9, 9),
    ]  # fmt: skip
    mailbox.refuse(unmap_of(0, 1), hand)

    assert hand == [map_of(9, 9), map_of(6, 6), device_of(9, 9)]
    assert mailbox.refused == [(0, 5)]
    assert not mailbox.ready
    mailbox.retry()
    assert given(mailbox) == [("Unmap", 0, 5), ("DevIotlbUnmap", 1, 1), ("Map", 0, 0), ("Map", 3, 4)]


def test_what_waits_in_the_mailbox_behind_a_failed_unmap_waits_with_it() -> None:
    """In the FIFO, as a range, or as a device invalidation: nothing of it is handed over before."""
    table = table_of((0, 0), (3, 3))
    mailbox = read_again(Mailbox(table.walk), (3, 4), (9, 9))
    mailbox.refuse(device_of(2, 2), [])
    for event in map_of(0, 0), map_of(7, 7), unmap_of(1, 2), unmap_of(8, 8):
        mailbox.put(event)  # the third brings the device invalidation back
    mailbox.refuse(unmap_of(0, 3), [])

    assert mailbox.refused == [(0, 4)]
    assert given(mailbox) == [("Map", 7, 7), ("Unmap", 8, 8)]
    assert not mailbox.ready
    mailbox.retry()
    assert given(mailbox) == [("Unmap", 0, 4), ("DevIotlbUnmap", 2, 2), ("Map", 0, 0), ("Map", 3, 3)]


def test_a_device_invalidation_in_the_fifo_does_not_overtake_a_failed_unmap() -> None:
    mailbox = Mailbox(table_of().walk)
    mailbox.put(device_of(4, 5))
    mailbox.put(device_of(7, 7))
    mailbox.refuse(unmap_of(5, 6), [])

    assert given(mailbox) == [("DevIotlbUnmap", 7, 7)]
    mailbox.retry()
    assert given(mailbox) == [("Unmap", 5, 6), ("DevIotlbUnmap", 4, 5)]


def test_unmaps_that_failed_side_by_side_become_one() -> None:
    """And what waits behind one of them, waits behind it."""
    mailbox = Mailbox(table_of().walk)
    mailbox.refuse(unmap_of(0, 1), [])
    hand: list[Event] = [map_of(2, 2), map_of(4, 4)]
    mailbox.refuse(unmap_of(2, 3), hand)

    assert hand == [map_of(4, 4)]
    assert mailbox.refused == [(0, 3)]


def test_a_replay_does_not_pass_a_failed_unmap() -> None:
    mailbox = Mailbox(table_of((4, 4)).walk)
    mailbox.refuse(unmap_of(4, 7), [])
    mailbox.replay(0, 4)

    assert mailbox.refused == []
    assert given(mailbox) == [("Unmap", 0, 7), ("Map", 4, 4)]


def test_a_shadower_that_fails_too_much_is_given_up() -> None:
    """Ranges that wait and ranges that failed count together."""
    called: list[bool] = []
    mailbox = Mailbox(table_of().walk, limit=3, on_limit=lambda: called.append(True))
    mailbox.replay(10, 10)
    mailbox.refuse(unmap_of(0, 0), [])
    mailbox.refuse(unmap_of(2, 2), [])
    assert not called

    mailbox.refuse(unmap_of(4, 4), [])
    assert called


@pytest.mark.parametrize("event_of", [unmap_of, device_of])
def test_what_a_cacher_failed_at_is_merged_over_gaps(event_of: Callable[[int, int], Event]) -> None:
    """Memory stays bounded, whatever it does."""
    mailbox = Mailbox(None, capacity=4)
    for at in (0, 10, 1000, 1010):
        mailbox.refuse(event_of(at, at), [])
    assert len(mailbox.refused) == 4

    mailbox.refuse(event_of(1020, 1020), [])
    assert mailbox.refused == [(0, 10), (1000, 1020)]


def test_a_shadowers_failed_unmaps_are_not_merged_over_gaps() -> None:
    mailbox = Mailbox(table_of().walk, capacity=1)
    for at in (0, 10, 100):
        mailbox.refuse(unmap_of(at, at), [])

    assert mailbox.refused == [(0, 0), (10, 10), (100, 100)]


def test_what_failed_is_remembered_through_any_number_of_hand_overs() -> None:
    """While it waits, so does what comes there; and the FIFO works as ever for the rest."""
    mailbox = Mailbox(table_of().walk, capacity=2)
    mailbox.refuse(unmap_of(4, 4), [])
    mailbox.put(unmap_of(8, 8, 5))
    assert mailbox.hand_over("s", 99) == [unmap_of(8, 8, 5)]
    assert given(mailbox) == []

    mailbox.put(device_of(4, 4))
    assert given(mailbox) == [("Unmap", 4, 4), ("DevIotlbUnmap", 4, 4)]
    mailbox.put(device_of(4, 4, 6))
    assert mailbox.hand_over("s", 99) == [device_of(4, 4, 6)]


# -- in a feed ----------------------------------------------------------------------------


def sharing(capacity: int = 2, *, on_ready: Callable[[], None] = lambda: None) -> tuple[Mailbox, Feed, list[bool]]:
    """Return a shadower's mailbox in a feed, and a list of whether it had left whenever it said so."""
    left: list[bool] = []

    def note() -> None:
        left.append(not mailbox.shared)

    mailbox = Mailbox(table_of().walk, capacity=capacity, on_ready=on_ready, on_unshare=note)
    feed = Feed(((0, LAST),))
    mailbox.follow(feed)
    return mailbox, feed, left


def test_only_a_mailbox_that_remembers_nothing_may_share_a_feed() -> None:
    mailbox = Mailbox(table_of().walk, capacity=1)
    assert mailbox.place == 0
    assert flags(mailbox) == set()
    assert is_quiet(mailbox)

    mailbox.put(map_of(1, 1))
    assert not is_quiet(mailbox)
    given(mailbox)
    mailbox.refuse(unmap_of(1, 1), [])
    assert flags(mailbox) == set()
    assert not is_quiet(mailbox)


def test_what_waits_in_the_feed_counts_as_if_it_were_in_the_fifo() -> None:
    mailbox, feed, left = sharing(capacity=3)
    assert is_shared(mailbox)
    assert is_quiet(mailbox)
    feed.put(unmap_of(1, 1))
    assert flags(mailbox) == {"ready", "owes_removal"}
    feed.put(unmap_of(2, 2))
    assert flags(mailbox) == {"ready", "owes_removal", "half_full"}
    assert mailbox.lag == 2
    assert not is_quiet(mailbox)
    assert not mailbox.reached(mailbox.turn)

    assert given(mailbox) == [("Unmap", 1, 1), ("Unmap", 2, 2)]
    assert flags(mailbox) == set()
    assert is_shared(mailbox)
    assert left == []


def test_a_mailbox_that_overflows_leaves_the_feed_and_conflates() -> None:
    mailbox, feed, left = sharing(capacity=2)
    for at in (0, 2):
        feed.put(unmap_of(at, at))
    assert is_shared(mailbox)
    feed.put(unmap_of(4, 4))

    assert left == [True]
    assert not is_shared(mailbox)
    assert mailbox.conflations == 1
    assert given(mailbox) == [("Unmap", 0, 0), ("Unmap", 2, 2), ("Unmap", 4, 4)]


def test_a_mailbox_that_leaves_the_feed_takes_what_waits_with_it() -> None:
    """To leave twice is to leave once."""
    mailbox, feed, left = sharing()
    feed.put(unmap_of(1, 1))
    mailbox.unshare()
    mailbox.unshare()
    feed.put(unmap_of(2, 2))

    assert left == [True]
    assert given(mailbox) == [("Unmap", 1, 1)]


def test_a_replay_and_a_failure_lead_out_of_the_feed() -> None:
    """There is more to remember than a place; what waits is older, and comes first or waits with the failure."""
    mailbox, feed, left = sharing()
    feed.put(unmap_of(1, 1))
    mailbox.replay(4, 4)
    assert left == [True]
    assert given(mailbox) == [("Unmap", 1, 1)]

    mailbox, feed, left = sharing()
    feed.put(unmap_of(1, 1))
    feed.put(map_of(3, 3))
    mailbox.refuse(unmap_of(0, 1), [])
    assert left == [True]
    assert given(mailbox) == [("Map", 3, 3)]
    assert mailbox.refused == [(0, 1)]


@pytest.mark.parametrize("early", [True, False])
def test_a_subscriber_that_waits_is_woken_once_by_the_feed(*, early: bool) -> None:
    """Whether it began to wait before it followed the feed, or after."""
    bell = Bell()
    mailbox = Mailbox(None, on_ready=bell.ring)
    feed = Feed(((0, LAST),))
    if early:
        mailbox.expect()
    mailbox.follow(feed)
    if not early:
        mailbox.expect()
    mailbox.wake()
    assert bell.count == 0  # nothing is there yet

    feed.put(unmap_of(1, 1))
    feed.put(unmap_of(2, 2))
    assert bell.count == 1


# -- waking the subscriber -----------------------------------------------------------------


class Bell:
    """Counts how often it rings."""

    def __init__(self) -> None:
        self.count = 0

    def ring(self) -> None:
        self.count += 1


def fill(mailbox: Mailbox) -> None:
    mailbox.put(unmap_of(1, 1))


def replay(mailbox: Mailbox) -> None:
    mailbox.replay(0, 9)


def fail_and_retry(mailbox: Mailbox) -> None:
    mailbox.refuse(unmap_of(1, 1), [])
    mailbox.retry()


def fail_and_retry_device(mailbox: Mailbox) -> None:
    mailbox.refuse(device_of(1, 1), [])
    mailbox.retry()


@pytest.mark.parametrize("arrival", [fill, replay, fail_and_retry, fail_and_retry_device])
def test_a_subscriber_that_waits_is_woken_once(arrival: Callable[[Mailbox], None]) -> None:
    """By an event, a replay, or the order to try again; and only if it waits."""
    bell = Bell()
    mailbox = Mailbox(table_of().walk, on_ready=bell.ring)
    arrival(mailbox)
    assert bell.count == 0

    mailbox.hand_over("s", 1)
    mailbox.expect()
    arrival(mailbox)
    assert bell.count == 1
    assert mailbox.ready
    arrival(mailbox)
    assert bell.count == 1


def test_an_event_that_overflows_wakes_too() -> None:
    bell = Bell()
    mailbox = Mailbox(None, capacity=1, on_ready=bell.ring)
    mailbox.put(unmap_of(1, 1))
    mailbox.expect()
    mailbox.put(unmap_of(3, 3))

    assert bell.count == 1


def test_nobody_is_woken_for_nothing() -> None:
    """A failure alone gives nothing to hand over, nor does an order to try again what did not fail."""
    bell = Bell()
    mailbox = Mailbox(None, on_ready=bell.ring)
    mailbox.expect()
    mailbox.retry()
    mailbox.refuse(unmap_of(1, 1), [])

    assert bell.count == 0


def test_to_try_again_what_did_not_fail_is_no_news() -> None:
    """Who asks to be called when there is more is not called for what was there already."""
    bell = Bell()
    mailbox = Mailbox(None, on_ready=bell.ring)
    mailbox.put(unmap_of(1, 1))
    mailbox.expect()
    mailbox.retry()

    assert bell.count == 0


def test_a_mailbox_without_callbacks_works() -> None:
    mailbox = Mailbox(table_of().walk, capacity=1, limit=1)
    mailbox.expect()
    for at in (0, 2, 4):
        mailbox.put(map_of(at, at))

    assert mailbox.lag == 3


def test_the_model_counts_published_events_from_one() -> None:
    """So that it can tell them from those that the mailbox makes."""
    world = World(1, 1)
    world.map(0, 0)

    assert world.seq > MADE


# -- every history -------------------------------------------------------------

STEPS: Final[tuple[Step, ...]] = (
    ("map", 0, 0),
    ("map", 1, 1),
    ("map", 1, 2),
    ("map", 2, 3),
    ("unmap", 0, 0),
    ("unmap", 1, 2),
    ("unmap", 2, 3),
    ("unmap", 0, 3),
    ("invalidate", 1, 1),
    ("take", 0, 0),
    ("hold", 0, 0),
    ("fail", 0, 0),
    ("fail", 1, 0),
    ("retry", 0, 0),
)


def started(kind: type[World], start: str, capacity: int, piece: int) -> World:
    """Return a world at the beginning of its histories."""
    world = kind(capacity, piece)
    if start != "empty":
        for first, last in (0, 0), (1, 2), (3, 3):
            world.map(first, last)
            world.take()
    if start == "joining":
        world.join_again(capacity, piece)
    return world


def histories(world: World, length: int) -> Iterator[World]:
    """Yield the ends of all histories of ``length`` steps; they share their beginnings."""
    if not length:
        yield world
        return
    for step in STEPS:
        after = world.copy()
        if after.does(step):
            yield from histories(after, length - 1)


@pytest.mark.parametrize(("capacity", "piece"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("start", ["empty", "held", "joining"])
def test_a_shadower_never_holds_what_is_gone_and_gets_all_there_is(start: str, capacity: int, piece: int) -> None:
    """In every history of five steps: nothing stale, nothing cut, nothing disturbed, nothing lost, no starvation."""
    count = 0
    for world in histories(started(World, start, capacity, piece), 5):
        world.check_end()
        count += 1

    assert count > 13_000


@pytest.mark.parametrize("capacity", [1, 2])
@pytest.mark.parametrize("start", ["held", "joining"])
def test_a_shadower_that_shares_a_feed_is_promised_the_same(start: str, capacity: int) -> None:
    """In every history of five steps, in and out of the feed."""
    count = 0
    for world in histories(started(FollowingWorld, start, capacity, 1), 5):
        world.check_end()
        count += 1

    assert count > 13_000


@pytest.mark.parametrize("capacity", [1, 2])
@pytest.mark.parametrize("start", ["empty", "held"])
def test_a_cacher_is_told_of_all_that_went(start: str, capacity: int) -> None:
    """In every history of five steps, whatever it had asked for before."""
    count = 0
    for world in histories(started(CacherWorld, start, capacity, 1), 5):
        world.check_end()
        count += 1

    assert count > 10_000


def random_step(dice: random.Random, pages: int) -> Step:
    verbs = ("map", "unmap", "invalidate", "take", "hold", "fail", "retry")
    verb = dice.choices(verbs, (8, 8, 2, 3, 2, 2, 1))[0]
    first = dice.randrange(pages)
    if verb == "fail":
        return verb, dice.randrange(4), 0
    size = dice.choice((1, 2, 3)) if verb == "map" else dice.choice((1, 2, 3, 6, pages))
    return verb, first, min(pages, first + size) - 1


@pytest.mark.parametrize("hundred", range(20))
def test_long_histories_keep_the_same_promises(hundred: int) -> None:
    """The same in random histories of sixty steps over twelve pages."""
    for seed in range(100 * hundred, 100 * hundred + 100):
        dice = random.Random(seed)  # noqa: S311 - the same every time
        kind = dice.choice((World, FollowingWorld, CacherWorld))
        capacity, piece = dice.choice((1, 2, 3, 6)), dice.choice((1, 2, 3, 20))
        world = kind(capacity, piece, pages=12)
        join = dice.choice((0, 20, 60)) if kind is not CacherWorld else 60
        for at in range(60):
            if at == join:
                world.join_again(capacity, piece)
            world.does(random_step(dice, 12))
        world.check_end()
