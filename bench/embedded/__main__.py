"""``python -m bench.embedded``: measure, print, and keep what was found.

``--quick`` takes a minute, is rough, and changes no file.
"""

import argparse
import logging
from pathlib import Path
from typing import Final

import uvloop

from ..report import basis, text, update
from ..rows import Row, collect, save
from . import gaps, inprocess, scale
from .report import MARK, markdown

RESULTS: Final = Path(__file__).with_name("results.json")
LIBRARIES: Final = ("aioreactive", "blinker", "pyee")
ROUNDS: Final = 15
QUICK_ROUNDS: Final = 3


async def measure(*, quick: bool) -> list[Row]:
    """Run every case."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows = await inprocess.measure(rounds)
    rows += await scale.measure(rounds)
    rows += await gaps.measure(max(rounds // 3, 1))
    return rows


def main() -> None:
    """Measure, and save a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench.embedded", description="Measure iommubus beside its peers.")
    parser.add_argument("--quick", action="store_true", help="few rounds; save nothing")
    logging.disable(logging.WARNING)  # one case has a sync fail on purpose
    quick: bool = parser.parse_args().quick
    results = collect(uvloop.run(measure(quick=quick)), LIBRARIES)
    print(text(results.rows))
    print(basis(results))
    if not quick:
        save(results, RESULTS)
        update(MARK, markdown(results))
        print(f"saved to bench/embedded/{RESULTS.name}")


if __name__ == "__main__":
    main()
