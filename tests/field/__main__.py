"""The field tests: real QEMU, DPDK and kernels on the bus.

    .venv/bin/python -m tests.field [PART ...]

They install what they need from Debian, which takes root, and keep it.  Every part
says what it counted and how long things took; what cannot run here is said with its
reason.  The last line is ``field ok`` or ``field failed``.
"""

import shutil
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Final

import anyio

from iommubus.errors import leaves
from tests.field.debian import NotRoot
from tests.field.parts import Failed, Report, Row, Skip, table

PARTS: Final[tuple[str, ...]] = ("qemu_daemon", "frontend", "tap", "kernel_guest", "vfio_user", "storm")
"""Modules beside this one, in the order in which they run.  Each has ``ABOUT``, one line, and an async
function ``run`` that takes a `Report` and a directory to work in, which is kept if it fails."""

LIMIT: Final = 180
"""Seconds for one part: they take 10 to 70."""


async def run_part(name: str, report: Report, work: Path) -> None:
    """Run one part; raises what it raises, or `Failed` if it takes too long."""
    with anyio.move_on_after(LIMIT) as scope:
        await import_module(f"tests.field.{name}").run(report, work)
    if scope.cancelled_caught:
        raise Failed(f"it was not done within {LIMIT} s")


def outcome_of(name: str, report: Report) -> str:
    """Run one part, and return "ok", "skipped: " with a reason, or "failed: " with one.

    Raises:
        NotRoot: Packages are missing, and only root can install them.
    """
    work = Path(tempfile.mkdtemp(prefix=f"field-{name}-"))
    try:
        anyio.run(run_part, name, report, work)
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told
        return judge(leaves(error), work)
    shutil.rmtree(work)
    return "ok"


def judge(errors: list[BaseException], work: Path) -> str:
    """Return how a part ended that these errors ended."""
    for error in errors:
        if isinstance(error, NotRoot):
            raise error
        if isinstance(error, Skip):
            return f"skipped: {error}"
    wrong = next((error for error in errors if isinstance(error, Failed)), errors[0])
    if not isinstance(wrong, Failed):
        traceback.print_exception(wrong)
    return f"failed: {str(wrong) or type(wrong).__name__} (its files are in {work})"


def main(names: list[str]) -> int:
    """Run the parts, all or some, and return the exit status."""
    unknown = sorted({*names} - {*PARTS})
    if unknown:
        print(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
        return 2
    rows: list[Row] = []
    outcomes: dict[str, str] = {}
    for name in names or PARTS:
        print(f"== {name}: {import_module(f'tests.field.{name}').ABOUT}", flush=True)
        report = Report(name)
        try:
            outcomes[name] = outcome_of(name, report)
        except NotRoot as error:
            print(error, "field failed", sep="\n")
            return 1
        rows += report.rows
        print(f"   {outcomes[name]}", flush=True)
    print("", *table(rows), "", sep="\n")
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    for row in rows:
        if row.count == "skipped":
            print(f"{row.part}: skipped {row.what}: {row.note}")
    failed = any(outcome.startswith("failed") for outcome in outcomes.values())
    print("field failed" if failed else "field ok")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
