"""The example of the README, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "embedded_emulator.py"


def test_the_example_runs_and_prints_what_it_promises() -> None:
    """
    A newcomer sees the MAP, the translation, the UNMAP, and that both let go.
    """
    result = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True)

    assert result.stdout.splitlines() == [
        "vfio: map   0x100000 size 0x4000 -> 0x80000000",
        "vhost: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
        "vfio: unmap 0x100000 size 0x4000",
        "reusable: 2 subscribers let go, 0 translations cached",
    ]
    assert result.stderr == ""
