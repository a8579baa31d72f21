"""What must be true after a `sync`, from an independent reading of the trace.

The judge follows the steps of the trace, never the bus.  After each `sync` it
is shown what a subscriber holds:

* a shadower's copy must be exactly what the trace has mapped, cropped to the
  shadower's ranges;
* a cacher may hold less, but no page that was unmapped after it was asked for,
  and none that leads somewhere else;
* who follows an endpoint must hold what the trace has mapped in the space where
  the endpoint is by then, and nothing where it is in none.

What differs is pinned down to the page, and to the line of the trace that last
changed it.  Nothing here awaits.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, structs

from ..ranges import LAST
from .pages import Pages, Ranges, Target, crop
from .script import Change, LookupStep, MapStep

WHOLE: Ranges = ((0, LAST),)

NOWHERE: Final = "no space"
"""What is said for the space of an endpoint that is in none."""


class Held(Struct, frozen=True, gc=False):
    """One page in a cache.

    Attributes:
        page: Its address.
        target: Where it leads, as the cache has it.
        line: Line of the trace at which it was asked for.
    """

    page: int
    target: Target
    line: int


class Violation(Struct, frozen=True):
    """A subscriber held something else than the trace says.

    Attributes:
        space: Name of the space.
        subscriber: Name of the subscriber.
        event: The line that last changed the page; 0 if none did.
        after: The line after which all was well for the last time.
        until: The line after which it was found.
        page: Address of the first page that differs.
        should: What the trace says of it.
        holds: What the subscriber has.
        others: How many more pages differ.
    """

    space: str
    subscriber: str
    event: int
    after: int
    until: int
    page: int
    should: str
    holds: str
    others: int = 0

    def __str__(self) -> str:
        cause = f"line {self.event}" if self.event else "no line"
        more = f", and {self.others:,} more pages differ" if self.others else ""
        return (
            f"{self.subscriber} on {self.space}: page {self.page:#x} should be {self.should} since {cause}, "
            f"but {self.subscriber} has it {self.holds}{more}; found by the sync after line {self.until}, "
            f"all was well after line {self.after}"
        )


class Judge:
    """What one space must look like.

    Args:
        space: Its name.
        granule: Bytes in a page.
        ranges: What shadowers see of it.
    """

    def __init__(self, space: str, granule: int, ranges: Ranges = WHOLE) -> None:
        self.space = space
        self.ranges = ranges
        self.line = 0
        self.well = 0
        self.whole = Pages(granule)
        self.inside = Pages(granule)
        self._changed: dict[int, int] = {}
        self._unmapped: dict[int, int] = {}

    def reach(self, line: int) -> None:
        """Note how far the trace was read; other spaces may have had the last word."""
        self.line = line

    def follow(self, step: Change | LookupStep) -> None:
        """Read one step of the trace."""
        self.reach(step.line)
        if isinstance(step, LookupStep):
            return

        if isinstance(step, MapStep):
            self._map(step)
        else:
            self._note_gone(self.whole.unmap(step.first, step.last))
            for first, last in crop(step.first, step.last, self.ranges):
                self.inside.unmap(first, last)

    def check_copy(self, subscriber: str, held: Mapping[int, Target]) -> Violation | None:
        """Hold a shadower's copy against the trace."""
        should = self.inside.targets
        if held == should:
            return None

        differing = sorted(page for page in held.keys() | should.keys() if held.get(page) != should.get(page))
        page = differing[0]
        return self._violation(
            subscriber, page, describe(should.get(page)), describe(held.get(page)), len(differing) - 1
        )

    def check_cache(self, subscriber: str, held: Iterable[Held]) -> Violation | None:
        """Hold a cacher's entries against the trace."""
        wrong = [entry for entry in held if self._is_wrong(entry)]
        if not wrong:
            return None

        first = min(wrong, key=lambda entry: entry.page)
        should = describe(self.whole.targets.get(first.page))
        if self._is_stale(first):
            should = f"dropped (unmapped in line {self._unmapped[first.page]})"

        holds = f"{describe(first.target)}, asked for at line {first.line}"
        return self._violation(subscriber, first.page, should, holds, len(wrong) - 1)

    def check_empty(self, subscriber: str, count: int) -> Violation | None:
        """Hold it against a subscriber that something is left when its space was closed."""
        if not count:
            return None

        return self._violation(subscriber, 0, "gone with the space", f"among {count:,} left", 0)

    def passed(self) -> None:
        """Note that all was well up to here."""
        self.well = self.line

    # -- inside ----------------------------------------------------------------

    def _map(self, step: MapStep) -> None:
        before = dict(self.whole.targets) if any(self.whole.within(step.first, step.last)) else {}
        self.whole.map(step.first, step.last, step.target, step.perm)
        pages = range(step.first, step.last + 1, self.whole.size)
        self._note_gone(page for page in pages if page in before and before[page] != self.whole.targets[page])
        for page in pages:
            self._changed[page] = step.line

        for first, last in crop(step.first, step.last, self.ranges):
            self.inside.map(first, last, step.target + first - step.first, step.perm)

    def _note_gone(self, pages: Iterable[int]) -> None:
        for page in pages:
            self._changed[page] = self._unmapped[page] = self.line

    def _is_stale(self, entry: Held) -> bool:
        return self._unmapped.get(entry.page, 0) > entry.line

    def _is_wrong(self, entry: Held) -> bool:
        return self._is_stale(entry) or self.whole.targets.get(entry.page) != entry.target

    def _violation(self, subscriber: str, page: int, should: str, holds: str, others: int) -> Violation:
        event = self._changed.get(page, 0)
        return Violation(self.space, subscriber, event, self.well, self.line, page, should, holds, others)


class EndpointJudge:
    """What who follows one endpoint must hold, wherever that is.

    Args:
        endpoint: Name of the endpoint.
        granule: Bytes in a page.
        spaces: The judge of each space that it may be in.
    """

    def __init__(self, endpoint: str, granule: int, spaces: Mapping[str, Judge]) -> None:
        self.endpoint = endpoint
        self._spaces = spaces
        self._nowhere = self._place = Judge(NOWHERE, granule)
        self._moved = 0
        self._note = ""
        self._well = 0

    def move(self, space: str | None, line: int, note: str = "") -> None:
        """Follow the endpoint to another space, or to none.

        Args:
            space: Its name.
            line: The line of the trace that moved it, or after which it was moved.
            note: What else is to be said of the move.
        """
        self._place = self._nowhere if space is None else self._spaces[space]
        self._moved = line
        self._note = note

    def check(self, held: Mapping[int, Target], line: int) -> Violation | None:
        """Hold a copy against the space where the endpoint is, after a `sync` behind ``line``."""
        found = self._place.check_copy(self.endpoint, held)
        if found is None:
            self._well = line
            return None

        event = max(found.event, self._moved)
        return structs.replace(found, event=event, after=self._well, until=line, should=found.should + self._note)

    def check_empty(self, count: int) -> Violation | None:
        """Hold it against who follows that something is left when the endpoint was closed."""
        return self._place.check_empty(self.endpoint, count)


def describe(target: Target | None) -> str:
    """Return where a page leads, as people read it."""
    if target is None:
        return "unmapped"

    address, perm = target
    return f"-> {address:#x} {perm.name}"
