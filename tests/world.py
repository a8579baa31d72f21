"""A machine in a virtual loop: its clock, its processes, its network, a daemon that can be killed and started again."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any, Final, Protocol, Self

import anyio

from iommubus import EventBus
from iommubus.transport.credentials import Peer
from tests.network import Network, Quality
from tests.truth import Held, Truth
from tests.virtual import PROCESS, VirtualLoop, VirtualProcess

ADDRESS: Final = "daemon"
"""Where the daemon is."""

BOOT: Final = 5000.0
"""By how much the clock of the machine is ahead of that of the loop: who confuses them is found out."""

UID: Final = 1000
"""The user of everybody."""


class Stale(AssertionError):
    """Somebody could use what was unmapped before a `sync` was called, and it returned (law 1)."""


class Player(Protocol):
    """Somebody who may hold something."""

    name: str
    process: VirtualProcess

    def held(self) -> Iterable[Held]:
        """Return what can be used now, if the process is alive."""
        ...


class Watched:
    """What `transport.credentials.Process` is of a real process.

    Args:
        process: The process.
        watches: Where it is while it is open.
    """

    def __init__(self, process: VirtualProcess, watches: "dict[Watched, None]") -> None:
        self.pid = process.pid
        self.start = process.pid
        self.owner = PROCESS.get()
        self._process = process
        self._watches = watches
        watches[self] = None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.ended.is_set()

    async def wait_exit(self) -> None:
        """Wait until it has."""
        await self._process.ended.wait()

    def another(self) -> "Watched":
        """Return another watch of the same process."""
        return Watched(self._process, self._watches)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching it."""
        self._watches.pop(self, None)


class Machine:
    """One boot of one machine.

    Args:
        loop: The loop that everything runs in.
        dice: Decides everything that is left to chance.
        note: Takes what happened, for people; `None` if nobody wants to know.

    Attributes:
        truth: What is mapped.
        network: How processes meet.
        players: Whoever may hold something.
        suspended: Seconds that the machine has slept, which the loop does not know of.
        watches: The watches of processes that are open.
        judged: How many `sync` were judged.
        restarts: How often the daemon was started.
        embedded: Whether there is no daemon that would have to be told of uses.
        uses: What the daemon was told last of how much is in use, by subscription.
        seen: Whether the daemon can see the processes of its clients.
    """

    def __init__(self, loop: VirtualLoop, dice: Random, note: Callable[[str], object] | None = None) -> None:
        self.loop = loop
        self.dice = dice
        self.truth = Truth()
        self.network = Network(loop, dice, Quality())
        self.players: list[Player] = []
        self.suspended = 0.0
        self.watches: dict[Watched, None] = {}
        self.judged = 0
        self.restarts = 0
        self.embedded = True
        self.uses: dict[str, int] = {}
        self.seen = dice.random() < 0.8
        self.processes: list[VirtualProcess] = []
        self._note = note

    def clock(self) -> float:
        """Return the seconds since boot, those that it was suspended included."""
        return self.loop.time() + BOOT + self.suspended

    def note(self, text: str, *values: object) -> None:
        """Write down what happened, if somebody wants to know."""
        if self._note is not None:
            process = PROCESS.get()
            self._note(f"{self.loop.time():10.4f} {process.name if process else '-':<10} {text.format(*values)}")

    def process(self, name: str) -> VirtualProcess:
        """Return a new process."""
        process = VirtualProcess(self.loop, name, 100 + len(self.processes))
        self.processes.append(process)
        return process

    def judge(self, spaces: Iterable[str], since: int) -> None:
        """Look at everything that can be used, now that a `sync` of these spaces has returned.

        Raises:
            Stale: Something there ended before the number ``since``.
        """
        self.judged += 1
        found = frozenset(spaces)
        for player in self.players:
            if player.process.ended.is_set():
                continue
            for held in player.held():
                for wrong in self.truth.wrong(held, since, found):
                    raise Stale(
                        f"a sync of {', '.join(sorted(found))} called at {since} returned: {player.name}, {wrong}"
                    )

    def watch(self, process: VirtualProcess) -> Watched:
        """Return a watch of a process."""
        return Watched(process, self.watches)

    def watch_again(self, pid: int, start: int) -> Watched | None:
        """Return a watch of the process that had a number, if it has not ended."""
        process = self.processes[pid - 100]
        assert start == pid
        return None if process.ended.is_set() else self.watch(process)

    def peer(self, process: VirtualProcess) -> Peer:
        """Return who a process is."""
        return Peer(process.pid, UID, (UID,))

    def watched(self) -> list[Watched]:
        """Return the watches of processes that are open, and whose owner was not killed."""
        return [watch for watch in self.watches if watch.owner is None or not watch.owner.killed]


Connect = Callable[[str], AbstractAsyncContextManager[EventBus]]
"""Connects the process that calls it to the bus, under a name."""

Work = Callable[[], Awaitable[Any]]


async def nap(dice: Random, most: float) -> None:
    """Wait for some time."""
    await anyio.sleep(dice.uniform(0, most))
