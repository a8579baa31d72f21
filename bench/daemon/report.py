"""What was found, for the README and for the page about performance."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ..report import basis, speed, verdict
from ..rows import Results, Row
from . import growth
from .beside import CPU, ONE_WAY, THROUGHPUT, percentiles, round_trip
from .fleet import ROLES
from .subject import Subject
from .targets import OWN

README_MARK: Final = "bench-daemon"
"""Between these markers of the README its part stands."""

PAGE_MARK: Final = "bench-daemon-all"
"""Between these, everything stands in `PAGE`."""

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"

LOAD: Final = ((1, 1), (4, 1), (1, 64), (4, 64))
"""Subscribers and events a call, in columns."""

Cell = Callable[[Row], str]
Column = tuple[str, str, int, int]
"""A heading, and the case, the subscribers and the batch that stand below it."""


def front(results: Results, subjects: Iterable[Subject]) -> str:
    """Return the part of the README: pictures, throughput, round trips, what each does not do."""
    return "\n\n".join(
        [
            "![Events per second, beside peers](bench/plots/throughput.png)",
            "![Until nobody uses what was unmapped](bench/plots/round-trips.png)",
            "\n".join(table(results, "events per second, ratio to the bare hub", throughput_columns(), speeds)),
            "\n".join(
                table(results, "unmap and sync, one CPU: p50 / p99 in us", round_columns(pinned=True), both(results))
            ),
            "\n".join(lacks(subjects)),
            basis(results),
        ]
    )


def page(results: Results) -> str:
    """Return the rest, for who wants to predict a load of their own."""
    return "\n\n".join(
        [
            "\n".join(table(results, "events per second, ratio to the bare hub", throughput_columns(), speeds)),
            "\n".join(
                table(results, "unmap and sync, one CPU: p50 / p99 in us", round_columns(pinned=True), both(results))
            ),
            "\n".join(table(results, "the same, free", round_columns(pinned=False), both(results))),
            "\n".join(table(results, "one way, 500 events/s: p50 / p99 in us", one_way_columns(), both(results))),
            *("\n".join(table(results, f"{CPU}{role}, us an event", cpu_columns(role), times)) for role in ROLES),
            "![Cost as work grows](../bench/plots/growth.png)",
            "\n".join(grown(results)),
            "\n".join(judged(results)),
            basis(results),
        ]
    )


# -- columns -----------------------------------------------------------------


def throughput_columns() -> list[Column]:
    """Return the columns of throughput."""
    return [(heading(count, batch), THROUGHPUT, count, batch) for count, batch in LOAD]


def cpu_columns(role: str) -> list[Column]:
    """Return the columns of a role's processor time."""
    return [(heading(count, batch), CPU + role, count, batch) for count, batch in LOAD]


def round_columns(*, pinned: bool) -> list[Column]:
    """Return the columns of round trips."""
    case, _ = percentiles(round_trip(pinned=pinned))
    return [(heading(count, batch), case, count, batch) for count, batch in LOAD]


def one_way_columns() -> list[Column]:
    """Return the columns of latency."""
    case, _ = percentiles(ONE_WAY)
    return [(f"S={count}", case, count, 1) for count in (1, 4)]


def heading(subscribers: int, batch: int) -> str:
    """Return what a column is about."""
    return f"S={subscribers}" if batch == 1 else f"S={subscribers}, {batch} at once"


# -- cells -------------------------------------------------------------------


def speeds(row: Row) -> str:
    """Return a speed and its ratio."""
    return speed(row.value or 0.0) + ratio(row)


def times(row: Row) -> str:
    """Return a time."""
    return f"{row.value:.2f}"


def both(results: Results) -> Cell:
    """Return what shows the 99th percentile beside the half."""

    def cell(row: Row) -> str:
        case = row.case.removesuffix("p50") + "p99"
        tail = find(results, row.subject, (case, row.subscribers, row.batch))
        return f"{row.value:.0f} / {0.0 if tail is None else tail.value:.0f}{ratio(row)}"

    return cell


def ratio(row: Row) -> str:
    """Return a ratio in brackets, if there is one."""
    return "" if row.ratio is None else f" ({row.ratio:.2f})"


# -- tables ------------------------------------------------------------------


def table(results: Results, title: str, columns: Sequence[Column], cell: Cell) -> Iterator[str]:
    """Yield the lines of a table with a line for each subject, the best in the first column first."""
    yield f"| {title} | " + " | ".join(name for name, *_ in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for subject in ranked(results, columns[0]):
        found = [find(results, subject, (case, count, batch)) for _, case, count, batch in columns]
        yield f"| {subject} | " + " | ".join("" if row is None else cell(row) for row in found) + " |"


def ranked(results: Results, column: Column) -> list[str]:
    """Return the subjects of a column, the best first."""
    _, *what = column
    rows = [row for row in results.rows if row.target is None and [row.case, row.subscribers, row.batch] == what]
    rows.sort(key=lambda row: row.value or 0.0, reverse=column[1] == THROUGHPUT)
    return [row.subject for row in rows]


def grown(results: Results) -> Iterator[str]:
    """Yield what it costs when there is more of something."""
    yield "| more of | subject | there are | | ratio |"
    yield "|---|---|---|---|---|"
    starts = (growth.SOME, growth.ALL, growth.SPACES, growth.MAPPINGS, "memory of")
    for row in results.rows:
        if row.target is None and row.case.startswith(starts) and row.value is not None:
            share = "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}"
            yield f"| {row.case} | {row.subject} | {row.subscribers:,} | {row.value:,.6g} {row.unit} | {share} |"


def judged(results: Results) -> Iterator[str]:
    """Yield what was aimed at."""
    yield "| measured | value | ratio | target | |"
    yield "|---|---|---|---|---|"
    for row in results.rows:
        if row.target is not None and row.value is not None:
            what = (
                f"{row.case}, {row.subscribers:,}"
                if row.batch is None
                else f"{row.case}, {heading(row.subscribers or 0, row.batch)}"
            )
            share = "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}"
            yield f"| {what} | {row.value:,.6g} {row.unit} | {share} | {row.target} | {verdict(row)} |"


def lacks(subjects: Iterable[Subject]) -> Iterator[str]:
    """Yield what each does not do."""
    yield "| | what it does not do |"
    yield "|---|---|"
    for subject in subjects:
        if subject.name != OWN:
            yield f"| {subject.name} | {subject.lacks} |"


def find(results: Results, subject: str, what: tuple[str, int | None, int | None]) -> Row | None:
    """Return what a subject was measured to be, without targets."""
    for row in results.rows:
        if row.target is None and row.subject == subject and (row.case, row.subscribers, row.batch) == what:
            return row
    return None
