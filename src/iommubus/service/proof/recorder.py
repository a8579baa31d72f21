"""The record in worker threads: the disk is waited for by who needs it, never by the event loop.

Whoever is to be confirmed waits until it is on the disk.  What is over is written
at the next opportunity; until then a restart waits for somebody who is gone, which
ends at once.  What comes together while the disk is busy is written together.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from msgspec import structs

from ...bus.logs import Lines
from ...errors import LeasesUnwritable
from ...transport.tasks import Tasks
from .leases import ExitMember
from .record import Change, Record

InThread = Callable[..., Awaitable[Any]]
"""Runs a function that waits for the disk, with its arguments."""

NOTHING: Final = Change()


class Batch:
    """What is written at once, and whoever waits for it.

    Attributes:
        change: What is to be different.
        over: Set once it was tried.
        failure: Why it is not on the disk, if it is not.
    """

    __slots__ = ("change", "failure", "over")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.over = asyncio.Event()
        self.failure: LeasesUnwritable | None = None


class Recorder:
    """Writes the record of a daemon.

    Args:
        record: The record; `None` to keep none, where no daemon follows.
        lines: Where it is logged what could not be written.
        in_thread: Runs what waits for the disk.

    Attributes:
        failure: Why the last attempt failed; `None` if it did not.
    """

    def __init__(self, record: Record | None, lines: Lines, in_thread: InThread = anyio.to_thread.run_sync) -> None:
        self.failure: LeasesUnwritable | None = None
        self._record = record
        self._lines = lines
        self._in_thread = in_thread
        self._tasks: Tasks | None = None
        self._next: Batch | None = None
        self._late = NOTHING  # what was over and could not be written
        self._longest = 0.0  # that was granted here: whatever is written says so
        self._busy = False

    def begin(self, tasks: Tasks) -> None:
        """Write from now on, in tasks of these."""
        self._tasks = tasks

    async def close(self) -> None:
        """Write what is left; nothing is granted any more."""
        self._tasks = None
        if self._late != NOTHING:
            self._put(NOTHING)
        await self._write_all()

    async def grant(self, seconds: float) -> None:
        """Return once it is on the disk that there is a lease of this length.

        Raises:
            LeasesUnwritable: It is not, so it must not be granted.
        """
        self._longest = max(self._longest, seconds)
        if self._record is not None and self._record.granted.longest < seconds:
            await self._written(NOTHING)

    async def probe(self) -> None:
        """Return once the disk has taken the record.

        Raises:
            LeasesUnwritable: It does not.
        """
        if self._record is not None:
            await self._written(Change(anew=True))

    async def add(self, member: ExitMember) -> None:
        """Return once it is on the disk how somebody is proven stopped who is about to be given something.

        Raises:
            LeasesUnwritable: It is not, so nothing must be given.
        """
        if self._record is None:
            return
        try:
            await self._written(Change(add=(member,)))
        except BaseException:  # it may be on the disk, or come there
            self.forget(member)
            raise

    async def forgotten(self, member: ExitMember) -> None:
        """Return once it is on the disk that somebody has let go.

        Raises:
            LeasesUnwritable: It is not.
        """
        if self._record is not None:
            await self._written(Change(forget=frozenset([member])))

    def forget(self, member: ExitMember) -> None:
        """Have it written that somebody has let go, or is gone."""
        if self._record is not None:
            self._put(Change(forget=frozenset([member])))

    def settle(self) -> None:
        """Have it written that longer leases than those of this daemon have run out."""
        if self._record is not None:
            self._put(Change(settle=0.0))

    # -- inside ------------------------------------------------------------------

    async def _written(self, change: Change) -> None:
        batch = self._put(change)
        await batch.over.wait()
        if batch.failure is not None:
            raise LeasesUnwritable(*batch.failure.args) from batch.failure

    def _put(self, change: Change) -> Batch:
        if self._next is None:
            self._next = Batch(self._late)
            self._late = NOTHING
        self._next.change = joined(self._next.change, change)
        if self._tasks is not None and not self._busy:
            self._busy = True
            self._tasks.start_soon(self._write_all)
        return self._next

    def _write_later(self, change: Change) -> None:
        """Write it with whatever is written next."""
        if self._next is not None:
            self._next.change = joined(self._next.change, change)
        else:
            self._late = joined(self._late, change)

    async def _write_all(self) -> None:
        try:
            while self._next is not None:
                batch, self._next = self._next, None
                await self._write(batch)
        finally:
            self._busy = False

    async def _write(self, batch: Batch) -> None:
        record = self._record
        try:
            if record is not None:
                await self._in_thread(record.change, structs.replace(batch.change, grant=self._longest))
        except LeasesUnwritable as failure:
            self.failure = batch.failure = failure
            self._write_later(late(batch.change))
            self._lines.warn("record", "the record of leases", str(failure))
        except BaseException:  # the daemon stops
            batch.failure = LeasesUnwritable("the record of leases", "the daemon stops")
            self._write_later(late(batch.change))
            raise
        else:
            self.failure = None
        finally:
            batch.over.set()


def joined(one: Change, other: Change) -> Change:
    """Return both changes as one; ids are never used again, so their order does not matter."""
    ends = [change.settle for change in (one, other) if change.settle is not None]
    forget, anew = one.forget | other.forget, one.anew or other.anew
    return Change(0.0, min(ends, default=None), (*one.add, *other.add), forget, anew)


def late(change: Change) -> Change:
    """Return what of a change that failed has to be tried again: whoever wanted something was refused."""
    return structs.replace(change, add=(), anew=False)
