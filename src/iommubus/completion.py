"""Who has let go: hand-overs, acknowledgements and those who wait for them.

Each hand-over to a consumer has a number, from 1.  An acknowledgement is
cumulative: all up to that number is applied *and no longer used*.  A waiter
needs the acknowledgement of one certain hand-over:

* nothing waits in the mailbox: the last one made;
* something waits there: the one that ends one turn of the cursor.  If nothing
  has to be read from the table by then, that is the next one;
* the subscriber is still on its first turn: the next one if something is to be
  taken away, because every hand-over gives all of that, else the last one that
  took something away.  So a joiner with a million mappings to read, or a thousand
  in hand, does not hold up a guest.

A subscriber may be told of several spaces in its life, one after the other.
What it has let go of in each is kept by a `Coverage` of its own.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from .mailbox import Mailbox, Turn


class How(Enum):
    """How a subscriber came to use nothing old any more."""

    ACKNOWLEDGED = "acknowledged"
    LEFT = "left"
    STOPPED = "stopped"


class Wait:
    """One waiter for one subscriber; it settles once.

    Its callback is called when it settles, and when the subscriber will not
    settle it by itself any more.

    Attributes:
        how: How it was settled, or `None` as long as it is not.
        number: Hand-over whose acknowledgement settles it; `None` until the
            cursor has made its turn, or for ever.
        turn: The turn that it waits for; `None` if for none.
    """

    __slots__ = ("_changed", "how", "number", "turn")

    def __init__(self, number: int | None, turn: Turn | None, changed: Callable[["Wait"], None]) -> None:
        self.number = number
        self.turn = turn
        self.how: How | None = None
        self._changed = changed

    def settle(self, how: How) -> None:
        """End the wait and tell the waiter."""
        self.how = how
        self._changed(self)

    def poke(self) -> None:
        """Tell the waiter that something about the subscriber changed."""
        self._changed(self)


COVERAGE_LIMIT: Final = 4096
"""Most hand-overs of which it is kept apart how far they take a space: a consumer that
acknowledges none must not cost memory for each."""


class Coverage:
    """How far the removals of one space are out of use by one subscriber.

    Attributes:
        covered: Number in the space up to which all removals are acknowledged.
    """

    __slots__ = ("_open", "covered")

    def __init__(self, covered: int = 0) -> None:
        self.covered = covered
        self._open: deque[tuple[int, int]] = deque()  # hand-over, number in the space

    def hand_over(self, number: int, seq: int) -> None:
        """Note a hand-over that was made when the space had come to ``seq``."""
        self._open.append((number, seq))
        if len(self._open) > COVERAGE_LIMIT:  # every other one will do: what it covers, the next one does
            self._open = deque(list(self._open)[::-2][::-1])  # the last one stays

    def acknowledge(self, number: int) -> None:
        """Take it that everything up to hand-over ``number`` is out of use."""
        while self._open and self._open[0][0] <= number:
            self.covered = self._open.popleft()[1]


class Completion:
    """The hand-overs of one subscription.

    Attributes:
        handed: Number of the last hand-over, 0 before the first.
        acked: Number of the last one acknowledged.
        current: Whether the first turn of the table was acknowledged.
        removing: Number of the last hand-over that took something away.
        on_wait: Called when somebody begins to wait.
    """

    __slots__ = ("_waits", "acked", "current", "handed", "on_wait", "removing")

    def __init__(self) -> None:
        self.on_wait: Callable[[], object] | None = None
        self.handed = self.removing = 0
        self.acked = 0
        self.current = False
        self._waits: list[Wait] = []

    def hand_over(self, mailbox: Mailbox, *, removes: bool = True) -> int:
        """Give the next number to a hand-over.

        Args:
            mailbox: What it came from.
            removes: Whether it takes something away.
        """
        self.handed += 1
        if removes:
            self.removing = self.handed
        self.look(mailbox)
        return self.handed

    def look(self, mailbox: Mailbox) -> None:
        """Fix the hand-over of those who wait for a turn that has been made."""
        for wait in self._waits:
            if wait.turn is not None and mailbox.reached(wait.turn):
                wait.number, wait.turn = self.handed, None
        self._settle()

    def acknowledge(self, number: int) -> None:
        """Take it that everything up to hand-over ``number`` is out of use."""
        self.acked = max(self.acked, number)
        self._settle()

    def expect(self, mailbox: Mailbox, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait for what is in the mailbox and in hand at this moment.

        ``changed`` may be called before this returns.
        """
        if self.current:
            return self.expect_turn(mailbox, changed)
        return self.expect_number(self.removed_by(mailbox), changed)

    def removed_by(self, mailbox: Mailbox) -> int:
        """Return the hand-over by which all that is to be taken away now will have been."""
        return self.handed + 1 if mailbox.owes_removal else self.removing

    def expect_number(self, number: int, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait for the acknowledgement of one hand-over."""
        return self._wait(Wait(number, None, changed))

    def expect_turn(self, mailbox: Mailbox, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait for one turn of the table, read and acknowledged.

        What waits in the FIFO may still overflow and have to be read: only
        where nothing waits is the hand-over known already.
        """
        if mailbox.ready:
            return self._wait(Wait(None, mailbox.turn, changed))
        return self.expect_number(self.handed, changed)

    def expect_stop(self, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait that no acknowledgement settles, only `finish`."""
        return self._wait(Wait(None, None, changed))

    @property
    def waits(self) -> int:
        """How many wait."""
        return len(self._waits)

    def poke(self) -> None:
        """Tell everybody who waits to look again."""
        for wait in list(self._waits):
            wait.poke()

    def forget(self, wait: Wait) -> None:
        """Drop a wait that nobody is interested in any more."""
        if wait in self._waits:
            self._waits.remove(wait)

    def finish(self, how: How) -> None:
        """Settle everybody: the subscriber uses nothing any more."""
        waits, self._waits = self._waits, []
        for wait in waits:
            wait.settle(how)

    # -- inside ----------------------------------------------------------------

    def _wait(self, wait: Wait) -> Wait:
        self._waits.append(wait)
        self._settle()
        if self.on_wait is not None and wait.how is None:
            self.on_wait()
        return wait

    def _settle(self) -> None:
        """Settle whom the last acknowledgement, or none at all, was enough for."""
        if not self._waits:
            return
        acked, waits = self.acked, self._waits
        settled = [wait for wait in waits if wait.number is not None and wait.number <= acked]
        if settled:
            self._waits = [wait for wait in waits if wait.number is None or wait.number > acked]
            for wait in settled:
                wait.settle(How.ACKNOWLEDGED)
