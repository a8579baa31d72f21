"""A `sync` of a client that waits for subscribers, in callbacks: it needs no task as long as they only acknowledge."""

from typing import Protocol

from ...bus.sync import Sync
from ...transport.deadlines import Deadlines


class Owner(Protocol):
    """Who answers it."""

    def over(self, pending: "Pending", /) -> None:
        """Hear that nobody is waited for any more."""
        ...

    def go_on(self, pending: "Pending", left: float, /) -> None:
        """Hear that a task has to do the rest: somebody has to be proven stopped, or it is late.

        Args:
            pending: What waits.
            left: Seconds that are left.
        """
        ...

    def drop(self, pending: "Pending", /) -> None:
        """Hear that nobody wants the answer."""
        ...


class Pending:
    """One `sync` that waits for subscribers, in callbacks.

    Args:
        request: Its number.
        sync: What is waited for.
        timeout: Seconds that it may take.
        deadlines: Where it is said when they are over.
        owner: Answers it.
    """

    __slots__ = ("_deadlines", "_late", "_owner", "request", "sync", "timeout")

    def __init__(self, request: int, sync: Sync, timeout: float, deadlines: Deadlines, owner: Owner) -> None:
        self.request = request
        self.sync = sync
        self.timeout = timeout
        self._owner = owner
        self._deadlines = deadlines
        self._late = 0

    def begin(self) -> None:
        """Begin to wait."""
        self._late = self._deadlines.add(self.timeout, self._go_on)
        self.sync.on_change = self._look
        if self.sync.stuck:
            self._go_on()

    def cancel(self) -> None:
        """Wait no more: nobody wants the answer."""
        self._stop()
        self.sync.forget()
        self._owner.drop(self)

    def _look(self) -> None:
        if self.sync.over:
            self._stop()
            self._owner.over(self)
        elif self.sync.stuck:
            self._go_on()

    def _go_on(self) -> None:
        """Have a task do the rest."""
        left = self._deadlines.left(self._late)
        self._stop()
        self._owner.go_on(self, left)

    def _stop(self) -> None:
        self._deadlines.met(self._late)
        self.sync.on_change = None
