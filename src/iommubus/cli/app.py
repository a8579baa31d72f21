"""The command's frame: what every command shares.  Commands are modules beside it, loaded when they are needed."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final

import typer

from ..compiled import summary
from .groups import Commands

COMMANDS: Final = (
    "serve", "check-config", "ping", "spaces", "subscribers", "tail", "lookup", "hold", "fence", "bridge", "demo",
)  # fmt: skip
"""The commands, in the order of their list: to serve, to look, to act, to see it all at work."""


class AllCommands(Commands):
    """Every command."""

    names = COMMANDS
    package = __package__ or ""


app = typer.Typer(
    name="iommubus",
    help="An event bus for the changes of I/O address spaces.",
    cls=AllCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def run() -> None:
    """Read the command line and do what it says."""
    app(prog_name="iommubus")


def _version(wanted: bool) -> None:
    if not wanted:
        return

    try:
        typer.echo(f"iommubus {version('iommubus')} ({summary()})")
    except PackageNotFoundError:
        typer.echo(f"iommubus (run from its source, not installed; {summary()})")

    raise typer.Exit


@app.callback()
def frame(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Do one thing of several."""
