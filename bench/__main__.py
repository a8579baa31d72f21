"""``python -m bench``: measure, print, and keep what was found.

``--quick`` takes a minute, is rough, and changes no file.
"""

import argparse
import logging

import uvloop

from . import gaps, inprocess, report, scale
from .rows import RESULTS, Row, collect, save

ROUNDS = 15
QUICK_ROUNDS = 3


async def measure(*, quick: bool) -> list[Row]:
    """Run every case."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows = await inprocess.measure(rounds)
    rows += await scale.measure(rounds)
    rows += await gaps.measure(max(rounds // 3, 1))
    return rows


def main() -> None:
    """Measure, and save a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure iommubus beside its peers.")
    parser.add_argument("--quick", action="store_true", help="few rounds; save nothing")
    logging.disable(logging.WARNING)  # one case has a sync fail on purpose
    quick: bool = parser.parse_args().quick
    results = collect(uvloop.run(measure(quick=quick)))
    print(report.text(results.rows))
    print(report.basis(results))
    if not quick:
        save(results)
        report.update(results)
        print(f"saved to {RESULTS.parent.name}/{RESULTS.name}")


if __name__ == "__main__":
    main()
