"""Hand-overs, acknowledgements and waits: each rule by itself, then all of them over a real mailbox."""

import random

import pytest

from iommubus.caps import Perm
from iommubus.completion import COVERAGE_LIMIT, Completion, Coverage, How, Wait
from iommubus.events import DevIotlbUnmap, Event, Map, Unmap
from iommubus.mailbox import Mailbox
from iommubus.table import Table

from .mailbox_model import CacherWorld, FollowingWorld, World


class Waiter:
    """Counts how often it is told, and remembers how its wait stood each time."""

    def __init__(self) -> None:
        self.told: list[How | None] = []

    def changed(self, wait: Wait) -> None:
        self.told.append(wait.how)


def unmap_of(page: int) -> Unmap:
    return Unmap("s", 1, page, page)


def map_of(page: int) -> Map:
    return Map("s", 1, page, page, 0x1000 + page, Perm.RW)


def table_of(*pages: int) -> Table:
    table = Table()
    for page in pages:
        table.insert(page, page, 0x1000 + page, Perm.RW)
    return table


def replaying(*pages: int, piece: int = 1) -> Mailbox:
    """Return a mailbox that has these pages still to read, each by itself."""
    mailbox = Mailbox(table_of(*pages).walk, piece=piece)
    for page in pages:
        mailbox.replay(page, page)
    return mailbox


def number_of(wait: Wait) -> int | None:
    """Return the hand-over that a wait needs, as it is now."""
    return wait.number


def state_of(wait: Wait) -> How | None:
    """Return how a wait was settled, as it is now."""
    return wait.how


def take(completion: Completion, mailbox: Mailbox) -> int:
    """Make a hand-over, as a subscription does."""
    if mailbox.hand_over("s", 1):
        return completion.hand_over(mailbox)
    completion.look(mailbox)
    return completion.handed


def current() -> Completion:
    """Return the hand-overs of a subscriber that has had its first turn."""
    completion = Completion()
    completion.current = True
    return completion


# -- numbers -----------------------------------------------------------------------


def test_a_new_subscriber_has_nothing_in_hand() -> None:
    completion = Completion()

    assert (completion.handed, completion.acked) == (0, 0)
    assert not completion.current


def test_hand_overs_are_numbered_from_one() -> None:
    completion, mailbox = Completion(), Mailbox(None)

    assert completion.hand_over(mailbox) == 1
    assert completion.hand_over(mailbox) == 2
    assert completion.handed == 2
    assert completion.acked == 0


def test_acknowledgements_are_cumulative_and_cover_what_was_published_by_then() -> None:
    coverage = Coverage(3)
    for number, seq in (1, 5), (2, 8), (3, 13):
        coverage.hand_over(number, seq)
    assert coverage.covered == 3

    coverage.acknowledge(2)
    assert coverage.covered == 8
    coverage.acknowledge(3)
    assert coverage.covered == 13


def test_nothing_is_covered_before_the_first_number() -> None:
    assert Coverage().covered == 0


@pytest.mark.parametrize("old", [0, 1, 2])
def test_an_old_acknowledgement_changes_nothing(old: int) -> None:
    completion, mailbox, coverage = Completion(), Mailbox(None), Coverage()
    for seq in (5, 8):
        coverage.hand_over(completion.hand_over(mailbox), seq)
    for number in (2, old):
        completion.acknowledge(number)
        coverage.acknowledge(number)

    assert (completion.acked, coverage.covered) == (2, 8)


# -- which hand-over is waited for -------------------------------------------------------


@pytest.mark.parametrize("completion", [Completion(), current()])
def test_with_nothing_in_hand_and_nothing_waiting_a_wait_is_over_at_once(completion: Completion) -> None:
    waiter = Waiter()
    wait = completion.expect(Mailbox(None), waiter.changed)

    assert state_of(wait) is How.ACKNOWLEDGED
    assert waiter.told == [How.ACKNOWLEDGED]
    completion.poke()
    completion.finish(How.LEFT)
    assert waiter.told == [How.ACKNOWLEDGED]


@pytest.mark.parametrize("joining", [True, False])
def test_with_nothing_waiting_the_last_hand_over_is_waited_for(*, joining: bool) -> None:
    completion, mailbox, waiter = Completion(), Mailbox(None), Waiter()
    completion.current = not joining
    completion.hand_over(mailbox)
    completion.hand_over(mailbox)
    wait = completion.expect(mailbox, waiter.changed)
    assert number_of(wait) == 2

    completion.acknowledge(1)
    assert state_of(wait) is None
    assert waiter.told == []
    completion.acknowledge(2)
    assert state_of(wait) is How.ACKNOWLEDGED
    assert waiter.told == [How.ACKNOWLEDGED]


@pytest.mark.parametrize("event", [unmap_of(1), DevIotlbUnmap("s", 1, 1, 1)])
@pytest.mark.parametrize("joining", [True, False])
def test_what_is_to_be_taken_away_waits_for_the_next_hand_over(event: Event, *, joining: bool) -> None:
    """An acknowledgement of what was in hand before is not enough."""
    completion, mailbox, waiter = Completion(), Mailbox(None), Waiter()
    completion.current = not joining
    completion.hand_over(mailbox)
    mailbox.put(event)
    wait = completion.expect(mailbox, waiter.changed)
    completion.acknowledge(1)
    assert state_of(wait) is None

    assert take(completion, mailbox) == 2
    assert number_of(wait) == 2
    assert state_of(wait) is None
    completion.acknowledge(2)
    assert waiter.told == [How.ACKNOWLEDGED]


def test_a_joiner_does_not_hold_up_anybody_with_what_it_has_to_read() -> None:
    """It counts for what is in hand and what is taken away only."""
    completion, mailbox, waiter = Completion(), replaying(0, 2, 4), Waiter()
    assert completion.expect(mailbox, waiter.changed).how is How.ACKNOWLEDGED
    take(completion, mailbox)
    assert completion.expect(mailbox, waiter.changed).number == 1

    mailbox.put(unmap_of(9))
    assert completion.expect(mailbox, waiter.changed).number == 2


def test_a_current_subscriber_that_has_to_read_is_waited_for_until_the_turn_is_made() -> None:
    """And until the hand-over that ended it is acknowledged."""
    completion, mailbox, waiter = current(), replaying(0, 2, 4), Waiter()
    take(completion, mailbox)
    wait = completion.expect(mailbox, waiter.changed)
    completion.acknowledge(take(completion, mailbox))
    assert number_of(wait) is None
    assert state_of(wait) is None

    assert take(completion, mailbox) == 3
    assert number_of(wait) == 3
    assert wait.turn is None
    assert state_of(wait) is None
    completion.acknowledge(3)
    assert waiter.told == [How.ACKNOWLEDGED]


def test_a_turn_does_not_wait_for_what_was_dirtied_behind_it() -> None:
    """Else a busy guest would hold up a wait for ever."""
    completion, mailbox, waiter = current(), replaying(0, 2), Waiter()
    wait = completion.expect(mailbox, waiter.changed)
    for page in 0, 2, 0:
        take(completion, mailbox)
        mailbox.replay(page, page)
    take(completion, mailbox)

    assert mailbox.reading
    assert number_of(wait) is not None


def test_a_mapping_that_overflows_after_the_wait_began_is_still_waited_for() -> None:
    """It waited in the FIFO, would have been in the next hand-over, and has to be read now."""
    mailbox = Mailbox(table_of(0, 2, 4).walk, capacity=1, piece=1)
    completion, waiter = current(), Waiter()
    mailbox.put(map_of(4))
    wait = completion.expect(mailbox, waiter.changed)
    mailbox.put(map_of(2))
    mailbox.put(map_of(0))
    mailbox.put(map_of(0))

    for number in 1, 2:
        completion.acknowledge(take(completion, mailbox))
        assert state_of(wait) is None, number
    completion.acknowledge(take(completion, mailbox))
    assert state_of(wait) is How.ACKNOWLEDGED


def test_a_hand_over_that_gives_nothing_can_end_a_turn() -> None:
    """Then the last one that gave something is what has to be acknowledged."""
    completion, mailbox = current(), Mailbox(table_of().walk)
    early, late = Waiter(), Waiter()
    completion.hand_over(mailbox)
    mailbox.replay(0, 9)
    wait = completion.expect(mailbox, early.changed)
    assert take(completion, mailbox) == 1
    assert number_of(wait) == 1
    assert early.told == []
    completion.acknowledge(1)
    assert early.told == [How.ACKNOWLEDGED]

    mailbox.replay(0, 9)
    completion.expect(mailbox, late.changed)
    assert late.told == []
    take(completion, mailbox)
    assert late.told == [How.ACKNOWLEDGED]


def test_looking_before_a_hand_over_ends_no_turn() -> None:
    completion, mailbox, waiter = current(), Mailbox(table_of(1).walk), Waiter()
    mailbox.put(map_of(1))
    wait = completion.expect(mailbox, waiter.changed)
    completion.look(mailbox)

    assert number_of(wait) is None
    assert waiter.told == []


def test_what_a_joiner_was_given_holds_up_nobody_unless_it_took_something_away() -> None:
    completion, mailbox = Completion(), Mailbox(table_of().walk)
    completion.hand_over(mailbox)
    completion.hand_over(mailbox, removes=False)
    completion.hand_over(mailbox, removes=False)
    assert completion.removing == 1

    wait = completion.expect(mailbox, Waiter().changed)
    assert number_of(wait) == 1
    completion.acknowledge(1)
    assert state_of(wait) is How.ACKNOWLEDGED
    completion.current = True
    assert number_of(completion.expect(mailbox, Waiter().changed)) == 3


def test_the_first_turn_is_waited_for_even_by_a_joiner() -> None:
    completion, mailbox, waiter = Completion(), replaying(0, 2), Waiter()
    wait = completion.expect_turn(mailbox, waiter.changed)
    completion.acknowledge(take(completion, mailbox))
    assert waiter.told == []
    completion.acknowledge(take(completion, mailbox))

    assert waiter.told == [How.ACKNOWLEDGED]
    assert number_of(wait) == 2


def test_a_first_turn_over_nothing_is_made_at_once() -> None:
    waiter = Waiter()
    Completion().expect_turn(Mailbox(table_of().walk), waiter.changed)

    assert waiter.told == [How.ACKNOWLEDGED]


def test_a_turn_with_nothing_to_read_waits_for_the_last_hand_over() -> None:
    completion, mailbox = Completion(), Mailbox(table_of().walk)
    completion.hand_over(mailbox)

    assert completion.expect_turn(mailbox, Waiter().changed).number == 1


def test_one_who_has_to_be_stopped_cannot_acknowledge_its_way_out() -> None:
    """Not by an acknowledgement, not by a turn of the cursor: only `finish` ends that wait."""
    completion, mailbox, waiter = current(), Mailbox(None), Waiter()
    wait = completion.expect_stop(waiter.changed)
    completion.look(mailbox)
    completion.acknowledge(completion.hand_over(mailbox))
    completion.look(mailbox)
    assert state_of(wait) is None
    assert number_of(wait) is None
    assert waiter.told == []

    completion.finish(How.STOPPED)
    assert waiter.told == [How.STOPPED]


# -- several waits -------------------------------------------------------------------------


def test_each_wait_is_settled_by_its_own_hand_over_and_told_once() -> None:
    completion, mailbox = Completion(), Mailbox(None)
    waiters = [Waiter() for _ in range(3)]
    for waiter in waiters:
        completion.hand_over(mailbox)
        completion.expect(mailbox, waiter.changed)
    completion.acknowledge(1)
    assert [waiter.told for waiter in waiters] == [[How.ACKNOWLEDGED], [], []]

    completion.acknowledge(3)
    completion.acknowledge(3)
    completion.look(mailbox)
    completion.poke()
    completion.finish(How.LEFT)
    assert [waiter.told for waiter in waiters] == [[How.ACKNOWLEDGED]] * 3


def test_poke_tells_those_who_wait_without_settling_them() -> None:
    completion, mailbox, waiter, settled = Completion(), Mailbox(None), Waiter(), Waiter()
    completion.expect(mailbox, settled.changed)
    completion.hand_over(mailbox)
    wait = completion.expect(mailbox, waiter.changed)
    completion.poke()
    assert waiter.told == [None]
    assert state_of(wait) is None

    completion.acknowledge(1)
    assert waiter.told == [None, How.ACKNOWLEDGED]
    assert settled.told == [How.ACKNOWLEDGED]


def test_a_forgotten_wait_is_told_nothing_more() -> None:
    """To forget it again, or once it is settled, does no harm."""
    completion, mailbox, waiter, other = Completion(), Mailbox(None), Waiter(), Waiter()
    completion.hand_over(mailbox)
    wait = completion.expect(mailbox, waiter.changed)
    kept = completion.expect(mailbox, other.changed)
    completion.forget(wait)
    completion.forget(wait)
    completion.poke()
    completion.acknowledge(1)
    completion.forget(kept)

    assert state_of(wait) is None
    assert waiter.told == []
    assert other.told == [None, How.ACKNOWLEDGED]


@pytest.mark.parametrize("how", [How.LEFT, How.STOPPED])
def test_finish_settles_everybody_once(how: How) -> None:
    """Those who wait for a hand-over, for a turn, and for a proof."""
    completion, mailbox = current(), replaying(0)
    waiters = [Waiter() for _ in range(3)]
    completion.hand_over(Mailbox(None))
    completion.expect(Mailbox(None), waiters[0].changed)
    completion.expect(mailbox, waiters[1].changed)
    completion.expect_stop(waiters[2].changed)
    completion.finish(how)
    completion.finish(How.ACKNOWLEDGED)
    completion.acknowledge(1)

    assert [waiter.told for waiter in waiters] == [[how]] * 3


def test_who_is_told_may_forget_and_wait_again_at_once() -> None:
    """A waiter acts from its callback; the others do not suffer."""
    completion, mailbox, other, again = Completion(), Mailbox(None), Waiter(), Waiter()
    completion.hand_over(mailbox)

    def act(wait: Wait) -> None:
        completion.forget(wait)
        completion.hand_over(mailbox)
        completion.expect(mailbox, again.changed)

    completion.expect(mailbox, act)
    completion.expect(mailbox, other.changed)
    completion.acknowledge(1)

    assert other.told == [How.ACKNOWLEDGED]
    assert again.told == []
    completion.acknowledge(2)
    assert again.told == [How.ACKNOWLEDGED]


def test_who_is_poked_may_forget_its_wait() -> None:
    completion, mailbox, other = Completion(), Mailbox(None), Waiter()
    completion.hand_over(mailbox)
    completion.expect(mailbox, completion.forget)
    completion.expect(mailbox, other.changed)
    completion.poke()
    completion.poke()

    assert other.told == [None, None]


# -- everything together -------------------------------------------------------------------


class Syncing:
    """A consumer that acknowledges late, and waits that begin at any time."""

    def __init__(self, world: World, *, joined: bool) -> None:
        self.world = world
        self.completion = Completion()
        self.completion.current = joined
        self.waits: list[tuple[Wait, int, set[int]]] = []
        self.settled = 0

    def take(self) -> None:
        """Apply the hand-over before, acknowledge it, and take the next one."""
        self.world.apply_hand()
        self.completion.acknowledge(self.completion.handed)
        self.check()
        if self.world.hold():
            if self.world.hand:
                self.completion.hand_over(self.world.mailbox)
            else:
                self.completion.look(self.world.mailbox)
            self.check()

    def wait(self) -> None:
        """Begin to wait; what is mapped now counts if the subscriber had its first turn."""
        mapped = {mapping.target for mapping in self.world.table.values()} if self.completion.current else set[int]()
        wait = self.completion.expect(self.world.mailbox, lambda _: None)
        self.waits.append((wait, self.world.seq, mapped))
        self.check()

    def check(self) -> None:
        """What was unmapped before a wait is not held when it settles; what was mapped, and stayed, is."""
        held = {mapping.target for mapping in self.world.held()}
        gone = self.world.gone
        for _, seq, mapped in [entry for entry in self.waits if entry[0].how is not None]:
            assert not [target for target in held if gone.get(target, seq + 1) <= seq]
            assert mapped - gone.keys() <= held
        self.settled += sum(entry[0].how is not None for entry in self.waits)
        self.waits = [entry for entry in self.waits if entry[0].how is None]


def started(dice: random.Random) -> Syncing:
    """Return a cacher, a shadower that holds what is mapped, or one that joins."""
    kind = dice.choice((World, FollowingWorld, CacherWorld))
    capacity, piece = dice.choice((1, 2, 5)), dice.choice((1, 3))
    world = kind(capacity, piece, pages=12)
    joined = kind is CacherWorld or dice.random() < 0.5
    for page in range(0, 12, 3):
        world.map(page, page + dice.randrange(3))
        world.take()
    if not joined:
        world.join_again(capacity, piece)
    return Syncing(world, joined=joined)


@pytest.mark.parametrize("hundred", range(5))
def test_a_wait_that_is_settled_tells_the_truth(hundred: int) -> None:
    """In random histories: nothing old is held, nothing is missing, and every wait comes to its end."""
    for seed in range(100 * hundred, 100 * hundred + 100):
        dice = random.Random(seed)  # noqa: S311 - the same every time
        syncing = started(dice)
        world, waits = syncing.world, 0
        for _ in range(60):
            verb = dice.choices(("map", "unmap", "take", "wait"), (6, 6, 3, 2))[0]
            first = dice.randrange(12)
            if verb == "take":
                syncing.take()
            elif verb == "wait":
                syncing.wait()
                waits += 1
            else:
                world.does((verb, first, min(11, first + dice.choice((0, 1, 2, 5)))))
        for _ in range(15):
            syncing.take()

        assert syncing.settled == waits


def test_hand_overs_that_nobody_acknowledges_are_bounded() -> None:
    coverage = Coverage()
    last = 3 * COVERAGE_LIMIT
    for number in range(1, last + 1):
        coverage.hand_over(number, 10 * number)

    assert len(coverage._open) <= COVERAGE_LIMIT  # pyright: ignore[reportPrivateUsage]
    coverage.acknowledge(COVERAGE_LIMIT)
    assert 0 < coverage.covered <= 10 * COVERAGE_LIMIT
    coverage.acknowledge(last)
    assert coverage.covered == 10 * last
