"""How a person sees the demo: live while it plays, then figures and a picture.

Everything goes to one `rich` console.  On a terminal the progress moves; in a
file it is a few lines.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .canvas import margin, paint, palette
from .house import Place
from .job import Exhibit, conclusion
from .picture import draw
from .player import SYNC_EVERY, Watch
from .result import Moves, Progress, Received, Result, percentile
from .script import MapStep, Script

WIDEST: Final = 160
"""Columns beyond which nothing gets more readable."""

PICTURE_ROWS: Final = 20
PICTURES: Final = 3
"""Spaces that are drawn: those with the most steps."""

PLAIN_LINES: Final = 4
"""Progress lines where nothing can move."""

REFRESH: Final = 12.0
"""Live pictures a second."""

DAMAGE_SHOWN: Final = 3
REASONS_SHOWN: Final = 8
LAGS_SHOWN: Final = 9
"""Subscribers whose lag is shown: those of three spaces."""

NAMES_SHOWN: Final = 12
"""Names of skipped events; a log of everything has hundreds."""


class ConsoleView:
    """Shows the demo on a console.

    Args:
        console: Where to.
        loop: Name of the event loop, to be told.
    """

    def __init__(self, console: Console, loop: str) -> None:
        self._console = console
        self._loop = loop
        self._width = min(console.width, WIDEST)

    @contextmanager
    def playing(self, exhibit: Exhibit, place: Place) -> Generator[Watch, None, None]:
        """Show how far the trace is, for as long as the block lasts."""
        self._head(exhibit, place)
        if not self._console.is_terminal:
            yield _PlainProgress(self._print)
            return

        with Live(console=self._console, refresh_per_second=REFRESH, transient=True) as live:
            yield lambda progress: live.update(_moving(progress, self._width))

    def show(self, exhibit: Exhibit, result: Result) -> None:
        """Show the figures, the picture and the verdict of one trace."""
        self._print(_deliveries(result))
        self._print(self._figures(result))
        self._pictures(exhibit.script)
        self._print(_verdict(result), before=1)
        self._console.print()

    def conclude(self, results: Sequence[Result]) -> None:
        """Say how it all ended, in the last line."""
        style = "bold green" if all(result.ok for result in results) else "bold red"
        self._console.print(Text(conclusion(results), style=style), soft_wrap=True)

    # -- inside ----------------------------------------------------------------

    def _print(self, what: RenderableType, before: int = 0) -> None:
        self._console.line(before)
        self._console.print(what, width=self._width)

    def _head(self, exhibit: Exhibit, place: Place) -> None:
        tally = exhibit.script.tally
        self._print(Rule(Text(exhibit.script.title, style="bold"), align="left"))
        told = f"QEMU's own trace of {exhibit.about}" if exhibit.about else "A trace log of QEMU"
        self._print(
            Text(
                f"{told}: {tally.lines:,} lines. The {tally.entries:,} of {exhibit.script.family} are played "
                f"through the bus {place.about} on {self._loop}, "
                "and what each subscriber holds is judged after every sync."
            )
        )

    def _figures(self, result: Result) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        micro = "us" if self._console.options.ascii_only else "µs"
        for name, text in _facts(result, micro):
            table.add_row(name, Text(text))

        return table

    def _pictures(self, script: Script) -> None:
        counts = {space: sum(step.space == space for step in script.steps) for space in script.spaces}
        spaces = sorted(counts, key=lambda space: -counts[space])
        for space in spaces[:PICTURES]:
            self._print(self._picture(script, space), before=1)

        if len(spaces) > PICTURES:
            self._print(Text(f"({len(spaces) - PICTURES} more spaces are not drawn)", style="dim"))

    def _picture(self, script: Script, space: str) -> RenderableType:
        name = Text(space, style="bold")
        if not script.spaces[space]:
            return name.append(": a pull space keeps no table, so there is nothing to draw", style="not bold")

        highest = max(step.last for step in script.steps if isinstance(step, MapStep) and step.space == space)
        width = max(self._width - margin(highest) - 1, 8)
        picture = draw(script.steps, space, script.granule, width, PICTURE_ROWS)
        if picture is None:
            return name

        name.append(": what is mapped over time, by I/O address", style="not bold")
        return Group(name, *paint(picture, palette(self._console)))


class _PlainProgress:
    """A few lines, where nothing can move."""

    def __init__(self, show: Callable[[RenderableType], None]) -> None:
        self._show = show
        self._shown = 0

    def __call__(self, progress: Progress) -> None:
        part = progress.steps * PLAIN_LINES // progress.total
        if part > self._shown:
            self._shown = part
            behind = ", ".join(f"{_short(lag.subscriber)} {lag.lag}" for lag in progress.lags[:LAGS_SHOWN])
            self._show(Text(f"{_how_far(progress)}; waiting: {behind}"))


# -- while it plays ------------------------------------------------------------


def _moving(progress: Progress, width: int) -> RenderableType:
    """Return what is shown while it plays; it stays as tall as it is."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for lag in progress.lags[:LAGS_SHOWN]:
        bar = ProgressBar(total=SYNC_EVERY, completed=lag.lag, width=max(width // 3, 10))
        told = f"{lag.conflations:,} conflations" if lag.conflations else "none conflated"
        table.add_row(_short(lag.subscriber), f"{lag.lag} waiting", bar, told)

    bar = ProgressBar(total=progress.total, completed=progress.steps, width=width)
    return Group(Text(_how_far(progress)), bar, table)


def _how_far(progress: Progress) -> str:
    return (
        f"{100 * progress.steps // progress.total:3}%: {progress.events:,} events, {progress.syncs} syncs, "
        f"{progress.mapped:,} pages"
    )


def _short(subscriber: str) -> str:
    """Return the part of a name that tells one endpoint of a device from another."""
    return subscriber.rpartition("/")[2]


# -- afterwards ----------------------------------------------------------------


def _deliveries(result: Result) -> Table:
    """Return who was given what, space by space; then those who watch more than one."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("", overflow="fold")
    for name in ("MAP", "UNMAP", "waiting", "conflated"):
        table.add_column(name, justify="right", no_wrap=True)

    for one in result.published:
        what = f"in {one.space}" + (", a pull space" if one.pull else "")
        table.add_row("published", what, "-" if one.pull else f"{one.maps:,}", f"{one.unmaps:,}", style="cyan")
        for received in result.received:
            if received.space == one.space:
                table.add_row(*_row(received))

    spaces = {one.space for one in result.published}
    for received in result.received:
        if received.space not in spaces:
            table.add_row(*_row(received))

    return table


def _row(one: Received) -> tuple[str, ...]:
    maps = f"{one.maps:,}" if one.maps is not None else "-"
    last = "" if one.conflations is None else f"{one.conflations:,}x"
    if one.lost is not None:
        last = f"{one.lost:,} lost"

    waiting = "" if one.conflations is None else f"{one.lag:,}"
    return _short(one.subscriber), one.role, maps, f"{one.unmaps:,}", waiting, last


def _facts(result: Result, micro: str) -> Iterator[tuple[str, str]]:
    mappings = sum(one.mappings for one in result.published)
    yield "at the end", f"{result.pages:,} pages mapped, in {mappings:,} mappings"
    if result.remaps:
        yield "remaps", f"{result.remaps:,} MAPs over a live mapping, played as UNMAP and MAP"

    if result.moves.endpoints:
        yield "moves", _moves(result.moves)

    p50, p99 = (percentile(result.sync_seconds, share) * 1e6 for share in (0.50, 0.99))
    times = f"p50 {p50:,.0f} {micro}, p99 {p99:,.0f} {micro}"
    yield "syncs", f"{len(result.sync_seconds)}, one every {SYNC_EVERY} events; {times}"
    took = f"{result.events:,} in {result.seconds:.2f} s"
    yield "rate", f"{result.rate:,.0f} events/s: {took}, lookups and judging included"
    yield "lookups", _lookups(result)
    found = f"{len(result.violations)} violations"
    yield "judged", f"{result.checks:,} comparisons with the trace, page by page: {found}"
    if result.skipped:
        yield "skipped", _names(result.skipped)

    if result.quiet:
        yield "no change", _names(result.quiet)

    if result.damaged:
        yield "damaged", "\n".join([f"{result.damaged:,} lines", *result.damage[:DAMAGE_SHOWN]])


def _moves(moves: Moves) -> str:
    text = f"{_count(moves.of_trace, 'move')}, {_count(moves.endpoints, 'endpoint')}"
    if moves.left is None or moves.returned is None:
        return text

    return f"{text}: {moves.left:,} pages held once detached, {moves.returned:,} once attached again"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _lookups(result: Result) -> str:
    lookups = result.lookups
    if not lookups.asked:
        return "none: a pull space keeps no table to ask"

    asked, whose = ("as in the trace", "the trace's") if lookups.of_trace else ("one for each MAP", "the MAP's")
    return f"{lookups.asked:,}, {asked}: {lookups.answered:,} answered, {lookups.agreed:,} with {whose} target"


def _names(counts: dict[str, int]) -> str:
    shown = [f"{count:,} {name}" for name, count in list(counts.items())[:NAMES_SHOWN]]
    rest = sum(list(counts.values())[NAMES_SHOWN:])
    return ", ".join(shown) + (f", {rest:,} others" if rest else "")


def _verdict(result: Result) -> RenderableType:
    if result.ok:
        syncs = len(result.sync_seconds)
        return Text(f"ok: after each of {syncs} syncs, every copy and cache was what it must be", style="green")

    return Group(*(Text(f"failed: {reason}", style="red") for reason in result.reasons[:REASONS_SHOWN]))
