"""Subscriptions that are to be abandoned at the next opportunity.

A handle may be collected in any thread at any moment, and a mailbox may find
itself past its limit in the middle of an event's way.  Neither is a place from
which a subscription can be fenced.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .soon import Soon


class Doomed(Protocol):
    """A subscription that is to be abandoned."""

    reason: str

    def abandon(self, reason: str) -> None:
        """Fence it."""
        ...


class Buried:
    """The subscriptions of one bus that are to be abandoned.

    Args:
        soon: Has a callback run by the loop of the bus.

    Attributes:
        members: Who they are, for those who look at each change whether there are any.
    """

    __slots__ = ("_soon", "members")

    def __init__(self, soon: Soon) -> None:
        self._soon = soon
        self.members: list[Doomed] = []

    def bury(self, member: Doomed) -> None:
        """Have it abandoned soon; its ``reason`` says why."""
        self.members.append(member)
        self.soon(self.abandon)

    def soon(self, callback: Callable[[], object]) -> None:
        """Have the loop of the bus run a callback; called from any thread, at any moment."""
        with suppress(RuntimeError):  # the loop has ended
            self._soon(callback)

    def abandon(self) -> None:
        """Abandon all of them, in the thread of the bus."""
        while self.members:
            member = self.members.pop()
            member.abandon(member.reason)
