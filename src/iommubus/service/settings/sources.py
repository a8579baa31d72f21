"""How a configuration is put together: a TOML file, the environment over it, flags over both.

The variable of a setting is its key in capitals with ``_`` for the dots:
``limits.frame`` is ``IOMMUBUS_LIMITS_FRAME``.  A list is written with commas.
What is no single value or list of texts, the rules, stands in the file only.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, ValidationError, inspect

from ...compiled import PURE
from ...errors import BadSetting, ConfigUnreadable, UnknownSetting
from ...transport.address import ADDRESS_VARIABLE
from .config import Config, problems

PREFIX: Final = "IOMMUBUS_"

CONFIG_VARIABLE: Final = "IOMMUBUS_CONFIG"
"""The variable that names the file; it is no setting."""

NO_SETTINGS: Final = frozenset({CONFIG_VARIABLE, ADDRESS_VARIABLE, PURE})
"""Variables that begin so and are none: the second one is for clients, and may be set for a whole login; the third
one is for every program that uses this package."""

WHERE: Final = re.compile(r"^(?P<text>.*) - at `\$\.?(?P<key>.*)`$", re.DOTALL)
"""How msgspec says at which key something is wrong."""

Tree = dict[str, Any]


class Leaf(Struct, frozen=True):
    """A setting that can be given as a text.

    Attributes:
        key: Its dotted path.
        kind: What it may be.
        annotation: The same as Python has it.
    """

    key: str
    kind: inspect.Type
    annotation: Any


class Given(Struct, frozen=True):
    """A setting that was given beside the file.

    Attributes:
        source: Where, for whoever has to correct it.
        key: The key of the setting.
        value: Its value; a text is read as the kind that the setting has.
    """

    source: str
    key: str
    value: Any


def load(
    path: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Config:
    """Return the configuration.

    Args:
        path: The file; without one, that which ``IOMMUBUS_CONFIG`` names, if it does.
        environ: The environment.
        flags: What the command line said, by dotted keys.

    Raises:
        ConfigError: The file cannot be read, or something in it, in the
            environment or in a flag is not a setting or cannot be its value.
    """
    variables = environ or {}
    named = path or (Path(variables[CONFIG_VARIABLE]) if variables.get(CONFIG_VARIABLE) else None)
    tree = {} if named is None else read(named)
    source = "the configuration" if named is None else str(named)
    _check_keys(source, tree, inspect.type_info(Config), "")
    given = [*from_environ(variables), *from_flags(flags or {})]
    for entry in given:
        _put(tree, entry)
    return _checked(source, _decoded(source, tree), {entry.key: entry.source for entry in given})


def read(path: Path) -> Tree:
    """Return what a TOML file says.

    Raises:
        ConfigUnreadable: It cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise ConfigUnreadable(str(path), failure.strerror or str(failure)) from failure
    except ValueError as failure:  # no UTF-8, or no TOML
        raise ConfigUnreadable(str(path), str(failure)) from failure


def from_environ(environ: Mapping[str, str]) -> list[Given]:
    """Return the settings that the environment gives.

    Raises:
        UnknownSetting: One begins with ``IOMMUBUS_`` and is none.
    """
    keys = {variable_of(key): key for key in LEAVES}
    given: list[Given] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NO_SETTINGS:
            continue
        if name not in keys:
            raise UnknownSetting("the environment", name, nearest(name, keys))
        given.append(Given(f"the environment, {name}", keys[name], environ[name]))
    return given


def from_flags(flags: Mapping[str, Any]) -> list[Given]:
    """Return the settings that the command line gives.

    Raises:
        UnknownSetting: One is none.
    """
    for key in flags:
        if key not in LEAVES:
            raise UnknownSetting("the command line", key, nearest(key, LEAVES))
    return [Given("the command line", key, value) for key, value in flags.items()]


def variable_of(key: str) -> str:
    """Return the name of a setting's variable."""
    return PREFIX + key.upper().replace(".", "_")


def nearest(wrong: str, known: Mapping[str, object]) -> str:
    """Return the name that was probably meant, or ""."""
    return next(iter(get_close_matches(wrong, known, 1)), "")


def accepted(kind: inspect.Type) -> str:
    """Return in words what a setting may be."""
    return WORDS[type(kind)](kind)


def _number(kind: Any) -> str:
    what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    least = f"{kind.ge:g}" if kind.ge is not None else f"more than {kind.gt:g}"
    return f"{what}, {least} to {kind.le:.10g}"


def _text(kind: Any) -> str:
    return "a text" if kind.pattern is None else f"a text like {kind.pattern}"


WORDS: Final[Mapping[type[inspect.Type], Callable[[Any], str]]] = {
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.StrType: _text,
    inspect.BoolType: lambda _: "true or false",
    inspect.LiteralType: lambda kind: " or ".join(map(repr, kind.values)),
    inspect.VarTupleType: lambda kind: f"a list, each {accepted(kind.item_type)}",
    inspect.UnionType: lambda kind: accepted(kind.types[0]),
    inspect.StructType: lambda kind: f"a table of {', '.join(field.name for field in kind.fields)}",
}
"""What says it, for each kind of setting that there is."""


# -- inside ------------------------------------------------------------------


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    """Return the settings of a table, also of one that may be left out; none of anything else."""
    if isinstance(kind, inspect.UnionType):
        kind = kind.types[0]
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _table(annotation: Any) -> type[Struct] | None:
    """Return the class of a table, also of one that may be left out."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, Struct)), None)


def _leaves(table: type[Struct], prefix: str = "") -> Iterator[Leaf]:
    kinds = {field.name: field.type for field in _fields(inspect.type_info(table))}
    for field in msgspec.structs.fields(table):
        kind, key = kinds[field.name], f"{prefix}{field.name}"
        inner = _table(field.type)
        if inner is not None and _fields(kind):
            yield from _leaves(inner, f"{key}.")
        elif not (isinstance(kind, inspect.VarTupleType) and _fields(kind.item_type)):
            yield Leaf(key, kind, field.type)


LEAVES: Final[Mapping[str, Leaf]] = {leaf.key: leaf for leaf in _leaves(Config)}
"""The settings that can be given as texts, by their keys."""


def _check_keys(source: str, value: Any, kind: inspect.Type, prefix: str) -> None:
    """Check that every key is a setting, and that tables are where settings have tables."""
    if isinstance(kind, inspect.VarTupleType) and is_a(list, value):
        for place, item in enumerate(value):
            _check_keys(source, item, kind.item_type, f"{prefix.removesuffix('.')}[{place}].")
    kinds = {field.name: field.type for field in _fields(kind)}
    if not kinds:
        return
    if not is_a(dict, value):
        raise BadSetting(source, prefix.removesuffix("."), repr(value), accepted(kind))
    for name, inner in value.items():
        if name not in kinds:
            meant = nearest(name, kinds)
            raise UnknownSetting(source, prefix + name, meant and prefix + meant)
        _check_keys(source, inner, kinds[name], f"{prefix}{name}.")


def is_a(kind: type, value: Any) -> bool:
    """Say what `isinstance` says, but not to type checkers, to whom the items of a plain list are unknown."""
    return isinstance(value, kind)


def _kind_at(key: str) -> inspect.Type:
    """Return what the setting at a key may be."""
    kind: inspect.Type = inspect.type_info(Config)
    for part in re.findall(r"\w+|\[", key):
        if part == "[":
            kind = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
        elif not part.isdigit():
            kind = next((field.type for field in _fields(kind) if field.name == part), kind)
    return kind


def _value_at(tree: Tree, key: str) -> Any:
    value: Any = tree
    for part in re.findall(r"\w+", key):
        value = value[int(part) if part.isdigit() else part]
    return value


def _decoded(source: str, tree: Tree) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except ValidationError as wrong:
        found = WHERE.match(str(wrong))
        key = found["key"] if found else ""
        missing = re.match(r"Object missing required field `(\w+)`", str(wrong))
        if missing:
            key = f"{key}.{missing[1]}"
            raise BadSetting(source, key, "not set", accepted(_kind_at(key))) from wrong
        raise BadSetting(source, key, repr(_value_at(tree, key)), accepted(_kind_at(key))) from wrong


def _put(tree: Tree, given: Given) -> None:
    """Put a setting where it belongs in the tree."""
    leaf = LEAVES[given.key]
    *tables, name = given.key.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
    tree[name] = _converted(given, leaf)


def _converted(given: Given, leaf: Leaf) -> Any:
    value = given.value
    if isinstance(value, str) and isinstance(leaf.kind, inspect.VarTupleType):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.to_builtins(msgspec.convert(value, leaf.annotation, strict=False))
    except ValidationError as wrong:
        raise BadSetting(given.source, given.key, repr(given.value), accepted(leaf.kind)) from wrong


def _checked(source: str, config: Config, given: Mapping[str, str]) -> Config:
    """Check settings against each other; the first that is wrong is blamed on where it stands."""
    for key, value, wanted in problems(config):
        raise BadSetting(given.get(key.partition("[")[0], source), key, value, wanted)
    return config
