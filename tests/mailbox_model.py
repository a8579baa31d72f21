"""A producer, a mailbox and the consumer behind it, small enough to try every history.

`World` publishes what a real producer could, consumes as a real consumer might,
and checks at every hand-over what the mailbox promises.  Addresses are page
numbers; each mapping has a target of its own, so that what is stale is known.
"""

from collections.abc import Callable
from typing import Final, Self, cast

from iommubus.caps import Perm
from iommubus.events import DevIotlbUnmap, Event, Map, Unmap
from iommubus.feed import Feed
from iommubus.mailbox import Mailbox, Turn
from iommubus.mapping import Mapping
from iommubus.parked import Parked
from iommubus.rangeset import RangeSet

MADE: Final = 0
"""The number of events that the mailbox makes; those that are published count from 1."""

Step = tuple[str, int, int]
"""What happens, and to which range, if it is about one."""


def overlap(one: Event | Mapping, first: int, last: int) -> bool:
    """Say whether an event or a mapping shares a page with a range."""
    return one.first <= last and one.last >= first


def copy_of(mailbox: Mailbox) -> Mailbox:
    """Return a mailbox in the same state, which reads the same table."""
    twin = Mailbox.__new__(Mailbox)
    for name in Mailbox.__slots__:
        value = getattr(mailbox, name)
        if isinstance(value, RangeSet):
            value = copy_of_ranges(value)
        elif isinstance(value, Parked):
            twin_of_parked = Parked()
            twin_of_parked.ranges, twin_of_parked.devices = map(copy_of_ranges, (value.ranges, value.devices))
            value = twin_of_parked
        elif isinstance(value, list):
            value = cast("list[Event]", value)[:]
        setattr(twin, name, value)
    return twin


def copy_of_ranges(ranges: RangeSet) -> RangeSet:
    """Return an equal set of ranges."""
    twin = RangeSet.__new__(RangeSet)
    for name in RangeSet.__slots__:
        setattr(twin, name, getattr(ranges, name)[:])
    return twin


class World:
    """A table, a mailbox and a shadower that applies what it is handed, in order.

    Attributes:
        pages: How many there are.
        piece: Most mappings that one hand-over may read.
        table: What is mapped now, by first page.
        shadow: What the consumer holds, by first page.
        hand: What it was handed and has not applied yet.
        gone: For each target, the number of the event that unmapped it.
        invalidated: Device invalidations that were not handed over yet.
        turn: A turn of the cursor that was not reached yet, and the table when it was taken.
        told: The number that the space had come to at the last hand-over.
    """

    def __init__(self, capacity: int, piece: int, pages: int = 4) -> None:
        self.pages = pages
        self.piece = piece
        self.table: dict[int, Mapping] = {}
        self.shadow: dict[int, Mapping] = {}
        self.hand: list[Event] = []
        self.gone: dict[int, int] = {}
        self.invalidated: list[DevIotlbUnmap] = []
        self.turn: tuple[Turn, dict[int, Mapping]] | None = None
        self.seq = self.told = 0
        self.targets = 0
        self.mailbox = self.new_mailbox(capacity, piece)

    def new_mailbox(self, capacity: int, piece: int) -> Mailbox:
        return Mailbox(self.walk, capacity=capacity, piece=piece)

    def join_again(self, capacity: int, piece: int) -> None:
        """Put a new consumer, which holds nothing, in the place of the one before."""
        self.turn = None
        for owed in self.shadow, self.hand, self.invalidated:
            owed.clear()
        self.mailbox = self.new_mailbox(capacity, piece)
        self.mailbox.replay(0, self.pages - 1)

    def copy(self) -> Self:
        """Return a world of its own in the same state."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        twin.table, twin.shadow, twin.gone = self.table.copy(), self.shadow.copy(), self.gone.copy()
        twin.hand, twin.invalidated = self.hand[:], self.invalidated[:]
        twin.mailbox = copy_of(self.mailbox)
        for name in Mailbox.__slots__:
            if getattr(self.mailbox, name) == self.walk:
                setattr(twin.mailbox, name, twin.walk)
        return twin

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Read the table, as a mailbox does."""
        found = [self.table[at] for at in sorted(self.table) if overlap(self.table[at], first, last)]
        return found[:limit]

    # -- steps -------------------------------------------------------------------

    def does(self, step: Step) -> bool:
        """Take a step; say whether it was possible, and made a difference."""
        verb, first, last = step
        if verb == "fail":
            return self.fail(first)
        if verb in {"map", "unmap", "invalidate"}:
            publish: dict[str, Callable[[int, int], bool]] = {
                "map": self.map, "unmap": self.unmap, "invalidate": self.invalidate,
            }  # fmt: skip
            return publish[verb](first, last)
        consume: dict[str, Callable[[], bool]] = {"take": self.take, "hold": self.hold, "retry": self.retry}
        return consume[verb]()

    def map(self, first: int, last: int) -> bool:
        if any(overlap(mapping, first, last) for mapping in self.table.values()):
            return False
        self.targets += 1
        self.table[first] = Mapping(first, last, self.targets, Perm.RW)
        self.publish(Map("s", self.seq + 1, first, last, self.targets, Perm.RW))
        return True

    def unmap(self, first: int, last: int) -> bool:
        """Unmap whole mappings, if there are any."""
        removed = [mapping for mapping in self.table.values() if overlap(mapping, first, last)]
        if not removed or any(mapping.first < first or mapping.last > last for mapping in removed):
            return False
        for mapping in removed:
            del self.table[mapping.first]
            self.gone[mapping.target] = self.seq + 1
        self.publish(Unmap("s", self.seq + 1, first, last))
        return True

    def invalidate(self, first: int, last: int) -> bool:
        event = DevIotlbUnmap("s", self.seq + 1, first, last)
        self.invalidated.append(event)
        self.publish(event)
        return True

    def take(self) -> bool:
        """Apply what is in hand, then take and apply a hand-over."""
        if not self.hold():
            return False
        self.apply_hand()
        return True

    def hold(self) -> bool:
        """Apply what is in hand, then take a hand-over and keep it."""
        if not self.hand and not self.mailbox.ready:
            return False
        self.apply_hand()
        self.hand = self.mailbox.hand_over("s", MADE)
        self.check_hand()
        return True

    def fail(self, skip: int) -> bool:
        """Apply the hand but for one removal, which fails; ``skip`` others come before it."""
        if not self.hand and not self.hold():
            return False
        while self.hand:
            event = self.hand.pop(0)
            if not isinstance(event, Map):
                if not skip:
                    self.mailbox.refuse(event, self.hand)
                    self.excuse()
                    self.apply_hand()
                    self.check_stale()
                    return True
                skip -= 1
            self.apply(event)
        return False

    def excuse(self) -> None:
        """What waits with a failed removal need not be given by any turn that was taken before."""
        if self.turn is not None:
            since, before = self.turn
            refused = self.mailbox.refused
            kept = [one for one in before.values() if not any(overlap(one, *ranges) for ranges in refused)]
            self.turn = since, {one.first: one for one in kept}

    def retry(self) -> bool:
        possible = bool(self.mailbox.refused)
        self.mailbox.retry()
        return possible

    def publish(self, event: Event) -> None:
        self.seq = event.seq
        self.deliver(event)
        if self.turn is None:
            self.turn = self.mailbox.turn, self.table.copy()

    def deliver(self, event: Event) -> None:
        self.mailbox.put(event)

    # -- the consumer --------------------------------------------------------------

    def apply_hand(self) -> None:
        while self.hand:
            self.apply(self.hand.pop(0))

    def apply(self, event: Event) -> None:
        match event:
            case Map():
                self.hold_mapping(event)
            case Unmap():
                self.let_go(event)
            case DevIotlbUnmap():
                self.check_device(event)

    def hold_mapping(self, event: Map) -> None:
        """A MAP is of pages that are not held."""
        assert not any(overlap(held, event.first, event.last) for held in self.shadow.values())
        self.shadow[event.first] = Mapping(event.first, event.last, event.target, event.perm)

    def let_go(self, event: Unmap) -> None:
        """An UNMAP cuts no mapping, and takes none away that was not unmapped."""
        for held in [held for held in self.shadow.values() if overlap(held, event.first, event.last)]:
            assert event.first <= held.first
            assert held.last <= event.last
            assert held.target in self.gone
            del self.shadow[held.first]

    def check_device(self, event: DevIotlbUnmap) -> None:
        """A device invalidation comes behind every UNMAP that was published before it."""
        covered = [event] if event.seq else [one for one in self.invalidated if one.seq <= self.told]
        for one in [one for one in covered if event.first <= one.first and one.last <= event.last]:
            assert not [
                held
                for held in self.held()
                if overlap(held, one.first, one.last) and self.gone.get(held.target, one.seq) < one.seq
            ]
            self.invalidated.remove(one)

    def held(self) -> list[Mapping]:
        """Return everything the consumer holds."""
        return list(self.shadow.values())

    # -- what is promised ------------------------------------------------------------

    def check_hand(self) -> None:
        """Check a hand-over as if it were applied at once."""
        self.check_order()
        self.told = self.seq
        preview = self.copy()
        preview.apply_hand()
        preview.check_stale()
        if self.turn is not None and self.mailbox.reached(self.turn[0]):
            preview.check_given(self.turn[1])
            self.turn = None

    def check_order(self) -> None:
        """First what was published, in order; then UNMAPs, device invalidations and MAPs that the mailbox made."""
        published = [event.seq for event in self.hand if event.seq]
        assert published == sorted(set(published))
        assert published == [event.seq for event in self.hand[: len(published)]]
        kinds = [(Unmap, DevIotlbUnmap, Map).index(type(event)) for event in self.hand[len(published) :]]
        assert kinds == sorted(kinds)
        assert kinds.count(2) <= self.piece

    def check_stale(self) -> None:
        """Nothing is held that was unmapped before the last hand-over, but where an UNMAP failed.

        Between hand-overs that may be about to be handed over again.
        """
        next_hand = copy_of(self.mailbox).hand_over("s", MADE)
        failed = self.mailbox.refused + [(one.first, one.last) for one in next_hand if isinstance(one, Unmap)]
        for held in self.held():
            fresh = self.gone.get(held.target, self.told + 1) > self.told
            assert fresh or any(first <= held.first and held.last <= last for first, last in failed)

    def check_given(self, before: dict[int, Mapping]) -> None:
        """All that was mapped before, and has not changed since, is held."""
        refused = self.mailbox.refused
        for mapping in before.values():
            if mapping.target not in self.gone and not any(overlap(mapping, *ranges) for ranges in refused):
                assert self.shadow.get(mapping.first) == mapping

    def check_end(self) -> None:
        """With no further changes, all is handed over soon: at once but for what failed, and that when asked for."""
        self.drain()
        self.check_given(self.table)
        self.mailbox.retry()
        self.drain()
        assert not self.mailbox.refused
        self.check_settled()
        assert not self.invalidated

    def check_settled(self) -> None:
        assert self.shadow == self.table

    def drain(self) -> None:
        """Take until nothing is left.

        Every hand-over reads to the end of a dirty range or finds a mapping,
        but may have to leave one that lies across the cursor to the next round.
        """
        self.apply_hand()
        for _ in range(self.pages + 1):
            self.take()
        assert not self.mailbox.ready


class FollowingWorld(World):
    """A world whose mailbox follows a feed whenever it can.

    Attributes:
        feed: The feed.
    """

    def __init__(self, capacity: int, piece: int, pages: int = 4) -> None:
        self.feed = Feed(((0, pages - 1),))
        super().__init__(capacity, piece, pages)
        self.mailbox.follow(self.feed)

    def copy(self) -> Self:
        twin = super().copy()
        twin.feed = Feed.__new__(Feed)
        for name in Feed.__slots__:
            value = getattr(self.feed, name)
            setattr(twin.feed, name, cast("list[Event]", value)[:] if isinstance(value, list) else value)
            if value == [self.mailbox]:
                setattr(twin.feed, name, [twin.mailbox])
        for name in Mailbox.__slots__:
            if getattr(self.mailbox, name) is self.feed:
                setattr(twin.mailbox, name, twin.feed)
        return twin

    def join_again(self, capacity: int, piece: int) -> None:
        self.mailbox.unshare()
        super().join_again(capacity, piece)

    def deliver(self, event: Event) -> None:
        put = self.feed.put if self.mailbox.shared else self.mailbox.put
        put(event)

    def hold(self) -> bool:
        possible = super().hold()
        if self.mailbox.quiet and not self.mailbox.shared:
            self.mailbox.follow(self.feed)
        return possible


class CacherWorld(World):
    """A world whose consumer may hold anything that it could have asked for.

    Attributes:
        cache: Everything it may hold, by target.
    """

    def __init__(self, capacity: int, piece: int, pages: int = 4) -> None:
        self.cache: dict[int, Mapping] = {}
        super().__init__(capacity, piece, pages)

    def new_mailbox(self, capacity: int, piece: int) -> Mailbox:
        return Mailbox(None, capacity=capacity, piece=piece)

    def copy(self) -> Self:
        twin = super().copy()
        twin.cache = self.cache.copy()
        return twin

    def publish(self, event: Event) -> None:
        """A cacher is told of no MAP; it may ask for the mapping at once."""
        self.fill()
        if isinstance(event, Map):
            self.seq = event.seq
        else:
            super().publish(event)

    def fill(self) -> None:
        self.cache.update((mapping.target, mapping) for mapping in self.table.values())

    def hold_mapping(self, event: Map) -> None:
        raise AssertionError(event)

    def let_go(self, event: Unmap) -> None:
        """An UNMAP may be larger than needed: what is mapped can be asked for again."""
        self.cache = {target: held for target, held in self.cache.items() if not overlap(held, event.first, event.last)}
        self.fill()

    def held(self) -> list[Mapping]:
        return list(self.cache.values())

    def check_given(self, before: dict[int, Mapping]) -> None:
        pass

    def check_settled(self) -> None:
        assert self.cache == {mapping.target: mapping for mapping in self.table.values()}
