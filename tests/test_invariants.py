"""docs/invariants.md says which test holds which promise; each of them exists."""

import ast
import re
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[1]
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions_of(path: Path) -> set[str]:
    """Return the names of the test functions of a file; none if there is no file."""
    if not path.is_file():
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


def test_every_named_test_exists() -> None:
    text = (TOP / "docs" / "invariants.md").read_text(encoding="utf-8")
    named = NAMED.findall(text)

    assert named
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(TOP / path)] == []


def test_no_named_test_is_misspelled() -> None:
    """Whatever looks like a test's address is one that the check above reads."""
    text = (TOP / "docs" / "invariants.md").read_text(encoding="utf-8")

    assert len(re.findall(r"\.py::", text)) == len(NAMED.findall(text))
