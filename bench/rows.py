"""What a run found: one row a measurement, and what it was measured on."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from msgspec import Struct

OWN: Final = ("anyio", "iommubus", "msgspec", "uvloop")
"""What the measured code itself stands on."""


class Row(Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        case: What was done.
        subject: Who did it.
        value: The median, in ``unit``; `None` if it could not be measured.
        unit: Unit of ``value``.
        subscribers: How many listened, where that matters.
        batch: Changes in one burst, call or message, where that matters.
        ratio: Median over the rounds of ``subject / reference``; of speeds,
            more is better, of times less.
        reference: Whom ``ratio`` compares with.
        target: What was aimed at, in words.
        met: Whether that was reached.
        note: Why it could not be measured.
    """

    case: str
    subject: str
    value: float | None
    unit: str
    subscribers: int | None = None
    batch: int | None = None
    ratio: float | None = None
    reference: str | None = None
    target: str | None = None
    met: bool | None = None
    note: str | None = None


class Results(Struct, frozen=True):
    """Everything one run found."""

    machine: dict[str, str | int]
    versions: dict[str, str]
    rows: list[Row]


def collect(rows: list[Row], libraries: Iterable[str], programs: dict[str, str] | None = None) -> Results:
    """Return the rows with what they were measured on.

    Args:
        rows: The rows.
        libraries: Distributions whose versions matter.
        programs: Versions of programs, by name.
    """
    machine: dict[str, str | int] = {"cpus": cpu_count() or 1, "cpu": cpu_model()}
    versions = {"python": platform.python_version()}
    for library in sorted({*OWN, *libraries}):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # the package itself, run from its sources
            continue
    return Results(machine, {**versions, **(programs or {})}, rows)


def save(results: Results, path: Path) -> None:
    """Write the results as JSON, one field a line."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path) -> Results:
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
