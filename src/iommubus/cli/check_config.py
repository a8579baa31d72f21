"""``iommubus check-config``: what a daemon would be told, without serving."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from msgspec import Struct

from ..service.settings.config import Config
from ..service.settings.sources import CONFIG_VARIABLE, LEAVES, from_environ, load, read
from .options import JsonOption
from .printing import Column, print_document, print_lines, print_table
from .running import plain_errors

COLUMNS: Final = (Column("setting", style="bold"), Column("value"), Column("from", style="dim"))

DEFAULT: Final = "default"


class Reading(Struct, frozen=True):
    """A configuration, and where it comes from.

    Attributes:
        config: The configuration.
        file: The file that was read, if there was one.
        origins: What gave each setting that is not at its default, by dotted key.
    """

    config: Config
    file: Path | None
    origins: Mapping[str, str]


def check_config(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help=f"The file; by default the one that ${CONFIG_VARIABLE} names, if it does."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the configuration as the daemon would, and tell what it says: fails if it would not do.

    The environment counts here as it does there.  --json prints the whole configuration.
    """
    with plain_errors("check-config"):
        reading = _read(file, os.environ)
    if as_json:
        print_document(reading.config)
        return
    print_lines([_summary(reading)])
    print_table(COLUMNS, [[key, value, reading.origins.get(key, DEFAULT)] for key, value in settings(reading.config)])
    for place, rule in enumerate(reading.config.rules):
        print_lines([f"rules[{place}]: {msgspec.json.encode(rule).decode()}"])


def settings(config: Config) -> list[tuple[str, str]]:
    """Return every setting that is a single value or a list of texts, as it would be written."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return [(key, _written(_value(tree, key))) for key in LEAVES]


def _read(file: Path | None, environ: Mapping[str, str]) -> Reading:
    config = load(file, environ)
    named = file or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    tree = {} if named is None else read(named)
    origins = {key: str(named) for key in LEAVES if _value(tree, key) is not None}
    origins |= {given.key: given.source for given in from_environ(environ)}
    return Reading(config, named, origins)


def _summary(reading: Reading) -> str:
    where = "no file" if reading.file is None else str(reading.file)
    variables = sum(origin.startswith("the environment") for origin in reading.origins.values())
    rules = len(reading.config.rules)
    listeners = " ".join(map(str, reading.config.addresses))
    return f"ok: {where}, {variables} settings of the environment, {rules} rules; listens at {listeners}"


def _value(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = {} if value is None else value
        value = value.get(part)
    return value


def _written(value: Any) -> str:
    if value is None:
        return "-"
    return msgspec.json.encode(value).decode()
