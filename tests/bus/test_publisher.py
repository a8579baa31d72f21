"""Several changes at once are the same to everybody as one after the other."""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from iommubus import Bus, Cap, Notifier, Perm
from iommubus.bus.member import Member
from iommubus.bus.space import LocalSpace
from iommubus.errors import BadMessage, IommubusError, LimitReached, MappingError, NotProducer, UnknownMemory
from iommubus.events import DevIotlbUnmap, Event, Map, Memory, Unmap
from iommubus.mapping import Mapping
from iommubus.ranges import IovaRange
from iommubus.service.spaces.applying import apply
from tests.loops import every_loop

LIMIT = 6
RANGES = (None, [(0, 3)], [(2, 5)], [(1, 1), (4, 6)], [(7, 7)])
MASKS = (Cap.IOTLB, Cap.UNMAP, Cap.ALL, Cap.DEVIOTLB_UNMAP, Cap.UNMAP | Cap.DEVIOTLB_UNMAP)


class Side:
    """One of two spaces, with its audience."""

    def __init__(self, bus: Bus, space: LocalSpace) -> None:
        self.bus = bus
        self.space = space
        self.members: list[Member] = []
        self.observed: list[Event] = []
        self.failures: list[tuple[int, type[Exception]]] = []

    def hand_over(self, who: int) -> list[Event]:
        """Hand over to a subscriber that acknowledges, and return what it was given."""
        member = self.members[who]
        events = member.take()
        member.acknowledge(member.handed)
        return events

    def state(self) -> object:
        """Return what can be compared."""
        old = [list(attachment.old_pieces()) for attachment in self.space.routes.present]
        return (
            self.space.walk(0, 7, 99), self.space.seq, self.space.statistics().published, self.observed, self.failures,
            [member.statistics() for member in self.members], old,
        )  # fmt: skip


@asynccontextmanager
async def two_sides(seed: int) -> AsyncGenerator[tuple[Side, Side, random.Random]]:
    """Give two equal spaces, each with the same subscribers."""
    dice = random.Random(seed)  # noqa: S311 - the same every time
    audience = [(dice.choice(MASKS), dice.choice(RANGES), dice.choice((1, 2, 5, 100))) for _ in range(8)]
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for _ in range(2):
            bus = await stack.enter_async_context(Bus())
            space = await bus.create_space("s", granule=1, last=7, offers=Cap.ALL)
            assert isinstance(space, LocalSpace)
            side = Side(bus, space)
            space.routes.add_observer(side.observed.append)
            for caps, ranges, capacity in audience:
                await stack.enter_async_context(bus.subscribe("s", caps, ranges=ranges, capacity=capacity))
            side.members = [attachment.member for attachment in space.routes.present]  # type: ignore[misc]
            sides.append(side)
        yield sides[0], sides[1], dice


def event_of(dice: random.Random, seq: int) -> Event:
    """Return something that a producer may say, which is not always right."""
    first, last = sorted(dice.choices(range(8), k=2))
    if dice.random() < 0.5:
        last = first
    kind = dice.randrange(12)
    if kind == 0:
        return DevIotlbUnmap("s", seq, first, last)
    if kind == 1:
        return Unmap("s", seq, first, 8)
    if kind < 7:
        return Unmap("s", seq, first, last)
    memory = Memory("ram", 1, 4) if kind == 7 else None
    return Map("s", seq, first, last, dice.randrange(3), Perm.RW, memory)


def no_memory(memory: Memory) -> None:
    """Know no memory."""
    raise UnknownMemory(memory.name, memory.generation, 0)


def in_one_loop(side: Side, events: Sequence[Event]) -> None:
    """Make events happen as the daemon does."""
    rest, index = iter(events), 0
    while True:
        count, event = side.space.repeat(rest, LIMIT, no_memory)
        index += count
        if event is None:
            return
        by_itself(side, index, event)
        index += 1


def by_itself(side: Side, index: int, event: Event) -> None:
    """Make one event happen, and note what is wrong with it."""
    try:
        apply(side.space, event, LIMIT)
    except (MappingError, LimitReached, NotProducer, BadMessage) as failure:
        side.failures.append((index, type(failure)))


@pytest.mark.parametrize("seed", range(40))
@every_loop
async def test_a_hand_over_of_a_producer_is_the_same_in_one_loop(seed: int) -> None:
    """Laws 3 and 6: the same table, numbers, hand-overs, failures and old pieces, whoever falls behind meanwhile."""
    async with two_sides(seed) as (at_once, one_by_one, dice):
        for _ in range(30):
            seq = at_once.space.seq + dice.randrange(2)
            events = [event_of(dice, seq + at) for at in range(1, dice.randrange(12))]
            in_one_loop(at_once, events)
            for index, event in enumerate(events):
                by_itself(one_by_one, index, event)
            assert at_once.state() == one_by_one.state()
            for who in dice.sample(range(8), 3):
                assert at_once.hand_over(who) == one_by_one.hand_over(who)
            assert at_once.state() == one_by_one.state()


@pytest.mark.parametrize("seed", range(20))
@every_loop
async def test_what_is_applied_at_once_is_told_as_if_it_came_one_by_one(seed: int) -> None:
    """Law 2, and all or nothing: changes that can be are the same in one call as in many, and others change nothing."""
    async with two_sides(seed) as (at_once, one_by_one, dice):
        for _ in range(30):
            changes: list[Mapping | IovaRange] = []
            for _ in range(dice.randrange(1, 8)):
                event = event_of(dice, 0)
                if isinstance(event, Map):
                    changes.append(Mapping(event.first, event.last, event.target, event.perm, event.memory))
                else:
                    changes.append(IovaRange(event.first, event.last))
            before = at_once.state()
            try:
                at_once.space.apply(changes)
            except IommubusError:
                assert at_once.state() == before
                continue
            for change in changes:
                one_by_one.space.apply([change])
            assert at_once.state() == one_by_one.state()
            for who in dice.sample(range(8), 3):
                assert at_once.hand_over(who) == one_by_one.hand_over(who)


@every_loop
async def test_a_notifier_is_told_of_each_event_before_the_next_one_happens() -> None:
    """It may look at the table, and publish."""
    async with Bus() as bus:
        space = await bus.create_space("s", granule=1)
        assert isinstance(space, LocalSpace)
        seen: list[int] = []
        space.register(Notifier(lambda _: seen.append(space.mappings), Cap.IOTLB))
        side = Side(bus, space)

        in_one_loop(side, [Map("s", seq, seq, seq, 0, Perm.R) for seq in (1, 2, 3)])

        assert seen == [1, 2, 3]


def publish_many(space: LocalSpace, count: int) -> None:
    """Map pages and unmap them, in one hand-over."""
    events: list[Event] = []
    for page in range(count):
        events += (Map("s", 2 * page + 1, page, page, 0, Perm.R), Unmap("s", 2 * page + 2, page, page))
    assert space.repeat(iter(events), LIMIT, no_memory) == (len(events), None)


def apply_many(space: LocalSpace, count: int) -> None:
    """Do the same in one call."""
    for _ in range(count):
        space.apply([Mapping(0, 0, 0, Perm.R), IovaRange(0, 0)])


@pytest.mark.parametrize("publish", [publish_many, apply_many])
@every_loop
async def test_nothing_is_forgotten_that_was_not_handed_over(publish: Callable[[LocalSpace, int], None]) -> None:
    """Law 1: who is idle when a hand-over comes uses nothing that is older, and may use all that is in it."""
    async with Bus() as bus:
        space = await bus.create_space("s", granule=1)
        assert isinstance(space, LocalSpace)
        async with bus.subscribe("s", Cap.IOTLB):
            publish(space, 1000)
            assert space.statistics().old_pieces == 1000
            (attachment,) = space.routes.present
            member = attachment.member
            assert isinstance(member, Member)
            assert len(list(attachment.old_pieces())) == 1000
            member.take()
            space.counting()
            assert space.statistics().old_pieces == 1000
            member.acknowledge(1)
            space.counting()
            assert space.statistics().old_pieces == 0
