"""What users can reach is there, and says what it is."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import iommubus

SOURCE: Final = Path(__file__).parents[1] / "src" / "iommubus"
TREES: Final = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def documented_assignments() -> Iterator[str]:
    """Yield each top-level name of the package that is assigned and then described by a string."""
    for tree in TREES.values():
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            match node, after:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str())),
                ):
                    yield name
                case _:
                    pass


def methods(owner: type) -> Iterator[tuple[str, object]]:
    """Yield the public functions and properties of a class that this package wrote."""
    for base in owner.__mro__:
        if base.__module__.partition(".")[0] == "iommubus":
            for name, member in vars(base).items():
                routine = inspect.isroutine(member) and not inspect.isbuiltin(member)
                if not name.startswith("_") and (routine or isinstance(member, property)):
                    yield f"{owner.__name__}.{name}", getattr(owner, name)


def public() -> Iterator[tuple[str, object]]:
    """Yield everything callable that `iommubus.__all__` leads to."""
    for name in iommubus.__all__:
        value = getattr(iommubus, name)
        if inspect.isclass(value):
            yield name, value
            yield from methods(value)
        elif inspect.isroutine(value):
            yield name, value


def docstring(name: str, value: object) -> str | None:
    """Return what ``value`` says of itself: a method may inherit it, a class may not, nor have it generated."""
    if not inspect.isclass(value):
        return inspect.getdoc(value)
    own = vars(value).get("__doc__") or ""
    return None if own.startswith(f"{name}(") else own


def test_every_public_name_exists() -> None:
    assert [name for name in iommubus.__all__ if not hasattr(iommubus, name)] == []
    assert len(set(iommubus.__all__)) == len(iommubus.__all__) > 0


def test_every_public_name_is_described() -> None:
    described = set(documented_assignments()) | {name for name, _ in public()}

    assert set(iommubus.__all__) - described == set()


def test_every_public_class_function_and_method_has_a_docstring() -> None:
    assert [name for name, value in public() if not docstring(name, value)] == []


def test_every_module_has_a_docstring() -> None:
    assert [str(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []
