"""One `sync` in flight: waits for its subscribers, fences whom it must, judges.

Any number can be in flight at once; a cancelled one leaves nothing behind.
"""

import time
from collections.abc import Sequence

import anyio
from anyio.lowlevel import checkpoint

from ..completion import How, Wait
from ..errors import SyncFailed, span
from .attachment import Attachment, Occupant, State
from .reports import MapFailure, Missing, Outcome, SyncReport


class Sync:
    """A `sync` over the subscriptions that count now, each in the space where it does."""

    def __init__(self, attachments: Sequence[Attachment]) -> None:
        self._start = time.monotonic()
        self._seconds: dict[Wait, float] = {}
        self._changed = anyio.Event()
        self._tried: set[Occupant] = set()
        self._waits = {attachment: attachment.expect(self._look) for attachment in attachments}

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
            for attachment, wait in self._waits.items():
                attachment.member.completion.forget(wait)
        return self._judge(timeout)

    # -- inside ----------------------------------------------------------------

    def _look(self, wait: Wait) -> None:
        if wait.how is not None:
            self._seconds[wait] = time.monotonic() - self._start
        self._changed.set()

    async def _wait(self) -> None:
        while pending := self._pending():
            unproven = [member for member in pending if member.state is State.UNPROVEN]
            to_prove = [member for member in unproven if member.can_be_proven and member not in self._tried]
            hopeless = [member for member in unproven if not member.hopeful]
            if to_prove:
                await self._prove(to_prove)
            elif len(hopeless) == len(pending):
                return  # nobody is left whom waiting could help
            else:
                await self._changed.wait()
                self._changed = anyio.Event()

    def _pending(self) -> list[Occupant]:
        return list(dict.fromkeys(one.member for one, wait in self._waits.items() if wait.how is None))

    async def _prove(self, members: Sequence[Occupant]) -> None:
        self._tried.update(members)
        async with anyio.create_task_group() as tasks:
            for member in members:
                tasks.start_soon(member.prove)

    def _judge(self, timeout: float) -> SyncReport:
        missing = [
            self._missing(attachment, wait, timeout)
            for attachment, wait in self._waits.items()
            if wait.how is None or (wait.how is How.ACKNOWLEDGED and attachment.member.setback)
        ]
        failures: list[MapFailure] = []
        for attachment in self._waits:
            failures += attachment.member.map_failures.pop(attachment.home.name)
        if missing or failures:
            raise SyncFailed(missing, failures)
        outcomes = [
            Outcome(attachment.member.name, attachment.home.name, wait.how, self._seconds[wait])
            for attachment, wait in self._waits.items()
            if wait.how is not None
        ]
        return SyncReport(tuple(outcomes), time.monotonic() - self._start)

    def _missing(self, attachment: Attachment, wait: Wait, timeout: float) -> Missing:
        member = attachment.member
        reason = f"did not acknowledge within {timeout:g} s"
        if member.state is State.UNPROVEN:
            reason = f"is not proven stopped ({member.reason})"
        elif wait.how is not None:
            ranges = ", ".join(span(first, last) for first, last in member.setback.ranges)
            reason = f"could not unmap {ranges}"
        elif attachment.pinned:
            reason = f"did not end {attachment.pinned} uses within {timeout:g} s"
        return Missing(member.name, attachment.home.name, reason, attachment.old_pieces(), member.setback.cause)
