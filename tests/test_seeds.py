"""A thousand stories of a daemon and its clients: law 1 holds in each, and each ends well."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.seeds import quiet, tell

SEEDS: Final = 1000

ROOT: Final = Path(__file__).parents[1]


@pytest.mark.timeout(600)
def test_a_thousand_stories_end_well() -> None:
    command = [sys.executable, "-m", "tests.seeds", "--count", str(SEEDS)]
    told = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stdout + told.stderr


def test_a_story_is_the_same_each_time() -> None:
    quiet()
    first, second = list[str](), list[str]()
    tell(7, first.append)
    tell(7, second.append)

    assert first == second


def test_a_story_that_ends_badly_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client forgets that leases run out."""
    quiet()
