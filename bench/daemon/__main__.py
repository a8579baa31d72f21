"""``python -m bench.daemon``: measure, print, and keep what was found.

``--quick`` takes two minutes, is rough, and changes no file.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import uvloop

from ..report import basis, text, update
from ..rows import Results, collect, save
from .measure import Field, gather, measure
from .plan import FULL, QUICK
from .report import PAGE, PAGE_MARK, README_MARK, front, page
from .subjects import SUBJECTS

RESULTS: Final = Path(__file__).parents[1] / "results.json"


def main() -> None:
    """Measure, and save a full run."""
    parser = argparse.ArgumentParser(prog="python -m bench.daemon", description="Measure the daemon beside its peers.")
    parser.add_argument("--quick", action="store_true", help="little of everything; save nothing")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="take part; by default all do")
    flags = parser.parse_args()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    field = gather(flags.only or SUBJECTS, say)
    results = collect(uvloop.run(measure(field, QUICK if flags.quick else FULL, say)), field.libraries, field.programs)
    print(text(results.rows))
    print(basis(results))
    if not flags.quick and not flags.only:
        keep(results, field)


def keep(results: Results, field: Field) -> None:
    """Save the results, draw them, and put them into the README and the page about performance."""
    from .plots import draw  # noqa: PLC0415 - a first look needs no pictures

    save(results, RESULTS)
    update(README_MARK, front(results, field.subjects.values()))
    update(PAGE_MARK, page(results), PAGE)
    print(f"saved to bench/{RESULTS.name}")
    for picture in draw(results):
        print(f"drawn in bench/{picture.relative_to(RESULTS.parent)}")


if __name__ == "__main__":
    main()
