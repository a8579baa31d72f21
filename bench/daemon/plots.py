"""Pictures of what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from ..rows import Results, Row
from . import growth
from .beside import BATCHES, SUBSCRIBERS, THROUGHPUT, percentiles, round_trip
from .report import find
from .targets import FLOOR, OWN

PLOTS: Final = Path(__file__).parents[1] / "plots"

OURS: Final = "#c2410c"
FLOORS: Final = "#334155"
PEERS: Final = "#94a3b8"
"""Colours: of iommubus, of the floor, and of everybody else."""

LEAST_SPEED: Final = 1_000
"""Where bars of speeds begin, in events per second."""

ORDERS: Final = (("in order", "-"), ("at random", "--"))


def draw(results: Results, folder: Path = PLOTS) -> list[Path]:
    """Draw everything; return the files."""
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(exist_ok=True)
    return [
        throughput(results, folder / "throughput.png"),
        round_trips(results, folder / "round-trips.png"),
        grown(results, folder / "growth.png"),
    ]


def throughput(results: Results, path: Path) -> Path:
    """Draw events per second: one a call and 64, one subscriber and four."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, batch in zip(axes, BATCHES, strict=True):
        groups = [(f"S={count}", (THROUGHPUT, count, batch)) for count in SUBSCRIBERS]
        bars(axis, results, groups)
        axis.set_xscale("log")
        axis.set_xlim(left=LEAST_SPEED)
        axis.set_xlabel("events per second, log scale")
        axis.set_title("an event a call" if batch == 1 else f"{batch} events a call")
    return keep(figure, path)


def round_trips(results: Results, path: Path) -> Path:
    """Draw how long it takes until everybody has let go: on one CPU, and free."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, pinned in zip(axes, (True, False), strict=True):
        case, _ = percentiles(round_trip(pinned=pinned))
        bars(axis, results, [(f"S={count}", (case, count, 1)) for count in SUBSCRIBERS])
        axis.set_xlabel("microseconds, p50; less is better")
        axis.set_title("unmap and sync, one CPU" if pinned else "unmap and sync, free")
    return keep(figure, path)


def bars(axis: Any, results: Results, groups: Sequence[tuple[str, tuple[str, int, int]]]) -> None:
    """Draw a bar for each subject and group; the first group decides the order."""
    _, first = groups[0]
    found = [row for row in results.rows if row.target is None and (row.case, row.subscribers, row.batch) == first]
    names = [row.subject for row in sorted(found, key=lambda row: row.value or 0.0)]
    height = 0.8 / len(groups)
    for place, (label, what) in enumerate(groups):
        rows = [find(results, name, what) for name in names]
        values = [0.0 if row is None or row.value is None else row.value for row in rows]
        at = [number + 0.4 - height * (place + 0.5) for number in range(len(names))]
        shades = [colour(name) for name in names]
        axis.barh(at, values, height * 0.92, color=shades, alpha=1.0 if place == 0 else 0.55, label=label)
    axis.set_yticks(range(len(names)), names)
    axis.legend(frameon=False, loc="lower right")


def grown(results: Results, path: Path) -> Path:
    """Draw what it costs when there is more: subscribers, spaces, mappings."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    crowd, spaces, mappings = figure.subplots(1, 3)
    for name in (OWN, FLOOR):
        line(crowd, results, f"{growth.SOME}, processor time of the server", name, name)
    titled(crowd, "4 of so many subscribers match", "subscribers", "us of the server, an event")
    line(spaces, results, growth.SPACES, OWN, OWN)
    titled(spaces, "an event in each space by turns", "spaces", "events per second")
    for order, style in ORDERS:
        line(mappings, results, f"{growth.MAPPINGS}, {order}", OWN, order, style)
    titled(mappings, "changes between live mappings", "live mappings", "events per second")
    return keep(figure, path)


def line(axis: Any, results: Results, case: str, subject: str, label: str, style: str = "-") -> None:
    """Draw a line of what was measured as there was more and more."""
    rows = [row for row in results.rows if row.case == case and row.subject == subject and row.target is None]
    rows.sort(key=amount)
    axis.plot(
        [amount(row) for row in rows],
        [row.value for row in rows],
        style,
        marker="o",
        color=colour(subject),
        label=label,
    )


def amount(row: Row) -> int:
    """Return how much there was."""
    return row.subscribers or 0


def titled(axis: Any, title: str, across: str, up: str) -> None:
    """Say what an axis shows."""
    axis.set_title(title)
    ticks = sorted({int(at) for drawn in axis.get_lines() for at in drawn.get_xdata()})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{at:,}" for at in ticks])
    axis.minorticks_off()
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)


def colour(subject: str) -> str:
    """Return the colour of a subject."""
    return {OWN: OURS, FLOOR: FLOORS}.get(subject, PEERS)


def keep(figure: Any, path: Path) -> Path:
    """Save a picture; no date and no version in it."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
