"""Somebody is killed or stopped at every step of an exchange between real processes, and law 1 holds."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.service.judged.exchange import FATES, STEPS, Exchange, Stops, play
from tests.service.judged.nursery import Nursery

AT_ONCE: Final = 10
"""Exchanges that are played at the same time: they wait for leases, most of the time."""


@pytest.fixture(scope="module")
def nursery() -> Generator[Nursery]:
    with TemporaryDirectory() as directory, Nursery(Path(directory)) as made:
        yield made


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stops", ["lease", "exit"])
@pytest.mark.parametrize("fate", FATES)
def test_whatever_befalls_whomever_nothing_old_is_used(
    nursery: Nursery, tmp_path: Path, fate: str, stops: Stops
) -> None:
    def played(at: int) -> int:
        directory = tmp_path / str(at)
        directory.mkdir()
        try:
            return play(Exchange(nursery, directory, stops), FATES[fate], at)
        except BaseException as problem:
            problem.add_note(f"at step {at}, {STEPS[at]}")
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        judged = list(pool.map(played, range(len(STEPS))))

    assert min(judged) >= 1
