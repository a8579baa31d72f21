"""What of a subscription is in use right now: its pins.

A device that has translated an address and is copying from there uses the old
translation until it is through, whatever its cache says meanwhile.  So whoever
pins an entry begins a `Use`; when the entry is taken away while it is pinned, the
use is *revoked*, and the acknowledgement waits until it ends: an acknowledgement
means drained.
"""

from collections.abc import Callable

from .abc import Use


class LocalUse(Use):
    """One translation in use.

    Args:
        uses: Those of its subscription.
    """

    __slots__ = ("_uses",)

    def __init__(self, uses: "Uses") -> None:
        self._uses = uses

    def revoke(self) -> None:
        self._uses.revoke(self)

    def end(self) -> None:
        self._uses.end(self)


class Uses:
    """The translations in use of one subscription.

    Args:
        changed: Called when one ends.
    """

    __slots__ = ("_changed", "_open", "_said", "_skipped")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._said = 0  # hand-over up to which the consumer has let go, but for what is in use
        self._skipped: set[int] = set()  # later ones that gave nothing, so that nobody will speak of them
        self._open: dict[Use, int | None] = {}  # hand-over whose acknowledgement it holds back
        self._changed = changed

    def __len__(self) -> int:
        return len(self._open)

    def say(self, number: int) -> None:
        """Take it that the consumer has let go of what hand-overs up to ``number`` took, but for what is in use."""
        self._said = max(self._said, number)
        while self._said + 1 in self._skipped:
            self._said += 1
            self._skipped.remove(self._said)

    def skip(self, number: int) -> None:
        """Take it that hand-over ``number`` gave nothing, and needs no word of the consumer."""
        self._skipped.add(number)
        self.say(self._said)

    def begin(self) -> LocalUse:
        """Return a new one."""
        use = LocalUse(self)
        self._open[use] = None
        return use

    def revoke(self, use: Use) -> None:
        """Have it hold back what the consumer has not let go of yet."""
        if use in self._open and self._open[use] is None:
            self._open[use] = self._said + 1

    def end(self, use: Use) -> None:
        """Count it no longer; a second time does nothing."""
        if use in self._open:
            del self._open[use]
            self._changed()

    @property
    def holding(self) -> int:
        """How many hold back an acknowledgement."""
        return sum(held is not None for held in self._open.values())

    def acknowledgeable(self) -> int:
        """Return the hand-over up to which nothing is in use."""
        if not self._open:
            return self._said
        return min([self._said, *(held - 1 for held in self._open.values() if held is not None)])
