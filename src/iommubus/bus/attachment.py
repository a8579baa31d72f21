"""One subscription in one space: from when it came until nothing it was given there is in use.

Endpoints move, and their subscribers with them.  In the space whose events it
gets, a subscription is *present*.  In one that it has left, or was thrown out
of, it *lingers*: it is told nothing more, and counts in each `sync` until it has
let go of what it had there.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol

from ..caps import Cap
from ..completion import Completion, Coverage, Wait
from ..events import DevIotlbUnmap, Event, Unmap, crop
from ..ledger import OldPieces
from ..mailbox import Mailbox
from ..mapping import Mapping
from ..shape import Shape
from .failures import MapFailures, Setback
from .reports import SubscriptionStatistics
from .uses import Uses

Ranges = tuple[tuple[int, int], ...]
"""Disjoint ranges in order, both ends inclusive."""


class State(Enum):
    """How far the bus may trust a subscription."""

    NEW = "not entered"
    JOINED = "joined"
    UNPROVEN = "unproven"
    GONE = "gone"


class Home(Protocol):
    """What an attachment needs of its space."""

    name: str
    seq: int
    shape: Shape
    pull: bool

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Return the first ``limit`` mappings that overlap the range."""
        ...

    async def find(self, iova: int, perm: int) -> Mapping | None:
        """Return the mapping at an address, from the table or by asking the producer."""
        ...

    def admit(self, attachment: "Attachment") -> None:
        """Publish to it from now on; raises as `Routes.add` does."""
        ...

    def part(self, attachment: "Attachment") -> None:
        """Publish to it no longer; a `sync` still waits for it."""
        ...

    def forget(self, attachment: "Attachment") -> None:
        """Publish to it no longer, and wait for it no longer."""
        ...

    def share(self, attachment: "Attachment") -> None:
        """Feed it together with those who get the same."""
        ...

    def unshared(self) -> None:
        """Note that somebody has to be put into by itself from now on."""
        ...

    def old_pieces(self, attachment: "Attachment") -> OldPieces:
        """Return what was removed, or left behind, and may be in use."""
        ...

    def moved(self) -> None:
        """Note that a mailbox has more room."""
        ...

    def narrow(self) -> None:
        """Tell the producer if the demand is smaller now."""
        ...


class Occupant(Protocol):
    """A subscription, to its attachments and to those who wait for them."""

    name: str
    caps: Cap
    state: State
    fenced: bool
    reason: str
    mailbox: Mailbox
    completion: Completion
    setback: Setback
    map_failures: MapFailures
    uses: Uses

    @property
    def hopeful(self) -> bool:
        """Whether waiting may help, although it left unclean."""
        ...

    @property
    def can_be_proven(self) -> bool:
        """Whether there is a way to stop it."""
        ...

    @property
    def crowded(self) -> bool:
        """Whether a producer that paces itself should wait for it."""
        ...

    def abandon(self, reason: str) -> None:
        """Fence it: whatever it held must not be used, and may yet be."""
        ...

    async def prove(self) -> bool:
        """Run what stops it; say whether it is stopped."""
        ...

    def end(self) -> None:
        """End its stream once the mailbox is empty."""
        ...

    def statistics(self) -> SubscriptionStatistics:
        """Return its counters."""
        ...


class Attachment:
    """One subscription in one space.

    Args:
        member: The subscription.
        home: The space.
        wanted: The ranges that it asked for.

    Attributes:
        ranges: Those ranges, as far as they lie in the space.
        coverage: How far the removals here are out of use.
        held_back: Removals from this number on may be in use, because one failed, or nobody can be asked.
        left_by: Hand-over by which all that it had here is taken away, if it went elsewhere.
    """

    __slots__ = ("coverage", "held_back", "home", "left_by", "member", "ranges")

    def __init__(self, member: Occupant, home: Home, wanted: Ranges) -> None:
        self.member = member
        self.home = home
        self.ranges = clip(wanted, home.shape.last)
        self.held_back: int | None = None
        self.coverage = Coverage(home.seq)
        self.left_by: int | None = None

    # -- while it is present -----------------------------------------------------

    def offer(self, event: Event) -> None:
        """Put the parts of an event that lie in the ranges into the mailbox."""
        for part in cropped((event,), self.ranges):
            self.member.mailbox.put(part)

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Read the table, cropped to the ranges."""
        found: list[Mapping] = []
        for low, high in self.ranges:
            if low <= last and high >= first:
                pieces = self.home.walk(max(first, low), min(last, high), limit - len(found))
                found += [piece.clip(low, high) for piece in pieces]
        return found

    def begin(self) -> None:
        """Count from the present number on; a shadower has the table read."""
        self.coverage = Coverage(self.home.seq)
        if not self.member.caps & Cap.MAP:
            return
        for first, last in self.ranges:
            if self.home.walk(first, last, 1):
                self.member.mailbox.replay(first, last)

    async def find(self, iova: int, perm: int) -> Mapping | None:
        """Return what is mapped at an address of the ranges, if anything is."""
        for first, last in self.ranges:
            if first <= iova <= last and (mapping := await self.home.find(iova, perm)) is not None:
                return mapping.clip(first, last)
        return None

    @property
    def words(self) -> tuple[str, int]:
        """The space and the number that events made for it now carry."""
        return self.home.name, self.home.seq

    # -- leaving the space ---------------------------------------------------------

    def withdraw(self) -> None:
        """Take away all that it has here, because it goes elsewhere."""
        mailbox, name, seq = self.member.mailbox, self.home.name, self.home.seq
        told = bool(self.member.caps & Cap.UNMAP)  # else a device may hold what is not in the table any more
        kind = Unmap if told else DevIotlbUnmap
        mailbox.unshare()
        for first, last in self.ranges:
            if self.home.pull or not told or self.home.walk(first, last, 1):
                mailbox.put(kind(name, seq, first, last))
        self.left_by = self.member.completion.removed_by(mailbox)

    @property
    def left(self) -> bool:
        """Whether it has gone elsewhere."""
        return self.left_by is not None

    @property
    def let_go(self) -> bool:
        """Whether it has gone elsewhere, and nothing that it had here is in use."""
        left_by = self.left_by
        return left_by is not None and left_by <= self.member.completion.acked and self.held_back is None

    def absorb(self, later: "Attachment") -> None:
        """Stand for another one in the same space, too, that left it later."""
        self.left_by = later.left_by
        if self.held_back is None and later.held_back is not None:
            self.held_back = self.covered

    # -- for a sync ----------------------------------------------------------------

    def expect(self, changed: Callable[[Wait], None]) -> Wait:
        """Return a wait for all that was taken away here before now."""
        member = self.member
        if member.state is not State.JOINED:
            return member.completion.expect_stop(changed)
        member.mailbox.retry()
        if self.left_by is None:
            return member.completion.expect(member.mailbox, changed)
        again = member.completion.removed_by(member.mailbox) if member.setback else 0
        return member.completion.expect_number(max(self.left_by, again), changed)

    @property
    def idle(self) -> bool:
        """Whether nothing of what was removed is in use by it; it stays so until it is told of more."""
        member = self.member
        done = member.completion
        return (
            self.held_back is None
            and done.removing <= done.acked
            and not member.mailbox.owes_removal
            and member.state is State.JOINED
            and self.left_by is None
        )

    @property
    def covered(self) -> int:
        """Number in the space up to which no removal is in use by it."""
        if self.held_back is not None:
            return self.held_back
        return self.home.seq if self.idle else self.coverage.covered

    def hold_back(self) -> None:
        """Count what is not acknowledged yet, and what is removed from now on, as in use, until it is released."""
        if self.held_back is None:
            self.held_back = self.covered

    @property
    def pinned(self) -> int:
        """How many uses hold back its acknowledgement."""
        return self.member.uses.holding

    def old_pieces(self) -> OldPieces:
        """Return what was removed and may be in use by it."""
        return self.home.old_pieces(self)


def clip(wanted: Ranges, last: int) -> Ranges:
    """Return the parts of ranges that end at or before ``last``."""
    return tuple((low, min(high, last)) for low, high in wanted if low <= last)


def cropped(events: "tuple[Event, ...] | list[Event]", ranges: Ranges) -> Iterator[Event]:
    """Yield the parts of events that lie in the ranges."""
    for event in events:
        for first, last in ranges:
            part = crop(event, first, last)
            if part is not None:
                yield part
