"""``iommubus demo``: QEMU's own trace of a real guest, played through the bus and judged.

Exit status: 0 if all was well, 1 if the judge found something, 2 if there was
nothing to play, 130 after Ctrl-C.
"""

import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Final

import msgspec
import typer
from msgspec import Struct
from rich.console import Console

from ..abi.qemu_trace import Family
from ..demo.job import Exhibit, View, exhibits, perform
from ..demo.player import Watch
from ..demo.result import Result, Summary, summarise
from ..demo.script import Unplayable
from ..demo.view import ConsoleView
from ..errors import TraceError

FAILED: Final = 1
UNPLAYABLE: Final = 2
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells say it."""


class Loop(Enum):
    """Event loops."""

    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"
    TRIO = "trio"


DEFAULT_LOOP: Final = Loop.ASYNCIO if sys.platform == "win32" else Loop.UVLOOP


class Report(Struct, frozen=True):
    """What ``--json`` prints."""

    ok: bool
    loop: str
    traces: list[Summary]


def demo(
    trace: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A QEMU trace log, plain, .xz or .gz; - is standard input."),
    ] = None,
    family: Annotated[
        Family | None, typer.Option(help="Which events to play; by default the first of these that is there.")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Count damaged lines instead of stopping.")] = False,
    loop: Annotated[Loop, typer.Option(help="The event loop to run on.")] = DEFAULT_LOOP,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON document.")] = False,
) -> None:
    """Play QEMU's own trace of a real guest through the bus, and judge what came out.

    By default it plays two recordings that come with iommubus: a guest behind a
    virtio-iommu, and one behind an Intel VT-d.
    """
    with _plain_errors(loop.value):
        programme = exhibits(trace, family, keep_going=keep_going)
        console = Console(markup=False, emoji=False, highlight=False)
        view: View = _Silent() if as_json else ConsoleView(console, loop.value)
        results = perform(programme, view, loop.value)

    ok = all(result.ok for result in results)
    if as_json:
        report = Report(ok, loop.value, [summarise(result) for result in results])
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())

    if not ok:
        raise typer.Exit(FAILED)


class _Silent:
    """Shows nothing; the results are printed in the end."""

    @contextmanager
    def playing(self, exhibit: Exhibit) -> Generator[Watch, None, None]:  # noqa: ARG002 - a View's
        """Show nothing."""
        yield lambda _: None

    def show(self, exhibit: Exhibit, result: Result) -> None:
        """Show nothing."""

    def conclude(self, results: Sequence[Result]) -> None:
        """Show nothing."""


@contextmanager
def _plain_errors(loop: str) -> Generator[None, None, None]:
    """Say what a person can act on in one line, and keep the bus's log lines out of the picture."""
    logging.getLogger("iommubus").addHandler(logging.NullHandler())
    try:
        yield
    except (Unplayable, TraceError) as error:
        _quit(str(error), UNPLAYABLE)
    except ModuleNotFoundError as missing:
        _quit(f"the loop {loop} is not installed: {missing}; try --loop asyncio", UNPLAYABLE)
    except KeyboardInterrupt:
        _quit("interrupted", INTERRUPTED)
    except BaseExceptionGroup as group:  # trio interrupts the task that runs
        if group.split(KeyboardInterrupt)[1] is not None:
            raise

        _quit("interrupted", INTERRUPTED)


def _quit(text: str, status: int) -> None:
    typer.echo(f"iommubus demo: {text}", err=True)
    raise typer.Exit(status) from None
