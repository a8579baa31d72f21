"""What a field test says: counts, latencies, and whether all was as it has to be."""

from collections.abc import Sequence
from statistics import quantiles
from typing import Final

from msgspec import Struct

PERCENT: Final = 100


class Skip(Exception):
    """A part that cannot run here; its text says why."""


class Failed(AssertionError):
    """Something was not as it has to be."""


class Row(Struct, frozen=True):
    """One line of the table at the end.

    Attributes:
        part: Which part says it.
        what: What was counted or timed.
        count: How many there were.
        p50: Median in microseconds, `None` where nothing was timed.
        p99: What one in a hundred takes at least.
        note: What to know about it.
    """

    part: str
    what: str
    count: str
    p50: float | None = None
    p99: float | None = None
    note: str = ""


class Report:
    """What one part says.

    Args:
        part: Its name.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.rows: list[Row] = []

    def count(self, what: str, number: int | float, note: str = "") -> None:
        """Say how many there were."""
        text = f"{number:,}" if isinstance(number, int) else f"{number:,.2f}"
        self.rows.append(Row(self.part, what, text, note=note))

    def latencies(self, what: str, seconds: Sequence[float], note: str = "") -> None:
        """Say how long each took."""
        cuts = quantiles(seconds, n=PERCENT, method="inclusive")
        self.rows.append(Row(self.part, what, f"{len(seconds):,}", cuts[49] * 1e6, cuts[98] * 1e6, note))

    def skip(self, what: str, why: str) -> None:
        """Say what of the part could not run here."""
        self.rows.append(Row(self.part, what, "skipped", note=why))

    def check(self, ok: object, what: str) -> None:
        """Fail if something is not as it has to be.

        Args:
            ok: Whether it is.
            what: What has to be, with the values that were seen.
        """
        if not ok:
            raise Failed(what)


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table at the end."""
    cells = [["part", "what", "count", "p50 us", "p99 us", "note"]]
    cells += [[row.part, row.what, row.count, _us(row.p50), _us(row.p99), row.note] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
