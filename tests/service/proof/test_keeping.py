"""Processes that keep what subscribers were given: real ones, each watched once, until it ends or nobody asks."""

import os
import subprocess
import sys
from collections.abc import Generator

import pytest

from iommubus.errors import LimitReached, NoCredentials
from iommubus.service.proof import keeping
from iommubus.service.proof.keeping import Keeping, Keepings
from iommubus.transport.tasks import Tasks
from tests.peers import open_descriptors
from tests.talkers import until

pytestmark = pytest.mark.asyncio


class Looker:
    """What a process keeps, which counts how often it was looked at."""

    def __init__(self) -> None:
        self.looked = 0

    def look(self) -> None:
        self.looked += 1


@pytest.fixture
def child() -> Generator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def take(keepings: Keepings, pid: int, kept: Looker, tasks: Tasks, *others: Keeping) -> Keeping | None:
    return keepings.take(pid, os.getpid(), kept, set(others), tasks)


async def test_whoever_names_a_process_is_looked_at_when_it_ends(child: subprocess.Popen[bytes]) -> None:
    keepings, lookers = Keepings(), [Looker() for _ in range(3)]
    async with Tasks() as tasks:
        before = open_descriptors()
        found = [take(keepings, child.pid, each, tasks) for each in lookers]
        assert found[0] is not None
        assert found == [found[0]] * 3
        assert len(open_descriptors()) == len(before) + 1
        keepings.part(found[0], lookers[0])
        child.kill()
        await until(lambda: lookers[2].looked)
        assert [each.looked for each in lookers] == [0, 1, 1]
        assert found[0].ended
        child.wait()
        assert take(keepings, child.pid, lookers[0], tasks) is None
        assert open_descriptors() == before


async def test_a_process_that_nobody_names_any_more_is_let_go_of(child: subprocess.Popen[bytes]) -> None:
    keepings, looker = Keepings(), Looker()
    async with Tasks() as tasks:
        before = open_descriptors()
        for _ in range(2):
            found = take(keepings, child.pid, looker, tasks)
            assert found is not None
            keepings.part(found, looker)
            await until(lambda: not len(tasks))
            assert open_descriptors() == before


async def test_what_is_still_watched_is_closed_at_the_end(child: subprocess.Popen[bytes]) -> None:
    """Also by a task that was ended before it began."""
    before = open_descriptors()
    keepings = Keepings()
    async with Tasks() as tasks:
        assert take(keepings, child.pid, Looker(), tasks) is not None
    keepings.close()
    assert open_descriptors() == before


async def test_what_is_refused_costs_no_descriptor(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    keepings = Keepings()
    async with Tasks() as tasks:
        own = take(keepings, os.getpid(), Looker(), tasks)
        assert own is not None
        before = open_descriptors()
        monkeypatch.setattr(keeping, "LIMIT", 1)
        with pytest.raises(LimitReached, match="allows 1"):
            take(keepings, child.pid, Looker(), tasks, own)
        assert take(keepings, os.getpid(), Looker(), tasks, own) is own
        monkeypatch.setattr(keeping, "process_said", refuse)
        with pytest.raises(NoCredentials):
            take(keepings, child.pid, Looker(), tasks)
        assert open_descriptors() == before
    keepings.close()


def refuse(pid: int, teller: int) -> None:
    raise NoCredentials(f"{teller} says {pid}, which cannot be seen")
