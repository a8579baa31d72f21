"""One FIFO for several mailboxes: it must not be possible to tell it from one each."""

import itertools
import random
from collections.abc import Iterator
from typing import Final

import pytest

from iommubus.caps import Perm
from iommubus.events import Event, Map, Unmap
from iommubus.feed import Feed
from iommubus.mailbox import Mailbox
from iommubus.mapping import Mapping
from iommubus.table import Table

WHOLE: Final = ((0, 7),)


def unmap(seq: int, first: int = 0, last: int = 0) -> Unmap:
    return Unmap("s", seq, first, last)


class Watched(Feed):
    """A feed that says how much it keeps."""

    @property
    def kept(self) -> int:
        """Events in the list."""
        return len(self._events)


class Reader:
    """A follower with nothing behind it."""

    def __init__(self, feed: Feed, capacity: int) -> None:
        self.place = 0
        self.capacity = capacity
        self.feed = feed
        self.woken = 0
        self.left: list[Event] = []

    def overflow(self) -> None:
        """Leave, and keep what waited."""
        self.left = self.feed.unfollow(self)

    def wake(self) -> None:
        """Count."""
        self.woken += 1


def test_each_follower_reads_what_came_since_it_read_last() -> None:
    """
    A place is all that is kept of a follower.
    """
    feed = Feed(WHOLE)
    early, late = Reader(feed, 10), Reader(feed, 10)

    feed.follow(early)
    feed.put(unmap(1))
    feed.follow(late)
    feed.put(unmap(2))

    assert feed.followed
    assert feed.read(late) == [unmap(2)]
    assert feed.read(late) == []
    assert feed.read(early) == [unmap(1), unmap(2)]
    assert early.place == late.place == feed.end == 2


def test_leaving_gives_back_what_waits() -> None:
    """
    Nothing is lost on the way out of a feed.
    """
    feed = Feed(WHOLE)
    reader = Reader(feed, 10)
    feed.follow(reader)
    feed.put(unmap(1))

    assert feed.unfollow(reader) == [unmap(1)]
    assert not feed.followed


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_who_falls_behind_leaves_at_the_first_event_too_many(capacity: int) -> None:
    """
    The capacity is exact, and the others stay.
    """
    feed = Feed(WHOLE)
    slow, quick = Reader(feed, capacity), Reader(feed, 100)
    feed.follow(quick)
    feed.follow(slow)

    for seq in range(capacity):
        feed.put(unmap(seq))
    assert slow.left == []
    feed.put(unmap(capacity))

    assert slow.left == [unmap(seq) for seq in range(capacity + 1)]
    assert quick.left == []
    assert feed.read(quick) == slow.left


def test_a_reader_makes_room_by_reading() -> None:
    """
    What counts is how far behind somebody is, not how much passed by.
    """
    feed = Feed(WHOLE)
    reader = Reader(feed, 2)
    feed.follow(reader)

    for seq in range(20):
        feed.put(unmap(seq))
        if seq % 2:
            assert feed.read(reader) == [unmap(seq - 1), unmap(seq)]

    assert reader.left == []


def test_memory_is_bounded_by_the_capacity_of_the_followers() -> None:
    """
    Law 3: what everybody has read is dropped, and nobody keeps more than fits.
    """
    feed = Watched(WHOLE)
    reader = Reader(feed, 4)
    feed.follow(reader)

    for seq in range(100):
        feed.put(unmap(seq))
        feed.read(reader)
        assert feed.kept <= 5

    for seq in range(100):
        feed.put(unmap(seq))
    assert len(reader.left) == 5
    feed.put(unmap(0))
    assert feed.kept == 0


def test_everybody_is_woken_after_an_alert_and_only_then() -> None:
    """
    Publishing looks after nobody unless somebody waits.
    """
    feed = Feed(WHOLE)
    one, two = Reader(feed, 10), Reader(feed, 10)
    feed.follow(one)
    feed.follow(two)

    feed.put(unmap(1))
    assert (one.woken, two.woken) == (0, 0)

    feed.alert()
    feed.put(unmap(2))
    feed.put(unmap(3))
    assert (one.woken, two.woken) == (1, 1)


def test_an_alert_outlives_those_who_come_and_go() -> None:
    """
    Nobody who waits is forgotten because somebody else joined, read or left.
    """
    feed = Feed(WHOLE)
    waiting, passing = Reader(feed, 10), Reader(feed, 10)
    feed.follow(waiting)
    feed.alert()

    feed.follow(passing)
    feed.read(passing)
    feed.unfollow(passing)
    feed.put(unmap(1))

    assert waiting.woken == 1


def test_events_are_cropped_once_for_all() -> None:
    """
    I5: a part of a MAP leads where it led as part of the whole.
    """
    feed = Feed(((1, 2), (4, 5)))
    reader = Reader(feed, 10)
    feed.follow(reader)

    feed.offer(Map("s", 1, 0, 4, 0x100, Perm.RW))
    feed.offer(unmap(2, 6, 7))

    assert feed.read(reader) == [Map("s", 1, 1, 2, 0x101, Perm.RW), Map("s", 1, 4, 4, 0x104, Perm.RW)]


def test_all_parts_of_an_event_reach_who_falls_behind_at_the_first() -> None:
    """
    Law 3: an event that is cropped into several parts is not lost from the second on.
    """
    feed = Feed(((0, 1), (4, 5)))
    slow, quick = Reader(feed, 1), Reader(feed, 10)
    feed.follow(slow)
    feed.follow(quick)
    feed.put(unmap(1, 0, 0))

    feed.offer(unmap(2, 0, 7))

    parts = [unmap(2, 0, 1), unmap(2, 4, 5)]
    assert slow.left == [unmap(1, 0, 0), *parts]
    assert feed.read(quick) == [unmap(1, 0, 0), *parts]


def test_an_event_outside_the_ranges_wakes_nobody() -> None:
    """
    Who waits goes on waiting until there is something for it.
    """
    feed = Feed(((0, 1),))
    reader = Reader(feed, 10)
    feed.follow(reader)
    feed.put(unmap(1))
    feed.read(reader)
    feed.alert()

    feed.offer(unmap(2, 4, 5))
    assert reader.woken == 0
    feed.offer(unmap(3, 1, 5))
    assert reader.woken == 1


def test_a_mailbox_that_overflows_by_several_events_keeps_them_all() -> None:
    """
    Law 3: the events that do not fit become dirty ranges, every one of them.
    """
    feed = Feed(((0, 1), (4, 5), (7, 7)))
    mailbox = Mailbox(None, capacity=1)
    mailbox.follow(feed)

    feed.offer(unmap(1, 0, 7))

    handed = mailbox.hand_over("s", 1)
    assert {address for event in handed for address in range(event.first, event.last + 1)} >= {0, 1, 4, 5, 7}
    assert mailbox.conflations == 1


# -- mailboxes that share, beside mailboxes of their own -----------------------------


class Pair:
    """Two subscribers, each with a mailbox of its own and a mailbox that shares a feed where it can."""

    def __init__(self, capacities: tuple[int, int]) -> None:
        self.table = Table()
        self.feed = Feed(WHOLE)
        self.seq = 0
        self.own = [self._mailbox(capacity) for capacity in capacities]
        self.sharing = [self._mailbox(capacity) for capacity in capacities]
        for mailbox in self.sharing:
            mailbox.follow(self.feed)

    def _mailbox(self, capacity: int) -> Mailbox:
        return Mailbox(self.table.walk, capacity=capacity, piece=2)

    def flip(self, page: int) -> None:
        """Map a page, or unmap it."""
        self.seq += 1
        event: Event = Unmap("s", self.seq, page, page)
        if not self.table.remove(page, page):
            self.table.insert(page, page, self.seq, Perm.RW)
            event = Mapping(page, page, self.seq, Perm.RW).event("s", self.seq)
        alone = [mailbox for mailbox in self.sharing if not mailbox.shared]
        self.feed.put(event)
        for mailbox in (*self.own, *alone):
            mailbox.put(event)

    def hand_over(self, who: int) -> None:
        """Hand over to a subscriber from both its mailboxes, and compare."""
        wanted = self.own[who].hand_over("s", self.seq)
        assert self.sharing[who].hand_over("s", self.seq) == wanted
        self.rejoin(who)

    def refuse(self, who: int, page: int) -> None:
        """Have a subscriber fail at an UNMAP."""
        for mailbox in (self.own[who], self.sharing[who]):
            mailbox.refuse(Unmap("s", self.seq, page, page), [])

    def retry(self, who: int) -> None:
        """Have what failed handed over again."""
        self.own[who].retry()
        self.sharing[who].retry()

    def rejoin(self, who: int) -> None:
        """Share again, as the bus does after a hand-over."""
        mailbox = self.sharing[who]
        if mailbox.quiet and not mailbox.shared:
            mailbox.follow(self.feed)

    def check(self) -> None:
        """Compare what can be asked."""
        for own, sharing in zip(self.own, self.sharing, strict=True):
            assert sharing.ready == own.ready
            assert sharing.quiet == own.quiet
            assert sharing.lag == own.lag
            assert sharing.half_full == own.half_full
            assert sharing.owes_removal == own.owes_removal
            assert sharing.refused == own.refused
            assert sharing.conflations == own.conflations
            assert sharing.reached(sharing.turn) == own.reached(own.turn)


STEPS: Final = [("flip", 0), ("flip", 2), ("hand", 0), ("hand", 1), ("refuse", 0), ("retry", 0)]


def play(pair: Pair, steps: Iterator[tuple[str, int]] | list[tuple[str, int]]) -> None:
    for step, what in steps:
        if step == "flip":
            pair.flip(what)
        elif step == "hand":
            pair.hand_over(what)
        elif step == "refuse":
            pair.refuse(1, what)
        else:
            pair.retry(1)
        pair.check()
    for _ in range(12):
        pair.hand_over(0)
        pair.hand_over(1)


@pytest.mark.parametrize("capacities", [(1, 1), (1, 2), (2, 3)])
def test_sharing_cannot_be_told_from_a_mailbox_of_ones_own(capacities: tuple[int, int]) -> None:
    """
    In every history of five steps, the same hand-overs and the same answers.
    """
    for script in itertools.product(STEPS, repeat=5):
        play(Pair(capacities), list(script))


def test_nor_in_long_random_histories() -> None:
    """
    The same at random, with more pages and more capacity.
    """
    for seed in range(300):
        dice = random.Random(seed)  # noqa: S311
        alphabet = [("flip", page) for page in range(6)] + STEPS[2:]
        script = [dice.choice(alphabet) for _ in range(80)]
        play(Pair((dice.randint(1, 6), dice.randint(1, 6))), script)


def test_a_mailbox_that_waits_is_woken_once() -> None:
    """
    Waiting works through the feed as it does without, also if it began before.
    """
    called: list[int] = []
    table, feed = Table(), Feed(WHOLE)
    mailbox = Mailbox(table.walk, on_ready=lambda: called.append(1))
    mailbox.expect()
    mailbox.follow(feed)

    feed.put(unmap(1))
    feed.put(unmap(2))
    assert called == [1]

    mailbox.expect()
    feed.put(unmap(3))
    assert called == [1, 1]


def test_who_leaves_a_feed_is_told() -> None:
    """
    Whoever leaves has to be put into by itself from then on.
    """
    told: list[str] = []
    feed = Feed(WHOLE)
    mailbox = Mailbox(None, capacity=1, on_unshare=lambda: told.append("alone"))
    mailbox.unshare()
    assert told == []

    mailbox.follow(feed)
    feed.put(unmap(1))
    mailbox.unshare()
    assert told == ["alone"]
    assert mailbox.hand_over("s", 1) == [unmap(1)]

    mailbox.follow(feed)
    feed.put(unmap(2))
    feed.put(unmap(3))
    assert told == ["alone", "alone"]
    assert not mailbox.shared
    assert mailbox.conflations == 1
