"""What is compiled does the same as what is written in Python, and leaks nothing."""

import copy
import gc
import os
import pickle
import random
import subprocess
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import islice, product
from operator import length_hint
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

import iommubus.compiled
from iommubus.caps import Perm
from iommubus.chunks import Cut
from iommubus.compiled import PARTS, PURE, load, parts, summary
from iommubus.events import Memory
from iommubus.mapping import Mapping
from iommubus.ranges import LAST
from iommubus.table import PureTable, Table

if TYPE_CHECKING:
    from iommubus.compiled.table import Table as CompiledTable
else:
    CompiledTable = getattr(load("table"), "Table", PureTable)  # and where it is not there, no test takes it

SOURCES: Final = sorted(Path(iommubus.compiled.__file__).parent.glob("*.c"))

compiled_table = pytest.mark.skipif(
    load("table") is None, reason="the table was not compiled, or IOMMUBUS_PURE forbids it"
)


# -- what there is -----------------------------------------------------------


def told_by(**environ: str) -> str:
    """Return what another interpreter says it uses."""
    probe = "from iommubus.compiled import parts; from iommubus.table import Table; print(*parts(), Table.__module__)"
    inherited = {name: value for name, value in os.environ.items() if name != PURE}
    command = [sys.executable, "-c", probe]
    return subprocess.run(command, env=inherited | environ, capture_output=True, text=True, check=True).stdout.strip()


def test_what_python_does_can_be_asked_for() -> None:
    assert told_by(IOMMUBUS_PURE="1") == "iommubus.table"


@compiled_table
def test_what_is_compiled_is_used_otherwise() -> None:
    assert told_by().endswith("iommubus.compiled.table")
    assert told_by(IOMMUBUS_PURE="0") == told_by()


def test_the_table_is_the_compiled_one_if_it_is_there() -> None:
    assert Table is CompiledTable
    assert Table.__module__ == ("iommubus.table" if load("table") is None else "iommubus.compiled.table")
    assert parts() == [name for name in PARTS if load(name) is not None]


def test_people_are_told_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.compiled.parts", lambda: ["table", "other"])
    assert summary() == "compiled: table, other"
    monkeypatch.setattr("iommubus.compiled.parts", list)
    assert summary() == "all in Python"


def test_a_part_that_was_not_compiled_is_done_without() -> None:
    assert load("nothing") is None


def test_each_part_has_its_source() -> None:
    assert [source.stem for source in SOURCES] == sorted(PARTS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_compiler_has_nothing_to_say(source: Path, tmp_path: Path) -> None:
    headers = Path(sysconfig.get_path("include"))
    gcc = which("gcc")
    if gcc is None or not (headers / "Python.h").exists():
        pytest.skip("there is no gcc, or no header of Python")
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-shared", "-fPIC"]

    done = subprocess.run(
        [gcc, *options, f"-I{headers}", source, "-o", tmp_path / "made.so"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


# -- the table beside the one in Python ----------------------------------------

FOR_EVER: Final = 1 << 62
"""Changes in a row after which the table in Python remembers its place: it never does, and both divide alike."""

Said = tuple[object, ...]


def outcome(call: Callable[[], object]) -> Said:
    """Return what a call gives or raises, so that it can be compared."""
    try:
        return ("gives", plain(call()))
    except ValueError as error:
        return ("raises", type(error), error.args)


def plain(value: Any) -> object:
    """Return pieces as a list, wherever they are."""
    if value is None or isinstance(value, bool | Mapping | list):
        return cast("object", value)
    if isinstance(value, Cut):
        return value.first, value.last, list(value.removed), list(value.survivors)
    pieces = pieces_in(value)
    return pieces == value, type(value) is tuple, list(pieces), pieces == value or value[1]


def pieces_in(value: Any) -> Sequence[Mapping]:
    """Return the pieces in an answer; of a snapshot the first half of it."""
    if isinstance(value, Cut):
        return value.removed
    if isinstance(value, tuple) and value and not isinstance(value[0], Mapping):
        return cast("Sequence[Mapping]", value[0])
    return cast("Sequence[Mapping]", value) if isinstance(value, Sequence) else ()


class Divided(PureTable):
    """A table in Python that shows how it is divided."""

    @property
    def sizes(self) -> list[int]:
        """How many mappings each chunk has."""
        return [len(chunk) for chunk in self._chunks]


class Both:
    """Two tables, one in Python, to which the same is done.

    Args:
        seed: Of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        chunk, kinds = self.rng.choice([1, 2, 3, 4, 8, 16, 17, 40, 128]), self.rng.choice([6, 12, 1024])
        self.pure = Divided(chunk, FOR_EVER, kinds)
        self.compiled = CompiledTable(chunk, FOR_EVER, kinds)
        self.generation = 1
        self.base = self.rng.choice([0, 0, LAST - 400, LAST - 4000, 1 << 63, (1 << 63) - 100])
        self.size = min(self.rng.choice([20, 100, 401, 4000]), LAST - self.base + 1)
        self.kept: list[tuple[Sequence[Mapping], list[Mapping]]] = []

    def do(self, name: str, *args: object) -> None:
        """Have both do something, and compare what they say."""
        held: list[object] = []

        def call(table: object) -> object:
            held.append(getattr(table, name)(*args))
            return held[-1]

        assert outcome(lambda: call(self.pure)) == outcome(lambda: call(self.compiled)), (name, args)
        if held and self.rng.random() < 0.2:
            pieces = pieces_in(held[-1])
            self.kept.append((pieces, list(pieces)))

    def range(self) -> tuple[int, int]:
        """Return some range."""
        length = self.rng.choice([1, 1, 2, 3, 8, 8, 30, self.size])
        first = self.rng.randrange(self.size)
        return self.base + first, self.base + min(first + length, self.size) - 1

    def memory(self) -> Memory | None:
        """Return some memory, now and then a new one."""
        if self.rng.random() < 0.4:
            return None
        self.generation += self.rng.random() < 0.1
        return Memory("ram", max(1, self.generation - self.rng.randrange(3)), LAST)

    def step(self, growing: float) -> None:
        """Do one thing."""
        first, last = self.range()
        near = self.pure.lookup(first)
        choice = self.rng.random()
        if choice < growing:
            self.do("insert", first, last, self.rng.randrange(1 << 64), self.rng.randrange(1, 4), self.memory())
        elif near and choice < 0.8:
            self.do("remove", near.first, near.last)
        elif near and choice < 0.83:
            self.do("insert", near.first, near.last, near.target, near.perm, near.memory)
        else:
            name, more = self.rng.choice(
                [("remove", ()), ("cut", ()), ("walk", (self.rng.randrange(9),)), ("walk", (FOR_EVER,))]
            )
            self.do(name, first, last, *more)

    def look(self) -> None:
        """Compare all that can be seen."""
        first, last = self.range()
        for iova in (first, last, 0, LAST, -1, LAST + 1):
            self.do("lookup", iova)
        self.do("walk", -5, LAST + 5, 7)
        self.do("walk", first, last, -1)
        self.do("snapshot", self.rng.randrange(50))
        self.do("leading_to", Memory("ram", max(1, self.generation - self.rng.randrange(5)), LAST))
        assert list(self.pure) == list(self.compiled)
        assert len(self.pure) == len(self.compiled)
        assert self.pure.sizes == [len(group) for group in self.compiled.__getstate__()]
        assert all(list(pieces) == was and len(pieces) == len(was) for pieces, was in self.kept)
        del self.kept[:-20]


def differ(seed: int, steps: int) -> None:
    """Do so many random steps with both tables, and raise where they differ."""
    both = Both(seed)
    for at in range(steps):
        both.step(0.7 if at % 300 < 200 else 0.15)
        if at % 25 == 0:
            both.look()
    both.do("remove", 0, LAST)
    both.look()


@compiled_table
@pytest.mark.parametrize("seed", range(60))
def test_both_tables_do_and_say_the_same(seed: int) -> None:
    """Through random changes at all edges, down to how they are divided into chunks; what was cut out never changes."""
    differ(seed, 900)


# -- the compiled table by itself ------------------------------------------------


def some(count: int, chunk: int = 8) -> CompiledTable:
    """Return a compiled table of some mappings, every other of them into a memory."""
    table = CompiledTable(chunk)
    for at in range(count):
        table.insert(at * 16, at * 16 + 9, at, Perm.RW, Memory("ram", 1, LAST) if at % 2 else None)
    return table


@compiled_table
def test_a_table_and_what_was_cut_out_of_it_can_be_copied() -> None:
    """Copies are equal and do not change with it; pieces become a tuple."""
    table = some(30)
    again, deep, sent = copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))  # noqa: S301
    expected = table.__getstate__()
    pieces = table.remove(0, LAST)

    assert [one.__getstate__() for one in (again, deep, sent)] == [expected] * 3
    assert pickle.loads(pickle.dumps(pieces)) == tuple(pieces) == tuple(again)  # noqa: S301
    assert len(table) == 0


@compiled_table
def test_pieces_are_known_as_a_sequence() -> None:
    pieces = some(30).remove(16, LAST)

    assert isinstance(pieces, Sequence)
    assert pieces.index(pieces[7]) == 7
    assert pieces.count(pieces[7]) == 1
    assert length_hint(iter(pieces)) == 29
    with pytest.raises(TypeError):
        type(pieces)()


@compiled_table
@pytest.mark.parametrize("state", [[[]], [[Mapping(5, 4, 0, Perm.R)]], [[Mapping(4, 5, 0, Perm.R)] * 2], [7], 7])
def test_a_state_that_cannot_be_is_refused(state: Any) -> None:
    """Groups have to have mappings, in order, not too many of them."""
    table = CompiledTable(2)
    if state == [[]]:
        table.__setstate__(state)
    else:
        with pytest.raises((ValueError, TypeError)):
            table.__setstate__(state)
    full = some(3)
    with pytest.raises(ValueError, match="not empty"):
        full.__setstate__(())
    with pytest.raises(ValueError, match="too many"):
        CompiledTable(2).__setstate__([tuple(full)])


BAD: Final[list[tuple[str, tuple[object, ...]]]] = [
    ("insert", (0, 1, 2)),
    ("insert", (0, 1, 2, 3, None, 4)),
    ("insert", (2, 1, 0, 3)),
    ("insert", (-1, 1, 0, 3)),
    ("insert", (0, LAST + 1, 0, 3)),
    ("insert", (1000, 1000, LAST + 1, 3)),
    ("insert", (1000, 1000, -1, 3)),
    ("insert", ("0", 1, 0, 3)),
    ("insert", (0.0, 1, 0, 3)),
    ("insert", (1000, 1000, 0, 4)),
    ("insert", (1000, 1000, 0, -1)),
    ("insert", (1000, 1000, 0, "r")),
    ("insert", (1000, 1000, 0, 3, "ram")),
    ("remove", (1,)),
    ("remove", (5, 4)),
    ("remove", (None, None)),
    ("cut", (5, 4)),
    ("cut", ()),
    ("lookup", (None,)),
    ("walk", (0, 1)),
    ("walk", (0, 1, "2")),
    ("walk", ([], 1, 2)),
    ("snapshot", (None,)),
    ("leading_to", ()),
]
"""Calls that no caller who has checked makes."""


@compiled_table
@pytest.mark.parametrize(("name", "args"), BAD)
def test_what_was_not_checked_is_refused(name: str, args: tuple[object, ...]) -> None:
    """It is a C program: whatever it is given it raises an error and changes nothing."""
    table = some(9)
    before = table.__getstate__()

    with pytest.raises((TypeError, ValueError, OverflowError)):
        getattr(table, name)(*args)

    assert table.__getstate__() == before


@compiled_table
def test_arguments_have_names() -> None:
    table = CompiledTable(kinds=9, chunk=3, stay=2)

    assert table.insert(0, 9, perm=1, target=5)
    assert table.insert(first=16, last=25, target=5, perm=Perm.R, memory=Memory("ram", 1, 99))
    assert table.lookup(iova=3) == Mapping(0, 9, 5, Perm.R)
    assert table.walk(first=0, last=LAST, limit=1) == [Mapping(0, 9, 5, Perm.R)]
    assert table.leading_to(memory=Memory("ram", 1, 99)) == table.lookup(16)
    assert table.remove(last=9, first=0) == (Mapping(0, 9, 5, Perm.R),)
    remove: Any = table.remove
    for args, named in (((0, 9), {"first": 0}), ((), {"fist": 0, "last": 9}), ((0,), {"first": 0}), ((), {"last": 9})):
        with pytest.raises(TypeError):
            remove(*args, **named)
    with pytest.raises(ValueError, match="at least one"):
        CompiledTable(0)


@compiled_table
def test_iteration_is_of_one_moment() -> None:
    """What happens to the table while it is gone through is not seen: it goes through a copy."""
    table = some(40)
    expected = list(table)
    seen: list[Mapping] = []
    for mapping in table:
        seen.append(mapping)
        table.remove(mapping.first, mapping.last)
        table.insert(mapping.first + 1, mapping.last + 2, 7, Perm.R)

    assert seen == expected
    assert [mapping.first for mapping in table] == [mapping.first + 1 for mapping in expected]


@compiled_table
def test_what_is_held_is_known_to_no_collector() -> None:
    """A table and its pieces hold values alone; a million mappings are no work for the garbage collector."""
    table = some(1000)
    before = len(gc.get_objects())
    pieces = table.remove(0, 500 * 16 - 1)

    assert not gc.is_tracked(table)
    assert not gc.is_tracked(pieces)
    assert len(pieces) == 500
    assert len(gc.get_objects()) - before < 10


def use(seed: int) -> None:
    """Do with tables whatever can be done, also what fails."""
    differ(seed, 300)
    table = some(40)
    for (name, args), _ in product(BAD, range(2)):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            getattr(table, name)(*args)
    pickle.loads(pickle.dumps((table, table.remove(0, 95))))  # noqa: S301
    rest = table.snapshot(10)[0]
    assert list(islice(reversed(rest), 3)) == rest[:-4:-1]


@compiled_table
def test_nothing_is_leaked() -> None:
    """Whatever was done, all memory is given back with the table, and every word is let go of."""
    words = (Perm.R, Perm.RW, Mapping, Memory, Cut, None)
    use(1)
    gc.collect()
    tracemalloc.start()
    try:
        use(1)
        gc.collect()
        before, counts = tracemalloc.get_traced_memory()[0], [sys.getrefcount(word) for word in words]
        for seed in range(4):
            use(seed)
        gc.collect()
        after, counts_after = tracemalloc.get_traced_memory()[0], [sys.getrefcount(word) for word in words]
    finally:
        tracemalloc.stop()

    assert after - before < 20_000
    assert all(now - was < 50 for was, now in zip(counts, counts_after, strict=True))


@compiled_table
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_mapping_takes_little_memory(shuffled: bool) -> None:
    """Whatever the order in which mappings come, 45 bytes are enough for each."""
    firsts = [at << 12 for at in range(50_000)]
    if shuffled:
        random.Random(1).shuffle(firsts)  # noqa: S311
    tracemalloc.start()
    try:
        table = CompiledTable()
        for first in firsts:
            table.insert(first, first | 0xFFF, first, 3)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert taken / len(table) < 45
