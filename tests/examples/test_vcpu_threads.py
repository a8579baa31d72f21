"""The example of threads, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "vcpu_threads.py"


def test_the_example_runs_and_prints_what_it_promises() -> None:
    """
    Every buffer came back, and the thread that nothing else ends has ended.
    """
    result = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True, timeout=50)

    assert result.stdout.splitlines() == [
        "4 CPUs recycled 1000 buffers",
        "clock: powered off",
        "2001 events, 1000 syncs, 1 mappings left",
    ]
    assert result.stderr == ""
