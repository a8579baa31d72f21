"""Stories with a daemon: ``python -m tests.seeds SEED`` tells one, ``--count N`` judges that many.

Daemon and clients are the real ones, each in a process of its own, joined by bad
links; what they are given is a clock, a network and a disk in memory.  A story that
ends badly says its number, which tells it again.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from multiprocessing import get_context
from random import Random
from typing import Any, Final
from unittest.mock import patch

import anyio
from msgspec import Struct

from iommubus import EventBus
from iommubus.client.reconnect import Keeper
from iommubus.client.remote import RemoteBus
from iommubus.service.daemon import Daemon
from iommubus.service.proof.record import Change, Granted, Record
from iommubus.service.proof.watch import Watch
from iommubus.service.settings.config import Config, Leases
from iommubus.service.settings.rules import Rule
from iommubus.transport.credentials import Peer
from tests.story import Story
from tests.virtual import VirtualLoop, VirtualProcess, run
from tests.world import ADDRESS, UID, Machine

LEASE: Final = 2.0
"""Seconds of a lease: shorter than what befalls people."""

BATCH: Final = 25
"""Stories that a worker judges before it says so."""

LOUD: Final = logging.ERROR
"""Log lines from here on are mistakes of ours."""


class MemoryRecord(Record):
    """A record on a disk in memory, which outlives the daemon."""

    def __init__(self, disk: list[Granted]) -> None:
        self._disk_in_memory = disk
        self.before = self.granted = disk[0]

    def close(self) -> None:
        """Let another daemon use it."""

    def change(self, change: Change) -> None:
        """Have a change on the disk."""
        self.granted = self._disk_in_memory[0] = change.of(self.granted)


class DaemonHost:
    """A daemon that can be killed and started again.

    Args:
        machine: Where.

    Attributes:
        process: Its process.
        fates: What can befall those who use it.
    """

    fates: Sequence[str] = (
        "cut",
        "cut",
        "stall",
        "stall",
        "stop",
        "stop",
        "kill",
        "kill",
        "kill host",
        "stop host",
        "suspend",
    )

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._disk = [Granted("this boot")]
        fence: Any = machine.dice.choice(["fail", "fail", "kill"])
        everything = ("*",)
        rule = Rule(
            anybody=True, publish=everything, subscribe=everything, observe=everything, admin=everything, fence=fence
        )
        self._config = Config(
            leases=Leases(seconds=LEASE, longest=60.0),
            producer_grace=machine.dice.choice([0.0, 0.0, 1.0]),
            rules=(rule,),
        )
        self._daemon: Daemon | None = None
        self._keepers: dict[str, Keeper] = {}
        self.process: VirtualProcess

    def begin(self) -> None:
        """Start it."""
        self.process = self._machine.process("daemon")
        self._machine.restarts += 1
        self._over = anyio.Event()
        self._task = self.process.start_main(self._serve)

    async def end(self) -> None:
        """Stop it in an orderly way, and look whether anything is left."""
        daemon = self._daemon
        assert daemon is not None
        await anyio.sleep(LEASE + 0.5)
        assert not daemon.clients, daemon.clients
        assert daemon.bus.spaces() == (), daemon.bus.spaces()
        self._over.set()
        await self._task
        assert not self._machine.watched(), "watches of processes are left"
        assert not self._disk[0].exits, self._disk[0]
        assert not self._machine.network.links, self._machine.network.links

    def is_connected(self, name: str) -> bool:
        """Say whether the last one that connected under a name still is."""
        return name in self._keepers and self._keepers[name].channel is not None

    @asynccontextmanager
    async def connect(self, name: str) -> AsyncGenerator[EventBus]:
        """Connect the process that calls this."""
        machine = self._machine
        random = Random(machine.dice.random())  # noqa: S311 - the same each time
        keeper = Keeper(
            lambda make: machine.network.connect(ADDRESS, make), ADDRESS, name=name, clock=machine.clock, random=random
        )
        self._keepers[name] = keeper
        async with RemoteBus(keeper) as bus:
            yield bus

    async def _serve(self) -> None:
        machine = self._machine
        random = Random(machine.dice.random())  # noqa: S311 - the same each time
        record = MemoryRecord(self._disk)
        async with Daemon(self._config, clock=machine.clock, random=random, own_uid=UID, record=record) as daemon:
            self._daemon = daemon
            machine.network.listen(ADDRESS, lambda peer: self._accept(daemon, peer))
            await self._over.wait()
            machine.network.stop_listening(ADDRESS)

    def _accept(self, daemon: Daemon, process: VirtualProcess | None) -> Any:
        assert process is not None
        if self._machine.seen:
            return daemon.session(self._machine.peer(process), self._machine.watch(process))  # type: ignore[arg-type]
        return daemon.session(Peer(names=(process.name,)), None)


class Verdict(Struct, frozen=True):
    """How a story ended.

    Attributes:
        seed: Its number.
        problem: What went wrong; empty if it ended well.
        judged: How many `sync` were judged.
    """

    seed: int
    problem: str
    judged: int


class Loud(logging.Handler):
    """Takes log lines that say that we made a mistake."""

    def __init__(self) -> None:
        super().__init__(LOUD)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.said.append(self.format(record))


def tell(seed: int, note: Any = None) -> Machine:
    """Tell one story.

    Raises:
        BaseException: It ended badly.
    """
    loud = Loud()

    async def case(loop: VirtualLoop) -> Machine:
        dice = Random(seed)  # noqa: S311 - the same each time
        loop.thread_time = lambda: dice.uniform(0, 0.02)
        machine = Machine(loop, dice, note)
        machine.embedded = False
        using = Watch.using

        def note_uses(watch: Watch, uses: int) -> None:
            machine.uses[watch.name] = uses
            using(watch, uses)

        made_up = patch("iommubus.bus.bus.NUMBERS", count(1))  # a longer number would be cut otherwise
        with (
            made_up,
            patch.object(Watch, "using", note_uses),
            patch("iommubus.service.proof.recovering.process_again", machine.watch_again),
        ):
            await Story(machine, DaemonHost(machine)).play()
        return machine

    logger = logging.getLogger("iommubus")
    logger.addHandler(loud)
    try:
        machine = run(case)
    finally:
        logger.removeHandler(loud)
    assert not loud.said, "\n".join(loud.said)
    return machine


def judge(seed: int) -> Verdict:
    """Tell one story, and say how it ended."""
    try:
        machine = tell(seed)
    except Exception as problem:  # noqa: BLE001 - it is said
        return Verdict(seed, f"{type(problem).__name__}: {problem}", 0)
    return Verdict(seed, "", machine.judged)


def judge_some(seeds: Sequence[int]) -> list[Verdict]:
    """Judge a few."""
    with quiet():
        verdicts = [judge(seed) for seed in seeds]
    gc.collect()
    return verdicts


@contextmanager
def quiet() -> Generator[None]:
    """Write no log lines: what befalls people is full of warnings."""
    logger, nothing = logging.getLogger("iommubus"), logging.NullHandler()
    logger.addHandler(nothing)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(nothing)


def judge_all(first: int, count: int, workers: int) -> Iterable[Verdict]:
    """Judge many, on several cores."""
    batches = [range(at, min(at + BATCH, first + count)) for at in range(first, first + count, BATCH)]
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        for verdicts in pool.map(judge_some, batches):
            yield from verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell one story, or judge many."""
    parser = argparse.ArgumentParser(prog="python -m tests.seeds", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0, help="the story to tell, or the first one")
    parser.add_argument("--count", type=int, help="judge this many instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that judge")
    chosen = parser.parse_args(arguments)
    if chosen.count is None:
        with quiet():
            tell(chosen.seed, print)
        return 0
    bad = [verdict for verdict in judge_all(chosen.seed, chosen.count, chosen.workers) if verdict.problem]
    for verdict in bad:
        print(f"{verdict.seed}: {verdict.problem}\n    python -m tests.seeds {verdict.seed}")  # noqa: T201
    print(f"{chosen.count - len(bad)} of {chosen.count} stories ended well")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
