"""The example of endpoints that move, run as a user runs it and on every event loop."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.loops import every_loop

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "two_devices_one_domain.py"

STORY: Final = [
    "both are in one domain:",
    "  disk: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  nic: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "the nic is in the identity space:",
    "  disk: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  nic: 0x0..0xffffffff -> 0x0 <Perm.RW: 3>",
    "the nic is back:",
    "  disk: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  nic: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "a container is opened while the nic is nowhere:",
    "  disk: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  nic: nothing",
    "  container: nothing",
    "the nic is in its domain again:",
    "  disk: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  nic: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "  container: 0x100000..0x103fff -> 0x80000000 <Perm.RW: 3>",
    "refused: container needs its endpoints in one space, but nic in identity contradicts disk in domain-1",
]


def test_the_example_prints_its_story() -> None:
    """
    A newcomer sees each copy follow its endpoint, and the move that a container forbids.
    """
    result = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True)

    assert (result.stdout.splitlines(), result.stderr) == (STORY, "")


@every_loop
async def test_the_story_is_the_same_on_every_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Nothing in it depends on the order in which tasks run.
    """
    await runpy.run_path(str(EXAMPLE))["main"]()

    assert capsys.readouterr().out.splitlines() == STORY
