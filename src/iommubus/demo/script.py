"""A trace log as steps to play: which space, what, and in which line it stood.

Here the records of a log become changes of named spaces: what an endpoint that
goes takes with it, where it goes, what an invalidation without a range means, and
which spaces keep a table at all.  Player, judges and picture all start from these
steps; none of them sees what another made of them.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from msgspec import Struct, structs

from ..abi.qemu_trace import Attach, Detach, Entry, Family, Lookup, Mapped, Tally, Trace, Unmapped, UnmappedAll
from ..caps import Perm
from ..ranges import LAST
from .pages import Pages, TooManyPages

GRANULE_LIMIT: Final = 0x1000
"""Largest granule that is assumed, in bytes; a trace of huge pages alone keeps it."""

NAME_SAFE: Final = "!\"#$&'()+,/:;<=>@\\^`{|}~"
"""Characters of a space's name that are kept: all but those a pattern is made of, and %."""


class Unplayable(Exception):
    """A log that has nothing the demo could play."""


class MapStep(Struct, frozen=True, gc=False):
    """``first..last`` leads to ``target`` from this line on, whatever was there."""

    line: int
    seconds: float | None
    space: str
    first: int
    last: int
    target: int
    perm: Perm


class UnmapStep(Struct, frozen=True, gc=False):
    """Nothing in ``first..last`` is mapped from this line on."""

    line: int
    seconds: float | None
    space: str
    first: int
    last: int


class LookupStep(Struct, frozen=True, gc=False):
    """QEMU answered a device that ``iova`` leads to ``target``."""

    line: int
    seconds: float | None
    space: str
    iova: int
    target: int


class MoveStep(Struct, frozen=True, gc=False):
    """An endpoint sees another space from this line on.

    Attributes:
        endpoint: Its name.
        space: Where it goes, or `None`: into no space, or into one that keeps no
            table.  That one cannot serve a shadower, and has nothing for it.
    """

    line: int
    seconds: float | None
    endpoint: str
    space: str | None


Change = MapStep | UnmapStep
"""What changes a space."""

Step = Change | LookupStep | MoveStep


class Script(Struct, frozen=True):
    """A log, ready to be played.

    Attributes:
        title: What people call it.
        family: The family that is played.
        steps: What happened, in order.
        spaces: Each space, and whether it keeps a table.  One in which nothing
            is ever mapped keeps none: it is a pull space.
        endpoints: Each endpoint that is ever in a space that keeps a table.
        granule: Bytes in a page.
        tally: What became of the lines of the log.
        has_lookups: Whether the log says what devices were answered.
    """

    title: str
    family: Family
    steps: list[Step]
    spaces: dict[str, bool]
    endpoints: list[str]
    granule: int
    tally: Tally
    has_lookups: bool


def write_script(trace: Trace, title: str) -> Script:
    """Return the steps of a log that was read.

    Raises:
        Unplayable: It has no event of the family, or one that is too large.
    """
    if trace.family is None or trace.family not in trace.present:
        raise Unplayable(_nothing_to_play(trace, title))

    told = list(_Stage(_spaces(trace.entries)).steps(trace.entries))
    mapped = {step.space for step in told if isinstance(step, MapStep)}
    spaces = {step.space: step.space in mapped for step in told if isinstance(step, Change)}
    steps = list(_played(told, spaces))
    endpoints = list(dict.fromkeys(step.endpoint for step in steps if isinstance(step, MoveStep)))
    granule = _granule(steps)
    _check_size(steps, granule, title)
    lookups = any(isinstance(step, LookupStep) for step in steps)
    return Script(title, trace.family, steps, spaces, endpoints, granule, trace.tally, lookups)


# -- from records to steps -----------------------------------------------------


class _Stage:
    """Which endpoint is attached to which space, while a log is read."""

    def __init__(self, spaces: list[str]) -> None:
        self._only = spaces[0] if len(spaces) == 1 else None
        self._named: dict[str, None] = {}
        self._attached: dict[str, str] = {}

    def steps(self, entries: list[Entry]) -> Iterator[Step]:
        """Yield what each entry does."""
        for entry in entries:
            yield from self._play(entry)

    def _play(self, entry: Entry) -> Iterator[Step]:
        line, seconds, record = entry.line, entry.seconds, entry.record
        match record:
            case Mapped():
                space = self._name(record.space)
                yield MapStep(line, seconds, space, record.first, record.last, record.target, record.perm)
            case Unmapped():
                yield UnmapStep(line, seconds, self._name(record.space), record.first, record.last)
            case UnmappedAll():
                for each in list(self._named) if record.space is None else [self._name(record.space)]:
                    yield UnmapStep(line, seconds, each, 0, LAST)
            case Attach() | Detach() | Lookup():
                yield from self._serve(line, seconds, record)

    def _serve(self, line: int, seconds: float | None, record: Attach | Detach | Lookup) -> Iterator[Step]:
        """Play what concerns an endpoint."""
        if isinstance(record, Lookup):
            space = self._attached.get(record.endpoint, self._only)
            if space is not None:
                yield LookupStep(line, seconds, space, record.iova, record.target)
        else:
            to = self._name(record.space) if isinstance(record, Attach) else None
            yield from self._move(line, seconds, record.endpoint, to)

    def _move(self, line: int, seconds: float | None, endpoint: str, to: str | None) -> Iterator[Step]:
        """Move an endpoint; the last one that leaves a space takes the mappings with it.

        Source: QEMU ``virtio_iommu_detach`` takes the endpoint out first, and then
        drops a domain that is left without any.
        """
        left = self._attached.pop(endpoint, None)
        if to is not None:
            self._attached[endpoint] = to

        yield MoveStep(line, seconds, space_name(endpoint), to)
        if left is not None and left not in self._attached.values():
            yield UnmapStep(line, seconds, left, 0, LAST)

    def _name(self, name: str) -> str:
        name = space_name(name)
        self._named[name] = None
        return name


def space_name(name: str) -> str:
    """Return a name that the bus takes: what QEMU calls a region may look like a pattern."""
    return quote(name, safe=NAME_SAFE)


def _spaces(entries: list[Entry]) -> list[str]:
    changes = (entry.record for entry in entries if isinstance(entry.record, Mapped | Unmapped))
    return list(dict.fromkeys(space_name(record.space) for record in changes))


def _played(steps: list[Step], spaces: dict[str, bool]) -> Iterator[Step]:
    """Yield what concerns spaces that change, and of the moves those that lead somewhere else."""
    places: dict[str, str | None] = {}
    for step in steps:
        if isinstance(step, MoveStep):
            to = step.space if step.space is not None and spaces.get(step.space) else None
            if places.get(step.endpoint) != to:
                places[step.endpoint] = to
                yield structs.replace(step, space=to)
        elif step.space in spaces:
            yield step


def _granule(steps: list[Step]) -> int:
    """Return the largest page that every range and target is a multiple of, up to the limit."""
    bits = GRANULE_LIMIT
    for step in steps:
        if isinstance(step, MapStep):
            bits |= step.first | (step.last + 1) | step.target
        elif isinstance(step, UnmapStep):
            bits |= step.first | (step.last + 1)

    return bits & -bits


def _check_size(steps: list[Step], granule: int, title: str) -> None:
    spaces: dict[str, Pages] = {}
    for step in steps:
        if not isinstance(step, Change):
            continue

        pages = spaces.setdefault(step.space, Pages(granule))
        if isinstance(step, UnmapStep):
            pages.unmap(step.first, step.last)
            continue

        try:
            pages.map(step.first, step.last, step.target, step.perm)
        except TooManyPages as error:
            raise Unplayable(f"{title}:{step.line}: {error}, too many to be compared page by page") from None


def _nothing_to_play(trace: Trace, title: str) -> str:
    known = ", ".join(trace.present)
    if trace.family is not None:
        return f"{title} has no event of the family {trace.family}; it has {known or 'none that is known'}"

    return f"{title} has no event of a known family ({', '.join(Family)}); was QEMU started with -trace?"
