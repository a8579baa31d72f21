"""What a run found: one row a measurement, and what it was measured on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from msgspec import Struct

RESULTS: Final = Path(__file__).with_name("results.json")

LIBRARIES: Final = ("aioreactive", "anyio", "blinker", "iommubus", "msgspec", "pyee", "uvloop")


class Row(Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        case: What was done.
        subject: Who did it.
        value: The median, in ``unit``.
        unit: Unit of ``value``.
        subscribers: How many listened, where that matters.
        batch: Changes published before the subscribers run, where that matters.
        ratio: Median over the rounds of ``subject / reference``; for speeds,
            more is better.
        reference: Whom ``ratio`` compares with.
        target: What was aimed at, in words.
        met: Whether that was reached.
    """

    case: str
    subject: str
    value: float
    unit: str
    subscribers: int | None = None
    batch: int | None = None
    ratio: float | None = None
    reference: str | None = None
    target: str | None = None
    met: bool | None = None


class Results(Struct, frozen=True):
    """Everything one run found."""

    machine: dict[str, str | int]
    versions: dict[str, str]
    rows: list[Row]


def collect(rows: list[Row]) -> Results:
    """Return the rows with the machine and the versions they were measured on."""
    machine: dict[str, str | int] = {"cpus": cpu_count() or 1, "cpu": cpu_model()}
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # the package itself, run from its sources
            continue
    return Results(machine, versions, rows)


def save(results: Results, path: Path = RESULTS) -> None:
    """Write the results as JSON, one field a line."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path = RESULTS) -> Results:
    """Read results that were saved."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def ratio_of(values: list[float], reference: list[float]) -> float:
    """Return the median of the ratios inside each round."""
    return median(value / base for value, base in zip(values, reference, strict=True))


def cpu_model() -> str:
    """Return the name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
