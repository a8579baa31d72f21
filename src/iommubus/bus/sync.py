"""One `sync` in flight: waits for its subscribers, fences whom it must, judges.

Any number can be in flight at once; a cancelled one leaves nothing behind.
"""

import time
from collections.abc import Sequence

import anyio
from anyio.lowlevel import checkpoint

from ..completion import How, Wait
from ..errors import SyncFailed, span
from .member import Member, State
from .reports import MapFailure, Missing, Outcome, SyncReport


class Sync:
    """A `sync` over the members that count now."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._start = time.monotonic()
        self._seconds: dict[Wait, float] = {}
        self._changed = anyio.Event()
        self._tried: set[Member] = set()
        self._waits = {member: member.expect(self._look) for member in members}

    async def run(self, timeout: float) -> SyncReport:  # noqa: ASYNC109 - a deadline of the bus
        """Wait and judge.

        Raises:
            SyncFailed: Somebody may still use what was unmapped, or could not
                apply a MAP.
        """
        try:
            with anyio.move_on_after(timeout):
                await checkpoint()
                await self._wait()
        finally:
            for member, wait in self._waits.items():
                member.completion.forget(wait)
        return self._judge(timeout)

    # -- inside ----------------------------------------------------------------

    def _look(self, wait: Wait) -> None:
        if wait.how is not None:
            self._seconds[wait] = time.monotonic() - self._start
        self._changed.set()

    async def _wait(self) -> None:
        while pending := [member for member, wait in self._waits.items() if wait.how is None]:
            unproven = [member for member in pending if member.state is State.UNPROVEN]
            to_prove = [member for member in unproven if member.can_be_proven and member not in self._tried]
            if to_prove:
                await self._prove(to_prove)
            elif len(unproven) == len(pending):
                return  # nobody is left whom waiting could help
            else:
                await self._changed.wait()
                self._changed = anyio.Event()

    async def _prove(self, members: Sequence[Member]) -> None:
        self._tried.update(members)
        async with anyio.create_task_group() as tasks:
            for member in members:
                tasks.start_soon(member.prove)

    def _judge(self, timeout: float) -> SyncReport:
        missing = [
            self._missing(member, wait, timeout)
            for member, wait in self._waits.items()
            if wait.how is None or (wait.how is How.ACKNOWLEDGED and member.unapplied)
        ]
        failures: list[MapFailure] = []
        for member in self._waits:
            failures += member.pop_failures()
        if missing or failures:
            raise SyncFailed(missing, failures)
        outcomes = [
            Outcome(member.name, member.home.name, wait.how, self._seconds[wait])
            for member, wait in self._waits.items()
            if wait.how is not None
        ]
        return SyncReport(tuple(outcomes), time.monotonic() - self._start)

    def _missing(self, member: Member, wait: Wait, timeout: float) -> Missing:
        reason = f"did not acknowledge within {timeout:g} s"
        if member.state is State.UNPROVEN:
            reason = f"is not proven stopped ({member.reason})"
        elif wait.how is not None:
            ranges = ", ".join(span(first, last) for first, last in member.unapplied)
            reason = f"could not unmap {ranges}"
        return Missing(member.name, member.home.name, reason, member.old_pieces(), member.proof_failure)
