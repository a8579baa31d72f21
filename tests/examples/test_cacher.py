"""A cacher's example, run as a user runs it and on every event loop."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.loops import every_loop

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "cacher.py"

STORY: Final = [
    "iommu: asked for 0x1000, W",
    "vhost: 0x1000 -> 0x80007000",
    "vhost: 0x1800 -> 0x80007800",
    "iommu: asked for 0x2000, W",
    "vhost: 0x2000 -> 0x80003000",
    "iommu: asked for 0x3000, W",
    "vhost: 0x3000 -> 0x80009000",
    "vhost: 0x3000 was unmapped, and is still in use",
    "vhost: lets go of it",
    "guest: the page is free, vhost acknowledged",
    "iommu: asked for 0x3000, R",
    "vhost: nothing is mapped at 0x3000",
    "cache: 2 hits, 4 misses, 1 eviction, 1 invalidation, 1 entry left, 0 pinned",
    "iommu: 4 questions, 3 answered",
]


def test_the_example_prints_its_story() -> None:
    """
    A newcomer sees hits and misses, and that the sync waits until the pin is gone.
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
