"""What was found, for the README."""

from typing import Final

from ..report import basis, figure, speed, verdict
from ..rows import Results, Row

MARK: Final = "bench"
"""Between these markers of the README it stands."""


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
        lines.append(f"| {subject} | " + " | ".join(cell(own[count]) for count in counts) + " |")
    lines += ["", "| measured | value | ratio | target | |", "|---|---|---|---|---|"]
    lines += [target_line(row) for row in results.rows if row.target is not None]
    return "\n".join([*lines, "", basis(results)])


def cell(row: Row) -> str:
    """Return a speed and its ratio."""
    return f"{speed(row.value or 0)} ({row.ratio:.2f})"


def target_line(row: Row) -> str:
    """Return a row that has a target."""
    who = f"{row.subject}, S={row.subscribers}" if row.subscribers is not None else f"{row.case}: {row.subject}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} of {row.reference}"
    return f"| {who} | {figure(row.value)} {row.unit} | {ratio} | {row.target} | {verdict(row)} |"
