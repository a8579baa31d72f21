"""The table, driven through every reachable state beside a page array, and deep at random."""

import gc
import pickle
import random
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice, pairwise, product
from typing import TYPE_CHECKING, Self, TypeVar, cast

import msgspec
import pytest

from iommubus.caps import Perm
from iommubus.chunks import Chunk, Cut, Pieces
from iommubus.compiled import load
from iommubus.errors import Overlap, Straddle
from iommubus.events import Map, Memory
from iommubus.kinds import KINDS, Kind
from iommubus.mapping import PERMS, Mapping
from iommubus.ranges import LAST
from iommubus.table import CHUNK, STAY, PureTable

if TYPE_CHECKING:
    from iommubus.compiled.table import Table as CompiledTable
else:
    CompiledTable = getattr(load("table"), "Table", PureTable)  # and where it is not there, no test takes it

Range = tuple[int, int]


# -- what stands beside the table --------------------------------------------


def chunk_of(mappings: Sequence[Mapping], kinds: list[Kind]) -> Chunk:
    """Return a chunk of these mappings to bare addresses."""
    firsts, lasts, targets, perms, _ = zip(*map(msgspec.structs.astuple, mappings), strict=True)
    return Chunk(array("Q", firsts), array("Q", lasts), array("Q", targets), array("I", perms), kinds)


RAM = Memory("ram", 1, LAST)
"""What mappings lead into that do not lead to a bare address."""


class WatchedPure(PureTable):
    """A table that shows its inside."""

    @classmethod
    def divided(cls, chunk: int, *groups: Sequence[Mapping], stay: int = STAY) -> Self:
        """Return a table with exactly these chunks, whatever history would lead to them."""
        table = cls(chunk, stay)
        table._count = sum(map(len, groups))
        table._chunks += [chunk_of(group, table._kinds.each) for group in groups]
        table._lows.extend(group[0].first for group in groups)
        table.check()
        return table

    @property
    def chunk_sizes(self) -> list[int]:
        """How many mappings each chunk has."""
        return [len(chunk) for chunk in self._chunks]

    @property
    def columns(self) -> list[type]:
        """What kind of columns each chunk has."""
        return [type(chunk.firsts) for chunk in self._chunks]

    @property
    def layout(self) -> tuple[object, ...]:
        """The mappings as they are divided into chunks, and in which kind of columns."""
        return tuple(map(tuple, self._chunks)), tuple(self.columns)

    @property
    def kinds(self) -> list[Kind]:
        """What its attributes stand for."""
        return self._kinds.each

    def forbid_chunks(self, start: int) -> None:
        """Make it an error to look into the chunks from ``start`` on."""
        self._chunks[start:] = [cast("Chunk", None)] * (len(self._chunks) - start)

    def copy(self) -> Self:
        """Return another table in the same state."""
        again: Self = pickle.loads(pickle.dumps(self))  # noqa: S301
        return again

    def check(self) -> None:
        """Check what has to hold inside after every step."""
        mappings = list(self)
        assert len(self) == len(mappings) == sum(self.chunk_sizes)
        assert all(0 <= mapping.first <= mapping.last <= LAST for mapping in mappings)
        assert all(one.last < two.first for one, two in pairwise(mappings))
        assert len(self._lows) == len(self._chunks)
        assert self.columns.count(list) <= 2
        for low, chunk in zip(self._lows, self._chunks, strict=True):
            assert 1 <= len(chunk) <= self._chunk
            assert len(chunk.firsts) == len(chunk.lasts) == len(chunk.targets) == len(chunk.attrs)
            assert chunk.firsts[0] == low
            columns = [type(chunk.firsts), type(chunk.lasts), type(chunk.targets), type(chunk.attrs)]
            assert columns in ([list] * 4, [array] * 4)
            assert chunk.kinds is self._kinds.each


class WatchedCompiled(CompiledTable):
    """A compiled table, of which can be seen how it is divided."""

    chunk: int

    def __new__(cls, chunk: int = CHUNK, stay: int = STAY, kinds: int = KINDS) -> Self:
        table = super().__new__(cls, chunk, stay, kinds)
        table.chunk = chunk
        return table

    @classmethod
    def divided(cls, chunk: int, *groups: Sequence[Mapping], stay: int = STAY) -> Self:
        """Return a table with exactly these chunks, whatever history would lead to them."""
        table = cls(chunk, stay)
        table.__setstate__(groups)
        return table

    @property
    def chunk_sizes(self) -> list[int]:
        """How many mappings each chunk has."""
        return [len(group) for group in self.__getstate__()]

    @property
    def layout(self) -> tuple[object, ...]:
        """The mappings as they are divided into chunks."""
        return self.__getstate__()

    def copy(self) -> Self:
        """Return another table in the same state."""
        again = type(self)(self.chunk)
        again.__setstate__(self.__getstate__())
        return again

    def check(self) -> None:
        """Check what has to hold inside after every step."""
        mappings = list(self)
        assert len(self) == len(mappings)
        assert mappings == list(chain.from_iterable(self.__getstate__()))
        assert all(0 <= mapping.first <= mapping.last <= LAST for mapping in mappings)
        assert all(one.last < two.first for one, two in pairwise(mappings))
        assert all(1 <= size <= self.chunk for size in self.chunk_sizes)


Watched = WatchedPure | WatchedCompiled
Made = type[WatchedPure] | type[WatchedCompiled]


W = TypeVar("W", bound=Watched)


@pytest.fixture(params=["pure", "compiled"])
def made(request: pytest.FixtureRequest) -> Made:
    """Give the table in Python, and the compiled one where there is one."""
    if request.param == "pure":
        return WatchedPure
    if load("table") is None:
        pytest.skip("the table was not compiled, or IOMMUBUS_PURE forbids it")
    return WatchedCompiled


class Pages:
    """A page array: of each address, the mapping that it belongs to.  Too simple to be wrong."""

    def __init__(self, mappings: Sequence[Mapping] = ()) -> None:
        self.owner: dict[int, Mapping] = {}
        for mapping in mappings:
            self.put(mapping)

    def put(self, mapping: Mapping) -> None:
        """Write a mapping to its addresses."""
        for address in range(mapping.first, mapping.last + 1):
            self.owner[address] = mapping

    def take(self, mappings: Sequence[Mapping]) -> None:
        """Clear the addresses of mappings."""
        for mapping in mappings:
            for address in range(mapping.first, mapping.last + 1):
                del self.owner[address]

    def within(self, first: int, last: int) -> list[Mapping]:
        """Return the mappings that overlap a range, in order."""
        return list(dict.fromkeys(self.owner[at] for at in range(first, last + 1) if at in self.owner))

    def all(self) -> list[Mapping]:
        """Return every mapping, in order."""
        return sorted(set(self.owner.values()))


Step = Callable[[Watched, Pages], None]
"""Does one thing to a table and to the page array, and compares what they say."""


def insert(mapping: Mapping) -> Step:
    """Insert a mapping: refused with the lowest one in the way, nothing if it was there."""

    def step(table: Watched, pages: Pages) -> None:
        held = pages.within(mapping.first, mapping.last)
        fields = mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory
        if not held:
            assert table.insert(*fields) is True
            pages.put(mapping)
        elif held == [mapping]:
            assert table.insert(*fields) is False
        else:
            with pytest.raises(Overlap) as refused:
                table.insert(*fields)
            error = refused.value
            assert (error.first, error.last) == (mapping.first, mapping.last)
            assert (error.held_first, error.held_last) == (held[0].first, held[0].last)

    return step


def remove(first: int, last: int) -> Step:
    """Remove a range: what lay inside comes back in order, a cut is refused with the lower mapping."""

    def step(table: Watched, pages: Pages) -> None:
        held = pages.within(first, last)
        straddling = [mapping for mapping in held if mapping.first < first or mapping.last > last]
        if straddling:
            with pytest.raises(Straddle) as refused:
                table.remove(first, last)
            error = refused.value
            assert (error.first, error.last) == (first, last)
            assert (error.held_first, error.held_last) == (straddling[0].first, straddling[0].last)
        else:
            assert list(table.remove(first, last)) == held
            pages.take(held)

    return step


def cut(first: int, last: int) -> Step:
    """Cut a range out: whole mappings go, and what reaches out comes back where it led before."""

    def step(table: Watched, pages: Pages) -> None:
        held = pages.within(first, last)
        reached = {
            at: (mapping.target + at - mapping.first, mapping.perm, mapping.memory)
            for mapping in held
            for at in range(mapping.first, mapping.last + 1)
            if not first <= at <= last
        }

        done = table.cut(first, last)

        assert list(done.removed) == held
        assert done.first == min([first, *(mapping.first for mapping in held)])
        assert done.last == max([last, *(mapping.last for mapping in held)])
        assert {
            at: (mapping.target + at - mapping.first, mapping.perm, mapping.memory)
            for mapping in done.survivors
            for at in range(mapping.first, mapping.last + 1)
        } == reached
        assert len(done.survivors) == (bool(held) and held[0].first < first) + (bool(held) and held[-1].last > last)
        pages.take(held)
        for survivor in done.survivors:
            pages.put(survivor)

    return step


def ranges(base: int, size: int) -> Iterator[Range]:
    """Yield every range on ``size`` addresses from ``base``."""
    for first in range(base, base + size):
        for last in range(first, base + size):
            yield first, last


def check_reads(table: Watched, pages: Pages, base: int, size: int) -> None:
    """Compare every lookup and every walk on ``size`` addresses from ``base``, and one to each side."""
    low, high = max(base - 1, 0), min(base + size, LAST)
    for address in range(low, high + 1):
        assert table.lookup(address) == pages.owner.get(address)
    for first, last in ranges(low, high - low + 1):
        whole = pages.within(first, last)
        for limit in range(len(whole) + 2):
            assert table.walk(first, last, limit) == whole[:limit]


def explore(start: Watched, base: int, size: int, targets: Sequence[int]) -> int:
    """Do every step in every state that any history can reach, and return how many states there are.

    Targets are the address plus one of ``targets``, so that an equal mapping
    can be inserted again, and so that the states have an end.
    """
    every = list(ranges(base, size))
    steps = [remove(*edges) for edges in every] + [cut(*edges) for edges in every]
    for offset, (first, last) in product(targets, every):
        memory = RAM if offset % 2 else None
        steps.append(insert(Mapping(first, last, first - base + offset, PERMS[1 + offset % 3], memory)))

    seen, todo = {start.layout}, [start]
    while todo:
        state = todo.pop()
        pages = Pages(list(state))
        check_reads(state, pages, base, size)
        for step in steps:
            table, beside = state.copy(), Pages()
            beside.owner = dict(pages.owner)
            step(table, beside)
            table.check()
            assert list(table) == beside.all()
            if (layout := table.layout) not in seen:
                seen.add(layout)
                todo.append(table)

    return len(seen)


# -- every state, and long histories -----------------------------------------


@pytest.mark.parametrize(
    ("chunk", "base", "size", "targets", "stay"),
    [
        (2, 0, 3, (1000, 2003), 1),
        (2, LAST - 3, 4, (1000,), 2),
        (2, 0, 5, (1000,), 1),
        (4, LAST - 4, 5, (1000,), STAY),
        (1, 7, 4, (1000,), 1),
    ],
)
def test_every_step_in_every_state(
    made: Made, chunk: int, base: int, size: int, targets: tuple[int, ...], stay: int
) -> None:
    """On a few addresses, at both ends of the space, no history however long parts the table from a page array."""
    assert explore(made(chunk, stay), base, size, targets) > 30


@pytest.mark.parametrize(("chunk", "stay"), [(2, 1), (3, 2), (4, 8), (16, 1), (33, 3), (64, 8), (CHUNK, STAY)])
@pytest.mark.parametrize(("base", "size"), [(0, 900), (LAST - 299, 300)])
def test_long_random_histories(made: Made, chunk: int, stay: int, base: int, size: int) -> None:
    """Over hundreds of steps, through divided and joined chunks, the table stays equal to a page array."""
    rng = random.Random(chunk * 1000 + size)  # noqa: S311
    table, pages = made(chunk, stay, kinds=8), Pages()
    memories = [None, *(Memory("ram", generation, LAST) for generation in range(1, 9))]
    target = 0
    for at in range(600):
        growing = at % 300 < 200
        length = rng.choice([1, 1, 2, 3, 9] if growing else [1, 2, 9, 60])
        first = rng.randrange(size)
        last = min(first + length, size) - 1
        near = table.lookup(base + first)
        choice = rng.random()
        target += 1000
        if choice < (0.75 if growing else 0.1):
            step = insert(Mapping(base + first, base + last, target, PERMS[rng.randrange(1, 4)], rng.choice(memories)))
        elif near and choice < 0.85:
            step = remove(near.first, near.last)
        elif near and choice < 0.88:
            step = insert(near)
        elif choice < 0.95:
            step = remove(base + first, base + last)
        else:
            step = cut(base + first, base + last)

        step(table, pages)

        table.check()
        if at % 20 == 0:
            assert list(table) == pages.all()
            middle = base + first
            check_reads(table, pages, min(middle, base + size - 4), 4)
    assert list(table) == pages.all()


# -- insert ------------------------------------------------------------------


def filled(made: type[W], chunk: int, *edges: Range) -> W:
    """Return a table with these ranges; each leads to its first address plus 0x10000."""
    table = made(chunk)
    for first, last in edges:
        assert table.insert(first, last, first + 0x10000, Perm.RW)
    return table


def m(first: int, last: int) -> Mapping:
    """Return the mapping that `filled` makes of a range."""
    return Mapping(first, last, first + 0x10000, Perm.RW)


def in_chunks(made: type[W], chunk: int, sizes: Sequence[int], step: int = 1, stay: int = STAY) -> W:
    """Return a table with chunks of these sizes; its mappings are ``step`` apart, with gaps from 4 on."""
    mappings = (m(at * step, at * step + step * 5 // 8) for at in count())
    return cast("W", made.divided(chunk, *(list(islice(mappings, size)) for size in sizes), stay=stay))


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ((15, 20), (10, 15)),
        ((14, 15), (10, 15)),
        ((5, 10), (10, 15)),
        ((10, 10), (10, 15)),
        ((11, 14), (10, 15)),
        ((10, 14), (10, 15)),
        ((10, 16), (10, 15)),
        ((9, 16), (10, 15)),
        ((16, 30), (30, 35)),
        ((0, LAST), (10, 15)),
        ((36, LAST), (50, 55)),
        ((55, 60), (50, 55)),
        ((LAST, LAST), (70, LAST)),
        ((69, 70), (70, LAST)),
    ],
)
def test_a_mapping_over_a_live_one_is_refused(made: Made, chunk: int, wanted: Range, held: Range) -> None:
    """One shared address is an overlap; the lowest mapping in the way is named, and nothing changes."""
    table = filled(made, chunk, (10, 15), (30, 35), (50, 55), (70, LAST))
    before = list(table)

    with pytest.raises(Overlap) as refused:
        table.insert(*wanted, 7, Perm.R)

    assert (refused.value.first, refused.value.last) == wanted
    assert (refused.value.held_first, refused.value.held_last) == held
    assert list(table) == before
    table.check()


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("wanted", [(0, 9), (9, 9), (16, 29), (16, 16), (29, 29), (20, 22), (36, 49), (56, 69)])
def test_touching_is_no_overlap(made: Made, chunk: int, wanted: Range) -> None:
    """A mapping fits into a gap to its last byte."""
    table = filled(made, chunk, (10, 15), (30, 35), (50, 55), (70, LAST))

    assert table.insert(*wanted, 7, Perm.R)

    assert table.lookup(wanted[0]) == table.lookup(wanted[1]) == Mapping(*wanted, 7, Perm.R)
    assert len(table) == 5
    table.check()


@pytest.mark.parametrize(
    "other",
    [
        (10, 14, 100, 3, RAM),
        (10, 16, 100, 3, RAM),
        (9, 15, 100, 3, RAM),
        (10, 15, 101, 3, RAM),
        (10, 15, 100, 1, RAM),
        (10, 15, 100, 3, None),
        (10, 15, 100, 3, Memory("ram", 2, LAST)),
    ],
)
def test_the_very_same_mapping_is_nothing_new(made: Made, other: tuple[int, int, int, int, Memory | None]) -> None:
    """An equal mapping changes nothing and is no error; whatever differs in one field is refused."""
    table = made(4)
    assert table.insert(10, 15, 100, Perm.RW, RAM) is True

    assert table.insert(10, 15, 100, Perm.RW, RAM) is False
    assert table.insert(10, 15, 100, 3, Memory("ram", 1, LAST)) is False
    with pytest.raises(Overlap):
        table.insert(*other)

    assert list(table) == [Mapping(10, 15, 100, Perm.RW, RAM)]


@pytest.mark.parametrize("edges", [(0, 0), (LAST, LAST), (0, LAST), (1, LAST), (0, LAST - 1)])
def test_one_mapping_may_be_anywhere(made: Made, edges: Range) -> None:
    """The first byte, the last byte and the whole space are mapped, found and removed like any other."""
    table = made(2)
    first, last = edges
    mapping = Mapping(first, last, LAST - (last - first), Perm.W)

    assert table.insert(first, last, LAST - (last - first), Perm.W)

    assert table.lookup(first) == table.lookup(last) == mapping
    assert (table.lookup(first - 1) if first else None) is None
    assert (table.lookup(last + 1) if last < LAST else None) is None
    assert table.walk(0, LAST, 2) == [mapping]
    assert list(table.remove(0, LAST)) == [mapping]
    assert len(table) == 0
    assert list(table) == []


def test_an_empty_table_answers(made: Made) -> None:
    """Nothing is mapped, nothing is removed, nothing is cut; and nothing changes by asking."""
    table = made(2)

    for address in (0, 1, LAST):
        assert table.lookup(address) is None
    assert table.walk(0, LAST, 9) == []
    assert len(table.remove(0, LAST)) == 0
    assert len(table.remove(5, 5)) == 0
    done = table.cut(5, 9)
    assert (done.first, done.last, len(done.removed), len(done.survivors)) == (5, 9, 0, 0)
    assert table.layout == made(2).layout
    table.check()


def test_permissions_come_back_as_what_they_are(made: Made) -> None:
    """Each permission is stored as a number and comes back as the `Perm` of that number."""
    assert list(PERMS) == [Perm(value) for value in range(4)]
    assert all(type(perm) is Perm for perm in PERMS)
    for perm in (Perm.R, Perm.W, Perm.RW):
        table = made(2)
        table.insert(0, 0, 0, int(perm))
        found = table.lookup(0)
        assert found is not None
        assert found.perm is perm


# -- memories ----------------------------------------------------------------


@pytest.mark.parametrize("stay", [1, STAY])
def test_the_memory_of_a_mapping_is_kept_with_it(made: Made, stay: int) -> None:
    """Each comes back as it went in: by lookup, walk and removal, one by one or as pieces."""
    other = Memory("ram", 2, LAST)
    wanted = [
        Mapping(at, at, at, perm, memory)
        for at, (perm, memory) in enumerate(product((Perm.R, Perm.W, Perm.RW), (None, RAM, other)))
    ]
    table = made(4, stay)
    for mapping in wanted:
        table.insert(mapping.first, mapping.last, mapping.target, int(mapping.perm), mapping.memory)

    assert table.walk(0, LAST, 9) == [table.lookup(at) for at in range(9)] == wanted
    assert all(type(mapping.perm) is Perm for mapping in table)
    assert list(table.remove(4, 4)) == [wanted[4]]
    assert list(table.remove(0, LAST)) == wanted[:4] + wanted[5:]


@pytest.mark.parametrize("perm", [Perm.R, Perm.W, Perm.RW])
@pytest.mark.parametrize("stay", [1, STAY])
def test_a_mapping_that_leads_into_a_memory_is_found(made: Made, perm: Perm, stay: int) -> None:
    """Whatever it allows and wherever it stands; of other memories and generations none."""
    table = made(4, stay)
    for at in range(20):
        table.insert(at, at, at, Perm.RW, Memory("ram", 2, LAST) if at % 2 else None)
    assert table.leading_to(RAM) is None
    for at in range(20):
        held = table.remove(at, at)[0]
        table.insert(at, at, 7, perm, RAM)
        assert table.leading_to(RAM) == Mapping(at, at, 7, perm, RAM)
        table.remove(at, at)
        table.insert(at, at, at, Perm.RW, held.memory)
        assert table.leading_to(RAM) is None


@pytest.mark.parametrize("chunk", [4, CHUNK])
def test_memories_of_no_mapping_are_let_go(made: Made, chunk: int) -> None:
    """Of many memories that came and went, some more than there is room for are held by the table, and no more."""
    memories = [Memory("ram", generation, LAST) for generation in range(200)]
    before = [sys.getrefcount(memory) for memory in memories]
    table = made(chunk, 1, kinds=16)
    for at, memory in enumerate(memories):
        table.insert(0, 0, at, Perm.R, memory)
        table.insert(at + 1, at + 1, at, Perm.R)
        assert list(table.remove(0, 0)) == [Mapping(0, 0, at, Perm.R, memory)]

    held = [memory for memory, count in zip(memories, before, strict=True) if sys.getrefcount(memory) > count + 1]
    assert len(held) <= 16
    assert table.leading_to(memories[-1]) is None
    del table, held
    assert [sys.getrefcount(memory) for memory in memories] == [count + (at == 199) for at, count in enumerate(before)]


def test_kinds_of_no_mapping_are_forgotten(made: Made) -> None:
    """Memories may come and go for ever; what was cut out before keeps the one that it had."""
    table = made(4, 1, kinds=8)
    table.insert(0, 0, 0, Perm.R, RAM)
    cut_out: list[tuple[Sequence[Mapping], list[Mapping]]] = []
    for generation in range(2, 100):
        memory = Memory("ram", generation, LAST)
        wanted = [Mapping(at, at, at, perm, memory) for at, perm in ((4, Perm.R), (5, Perm.W), (9, Perm.RW))]
        for mapping in wanted:
            table.insert(mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory)
        table.check()
        assert list(table) == [Mapping(0, 0, 0, Perm.R, RAM), *wanted]
        assert isinstance(table, WatchedCompiled) or len(table.kinds) <= 14
        cut_out.append((table.remove(4, 9), wanted))
        table.check()

    assert all(list(pieces) == wanted for pieces, wanted in cut_out)
    assert table.leading_to(RAM) == Mapping(0, 0, 0, Perm.R, RAM)


# -- remove ------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize(
    ("window", "held"),
    [
        ((11, 15), (10, 15)),
        ((10, 14), (10, 15)),
        ((15, 15), (10, 15)),
        ((15, 60), (10, 15)),
        ((9, 14), (10, 15)),
        ((10, 34), (30, 35)),
        ((16, 30), (30, 35)),
        ((0, 54), (50, 55)),
        ((12, 54), (10, 15)),
        ((31, 54), (30, 35)),
        ((10, LAST - 1), (70, LAST)),
        ((LAST, LAST), (70, LAST)),
    ],
)
def test_a_range_that_cuts_a_mapping_is_refused(made: Made, chunk: int, window: Range, held: Range) -> None:
    """An edge one byte inside a mapping is refused, with the lower mapping that is cut; nothing changes."""
    table = filled(made, chunk, (10, 15), (30, 35), (50, 55), (70, LAST))
    before = list(table)

    with pytest.raises(Straddle) as refused:
        table.remove(*window)

    assert (refused.value.first, refused.value.last) == window
    assert (refused.value.held_first, refused.value.held_last) == held
    assert list(table) == before
    table.check()


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("reach", [0, 5])
def test_a_sparse_range_gives_back_what_was_in_it(made: Made, chunk: int, reach: int) -> None:
    """From any mapping to any other, over any number of chunks, the pieces come out in order with their targets."""
    everything = [m(at * 16 + 8, at * 16 + 9) for at in range(9)]
    for start, stop in ranges(0, 9):
        table = filled(made, chunk, *((mapping.first, mapping.last) for mapping in everything))

        removed = table.remove(start * 16 + 8 - reach, stop * 16 + 9 + reach)

        assert list(removed) == everything[start : stop + 1]
        assert list(table) == everything[:start] + everything[stop + 1 :]
        table.check()
        for mapping in removed:
            assert table.insert(mapping.first, mapping.last, mapping.target, mapping.perm)
        assert list(table) == everything
        table.check()


@pytest.mark.parametrize("at", range(4))
def test_one_mapping_comes_out_by_itself(made: Made, at: int) -> None:
    """Removing exactly one mapping of a chunk, wherever it stands, gives a plain tuple: no chunk is cut out for it."""
    edges = [(16 * at, 16 * at + 9) for at in range(4)]
    table = filled(made, 4, *edges)

    assert table.remove(*edges[at]) == (m(*edges[at]),)

    assert table.lookup(16 * at) is None
    assert list(table) == [m(*edge) for edge in edges if edge != edges[at]]
    table.check()


@pytest.mark.parametrize("at", [0, 1])
def test_the_last_but_one_comes_out_by_itself_too(made: Made, at: int) -> None:
    """A chunk of two is no special case; the last mapping takes its chunk along, and comes out by itself as well."""
    table = filled(made, 2, (0, 9), (16, 25))

    assert table.remove(16 * at, 16 * at + 9) == (m(16 * at, 16 * at + 9),)
    assert table.remove(16 - 16 * at, 25 - 16 * at) == (m(16 - 16 * at, 25 - 16 * at),)
    assert table.chunk_sizes == []


def test_nothing_is_removed_where_nothing_is(made: Made) -> None:
    """A range that lies in a gap removes nothing, before, between, inside and behind the chunks."""
    table = filled(made, 2, *((at * 16 + 4, at * 16 + 9) for at in range(4)))
    before = table.chunk_sizes

    for first, last in [(0, 3), (10, 19), (10, 10), (19, 19), (26, 35), (58, LAST), (LAST, LAST)]:
        assert len(table.remove(first, last)) == 0
        table.check()

    assert list(table) == [m(at * 16 + 4, at * 16 + 9) for at in range(4)]
    assert table.chunk_sizes == before


# -- cut ---------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize(
    ("window", "edges", "removed", "survivors"),
    [
        ((12, 13), (10, 15), [(10, 15)], [(10, 11), (14, 15)]),
        ((10, 13), (10, 15), [(10, 15)], [(14, 15)]),
        ((12, 15), (10, 15), [(10, 15)], [(10, 11)]),
        ((10, 15), (10, 15), [(10, 15)], []),
        ((9, 16), (9, 16), [(10, 15)], []),
        ((15, 30), (10, 35), [(10, 15), (30, 35)], [(10, 14), (31, 35)]),
        ((14, 52), (10, 55), [(10, 15), (30, 35), (50, 55)], [(10, 13), (53, 55)]),
        ((20, 25), (20, 25), [], []),
        ((56, 69), (56, 69), [], []),
        ((LAST, LAST), (70, LAST), [(70, LAST)], [(70, LAST - 1)]),
        ((70, 70), (70, LAST), [(70, LAST)], [(71, LAST)]),
        ((0, LAST), (0, LAST), [(10, 15), (30, 35), (50, 55), (70, LAST)], []),
    ],
)
def test_survivors_of_a_cut_keep_their_targets(
    made: Made, chunk: int, window: Range, edges: Range, removed: list[Range], survivors: list[Range]
) -> None:
    """What a cut leaves of a mapping leads where it led before; the edges cover the whole mappings that went."""
    table = filled(made, chunk, (10, 15), (30, 35), (50, 55), (70, LAST))

    done = table.cut(*window)

    assert isinstance(done, Cut)
    assert (done.first, done.last) == edges
    assert list(done.removed) == [m(*piece) for piece in removed]
    assert list(done.survivors) == [m(*piece) for piece in survivors]
    assert set(survivors) <= {(mapping.first, mapping.last) for mapping in table}
    assert table.walk(*window, 1) == []
    table.check()


# -- chunks ------------------------------------------------------------------


def test_the_chunk_size_is_what_was_measured(made: Made) -> None:
    """Without an argument a chunk takes `CHUNK` mappings, and not one more."""
    table = made()
    for at in range(CHUNK):
        table.insert(at, at, at, 1)
    assert table.chunk_sizes == [CHUNK]

    table.insert(CHUNK, CHUNK, CHUNK, 1)

    assert len(table.chunk_sizes) == 2
    assert CHUNK == 128


@pytest.mark.parametrize(
    ("chunk", "upwards", "downwards"),
    [
        (1, [1] * 9, [1] * 9),
        (2, [1] * 7 + [2], [1, 2, 2, 2, 2]),
        (4, [3, 3, 3], [1, 4, 4]),
        (8, [6, 3], [2, 7]),
        (9, [9], [9]),
    ],
)
def test_growth_at_an_end_leaves_the_greater_part_behind(
    made: Made, chunk: int, upwards: list[int], downwards: list[int]
) -> None:
    """A guest that maps upwards, or downwards, leaves three quarters of each full chunk behind it."""
    assert filled(made, chunk, *((at, at) for at in range(9))).chunk_sizes == upwards
    assert filled(made, chunk, *((8 - at, 8 - at) for at in range(9))).chunk_sizes == downwards


def test_growth_at_an_end_leaves_no_chunk_full(made: Made) -> None:
    """What is left behind has room for a quarter of a chunk more, so that to fill a hole divides nothing."""
    upwards = filled(made, 64, *((at, at) for at in range(1000)))
    downwards = filled(made, 64, *((at, at) for at in reversed(range(1000))))

    assert set(upwards.chunk_sizes[:-1]) == {48}
    assert set(downwards.chunk_sizes[1:]) == {49}


@pytest.mark.parametrize(
    ("chunk", "held", "new", "sizes"),
    [
        (4, [[0, 2, 4, 6]], 3, [2, 3]),
        (4, [[0, 2, 4, 6]], 1, [2, 3]),
        (4, [[0, 2, 4, 6]], 5, [2, 3]),
        (4, [[0, 2, 4, 6]], 7, [3, 2]),
        (4, [[1, 2, 4, 6]], 0, [1, 4]),
        (4, [[0, 2, 4, 6], [8]], 7, [2, 3, 1]),
        (4, [[1, 2, 4, 6], [8]], 0, [1, 4, 1]),
        (4, [[0], [2, 4, 6, 8]], 3, [1, 2, 3]),
        (4, [[0], [2, 4, 6, 8]], 9, [1, 3, 2]),
        (8, [range(0, 16, 2)], 1, [4, 5]),
        (8, [range(0, 16, 2)], 13, [4, 5]),
        (8, [range(0, 16, 2)], 15, [6, 3]),
        (8, [range(2, 18, 2)], 0, [2, 7]),
    ],
)
def test_a_full_chunk_is_halved_anywhere_else(
    made: Made, chunk: int, held: list[Sequence[int]], new: int, sizes: list[int]
) -> None:
    """An insertion anywhere but at an end of the whole table divides its chunk into halves."""
    table = made.divided(chunk, *([m(at, at) for at in group] for group in held))

    assert table.insert(new, new, 0, Perm.R)

    assert table.chunk_sizes == sizes
    assert [mapping.first for mapping in table] == sorted([new, *chain.from_iterable(held)])
    table.check()


def test_a_full_chunk_behind_the_first_is_halved_at_its_front_too() -> None:
    """Only the table's own ends count as growth: the front of a later chunk does not.

    Only where a place is remembered can something be inserted there.
    """
    table = in_chunks(WatchedPure, 4, [4, 4], 2, stay=1)
    table.remove(10, 11)
    table.insert(10, 10, 0, Perm.R)  # from now on the place of insertions is where it began with 8
    table.remove(8, 9)
    table.insert(11, 11, 0, Perm.R)

    table.insert(8, 8, 0, Perm.R)

    assert table.chunk_sizes == [4, 2, 3]
    table.check()


@pytest.mark.parametrize(
    ("chunk", "sparse"), [(1, 0), (2, 0), (7, 0), (8, 1), (15, 1), (16, 2), (24, 3), (64, 8), (72, 9)]
)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_sparse_chunk_joins_its_neighbour(made: Made, chunk: int, sparse: int, at_once: bool) -> None:
    """Below an eighth of a chunk, and not before, a chunk is joined with a neighbour; at once or one by one."""
    table = in_chunks(made, chunk, [chunk, 1])

    if at_once:
        table.remove(sparse, chunk - 1)
    else:
        for at in reversed(range(sparse, chunk)):
            table.remove(at, at)

    assert table.chunk_sizes == ([sparse, 1] if sparse else [1])
    if sparse:
        table.remove(0, 0)
        assert table.chunk_sizes == ([sparse] if sparse > 1 else [1])
    table.check()


@pytest.mark.parametrize(("room", "sizes"), [(0, [8]), (1, [1, 8])])
@pytest.mark.parametrize("at_once", [False, True])
def test_chunks_join_only_where_both_fit_in_half_a_chunk(
    made: Made, room: int, sizes: list[int], at_once: bool
) -> None:
    """Joined chunks have room to grow: half a chunk of mappings is joined, one more is not."""
    table = in_chunks(made, 16, [16, 7 + room])

    if at_once:
        table.remove(1, 15)
    else:
        for at in range(1, 16):
            table.remove(at, at)

    assert table.chunk_sizes == sizes
    assert [mapping.first for mapping in table] == [0, *range(16, 23 + room)]
    table.check()


@pytest.mark.parametrize("at_once", [False, True])
def test_the_last_chunk_joins_the_one_before(made: Made, at_once: bool) -> None:
    """A sparse chunk at the end has only one neighbour, and joins that."""
    table = in_chunks(made, 16, [4, 16])

    if at_once:
        table.remove(5, 19)
    else:
        for at in range(5, 20):
            table.remove(at, at)

    assert table.chunk_sizes == [5]
    assert [mapping.first for mapping in table] == [0, 1, 2, 3, 4]
    table.check()
    assert table.insert(40, 40, 0, Perm.R)
    assert table.lookup(40) is not None
    table.check()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_sparse_chunk_in_the_middle_joins_the_one_behind(made: Made, at_once: bool) -> None:
    """Of two neighbours the one behind is taken."""
    table = in_chunks(made, 16, [3, 16, 4])

    if at_once:
        table.remove(4, 18)
    else:
        for at in range(4, 19):
            table.remove(at, at)

    assert table.chunk_sizes == [3, 5]
    table.check()


def test_what_a_range_leaves_of_two_chunks_is_joined(made: Made) -> None:
    """A removal over the border of two chunks leaves one mapping in the lower: it joins the rest of the upper."""
    table = in_chunks(made, 16, [16, 16])

    table.remove(1, 25)

    assert table.chunk_sizes == [7]
    assert [mapping.first for mapping in table] == [0, *range(26, 32)]
    table.check()


def test_who_works_in_a_chunk_stays_at_work_when_it_is_joined(made: Made) -> None:
    """A chunk that is joined with the one before is left by both who have a place in it, so that no change is lost."""
    table = in_chunks(made, 16, [4, 15], 4, stay=1)
    table.insert(19, 19, 0, Perm.R)
    for at in range(5, 19):
        table.remove(at * 4, at * 4 + 2)
    assert table.chunk_sizes == [4, 2]

    table.remove(19, 19)
    assert table.chunk_sizes == [5]
    table.insert(20, 20, 0, Perm.R)
    table.remove(16, 18)

    assert [mapping.first for mapping in table] == [0, 4, 8, 12, 20]
    table.check()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_single_sparse_chunk_stays_alone(made: Made, at_once: bool) -> None:
    """A table of one chunk shrinks to nothing without a neighbour to join."""
    table = in_chunks(made, 64, [20])

    if at_once:
        table.remove(2, 19)
    else:
        for at in reversed(range(2, 20)):
            table.remove(at, at)

    assert [mapping.first for mapping in table] == [0, 1]
    table.check()


def test_a_chunk_that_is_worked_on_becomes_lists() -> None:
    """From the eighth change in a row on a chunk has lists, which are quicker; work elsewhere makes it small again."""
    table = in_chunks(WatchedPure, 16, [16, 1], 16)

    for at in range(1, 8):
        table.remove(at * 16, at * 16 + 10)
        assert table.columns == [array, array]
    table.remove(128, 138)
    assert table.columns == [list, array]
    assert STAY == 8
    table.insert(0x18, 0x18, 0, Perm.R)
    assert table.columns == [list, array]
    table.insert(LAST, LAST, 0, Perm.R)
    assert table.columns == [list, array]
    table.remove(LAST, LAST)

    assert table.columns == [array, array]
    table.check()


def test_what_is_mapped_and_what_is_unmapped_have_a_place_each() -> None:
    """A guest maps at one end and unmaps at the other; where both meet, the last to leave makes the chunk small."""
    table = in_chunks(WatchedPure, 4, [3, 2], 8, stay=1)
    table.insert(62, 62, 0, Perm.R)
    assert table.columns == [array, list]
    table.remove(0, 5)
    assert table.columns == [list, list]

    table.remove(62, 62)
    assert table.columns == [array, list]
    table.insert(1, 1, 0, Perm.R)
    assert table.columns == [list, list]
    table.remove(1, 1)
    assert table.columns == [list, array]
    table.insert(62, 62, 0, Perm.R)
    assert table.columns == [list, list]
    table.check()


@pytest.mark.parametrize("changes", [1, 7, 8, 9])
def test_only_changes_in_a_row_count(changes: int) -> None:
    """Changes in another chunk between them start the count again."""
    table = in_chunks(WatchedPure, 16, [16, 16, 1], 16)
    for _ in range(3):
        table.remove(LAST, LAST)
        table.insert(LAST, LAST, 0, Perm.R)
        assert table.columns == [array, array, array]
        for at in range(changes):
            table.remove(at * 16 + 16, at * 16 + 26)
        assert table.columns == [list if changes >= 8 else array, array, array]
        table.check()
        table.remove(LAST, LAST)
        for at in range(changes):
            table.insert(at * 16 + 16, at * 16 + 26, at, Perm.R)
        table.check()


# -- reading -----------------------------------------------------------------


@pytest.mark.parametrize(("last", "limit", "number"), [(40, 9, 3), (LAST, 3, 3), (31, 9, 2), (47, 3, 3), (LAST, 0, 0)])
def test_a_walk_looks_no_further_than_it_has_to(last: int, limit: int, number: int) -> None:
    """With a full answer, or at the end of its range, a walk touches no chunk behind: a table may be huge."""
    table = in_chunks(WatchedPure, 2, [2, 2, 2, 2], 16)
    table.forbid_chunks(2)

    assert table.walk(0, last, limit) == [m(at * 16, at * 16 + 10) for at in range(number)]


def test_iteration_goes_over_every_mapping_in_order(made: Made) -> None:
    """The table is iterated by address, mapping by mapping, however it is divided."""
    for chunk in (1, 2, 4, 16):
        table = filled(made, chunk, *((at * 16, at * 16 + 9) for at in (5, 3, 4, 0, 1, 2)))

        assert [mapping.first for mapping in table] == [0, 16, 32, 48, 64, 80]
        assert next(iter(table)) == m(0, 9)


# -- pieces and mappings -----------------------------------------------------


def test_a_mapping_clips_with_its_target() -> None:
    """On six addresses, for every window that overlaps: the part that is left leads where it led."""
    mapping = Mapping(2, 4, 100, Perm.W, RAM)
    for first, last in ranges(0, 7):
        if first > 4 or last < 2:
            continue
        part = mapping.clip(first, last)

        assert (part.first, part.last) == (max(first, 2), min(last, 4))
        assert part.target - part.first == 98
        assert part.perm is Perm.W
        assert part.memory is RAM
        assert (part is mapping) == (first <= 2 and last >= 4)


def test_mappings_are_values() -> None:
    """A mapping has a size up to 2^64, prints for people, and compares by address."""
    whole = Mapping(0, LAST, 0, Perm.R)

    assert whole.size == 2**64
    assert whole.event("vtd0", 7) == Map("vtd0", 7, 0, LAST, 0, Perm.R)
    assert Mapping(3, 9, 5, Perm.W).event("s", 1) == Map("s", 1, 3, 9, 5, Perm.W)
    assert Mapping(3, 9, 5, Perm.W, RAM).event("s", 1) == Map("s", 1, 3, 9, 5, Perm.W, RAM)
    assert str(Mapping(3, 9, 5, Perm.W, RAM)) == "0x3..0x9 -> ram@1+0x5 <Perm.W: 2>"
    assert Mapping(7, 7, 0, Perm.R).size == 1
    assert str(Mapping(0x1000, 0x1FFF, 0xABC000, Perm.RW)) == "0x1000..0x1fff -> 0xabc000 <Perm.RW: 3>"
    assert not gc.is_tracked(whole)
    with pytest.raises(AttributeError):
        setattr(whole, "last", 0)  # noqa: B010
    assert sorted([Mapping(2, 2, 0, Perm.R), whole]) == [whole, Mapping(2, 2, 0, Perm.R)]


def test_a_mapping_travels_as_an_array() -> None:
    """Its fields are sent in the order in which they stand here, without their names."""
    assert msgspec.to_builtins(Mapping(1, 2, 3, Perm.W)) == [1, 2, 3, 2, None]
    assert msgspec.to_builtins(Mapping(1, 2, 3, Perm.W, Memory("ram", 1, 5))) == [1, 2, 3, 2, ["ram", 1, 5]]
    assert msgspec.convert([1, 2, 3, 2], Mapping) == Mapping(1, 2, 3, Perm.W)


def test_what_a_cut_did_is_a_value(made: Made) -> None:
    """It cannot be changed, and is no work for the garbage collector."""
    done = made().cut(0, LAST)

    assert not gc.is_tracked(done)
    with pytest.raises(AttributeError):
        setattr(done, "first", 1)  # noqa: B010


def cut_out(made: Made, *sizes: int) -> tuple[Sequence[Mapping], list[Mapping]]:
    """Return what was cut out of a table with chunks of these sizes, as pieces and as a list."""
    table = in_chunks(made, 8, sizes, 16)
    expected = list(table)
    pieces = table.remove(0, LAST)
    assert isinstance(pieces, Sequence)
    return pieces, expected


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1, 1], [2, 2, 1], [3, 3], [6], [1, 4, 2]])
def test_pieces_are_a_sequence(made: Made, sizes: list[int]) -> None:
    """Pieces have a length, an order, and an index from both ends, like a list of mappings."""
    pieces, expected = cut_out(made, *sizes)
    size = sum(sizes)

    assert len(pieces) == size
    assert list(pieces) == expected
    assert [pieces[at] for at in range(size)] == expected
    assert [pieces[at] for at in range(-size, 0)] == expected
    assert list(reversed(pieces)) == expected[::-1]
    for outside in (size, size + 1, -size - 1, -size - 2, LAST):
        with pytest.raises(IndexError, match=str(outside)):
            pieces[outside]
    for start, stop, step in product([None, 0, 1, -2, 9], [None, 1, 4, -1], [None, 2, -1]):
        assert pieces[start:stop:step] == expected[start:stop:step]
    assert expected[-1] in pieces
    assert m(7, 7) not in pieces
    assert repr(pieces) == f"<{size} pieces>"


def test_no_pieces_are_an_empty_sequence(made: Made) -> None:
    """What was removed from a gap is false, and has no first piece."""
    table = filled(made, 4, (0, 9), (32, 41))

    pieces = table.remove(10, 31)

    assert not pieces
    assert list(pieces) == []
    assert pieces[:] == []
    with pytest.raises(IndexError):
        pieces[0]
    with pytest.raises(IndexError):
        pieces[-1]


def test_pieces_are_made_when_they_are_looked_at(made: Made) -> None:
    """Pieces hold columns of numbers: each look makes its mapping anew, and two iterations do not meet."""
    pieces, expected = cut_out(made, 2, 2, 1)

    assert pieces[0] == pieces[0]
    assert pieces[0] is not pieces[0]
    one, other = iter(pieces), iter(pieces)
    assert [next(one), next(one), next(other), next(one)] == [*expected[:2], expected[0], expected[2]]


def test_the_last_piece_is_found_without_a_search() -> None:
    """Who removes a million mappings asks for the last address of them: no other chunk is looked at."""
    pieces = Pieces(chunks := [chunk_of([m(at, at), m(at + 1, at + 1)], []) for at in (0, 2, 4)])
    chunks[:2] = [cast("Chunk", None)] * 2

    assert pieces[-1] == m(5, 5)


def test_pieces_stay_what_they_were(made: Made) -> None:
    """What happens to the table afterwards does not reach the pieces that were cut out of it."""
    table = in_chunks(made, 2, [2, 2, 2, 2], 16)
    expected = list(table)

    removed = table.remove(16, 106)
    table.insert(16, 106, 0, Perm.R)
    table.remove(0, LAST)

    assert list(removed) == expected[1:7]


# -- a copy of a part -----------------------------------------------------------------


@pytest.mark.parametrize("limit", range(10))
def test_a_snapshot_has_so_many_mappings_and_says_where_there_are_more(made: Made, limit: int) -> None:
    """It goes by whole chunks, and stays as it was."""
    table = made(chunk=4)
    for page in range(9):
        table.insert(2 * page, 2 * page, page, Perm.R)
    before = list(table)
    pieces, rest = table.snapshot(limit)
    table.remove(0, 99)

    assert limit <= len(pieces) <= limit + 4
    assert list(pieces) == before[: len(pieces)]
    assert rest == (None if len(pieces) == 9 else (2 * len(pieces), 16))


def test_a_snapshot_of_nothing_is_empty(made: Made) -> None:
    pieces, rest = made().snapshot(5)

    assert (list(pieces), rest) == ([], None)
