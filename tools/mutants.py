"""Seed one bug at a time into the pure machines, and see whether their tests notice.

Usage: ``python tools/mutants.py [MODULE ...]``, without names all of `MODULES`.
Any module can be named that has a test file of its own name: ``feed``,
``bus/uses``, ...

Every mutant has an identity, ``module:function:operator:n``, that stays while
its function stays.  One that changes nothing anybody could observe is named in
``docs/invariants.md`` under the heading "Equivalent mutants", in backquotes and
with the reason.  Any other survivor, and any name there that no longer
survives, makes the run fail.  The work tree is only read: each mutant lives
and dies in a copy of its own.

The tests that are quick run first, and the first that fails ends the run; a
mutant that survives has been through all of them.
"""

import ast
import difflib
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

import pytest

TOP: Final = Path(__file__).parents[1]
NOTES: Final = TOP / "docs" / "invariants.md"
MODULES: Final = (
    "rangeset",
    "kinds",
    "chunks",
    "table",
    "contract",
    "mailbox",
    "completion",
    "bus/uses",
    "bus/questions",
)

ELSEWHERE: Final = {"chunks": "tests/test_table.py"}
"""Test files of modules that have none of their own name."""

WORKERS: Final = 2
MEMORY: Final = 2 << 30
"""Bytes; a mutant whose loop never ends should not take the machine with it."""

PATIENCE: Final = 4.0
"""A mutant that makes a test take this many times as long, and 5 s, is caught."""

COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SWAPPED: Final = {"min": "max", "max": "min"}
DELETED: Final = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Delete, ast.Raise)

Change = tuple[str, Callable[[ast.AST], ast.AST]]
"""The name of an operator, and what makes of a node its mutant."""


# -- which changes there are -------------------------------------------------


def set_field(field: str, value: object, node: ast.AST) -> ast.AST:
    """Return ``node`` with one field changed."""
    setattr(node, field, value)
    return node


def replace_by(other: ast.AST, _: ast.AST) -> ast.AST:
    """Return ``other`` in the place of a node."""
    return other


def changes_of(node: ast.AST) -> Iterator[Change]:
    """Yield every change that applies to one node."""
    yield from changes_of_operator(node)
    yield from changes_of_value(node)
    yield from changes_of_condition(node)
    yield from changes_of_statement(node)


def changes_of_operator(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of one operator to its neighbour."""
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                yield "compare", partial(set_field, "ops", [*ops[:at], COMPARISONS[type(op)](), *ops[at + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            yield "arithmetic", partial(set_field, "op", ARITHMETIC[type(op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", partial(replace_by, operand)
        case ast.BoolOp(op=op):
            yield "and-or", partial(set_field, "op", ast.Or() if isinstance(op, ast.And) else ast.And())
        case _:
            pass


def changes_of_value(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of a number, of a truth value, and of which of two is taken."""
    match node:
        case ast.Constant(value=bool(value)):
            yield "bool", partial(set_field, "value", not value)
        case ast.Constant(value=int(value)):
            yield "plus-one", partial(set_field, "value", value + 1)
            yield "minus-one", partial(set_field, "value", value - 1)
        case ast.Call(func=ast.Name(id=("min" | "max") as name)):
            yield "min-max", partial(set_field, "func", ast.Name(SWAPPED[name], ast.Load()))
        case _:
            pass


def changes_of_condition(node: ast.AST) -> Iterator[Change]:
    """Yield the changes that force a condition; one that loops is only forced to stop."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "if-false", partial(set_field, "test", ast.Constant(value=False))
    if isinstance(node, ast.If | ast.IfExp):
        yield "if-true", partial(set_field, "test", ast.Constant(value=True))


def changes_of_statement(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of a whole statement."""
    match node:
        case ast.Return(value=ast.Constant(value=None)) | ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
            pass  # nothing is returned, done or assigned
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            pass  # without it the same happens in more memory
        case ast.Return(value=ast.expr()):
            yield "return", partial(set_field, "value", None)
        case ast.Break():
            yield "break", partial(replace_by, ast.Continue())
        case ast.Continue():
            yield "continue", partial(replace_by, ast.Break())
        case _ if isinstance(node, DELETED):
            yield "delete", partial(replace_by, ast.Pass())
        case _:
            pass


# -- where they apply --------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One seeded bug: its identity, its line, and the whole file with it."""

    name: str
    line: int
    source: str


Step = tuple[str, int | None]
"""The field of a node that leads to a child, and the place in it if it is a list."""


def children(node: ast.AST) -> Iterator[tuple[Step, ast.AST]]:
    """Yield what may be changed below a node: no annotation, no decorator."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        if isinstance(value, ast.AST):
            yield (field, None), value
        elif isinstance(value, list):
            for at, child in enumerate(cast("list[object]", value)):
                if isinstance(child, ast.AST):
                    yield (field, at), child


def walk(node: ast.AST, path: tuple[Step, ...] = (), owner: str = "") -> Iterator[tuple[tuple[Step, ...], str]]:
    """Yield the way to each node, with the function or class that it is in."""
    yield path, owner
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        owner = f"{owner}.{node.name}".lstrip(".")
    for step, child in children(node):
        yield from walk(child, (*path, step), owner)


def at_path(tree: ast.AST, path: tuple[Step, ...]) -> ast.AST:
    """Return the node that ``path`` leads to."""
    for field, at in path:
        value = getattr(tree, field)
        tree = value if at is None else value[at]
    return tree


def put(tree: ast.AST, path: tuple[Step, ...], node: ast.AST) -> None:
    """Put ``node`` where ``path`` leads to."""
    field, at = path[-1]
    parent = at_path(tree, path[:-1])
    if at is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[at] = node


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of one module, in the order of its text."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for path, owner in walk(tree):
        original = at_path(tree, path)
        if not owner and isinstance(original, DELETED):
            continue  # without one of its names a module does not even load
        for operator, change in changes_of(original):
            name = f"{module}:{owner or 'module'}:{operator}"
            seen[name] += 1
            copy = deepcopy(tree)
            put(copy, path, change(at_path(copy, path)))
            text = ast.unparse(ast.fix_missing_locations(copy)) + "\n"
            yield Mutant(f"{name}:{seen[name]}", getattr(original, "lineno", 0), text)


# -- running the tests -------------------------------------------------------


class Clock:
    """Writes down how many seconds each test takes, as a plugin of pytest.

    Args:
        path: The file; a run that wrote it before says which tests are quick,
            and how long to wait for each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.seconds = defaultdict[str, float](float)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the quick tests first."""
        if self.before:
            items.sort(key=lambda item: self.before.get(item.nodeid, 0.0))
            for item in items:
                item.add_marker(pytest.mark.timeout(patience(self.before.get(item.nodeid, 0.0))))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what setting up, running and clearing up took."""
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Write it down, the first time."""
        if not self.before:
            self.path.write_text(json.dumps(self.seconds), encoding="utf-8")


def patience(seconds: float) -> float:
    """Return how long to wait for what takes so many seconds."""
    return 5.0 + PATIENCE * seconds


def run_tests(top: Path, test: str, clock: Path) -> None:
    """Run one test file in the tree at ``top``; the body of a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with Path(os.devnull).open("r+b") as nowhere:
        for stream in (0, 1, 2):
            os.dup2(nowhere.fileno(), stream)
    os.chdir(top)
    os.environ["IOMMUBUS_PURE"] = "1"  # the mutants are in Python
    sys.path[:0] = [str(top / "src")]
    options = ["-x", "-q", "--assert=plain", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    os._exit(pytest.main([*options, test], plugins=[Clock(clock)]))


def passes(top: Path, test: str, clock: Path, timeout: float | None = None) -> bool:
    """Say whether a test file passes in a tree; not to finish is not to pass."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=run_tests, args=(top, test, clock))
    process.start()
    process.join(timeout)
    process.kill()
    process.join()
    return process.exitcode == 0


def survives(base: Path, module: str, test: str, timeout: float, mutant: Mutant) -> bool:
    """Say whether the tests of ``module`` pass with ``mutant`` in its place."""
    with tempfile.TemporaryDirectory(dir=base.parent) as name:
        top = Path(name) / "tree"
        shutil.copytree(base, top)
        (top / "src" / "iommubus" / f"{module}.py").write_text(mutant.source, encoding="utf-8")
        return passes(top, test, clock_of(base, module), timeout)


def clock_of(base: Path, module: str) -> Path:
    """Return where the seconds that the tests of ``module`` take are written down."""
    return base.parent / f"{module.replace('/', '-')}.json"


def copy_tree(base: Path) -> None:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__", "*.xz")
    for name in ("src", "tests"):
        shutil.copytree(TOP / name, base / name, ignore=ignore)
    shutil.copy2(TOP / "pyproject.toml", base)


# -- the verdict -------------------------------------------------------------


def explain(mutant: Mutant, source: str) -> str:
    """Return a surviving mutant with its change, as a person reads it."""
    before = ast.unparse(ast.parse(source)).splitlines()
    diff = list(difflib.unified_diff(before, mutant.source.splitlines(), n=1, lineterm=""))[2:]
    return "\n".join([f"survived: {mutant.name} (line {mutant.line})", *diff, ""])


def named_equivalent(modules: tuple[str, ...]) -> set[str]:
    """Return the mutants of ``modules`` that the notes call equivalent."""
    text = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    section = re.search(r"^#+ Equivalent mutants$(.*?)(^#|\Z)", text, re.MULTILINE | re.DOTALL)
    names = re.findall(r"`([\w/]+:[\w.]+:[\w-]+:\d+)`", section[1]) if section else []
    return {name for name in names if name.partition(":")[0] in modules}


def examine(module: str, base: Path) -> tuple[int, dict[str, str]]:
    """Try every mutant of one module.

    Returns:
        How many there were, and the survivors with their explanation.
    """
    source = (base / "src" / "iommubus" / f"{module}.py").read_text(encoding="utf-8")
    folder, _, name = module.rpartition("/")
    test = ELSEWHERE.get(module, str(Path("tests") / folder / f"test_{name}.py"))
    start = time.monotonic()
    if not passes(base, test, clock_of(base, module)):
        sys.exit(f"mutants failed: {test} does not pass as it is")
    timeout = patience(time.monotonic() - start)
    mutants = list(mutants_of(module, source))
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = pool.map(partial(survives, base, module, test, timeout), mutants)
        alive = {mutant.name: explain(mutant, source) for mutant, lives in zip(mutants, verdicts, strict=True) if lives}
    print(f"{module}: {len(mutants)} mutants, {len(alive)} survived, {time.monotonic() - start:.0f} s", flush=True)
    return len(mutants), alive


def main(modules: tuple[str, ...]) -> int:
    """Examine ``modules`` and return the exit status."""
    total, alive = 0, dict[str, str]()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pytest", "hypothesis", "trio", "uvloop"])
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        base = Path(name) / "base"
        copy_tree(base)
        for module in modules:
            count, survivors = examine(module, base)
            total += count
            alive |= survivors

    equivalent = named_equivalent(modules)
    unknown = [alive[name] for name in alive if name not in equivalent]
    stale = sorted(equivalent - alive.keys())
    for complaint in unknown + [f"named equivalent, but not a survivor: {name}" for name in stale]:
        print(complaint)
    if unknown or stale:
        print(f"mutants failed: {len(unknown)} survived, {len(stale)} named in {NOTES.name} did not survive")
        return 1

    print(f"mutants ok: {total - len(alive)} killed, {len(alive)} equivalent")
    return 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or MODULES))
