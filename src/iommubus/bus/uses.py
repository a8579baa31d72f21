"""What of a subscription is in use right now: its pins.

A device that has translated an address and is copying from there uses the old
translation until it is through, whatever its cache says meanwhile.  So whoever
pins an entry begins a `Use`; when the entry is taken away while it is pinned, the
use is *revoked*, and the acknowledgement waits until it ends: an acknowledgement
means drained.
"""

from collections.abc import Callable
from threading import get_ident
from weakref import ref

from .abc import Use
from .soon import Soon


class LocalUse(Use):
    """One translation in use.

    Args:
        uses: Those of its subscription.
        thing: What it ends with, if it does not end before.
    """

    __slots__ = ("_thing", "_uses", "held_back")

    def __init__(self, uses: "Uses", thing: object) -> None:
        self.held_back: int | None = None  # hand-over whose acknowledgement it holds back
        self._uses = uses
        self._thing = None if thing is None else ref(thing, lambda _: uses.ask_again())

    @property
    def over(self) -> bool:
        """Whether what it ends with is gone."""
        return self._thing is not None and self._thing() is None

    def revoke(self) -> None:
        self._uses.revoke(self)

    def end(self) -> None:
        self._uses.end(self)


class Uses:
    """The translations in use of one subscription.

    Args:
        changed: Called when one ends.
        soon: Has a callback run by the loop of the bus, from any thread.
    """

    __slots__ = ("_changed", "_open", "_owner", "_said", "_skipped", "_soon")

    def __init__(self, changed: Callable[[], None], soon: Soon) -> None:
        self._said = 0  # hand-over up to which the consumer has let go, but for what is in use
        self._skipped: set[int] = set()  # later ones that gave nothing, so that nobody will speak of them
        self._open: dict[LocalUse, None] = {}
        self._changed = changed
        self._soon = soon
        self._owner = get_ident()

    def __len__(self) -> int:
        return len(self._live())

    def say(self, number: int) -> None:
        """Take it that the consumer has let go of what hand-overs up to ``number`` took, but for what is in use."""
        self._said = max(self._said, number)
        while self._skipped and self._said + 1 in self._skipped:
            self._said += 1
            self._skipped.remove(self._said)

    def skip(self, number: int) -> None:
        """Take it that hand-over ``number`` gave nothing, and needs no word of the consumer."""
        self._skipped.add(number)
        self.say(self._said)

    def begin(self, thing: object = None) -> LocalUse:
        """Return a new one, which ends with ``thing`` at the latest."""
        use = LocalUse(self, thing)
        self._open[use] = None
        return use

    def revoke(self, use: LocalUse) -> None:
        """Have it hold back what the consumer has not let go of yet."""
        if use in self._open and use.held_back is None:
            use.held_back = self._said + 1

    def end(self, use: LocalUse) -> None:
        """Count it no longer; a second time does nothing.  Called from any thread."""
        if get_ident() != self._owner:
            self._soon(lambda: self.end(use))
        elif use in self._open:
            del self._open[use]
            self._changed()

    def ask_again(self) -> None:
        """Look again soon: the thing of one is gone.  Called from any thread, and from the garbage collector."""
        self._soon(self._changed)

    @property
    def holding(self) -> int:
        """How many hold back an acknowledgement."""
        return sum(use.held_back is not None for use in self._live())

    def acknowledgeable(self) -> int:
        """Return the hand-over up to which nothing is in use."""
        if not self._open:
            return self._said
        return min([self._said, *(use.held_back - 1 for use in self._live() if use.held_back is not None)])

    # -- inside ----------------------------------------------------------------

    def _live(self) -> dict[LocalUse, None]:
        """Forget those whose thing is gone; return the others."""
        self._open = {use: None for use in self._open if not use.over}
        return self._open
