"""What a daemon waits for after a restart: the leases of before, and the processes of its record.

It makes of a `Recovery`, which knows no clock and no process, something that
others can wait for.
"""

import asyncio
from typing import Final

import anyio

from ...bus.logs import Lines
from ...transport.clock import Clock
from ...transport.credentials import Process, process_again
from ...transport.tasks import Tasks
from .leases import Recovery, Started
from .record import Granted
from .recorder import Recorder

GRAIN: Final = 0.001
"""Seconds that are waited beyond the end of a lease, at which it still holds."""

AGAIN: Final = 1.0
"""Seconds until a process is looked for again that could not be watched for want of
descriptors: others give some back meanwhile."""


class Recovering:
    """Waits for what earlier daemons of this boot have granted.

    Args:
        before: What they granted.
        clock: Tells seconds.
        recorder: Where it is written what is over.
        lines: Where it is logged what happens.
    """

    def __init__(self, before: Granted, clock: Clock, recorder: Recorder, lines: Lines) -> None:
        self._before = before
        self._clock = clock
        self._recorder = recorder
        self._lines = lines
        self._recovery = Recovery(before.longest, before.exits, clock())
        self._over = asyncio.Event()

    def begin(self, tasks: Tasks) -> None:
        """Watch from now on, in tasks of these."""
        for process in self._recovery.processes:
            tasks.start_soon(self._await_process, process)
        if self._before.longest:
            tasks.start_soon(self._await_leases)
        self._look()

    def back(self, subscription: int, process: Process | None) -> None:
        """Note that a process says that one of its subscriptions is back, after it dropped everything.

        What another process says of it is not believed.
        """
        for member in self._recovery.waiting:
            mine = process is not None and (member.pid, member.start) == (process.pid, process.start)
            if mine and member.subscription == str(subscription):
                self._recovery.back(member.subscription)
                self._recorder.forget(member)
                self._look()

    async def wait(self) -> None:
        """Wait until nothing stands in the way of a `sync`."""
        await self._over.wait()

    @property
    def over(self) -> bool:
        """Whether nothing does."""
        return self._over.is_set()

    def reasons(self, now: float) -> list[str]:
        """Return what stands in the way, in words."""
        return [] if self.over else self._recovery.reasons(now)

    # -- inside ------------------------------------------------------------------

    def _look(self) -> None:
        if not self.over and self._recovery.over(self._clock()):
            self._over.set()
            if self._before.longest or self._before.exits:
                self._lines.info("recovery", "the daemon", "nothing of before its restart is in use any more")

    async def _await_leases(self) -> None:
        while not self._recovery.leases_over(self._clock()):  # noqa: ASYNC110 - no clock sets an event
            await anyio.sleep(self._recovery.leases_end(self._clock()) + GRAIN)
        self._recorder.settle()
        self._look()

    async def _await_process(self, started: Started) -> None:
        process = await self._found(*started)
        if process is not None:
            with process:
                await process.wait_exit()
        for member in self._recovery.ended(started):
            self._recorder.forget(member)
        self._look()

    async def _found(self, pid: int, start: int) -> Process | None:
        """Return a process, or `None` if it has ended."""
        while True:
            try:
                return process_again(pid, start)
            except OSError as failure:
                self._lines.warn("recovery", f"process {pid}", f"it cannot be watched: {failure}")
                await anyio.sleep(AGAIN)
