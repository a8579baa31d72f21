"""The processes that keep what subscribers were given: the back ends behind bridges.

A subscriber that was killed proves nothing as long as such a process runs.  Each is
watched once, whoever names it.
"""

from typing import Final, Protocol

from ...transport.credentials import Process, process_said
from ...transport.tasks import Tasks
from ..requests import Waiting

LIMIT: Final = 64
"""Most of these processes that the subscriptions of one peer have together, as of each a descriptor
is held: a bridge has one, and a machine has fewer devices than this in processes of their own."""


class Kept(Protocol):
    """A subscription that was given what such a process keeps."""

    def look(self) -> None:
        """See whether it is proven stopped: something became known."""
        ...


class Keeping:
    """One process, until it has ended or nobody names it any more.

    Args:
        process: The process; this object closes it.

    Attributes:
        process: The same.
        kept: What it keeps.
        ended: Whether it has ended.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.kept: set[Kept] = set()
        self.ended = False
        self.waiting = Waiting()

    async def wait(self) -> None:
        """Wait for its end, and have everybody looked at who waits for that."""
        with self.process, self.waiting.begin():
            await self.process.wait_exit()
            self.ended = True
            for each in list(self.kept):
                each.look()


class Keepings:
    """All of these processes, by number."""

    def __init__(self) -> None:
        self._running: dict[int, Keeping] = {}

    def find(self, pid: int, teller: int) -> Keeping | None:
        """Return the process of which a peer said the number; `None` if it has ended.

        Raises:
            NoCredentials: It cannot be seen from here.
            OSError: There is no descriptor left to watch it.
        """
        process = process_said(pid, teller)
        if process is None:
            return None
        known = self._running.get(pid)
        if known is None or known.ended or known.process.start != process.start:
            return Keeping(process)
        process.close()
        return known

    def add(self, keeping: Keeping, kept: Kept, tasks: Tasks) -> None:
        """Have something looked at when a process ends."""
        keeping.kept.add(kept)
        if self._running.get(keeping.process.pid) is not keeping:
            self._running[keeping.process.pid] = keeping
            tasks.start_soon(keeping.wait)

    def part(self, keeping: Keeping, kept: Kept) -> None:
        """Have it looked at no more; the process is watched while it keeps something."""
        keeping.kept.discard(kept)
        if not keeping.kept:
            keeping.waiting.cancel()
            if self._running.get(keeping.process.pid) is keeping:
                del self._running[keeping.process.pid]

    def close(self) -> None:
        """Watch none of them any more; the tasks have ended."""
        for keeping in self._running.values():
            keeping.process.close()
