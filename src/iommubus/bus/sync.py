"""One `sync` in flight: waits for its subscribers, fences whom it must, judges.

Any number can be in flight at once; a cancelled one leaves nothing behind.  It has
no task of its own: whoever began it awaits `Sync.run`, or is called back.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from ..completion import How, Wait
from ..errors import SyncFailed, span
from .attachment import Attachment, Occupant, State
from .reports import MapFailure, Missing, Outcome, SyncReport


class Audience(Protocol):
    """A space, to a `sync` over it."""

    def counting(self) -> tuple[Attachment, ...]:
        """Return everybody who has to be waited for."""
        ...

    def synced(self, failure: SyncFailed | None) -> None:
        """Note how it ended."""
        ...


class Sync:
    """A `sync` over the subscriptions that count now, each in the space where it does.

    Args:
        spaces: What it is over.
        behind: Seconds that it has taken already.

    Attributes:
        count: How many subscriptions count, each as often as it is waited for.
        on_change: Called, if anything is, when it is over, and when something happened that may
            make waiting vain (`stuck`).
    """

    def __init__(self, spaces: Sequence[Audience], *, behind: float = 0.0) -> None:
        self.on_change: Callable[[], object] | None = None
        self._spaces = spaces
        self._start = time.monotonic() - behind
        self._seconds: dict[Wait, float] = {}  # of those that are settled
        self.count = 0
        self._tried: set[Occupant] = set()
        counting = [attachment for space in spaces for attachment in space.counting()]
        self._waits = {attachment: attachment.expect(self._look) for attachment in dict.fromkeys(counting)}
        self.count = len(self._waits)

    @property
    def over(self) -> bool:
        """Whether nobody is waited for any more."""
        return len(self._seconds) == self.count

    @property
    def stuck(self) -> bool:
        """Whether somebody is waited for who will not acknowledge, and has to be proven stopped."""
        return any(one.member.state is State.UNPROVEN for one, wait in self._waits.items() if wait.how is None)

    async def run(self, timeout: float, left: float | None = None) -> SyncReport:  # noqa: ASYNC109 - of the bus
        """Wait and judge.

        Args:
            timeout: Seconds that it may take.
            left: How many of them are left; by default all.

        Raises:
            SyncFailed: Somebody may still use what was unmapped, or could not
                apply a MAP.
        """
        try:
            if self.over:
                await checkpoint()
            else:
                with anyio.move_on_after(timeout if left is None else left):
                    await checkpoint()
                    await self._wait()
        finally:
            self.forget()
        return self.judge(timeout)

    def forget(self) -> None:
        """Wait for nobody any more."""
        if self.over:
            return
        for attachment, wait in self._waits.items():
            if wait.how is None:
                attachment.member.completion.forget(wait)

    def judge(self, timeout: float) -> SyncReport:
        """Return who counted, and note in the spaces how it ended; raises as `run`.

        Args:
            timeout: Seconds after which it was given up, for people.
        """
        missing = [
            self._missing(attachment, wait, timeout)
            for attachment, wait in self._waits.items()
            if wait.how is None or (wait.how is How.ACKNOWLEDGED and attachment.member.setback)
        ]
        failures: list[MapFailure] = []
        for attachment in self._waits:
            failures += attachment.member.map_failures.pop(attachment.home.name)
        failure = SyncFailed(missing, failures) if missing or failures else None
        for space in self._spaces:
            space.synced(failure)
        if failure is not None:
            raise failure
        outcomes = [
            Outcome(attachment.member.name, attachment.home.name, wait.how, self._seconds[wait])
            for attachment, wait in self._waits.items()
            if wait.how is not None
        ]
        return SyncReport(tuple(outcomes), time.monotonic() - self._start)

    # -- inside ----------------------------------------------------------------

    def _look(self, wait: Wait) -> None:
        if wait.how is not None:
            self._seconds[wait] = time.monotonic() - self._start
        if self.on_change is not None and (wait.how is None or len(self._seconds) == self.count):
            self.on_change()

    async def _wait(self) -> None:
        changed = anyio.Event()

        def change() -> None:
            changed.set()

        self.on_change = change
        while pending := self._pending():
            unproven = [member for member in pending if member.state is State.UNPROVEN]
            to_prove = [member for member in unproven if member.can_be_proven and member not in self._tried]
            hopeless = [member for member in unproven if not member.hopeful]
            if to_prove:
                await self._prove(to_prove)
            elif len(hopeless) == len(pending):
                return  # nobody is left whom waiting could help
            else:
                await changed.wait()
                changed = anyio.Event()

    def _pending(self) -> list[Occupant]:
        if self.over:
            return []
        return list(dict.fromkeys(one.member for one, wait in self._waits.items() if wait.how is None))

    async def _prove(self, members: Sequence[Occupant]) -> None:
        self._tried.update(members)
        async with anyio.create_task_group() as tasks:
            for member in members:
                tasks.start_soon(member.prove)

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
