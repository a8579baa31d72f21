"""The processes that keep what subscribers were given: the back ends behind bridges.

A subscriber that was killed proves nothing as long as such a process runs.  Each is
watched once, whoever names it.
"""

from collections.abc import Set
from typing import Final, Protocol

from ...errors import LimitReached
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

    def take(self, pid: int, teller: int, kept: Kept, others: Set[Keeping], tasks: Tasks) -> Keeping | None:
        """Have a subscription looked at when a process ends; return that, or `None` if it has ended already.

        Args:
            pid: The number by which its peer calls the process.
            teller: Number of the peer's process.
            kept: The subscription.
            others: The processes that its peer has named before.
            tasks: Where their ends are waited for.

        Raises:
            NoCredentials: The process cannot be seen from here.
            LimitReached: Its peer has named too many.
            OSError: There is no descriptor left to watch it.
        """
        process = process_said(pid, teller)
        if process is None:
            return None
        keeping = self._running.get(pid)
        if keeping is not None and keeping.process.start != process.start:
            keeping = None  # the number is another's now
        if keeping not in others and len(others) >= LIMIT:
            process.close()
            raise LimitReached("holders of the subscriptions of one peer", LIMIT)
        if keeping is None:
            keeping = self._running[pid] = Keeping(process)
            tasks.start_soon(keeping.wait)
        else:
            process.close()
        keeping.kept.add(kept)
        return keeping

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
