"""The command's frame: what every command shares.  Commands are modules beside it, loaded when they are needed."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS: Final = (
    "serve", "check-config", "ping", "spaces", "subscribers", "tail", "lookup", "hold", "fence", "demo",
)  # fmt: skip
"""The commands, in the order of their list: to serve, to look, to act, to see it all at work."""


class Commands(TyperGroup):
    """The commands; each is a function of its own name in a module of its own name."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._loaded: dict[str, Any] = {}
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)  # what a misspelt name is compared with

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        """Return their names."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ARG002
        """Return one of them, `None` if there is none of this name."""
        if cmd_name in COMMANDS and cmd_name not in self._loaded:
            self._loaded[cmd_name] = _load(cmd_name)
        return self._loaded.get(cmd_name)


app = typer.Typer(
    name="iommubus",
    help="An event bus for the changes of I/O address spaces.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def run() -> None:
    """Read the command line and do what it says."""
    app(prog_name="iommubus")


def _load(name: str) -> Any:
    """Import a command, and return it as part of the command line."""
    word = name.replace("-", "_")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(getattr(import_module(f".{word}", __package__), word))
    return get_command(alone)


def _version(wanted: bool) -> None:
    if not wanted:
        return

    try:
        typer.echo(f"iommubus {version('iommubus')}")
    except PackageNotFoundError:
        typer.echo("iommubus (run from its source, not installed)")

    raise typer.Exit


@app.callback()
def frame(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Do one thing of several."""
