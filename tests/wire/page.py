"""The parts of ``docs/reference/wire.md`` that are made from the code.

Each stands in the page between two comments, and a test holds that it is what is
made here.  To write them anew::

    .venv/bin/python -m tests.wire.page
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from msgspec import NODEFAULT, Meta, Raw, Struct, msgpack
from msgspec.structs import FieldInfo, fields

from iommubus.wire import codec, connection, failures, framing
from iommubus.wire.connection import TRANSITIONS, State
from iommubus.wire.framing import HEADER_SIZE
from iommubus.wire.messages import (
    WORDS,
    Side,
    greeting,
    publishing,
    queries,
    replies,
    rows,
    spaces,
    subscribing,
    syncing,
    values,
    watching,
)
from tests.wire.vectors import VECTORS

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "wire.md"

CHAPTERS: Final[list[ModuleType]] = [
    greeting, replies, spaces, publishing, subscribing, syncing, watching, queries,
]  # fmt: skip
"""The messages, in the order in which people read of them."""

LIMITED: Final[list[ModuleType]] = [framing, values, rows, subscribing, syncing, greeting, codec, failures]
"""Where the limits stand."""

SCALARS: Final[dict[object, str]] = {
    bool: "bool",
    Raw: "array",
    str: "str",
    bytes: "bin",
    float: "float",
    NoneType: "nil",
}


# -- what a field holds ------------------------------------------------------


def wording(type_: Any) -> str:
    """Return a type as the page writes it."""
    compound = COMPOUND.get(get_origin(type_))
    if compound is not None:
        return compound(*get_args(type_))
    return SCALARS.get(type_) or named(type_)


def limited(type_: Any, meta: Meta) -> str:
    """Return a type with its limit."""
    if type_ is Raw:  # an array that is not looked into at first
        return wording(meta.extra[rows.PACKED]) if meta.extra else wording(type_)
    if type_ is int:
        return "u64" if meta.le is None else f"{meta.ge}..{meta.le}"
    return f"{wording(type_)}, at most {meta.max_length}"


def named(type_: Any) -> str:
    """Return what a class is called, or the values that it has."""
    if issubclass(type_, Enum):
        return " or ".join(f'`"{member.value}"`' for member in type_)
    return f"`{type_.__name__}`"


def either(*types: Any) -> str:
    """Return a choice of types."""
    return " or ".join(map(wording, types))


def array(inner: Any) -> str:
    """Return an array of a type."""
    return f"array of {wording(inner)}"


def mapping(key: Any, value: Any) -> str:
    """Return a map from a type to another."""
    return f"map of {wording(key)} to {wording(value)}"


def words(*values: str) -> str:
    """Return a choice of strings."""
    return " or ".join(f'`"{value}"`' for value in values)


COMPOUND: Final[dict[Any, Callable[..., str]]] = {
    Annotated: limited,
    Literal: words,
    Union: either,
    UnionType: either,
    list: array,
    dict: mapping,
}
"""How types are written that are made of others."""


def default(field: FieldInfo) -> str:
    """Return what a reader takes where a writer leaves the field out, as JSON."""
    if field.default_factory is not NODEFAULT:
        return "`[]`"
    if field.default is NODEFAULT:
        return ""
    if field.default is None:
        return "nil"
    return "empty" if isinstance(field.default, Raw | bytes) else f"`{json.dumps(field.default)}`"


# -- the parts ---------------------------------------------------------------


def described(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """Return what a class says of itself, and of each of its fields."""
    text, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    lines = re.split(r"^    (\w+): ", attributes, flags=re.MULTILINE)[1:]
    told = {name: " ".join(what.split()) for name, what in zip(lines[::2], lines[1::2], strict=True)}
    return text.strip().replace("``", "`"), told


def section(kind: type[Struct], title: str) -> Iterator[str]:
    """Yield the lines of one message, or of a part of one."""
    text, told = described(kind)
    yield from (f"### {title}", "", text, "")
    if not told:
        return
    yield from ("| field | holds | default | |", "|---|---|---|---|")
    for field in fields(kind):
        yield f"| {field.name} | {wording(field.type)} | {default(field)} | {told[field.name].replace('``', '`')} |"
    yield ""


def said_by(kind: type[Struct]) -> str:
    """Return who says a message."""
    return " and ".join(side.value for side in Side if kind in WORDS[side])


def all_messages() -> Iterator[str]:
    """Yield every message, by chapter."""
    for module in CHAPTERS:
        yield from (f"## {(module.__doc__ or '').splitlines()[0]}", "")
        for kind in defined(module):
            if any(kind in words for words in WORDS.values()):
                yield from section(
                    kind, f"`{kind.__name__}`: {kind.__struct_config__.tag}, said by the {said_by(kind)}"
                )


def all_parts() -> Iterator[str]:
    """Yield what messages are made of."""
    for module in (values, rows, replies, syncing, queries):
        for kind in defined(module):
            tag = kind.__struct_config__.tag
            if not any(kind in words for words in WORDS.values()):
                yield from section(kind, f"`{kind.__name__}`" + (f": {tag}" if tag is not None else ""))


def defined(module: ModuleType) -> list[type[Struct]]:
    """Return the structures that a module defines, in order."""
    return [
        kind
        for _, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, Struct) and kind.__module__ == module.__name__
        if kind is not subscribing.DeliverPacked
    ]


def changes() -> Iterator[str]:
    """Yield a picture of the states: what leads from one to another."""
    yield from ("```mermaid", "stateDiagram-v2", "    [*] --> greeting")
    for state, sides in TRANSITIONS.items():
        for side, words in sides.items():
            for kind, then in words.items():
                if then is not state:
                    yield f"    {state.value} --> {then.value}: {side.value} says {kind.__name__}"
    yield from ("    closed --> [*]", "```")


def all_states() -> Iterator[str]:
    """Yield the states, and what each side may say in them."""
    yield from ("| state | | the client may say | the daemon may say |", "|---|---|---|---|")
    told = documented(connection, "State")
    for state in State:
        client, daemon = (sayable(side, state) for side in (Side.CLIENT, Side.DAEMON))
        yield f"| {state.value} | {told[state.name]} | {client} | {daemon} |"


def sayable(side: Side, state: State) -> str:
    """Return what a side may say in a state, in short."""
    may, all_ = TRANSITIONS[state][side], WORDS[side]
    if not may:
        return "nothing"
    if len(may) == len(all_):
        return "anything"
    names = ", ".join(f"`{kind.__name__}`" for kind in all_ if (kind in may) is (len(may) < len(all_) / 2))
    return names if len(may) < len(all_) / 2 else f"anything but {names}"


def documented(module: ModuleType, inside: str | None = None) -> dict[str, str]:
    """Return what is said below each assignment of a module, or of a class in it."""
    body = ast.parse(inspect.getsource(module)).body
    if inside is not None:
        body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == inside).body
    told: dict[str, str] = {}
    for node, after in pairwise(body):
        match node, after:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                told[name] = " ".join(text.split())
            case _:
                pass
    return told


def all_limits() -> Iterator[str]:
    """Yield the limits, with their reasons."""
    yield from ("| limit | value | |", "|---|---|---|")
    for module in LIMITED:
        for name, text in documented(module).items():
            if name.endswith("_LIMIT"):
                yield f"| `{name}` | {vars(module)[name]:,} | {text} |"


def all_features() -> Iterator[str]:
    """Yield the feature bits."""
    yield from ("| bit | feature | |", "|---|---|---|")
    told = documented(greeting, "Feature")
    for feature in greeting.Feature:
        yield f"| {int(feature)} | {feature.name} | {told[str(feature.name)]} |"


def all_errors() -> Iterator[str]:
    """Yield the errors that travel, with their fields."""
    yield from ("| kind | fields | |", "|---|---|---|")
    for kind in failures.CLASSES:
        names = ", ".join(name for name, _ in failures.fields_of(kind))
        yield f"| `{kind.__name__}` | {names} | {inspect.cleandoc(kind.__doc__ or '').splitlines()[0]} |"
    yield "| `OSError` | errno, strerror | A system call failed, by its number in Linux. |"


def all_vectors() -> Iterator[str]:
    """Yield the golden vectors: who says what, its fields as JSON, and the frame."""
    yield "```text"
    for side, message, hexdump in VECTORS:
        told = json.dumps(msgpack.decode(bytes.fromhex(hexdump)[HEADER_SIZE:]), default=bytes.hex)
        yield from (f"{side.value}: {type(message).__name__} {told}", f"    {hexdump}", "")
    yield "```"


PARTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "limits": all_limits,
    "picture": changes,
    "states": all_states,
    "features": all_features,
    "messages": all_messages,
    "parts": all_parts,
    "errors": all_errors,
    "vectors": all_vectors,
}
"""What is made, by its name in the page."""


def filled(page: str) -> str:
    """Return a page with every part in it made anew."""
    for name, lines in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = "\n\n".join((before + begin, "\n".join(lines()).strip(), end + after))
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
