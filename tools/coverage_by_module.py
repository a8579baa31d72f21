"""Measure branch coverage: each word and machine by its own test file alone, then everything.

A module of floors 0 and 1 has to be covered whole by ``tests/test_<module>.py``.
What only other tests reach by accident is not tested.  The whole package, by
all tests together, has to reach `OVERALL`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[1]
OVERALL: Final = 95
"""Percent of the lines and branches of the package."""

ALONE: Final = (
    "errors",
    "caps",
    "ranges",
    "events",
    "shape",
    "staging",
    "feed",
    "rangeset",
    "kinds",
    "compiled",
    "contract",
    "table",
    "mailbox",
    "ledger",
    "completion",
    "abi/qemu_trace",
    "abi/fields",
    "abi/payloads",
    "abi/extents",
    "abi/splitter",
    "abi/vhost",
    "abi/vhost_user",
    "abi/vfio",
    "abi/iommufd",
    "abi/vfio_user",
    "abi/virtio_iommu",
)
"""The modules of floors 0 and 1."""


def source_of(module: str) -> str:
    """Return the file of a module, or all files of a small package that is one machine."""
    path = f"src/iommubus/{module}"
    return f"{path}/*" if (TOP / path).is_dir() else f"{path}.py"


def test_of(module: str) -> str:
    """Return the test file of a module: ``abi/x`` is tested by ``tests/abi/test_x.py``."""
    folder, _, name = module.rpartition("/")
    return "/".join(filter(None, ("tests", folder, f"test_{name}.py")))


def coverage(*arguments: str) -> bool:
    """Run coverage, of what is written in Python, and say whether it was content."""
    command, environ = [sys.executable, "-m", "coverage", *arguments], os.environ | {"IOMMUBUS_PURE": "1"}
    return subprocess.run(command, cwd=TOP, env=environ, check=False).returncode == 0


def run(data: Path, *arguments: str) -> bool:
    """Run tests, and write what they covered to ``data``."""
    return coverage("run", f"--data-file={data}", "-m", "pytest", "-q", "--no-header", *arguments)


def covered_alone(data: Path, module: str) -> bool:
    """Say whether a module's own tests cover all of it."""
    return run(data, test_of(module)) and coverage(
        "report", f"--data-file={data}", f"--include={source_of(module)}", "--fail-under=100"
    )


def main() -> int:
    """Measure everything and return the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder, together = Path(name), str(Path(name) / "together")
        short = [module for module in ALONE if not covered_alone(folder / module.replace("/", "."), module)]
        rest_passes = run(folder / "rest", *(f"--ignore={test_of(module)}" for module in ALONE))
        coverage("combine", f"--data-file={together}", *map(str, folder.iterdir()))
        enough = coverage("report", f"--data-file={together}", f"--fail-under={OVERALL}")

    for module in short:
        print(f"not covered by {test_of(module)} alone: {module}")
    if short or not rest_passes or not enough:
        print("coverage failed")
        return 1

    print(f"coverage ok: {len(ALONE)} modules by their own tests, at least {OVERALL} % overall")
    return 0


if __name__ == "__main__":
    sys.exit(main())
