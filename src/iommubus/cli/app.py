"""The command's frame: what every command shares.  Commands are modules beside it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from .demo import demo

app = typer.Typer(
    name="iommubus",
    help="An event bus for the changes of I/O address spaces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)


def run() -> None:
    """Read the command line and do what it says."""
    app(prog_name="iommubus")


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
    """Do one thing of several: without this, a single command would be the whole program."""
