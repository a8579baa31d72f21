"""``iommubus demo``: QEMU's own trace of a real guest, played through the bus and judged.

Exit status: 0 if all was well, 1 if the judge found something or a process was lost,
2 if there was nothing to play, 130 after Ctrl-C.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Annotated, Final

import msgspec
import typer
from msgspec import Struct
from rich.console import Console

from ..abi.qemu_trace import Family
from ..demo.house import IN_ONE_PROCESS, Place, Unopened
from ..demo.job import Exhibit, View, exhibits, perform
from ..demo.player import Watch
from ..demo.result import Result, Summary, summarise
from ..demo.script import Unplayable
from ..demo.view import ConsoleView
from ..errors import TraceError
from .running import FAILED, USAGE, WrongUsage, plain_errors, quit_with

HERE: Final = "none"
"""What is written in the place of an address for no daemon at all."""

OWN: Final = "own"
"""What is written in the place of an address for a daemon that the demo starts and ends."""


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
    connect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Play across processes, on the daemon at this address; "
            f"{OWN} starts one, and {HERE}, the default, plays in one process. May be given several times.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON document.")] = False,
) -> None:
    """Play QEMU's own trace of a real guest through the bus, and judge what came out.

    By default it plays two recordings that come with iommubus: a guest behind a
    virtio-iommu, and one behind an Intel VT-d.

    Across processes the producer, the daemon and each subscriber have one of their own.
    """
    with _plain_errors(loop.value):
        places = [_place(text, loop) for text in connect or [HERE]]
        programme = exhibits(trace, family, keep_going=keep_going)
        console = Console(markup=False, emoji=False, highlight=False)
        view: View = _Silent() if as_json else ConsoleView(console, loop.value)
        results = perform(programme, view, loop.value, places)

    ok = all(result.ok for result in results)
    if as_json:
        report = Report(ok, loop.value, [summarise(result) for result in results])
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())

    if not ok:
        raise typer.Exit(FAILED)


def _place(text: str, loop: Loop) -> Place:
    """Return where to play: with no daemon, one of the demo's own, or one that is there."""
    if text == HERE:
        return IN_ONE_PROCESS

    if loop is Loop.TRIO:
        raise WrongUsage("across processes it runs on asyncio or uvloop")

    from ..demo.processes import own_processes  # noqa: PLC0415 - in one process nobody needs sockets
    from ..transport.address import parse_address  # noqa: PLC0415 - the same

    address = None if text == OWN else str(parse_address(text))
    about = "across processes, with a daemon of their own," if address is None else f"across processes, at {address},"
    return Place(about, partial(own_processes, address, loop.value))


class _Silent:
    """Shows nothing; the results are printed in the end."""

    @contextmanager
    def playing(self, exhibit: Exhibit, place: Place) -> Generator[Watch, None, None]:  # noqa: ARG002 - a View's
        """Show nothing."""
        yield lambda _: None

    def show(self, exhibit: Exhibit, result: Result) -> None:
        """Show nothing."""

    def conclude(self, results: Sequence[Result]) -> None:
        """Show nothing."""


@contextmanager
def _plain_errors(loop: str) -> Generator[None, None, None]:
    """Say what a person can act on in one line, and keep the bus's log lines out of the picture."""
    with plain_errors("demo"):
        try:
            yield
        except (Unplayable, TraceError) as error:
            quit_with("demo", str(error), USAGE)
        except Unopened as error:
            quit_with("demo", str(error))
        except ModuleNotFoundError as missing:
            quit_with("demo", f"the loop {loop} is not installed: {missing}; try --loop asyncio", USAGE)
