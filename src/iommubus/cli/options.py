"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..transport.address import ADDRESS_VARIABLE
from . import words

PANEL: Final = "Connection"

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="ADDRESS",
        envvar=ADDRESS_VARIABLE,
        help="Where the daemon is: unix:/PATH, tls:HOST:PORT or tcp:HOST:PORT. "
        "By default $XDG_RUNTIME_DIR/iommubus/bus.sock, else /run/iommubus/bus.sock.",
        rich_help_panel=PANEL,
    ),
]

IdentityOption = Annotated[
    tuple[Path, Path, Path] | None,
    typer.Option(
        "--identity",
        metavar="CERT KEY AUTHORITY",
        help="For tls: the own certificate, its key, and who vouches for the daemon; PEM files.",
        rich_help_panel=PANEL,
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def reader(read: Callable[[str], Any], name: str) -> Callable[[Any], Any]:
    """Return what reads a parameter, and blames it for what it cannot be.

    Args:
        read: Reads a text, or raises `ValueError`.
        name: What such a value is called in help.
    """

    def read_parameter(value: Any) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return read(value)
        except ValueError as wrong:
            raise typer.BadParameter(str(wrong)) from wrong

    read_parameter.__name__ = name
    return read_parameter


NUMBER: Final = reader(words.number, "number")
KINDS: Final = reader(words.kinds, "kinds")
SECONDS: Final = reader(words.seconds, "seconds")
