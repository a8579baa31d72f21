"""A thousand stories of a daemon and its clients: law 1 holds in each, and each ends well."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest

from iommubus.client.following import RemoteSeat
from iommubus.service.proof.recovering import Recovering
from tests.seeds import judge, quiet, tell

SEEDS: Final = 1000

ROOT: Final = Path(__file__).parents[1]

Mistake = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(autouse=True)
def _quiet() -> Generator[None]:
    with quiet():
        yield


@pytest.mark.timeout(600)
def test_a_thousand_stories_end_well() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    command = [sys.executable, "-m", "tests.seeds", "--count", str(SEEDS)]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stdout + told.stderr


def test_a_story_is_the_same_each_time() -> None:
    first, second = list[str](), list[str]()
    tell(7, first.append)
    tell(7, second.append)

    assert first == second


# -- mistakes that a story shows -------------------------------------------------


def acknowledge_at_once(seat: RemoteSeat, take: Any = RemoteSeat.take) -> object:
    events = take(seat)
    seat.acknowledge(seat.handed)
    return events


def take_nothing(_: RemoteSeat) -> None:
    pass


MISTAKES: Final[dict[str, Mistake]] = {
    "a client keeps what it has when the connection is lost": lambda: patch.object(
        RemoteSeat, "_take_away", take_nothing
    ),
    "a client acknowledges what it has not applied": lambda: patch.object(RemoteSeat, "take", acknowledge_at_once),
    "a daemon forgets what the one before it granted": lambda: patch.object(Recovering, "over", new=True),
}


@pytest.mark.filterwarnings("ignore")  # what a story that broke off has left is collected
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str) -> None:
    with MISTAKES[name]():
        assert any(judge(seed).problem.startswith("Stale") for seed in range(SEEDS))
    gc.collect()


@pytest.mark.filterwarnings("ignore")
def test_a_story_that_ends_badly_says_its_number() -> None:
    with MISTAKES["a client keeps what it has when the connection is lost"]():
        verdicts = [judge(seed) for seed in range(10)]

    assert [each.seed for each in verdicts] == list(range(10))
    assert any(each.problem.startswith("Stale: a sync of s") for each in verdicts)
    gc.collect()
