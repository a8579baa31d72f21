"""Results for people: columns on the terminal, and a part of the README.

The README has each part between two markers; whoever has no such markers is left alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .rows import Results, Row

README: Final = Path(__file__).parents[1] / "README.md"

RIGHT: Final = {1, 3}
"""Columns of numbers."""


def text(rows: Sequence[Row]) -> str:
    """Return the rows in columns."""
    cells = [
        (
            row.case if row.batch is None else f"{row.case} ({row.batch})",
            "" if row.subscribers is None else str(row.subscribers),
            row.subject,
            figure(row.value),
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}",
            row.target or row.note or "",
            verdict(row),
        )
        for row in rows
    ]
    head = ("case", "S", "subject", "value", "unit", "ratio", "target", "")
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in RIGHT else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *cells)
    )


def figure(value: float | None) -> str:
    """Return a value in full."""
    if value is None:
        return "-"
    return f"{int(value) if value == int(value) else value:,}"


def speed(value: float) -> str:
    """Return a speed in three figures or so."""
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.0f}k" if value >= 1e4 else f"{value / 1e3:.1f}k"


def verdict(row: Row) -> str:
    """Return whether the target was reached, in a word."""
    return {None: "", True: "met", False: "missed"}[row.met]


def basis(results: Results) -> str:
    """Return what was measured on."""
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{results.machine['cpus']} x {results.machine['cpu']}; {versions}."


def update(mark: str, part: str, path: Path = README) -> bool:
    """Put a part between its markers in a file; return whether it has any.

    Args:
        mark: What the markers are called: ``<!-- MARK:begin -->`` and ``<!-- MARK:end -->``.
        part: The text.
        path: The file.
    """
    if not path.exists():
        return False
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, found, rest = path.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        return False
    path.write_text(f"{before}{begin}\n{part}\n{end}{after}")
    return True
