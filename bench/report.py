"""Results for people: a table on the terminal, and one in the README.

The README has it between two markers; whoever has no such markers is left alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .rows import Results, Row

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"


def text(rows: Sequence[Row]) -> str:
    """Return the rows in columns."""
    cells = [
        (
            row.case,
            "" if row.subscribers is None else str(row.subscribers),
            row.subject,
            f"{row.value:,}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}",
            row.target or "",
            verdict(row),
        )
        for row in rows
    ]
    head = ("case", "S", "subject", "value", "unit", "ratio", "target", "")
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in {1, 3} else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *cells)
    )


def verdict(row: Row) -> str:
    """Return whether the target was reached, in a word."""
    return {None: "", True: "met", False: "missed"}[row.met]


def markdown(results: Results) -> str:
    """Return the speeds side by side, then everything that has a target."""
    speeds = [row for row in results.rows if row.subscribers is not None and row.target is None]
    counts = sorted({row.subscribers for row in speeds if row.subscribers is not None})
    lines = [
        "| events per second, ratio to `asyncio.Queue` | " + " | ".join(f"S={count}" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for subject in dict.fromkeys(row.subject for row in speeds):
        own = {row.subscribers: row for row in speeds if row.subject == subject}
        lines.append(f"| {subject} | " + " | ".join(speed(own[count]) for count in counts) + " |")
    lines += ["", "| measured | value | ratio | target | |", "|---|---|---|---|---|"]
    lines += [target_line(row) for row in results.rows if row.target is not None]
    return "\n".join([*lines, "", basis(results)])


def speed(row: Row) -> str:
    """Return a speed and its ratio."""
    value = f"{row.value / 1e6:.2f}M" if row.value >= 1e6 else f"{row.value / 1e3:.0f}k"
    return f"{value} ({row.ratio:.2f})"


def target_line(row: Row) -> str:
    """Return a row that has a target."""
    who = f"{row.subject}, S={row.subscribers}" if row.subscribers is not None else f"{row.case}: {row.subject}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}"
    return f"| {who} | {row.value:,} {row.unit} | {ratio} | {row.target} | {verdict(row)} |"


def basis(results: Results) -> str:
    """Return what was measured on."""
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{results.machine['cpus']} x {results.machine['cpu']}; {versions}."


def update(results: Results, path: Path = README) -> bool:
    """Put the table between the markers of a file; return whether it has any."""
    if not path.exists():
        return False
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    path.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")
    return True
