"""Plain changes, made in a table and told of, one by one and in one go."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import pytest

from iommubus.caps import Perm
from iommubus.compiled import load
from iommubus.errors import IommubusError, MappingError, Overlap, Straddle, UnknownMemory
from iommubus.events import DevIotlbUnmap, Event, Map, Memory, Unmap
from iommubus.mapping import Mapping
from iommubus.plain import Noted, Plain, PurePlain
from iommubus.ranges import LAST, IovaRange
from iommubus.shape import HALF, Shape
from iommubus.table import PureTable, Table

if TYPE_CHECKING:
    from iommubus.compiled.table import Plain as CompiledPlain, Table as CompiledTable
else:
    CompiledTable = getattr(load("table"), "Table", PureTable)  # and where they are not there, no test takes them
    CompiledPlain = getattr(load("table"), "Plain", PurePlain)

SHAPE = Shape(granule=4, last=63, reserved=(IovaRange(32, 35),))
RAM = Memory("ram", 1, 64)

compiled_plain = pytest.mark.skipif(
    load("table") is None, reason="the table was not compiled, or IOMMUBUS_PURE forbids it"
)


class Tried:
    """Plain changes of a table, and what they kept and noted.

    Args:
        table: The table.
        compiled: Whether the compiled ones are tried.
        seq: Latest number of the space.
        shape: What it accepts.
        split: Whether an UNMAP may cut mappings.
    """

    def __init__(
        self, table: Table, seq: int = 10, shape: Shape = SHAPE, *, compiled: bool = False, split: bool = False
    ) -> None:
        self.table = table
        self.plain: Plain = (CompiledPlain if compiled else cast("Any", PurePlain))("s", table, shape, split=split)
        self.seq = seq
        self.events: list[Event] = []
        self.removed: Noted = []

    def run(self, events: Iterator[Event], room: int) -> tuple[int, Event | None]:
        """Repeat events."""
        seq = self.seq + len(self.events)
        return self.plain.repeat(events, seq, room, check_memory, self.events, self.removed)

    def change(self, changes: Sequence[object], at: int = 0) -> int:
        """Make changes."""
        return self.plain.change(changes, at, self.seq, self.events, self.removed)


Make = Callable[..., Tried]
"""Gives what is tried with a table that has some ranges."""


@pytest.fixture(params=["pure", "compiled"])
def make(request: pytest.FixtureRequest) -> Make:
    """Give plain changes in Python, and the compiled ones where there are some."""
    compiled = request.param == "compiled"
    if compiled and load("table") is None:
        pytest.skip("the table was not compiled, or IOMMUBUS_PURE forbids it")

    def filled(*ranges: tuple[int, int], **options: Any) -> Tried:
        table: Table = CompiledTable(chunk=2) if compiled else cast("Any", PureTable(chunk=2))
        for first, last in ranges:
            table.insert(first, last, 0, Perm.RW)
        return Tried(table, compiled=compiled, **options)

    return filled


def map_(seq: int, first: int, last: int, target: int = 0, memory: Memory | None = None) -> Map:
    return Map("s", seq, first, last, target, Perm.RW, memory)


def unmap(seq: int, first: int, last: int) -> Unmap:
    return Unmap("s", seq, first, last)


def check_memory(memory: Memory, target: int, size: int) -> None:
    """Know one memory."""
    del target, size
    if memory != RAM:
        raise UnknownMemory(memory.name, memory.generation, 0)


# -- events of another table -----------------------------------------------------


def test_events_are_passed_on_as_they_are_where_their_numbers_go_on(make: Make) -> None:
    """
    Nothing is made anew for who has the same number here and there.
    """
    events: list[Event] = [map_(11, 0, 3), unmap(12, 0, 3), map_(13, 4, 7, 4, RAM)]
    plain = make()

    assert plain.run(iter(events), 9) == (3, None)

    assert all(one is other for one, other in zip(plain.events, events, strict=True))
    assert [(seq, list(removed)) for seq, removed in plain.removed] == [(12, [Mapping(0, 3, 0, Perm.RW)])]
    assert list(plain.table) == [Mapping(4, 7, 4, Perm.RW, RAM)]


def test_numbers_go_on_from_the_spaces_own(make: Make) -> None:
    """
    What changes nothing takes none, and what carries another one is made anew.
    """
    plain = make((0, 3))

    taken = plain.run(iter([map_(50, 0, 3), unmap(51, 8, 11), unmap(52, 0, 7), map_(53, 4, 7, 4, RAM)]), 9)

    assert taken == (4, None)
    assert plain.events == [unmap(11, 0, 7), map_(12, 4, 7, 4, RAM)]
    assert plain.run(iter([map_(54, 0, 3)]), 9) == (1, None)
    assert plain.events[-1] == map_(13, 0, 3)


@pytest.mark.parametrize(
    "event",
    [
        DevIotlbUnmap("s", 12, 0, 3),
        map_(12, 4, 11),  # in the way of another
        map_(12, 0, 2),
        map_(12, 1, 3),
        map_(12, 0, 3, 1),
        map_(12, 0, 3, LAST - 3),
        map_(12, 32, 35),
        map_(12, 60, 67),
        map_(12, 0, 3, 0, Memory("rom", 1, 64)),
        Map("s", 12, 0, 3, 0, Perm(0)),
        unmap(12, 8, 8),
        unmap(12, 8, 9),
        unmap(12, 60, 67),
        unmap(12, 12, 15),  # cuts one
    ],
)
def test_it_stops_before_what_is_not_plain_or_cannot_be(make: Make, event: Event) -> None:
    """
    That one changed nothing, and what is behind it was not taken.
    """
    plain, events = make((8, 15)), iter([map_(11, 4, 7), event, unmap(13, 4, 7)])

    assert plain.run(events, 9) == (1, event)

    assert list(plain.table) == [Mapping(4, 7, 0, Perm.RW), Mapping(8, 15, 0, Perm.RW)]
    assert plain.events == [map_(11, 4, 7)]
    assert plain.run(events, 9) == (1, None)
    assert plain.events == [map_(11, 4, 7), unmap(12, 4, 7)]


def test_an_unmap_that_may_cut_is_not_plain(make: Make) -> None:
    """
    It may have to be told of by several events.
    """
    assert make((0, 3), split=True).run(iter([unmap(11, 0, 3)]), 9) == (0, unmap(11, 0, 3))


@pytest.mark.parametrize(
    ("room", "events", "taken"),
    [
        (-1, [map_(11, 0, 3)], 0),
        (0, [map_(11, 0, 3)], 0),
        (1, [map_(11, 0, 3), map_(12, 4, 7)], 1),
        (1, [map_(11, 0, 3), unmap(12, 0, 3), map_(13, 4, 7)], 3),
        (0, [unmap(11, 8, 11), map_(13, 4, 7)], 2),
    ],
)
def test_no_more_come_than_there_is_room_for(make: Make, room: int, events: Sequence[Event], taken: int) -> None:
    """
    What goes makes room.
    """
    count, event = make((8, 11)).run(iter(events), room)

    assert (count, event) == (taken, events[taken] if taken < len(events) else None)


def test_an_error_of_somebody_else_is_passed_on(make: Make) -> None:
    """
    What happened before it is kept, and it is no refusal.
    """
    plain = make()

    def check(memory: Memory, target: int, size: int) -> None:
        raise ZeroDivisionError((memory, target, size))

    with pytest.raises(ZeroDivisionError, match="generation=1"):
        plain.plain.repeat(iter([map_(11, 0, 3), map_(12, 4, 7, 8, RAM)]), 10, 9, check, plain.events, plain.removed)

    assert plain.events == [map_(11, 0, 3)]
    assert list(plain.table) == [Mapping(0, 3, 0, Perm.RW)]


def test_an_iterator_that_fails_is_no_refusal(make: Make) -> None:
    def events() -> Iterator[Event]:
        yield map_(11, 0, 3)
        raise UnknownMemory("ram", 1, 0)

    plain = make()
    with pytest.raises(UnknownMemory):
        plain.run(events(), 9)

    assert plain.events == [map_(11, 0, 3)]


# -- one by one --------------------------------------------------------------------


class Number(IntEnum):
    """Numbers that are not of type `int` itself."""

    FOUR = 4


def test_a_mapping_is_made_and_told_of(make: Make) -> None:
    plain = make()

    assert plain.plain.map(4, 8, 12, Perm.W, 7) == Map("s", 7, 4, 11, 12, Perm.W)
    assert plain.plain.map(4, 8, 12, Perm.W, 8) is False
    with pytest.raises(Overlap):
        plain.plain.map(8, 8, 12, Perm.W, 8)
    assert list(plain.table) == [Mapping(4, 11, 12, Perm.W)]


def test_a_range_is_removed_and_told_of(make: Make) -> None:
    plain = make((0, 3), (4, 7), (12, 19))

    assert plain.plain.unmap(12, 8, 7) == (Unmap("s", 7, 12, 19), (Mapping(12, 19, 0, Perm.RW),))
    assert plain.plain.unmap(12, 8, 8) is False
    plain.plain.map(12, 8, 0, Perm.R, 8)
    with pytest.raises(Straddle):
        plain.plain.unmap(16, 8, 9)
    made = plain.plain.unmap(0, 12, 9)
    assert made
    assert made[0] == Unmap("s", 9, 0, 11)
    assert list(made[1]) == [Mapping(0, 3, 0, Perm.RW), Mapping(4, 7, 0, Perm.RW)]
    assert list(plain.table) == [Mapping(12, 19, 0, Perm.R)]


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (0, 0),
        (0, -4),
        (-4, 4),
        (-4, 8),
        (0, 2),
        (2, 4),
        (60, 8),
        (64, 4),
        (0, 2**64),
        (0, 2**65),
        (2**64, 4),
        (4, 2**64),
        (Number.FOUR, 4),
        (4, Number.FOUR),
        (False, 4),
        (0, True),
        (0.0, 4),
        (0, 4.0),
        ("0", 4),
        (None, 4),
    ],
    ids=repr,
)
def test_what_is_not_plain_is_left(make: Make, iova: Any, size: Any) -> None:
    """
    Whoever calls has to see for himself; nothing changed.
    """
    plain = make((0, 3))

    assert plain.plain.map(iova, size, 0, Perm.RW, 7) is None
    assert plain.plain.unmap(iova, size, 7) is None
    assert list(plain.table) == [Mapping(0, 3, 0, Perm.RW)]


@pytest.mark.parametrize(
    ("iova", "target", "perm"),
    [
        (32, 0, Perm.R),
        (28, 0, Perm.R),
        (40, 0, Perm.R),
        (0, 2, Perm.R),
        (0, -4, Perm.R),
        (0, HALF + 4, Perm.R),
        (0, LAST - 3, Perm.R),
        (0, False, Perm.R),
        (0, Number.FOUR, Perm.R),
        (0, 0, 3),
        (0, 0, True),
        (0, 0, Perm(0)),
        (0, 0, "r"),
        (0, 0, []),
        (0, 0.0, Perm.R),
        (0, 2**70, Perm.R),
    ],
    ids=repr,
)
def test_a_mapping_that_is_not_plain_is_left(make: Make, iova: int, target: Any, perm: Any) -> None:
    plain = make()

    assert plain.plain.map(iova, 8, target, perm, 7) is None
    assert plain.change([Mapping(iova, iova + 7, target, perm)]) == 0
    assert len(plain.table) == 0


def test_a_target_may_be_half_way(make: Make) -> None:
    assert make().plain.map(0, 4, HALF, Perm.R, 7) == Map("s", 7, 0, 3, HALF, Perm.R)


@pytest.mark.parametrize("granule", [1, 4096, 2**63, 2**64])
def test_all_of_the_largest_space_can_be_unmapped(make: Make, granule: int) -> None:
    """
    Its size has 65 bits.
    """
    plain = make((0, LAST), shape=Shape(granule, LAST))

    made = plain.plain.unmap(0, 2**64, 7)

    assert made
    assert (made[0], list(made[1])) == (Unmap("s", 7, 0, LAST), [Mapping(0, LAST, 0, Perm.RW)])


def test_nothing_is_plain_where_a_reserved_range_begins_at_the_start(make: Make) -> None:
    plain = make(shape=Shape(4, 63, (IovaRange(0, 3),)))

    assert plain.plain.map(4, 4, 0, Perm.R, 7) is None
    assert plain.plain.unmap(4, 4, 7) is False


# -- several at once ---------------------------------------------------------------


def test_changes_are_made_up_to_the_first_that_is_not_plain(make: Make) -> None:
    plain = make((0, 3))
    changes = [
        Mapping(0, 3, 0, Perm.RW),
        IovaRange(0, 7),
        IovaRange(8, 11),
        Mapping(4, 7, 8, Perm.R),
        Mapping(8, 11, 8, Perm.R, RAM),
        IovaRange(4, 7),
    ]

    assert plain.change(changes) == 4
    assert plain.change(tuple(changes), 4) == 4
    assert plain.change(changes, 5) == 6
    assert plain.change(changes, 6) == 6
    assert plain.change(changes, 7) == 7

    assert plain.events == [Unmap("s", 11, 0, 7), Map("s", 12, 4, 7, 8, Perm.R), Unmap("s", 13, 4, 7)]
    assert [(seq, list(removed)) for seq, removed in plain.removed] == [
        (11, [Mapping(0, 3, 0, Perm.RW)]),
        (13, [Mapping(4, 7, 8, Perm.R)]),
    ]


@pytest.mark.parametrize(
    "change",
    [map_(11, 0, 3), (0, 3), None, IovaRange(2, 3), IovaRange(60, 67), IovaRange(0, cast("Any", 3.0))],
)
def test_a_change_that_is_not_plain_is_left(make: Make, change: object) -> None:
    plain = make((0, 3))

    assert plain.change([change]) == 0
    assert (plain.events, plain.removed, len(plain.table)) == ([], [], 1)


@pytest.mark.parametrize(("change", "error"), [(Mapping(0, 3, 4, Perm.R), Overlap), (IovaRange(12, 15), Straddle)])
def test_a_change_that_cannot_be_raises(make: Make, change: object, error: type[MappingError]) -> None:
    """
    Those before it stay made.
    """
    plain = make((0, 3), (8, 15))

    with pytest.raises(error):
        plain.change([Mapping(4, 7, 0, Perm.R), change, IovaRange(4, 7)])

    assert plain.events == [Map("s", 11, 4, 7, 0, Perm.R)]
    assert plain.removed == []


def test_an_unmap_that_may_cut_is_no_plain_change(make: Make) -> None:
    plain = make((0, 3), split=True)

    assert plain.change([Mapping(4, 7, 0, Perm.R), IovaRange(0, 3)]) == 1
    assert plain.plain.unmap(0, 4, 7) is None


# -- the compiled ones by themselves -------------------------------------------------


@compiled_plain
def test_what_is_compiled_is_used_where_it_is() -> None:
    assert Plain is CompiledPlain


@compiled_plain
def test_what_is_called_wrongly_is_refused() -> None:
    """
    It is a C program: whatever it is given it raises an error and changes nothing.
    """
    plain: Any = CompiledPlain("s", CompiledTable(), SHAPE, split=False)
    made: Any = CompiledPlain
    calls: list[Callable[[], object]] = [
        lambda: made("s", 1, SHAPE, split=False),
        lambda: made(b"s", CompiledTable(), SHAPE, split=False),
        lambda: made("s", CompiledTable(), SHAPE),
        lambda: made("s", CompiledTable(), None, split=False),
        lambda: plain.map(0, 4, 0, Perm.R),
        lambda: plain.unmap(0),
        lambda: plain.repeat(iter([]), 0, 0, None, []),
        lambda: plain.repeat([], 0, 0, None, [], []),
        lambda: plain.repeat(iter([]), 0, 0, None, (), []),
        lambda: plain.repeat(iter([]), -1, 0, None, [], []),
        lambda: plain.repeat(iter([]), 0, "0", None, [], []),
        lambda: plain.change([], 0, 0, [], None),
        lambda: plain.change(iter([]), 0, 0, [], []),
        lambda: plain.change([], -1, 0, [], []),
        lambda: plain.change([], None, 0, [], []),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError, OverflowError, AttributeError)):
            call()


# -- beside each other ---------------------------------------------------------------

GRANULES: Final = (1, 4, 4096, 2**63, 2**64)


class Both:
    """Plain changes of two tables, one of them in Python, to which the same is done.

    Args:
        seed: Of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)  # noqa: S311
        self.granule = rng.choice(GRANULES)
        last = LAST if self.granule > 4096 or rng.random() < 0.5 else 64 * self.granule - 1
        low = rng.randrange(40) * self.granule
        window = () if low + 3 > last or rng.random() < 0.5 else (IovaRange(low, low + 3),)
        self.shape, split = Shape(self.granule, last, window), rng.random() < 0.1
        pure: Any = PureTable(4, 1 << 62)
        self.tried = (
            Tried(pure, 10, self.shape, split=split),
            Tried(CompiledTable(4), 10, self.shape, split=split, compiled=True),
        )
        self.base = rng.choice([0, 0, max(0, last + 1 - 32 * self.granule), HALF - 16 * self.granule])

    def number(self) -> Any:
        """Return some address, mostly one that can be."""
        if self.rng.random() < 0.94:
            return max(0, self.base + self.rng.randrange(32) * self.granule)
        odd = [-1, 0, 1, LAST, LAST + 1, HALF, HALF + 1, 2**70, True, False, Number.FOUR, 4.0, "4", None, Perm.R]
        return self.rng.choice(odd)

    def perm(self) -> Any:
        """Return some permission."""
        wrong = [Perm(0), 0, 1, 3, 4, True, None, "r", Perm(4)]
        return self.rng.choice([Perm.R, Perm.W, Perm.RW] if self.rng.random() < 0.95 else wrong)

    def edges(self) -> tuple[Any, Any]:
        """Return some range, or two numbers that are none."""
        first, near = self.number(), next(iter(self.tried[0].table), None)
        if near is not None and self.rng.random() < 0.4:
            held = self.rng.choice(list(self.tried[0].table))
            return held.first, held.last
        if type(first) is int and self.rng.random() < 0.95:
            return first, first + self.rng.choice([1, 1, 1, 2, 5]) * self.granule - 1
        return first, self.number()

    def memory(self) -> Memory | None:
        """Return no memory, one that is known, or one that is not."""
        return self.rng.choice([None, None, RAM, Memory("ram", 1, 64), Memory("rom", 1, 64)])

    def mapping(self) -> tuple[Any, ...]:
        """Return the fields of some mapping; often those of one that is there."""
        held = list(self.tried[0].table)
        if held and self.rng.random() < 0.1:
            one = self.rng.choice(held)
            return one.first, one.last, one.target, one.perm, one.memory
        return (*self.edges(), self.number(), self.perm(), self.memory())

    def event(self, seq: int) -> Any:
        """Return some event, with a number that may go on."""
        seq += self.rng.choice([0, 0, 0, 1])
        choice = self.rng.random()
        if choice < 0.5:
            return Map("s", seq, *self.mapping())
        if choice < 0.97:
            return Unmap("s", seq, *self.edges())
        return self.rng.choice([DevIotlbUnmap("s", seq, 0, 3), Mapping(0, 3, 0, Perm.R), None, 7])

    def some_change(self) -> object:
        """Return something that could be a change."""
        choice = self.rng.random()
        if choice < 0.5:
            fields = self.mapping()
            return Mapping(*(fields if self.rng.random() < 0.1 else fields[:4]))
        if choice < 0.97:
            try:
                return IovaRange(*self.edges())
            except (MappingError, TypeError):
                return IovaRange(0, LAST)
        return self.rng.choice([None, 7, (0, 3), self.event(11)])

    def step(self) -> None:
        """Do one thing to both, and compare what they say and all that can be seen."""
        choice, seq = self.rng.random(), self.tried[0].seq + len(self.tried[0].events)
        do: Callable[[Tried], object]
        if choice < 0.3:
            (first, last, target, perm, _), size = self.mapping(), self.number()
            if type(first) is int and type(last) is int and self.rng.random() < 0.9:
                size = last - first + 1
            do = lambda one: one.plain.map(first, size, target, perm, seq)  # noqa: E731
        elif choice < 0.5:
            (first, last), size = self.edges(), self.number()
            if type(first) is int and type(last) is int and self.rng.random() < 0.9:
                size = last - first + 1
            do = lambda one: listed(one.plain.unmap(first, size, seq))  # noqa: E731
        elif choice < 0.75:
            events, room = [self.event(seq + at + 1) for at in range(self.rng.randrange(6))], self.rng.randrange(-1, 9)
            do = lambda one: repeated(one, events, room)  # noqa: E731
        else:
            changes, at = [self.some_change() for _ in range(self.rng.randrange(6))], self.rng.randrange(2)
            do = lambda one: one.change(changes, at)  # noqa: E731
        pure, compiled = (outcome(one, do) for one in self.tried)
        assert pure == compiled


def repeated(one: Tried, events: Sequence[Event], room: int) -> object:
    """Repeat events, and return also what was left of them, and which were passed on as they are."""
    left, before = iter(events), len(one.events)
    said = one.run(left, room)
    return said, list(left), [any(event is other for other in events) for event in one.events[before:]]


def listed(made: tuple[Unmap, Sequence[Mapping]] | Literal[False] | None) -> object:
    """Return what `unmap` gave, with what was removed as a list, wherever it is."""
    return (made[0], list(made[1])) if made else made


def outcome(one: Tried, do: Callable[[Tried], object]) -> list[object]:
    """Return what something gives or raises, and all that can be seen then."""
    said: list[object]
    try:
        made = do(one)
        said = [type(made), made]
    except (IommubusError, TypeError) as error:
        said = [type(error), error.args]
    noted = [(seq, list(removed)) for seq, removed in one.removed]
    return [*said, list(one.table), repr(one.events), noted]


def differ(seed: int, steps: int) -> None:
    """Do so many random steps, and raise where the two differ."""
    both = Both(seed)
    for at in range(steps):
        both.step()
        if at % 50 == 0:
            for one in both.tried:
                one.events.clear()
                one.removed.clear()


@compiled_plain
@pytest.mark.parametrize("seed", range(60))
def test_both_do_and_say_the_same(seed: int) -> None:
    """
    With whatever numbers, permissions and memories, plain and not.
    """
    differ(seed, 400)


@compiled_plain
def test_nothing_is_leaked() -> None:
    words = (Perm.R, Perm.RW, Map, Unmap, Mapping, RAM, None, CompiledTable, CompiledPlain)
    differ(1, 300)
    counts = [sys.getrefcount(word) for word in words]
    for seed in range(6):
        differ(seed, 300)

    assert all(sys.getrefcount(word) - was < 50 for word, was in zip(words, counts, strict=True))


@compiled_plain
def test_nothing_changes_for_which_there_is_no_memory() -> None:
    """
    At whichever allocation it runs out, the table has what was told of it, and no more.
    """
    allocator = pytest.importorskip("_testcapi", reason="this Python cannot run out of memory on purpose")
    failed = 0
    for start in range(30):
        table = CompiledTable(chunk=2)
        table.insert(0, 3, 0, Perm.RW)
        one = Tried(table, compiled=True)
        changes = (IovaRange(0, 3), Mapping(4, 7, 0, Perm.R), Mapping(8, 11, 0, Perm.R), IovaRange(4, 11))
        allocator.set_nomemory(start, start + 1)
        try:
            one.change(changes)
        except MemoryError:
            failed += 1
        finally:
            allocator.remove_mem_hooks()
        beside = PureTable()
        beside.insert(0, 3, 0, Perm.RW)
        for event in one.events:
            if type(event) is Map:
                beside.insert(event.first, event.last, event.target, event.perm)
            else:
                beside.remove(event.first, event.last)
        assert list(table) == list(beside)
        assert [seq for seq, _ in one.removed] == [event.seq for event in one.events if type(event) is Unmap]
        assert all(removed for _, removed in one.removed)
    assert failed > 5
