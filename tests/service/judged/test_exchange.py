"""Somebody is killed or stopped at every step of an exchange between real processes, and law 1 holds."""

import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.service.judged.exchange import STEPS, Exchange, Role, Stops, play
from tests.service.judged.nursery import Nursery

AT_ONCE: Final = 10
"""Exchanges that are played at the same time: they wait for leases, most of the time."""


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with TemporaryDirectory() as directory, Nursery(Path(directory)) as made:
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stops", ["lease", "exit"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("victim", ["daemon", "producer", "consumer"])
def test_whoever_it_befalls_nothing_old_is_used(
    nursery: Nursery, tmp_path: Path, victim: Role, number: signal.Signals, stops: Stops
) -> None:
    def played(at: int) -> int:
        directory = tmp_path / str(at)
        directory.mkdir()
        try:
            return play(Exchange(nursery, directory, stops), victim, number, at)
        except BaseException as problem:
            problem.add_note(f"at step {at}, {STEPS[at]}")
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        judged = list(pool.map(played, range(len(STEPS))))

    assert min(judged) >= 1
