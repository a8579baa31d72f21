"""A whole QEMU trace log, with every line accounted for.

A line is blank, skipped (an event of another kind, counted by name), quiet (an
event of the family, but QEMU published nothing), damaged, or an `Entry`; no
line is two of these, and none is dropped without being counted.

Three heads are read, because QEMU writes three:

* ``24060@1795345099.831755:event fields``, with ``-msg timestamp=on``
* ``2026-11-22T11:22:39.729615Z event fields``, the same in newer versions
* ``event fields``, without that option; such a line has no time

Source: QEMU ``scripts/tracetool/backend/log.py`` and ``util/log.c``.
"""

import calendar
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, field

from ...errors import TraceError
from .families import FAMILIES, SIGNS, BadFields, Family
from .records import Record

# Longest line that is looked at, in characters (or bytes).  The events of the
# families stay below 400; a log of everything also holds whole QMP documents,
# and those are skipped, not damaged.  What is longer is no line of a log.
LINE_LIMIT: Final = 64 * 1024

# How much of a damaged line an error keeps: enough for any event of the
# families, and small enough for a terminal.
EXCERPT_LIMIT: Final = 400

# How many errors are kept when damage is only counted: enough to see what is
# wrong with a file, few enough that a file of noise does not fill the memory.
DAMAGE_KEPT: Final = 16

_HEAD: Final = re.compile(
    r"(?:[0-9]{1,10}@([0-9]{1,12}\.[0-9]{1,9}):"
    r"|([1-9][0-9]{3}-(?:0[1-9]|1[0-2])-[0-3][0-9]T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z) )?"
    r"([A-Za-z][A-Za-z0-9_]*)(?: +(.*))?"
)
"""Seconds, or a time in ISO 8601, or neither; the event; its fields."""


class Entry(Struct, frozen=True, gc=False):
    """One line of the chosen family.

    Attributes:
        line: Number of the line, from 1.
        seconds: Seconds since 1970 (UTC), or `None` where the line has no time.
        record: What it says.
    """

    line: int
    seconds: float | None
    record: Record


class Tally(Struct):
    """What became of the lines; grows while `parse` is iterated.

    Attributes:
        lines: Lines seen.
        blank: Lines of white space.
        entries: Lines that became an `Entry`.
        skipped: Lines of other events, by the name of the event.
        quiet: Lines of the family for which QEMU published nothing, by event: a
            MAP that allows nothing, an invalidation that is refused.
        damaged: Lines that could not be read.
        errors: The first `DAMAGE_KEPT` of those.
    """

    lines: int = 0
    blank: int = 0
    entries: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    quiet: Counter[str] = field(default_factory=Counter[str])
    damaged: int = 0
    errors: list[TraceError] = field(default_factory=list[TraceError])


class Trace(Struct, frozen=True):
    """A log that was read to its end.

    Attributes:
        family: The family that was read, or `None` if the log has none.
        present: The families that have something to play, preferred ones first.
        entries: The lines of the family, in order.
        tally: What became of all lines.
    """

    family: Family | None
    present: tuple[Family, ...]
    entries: list[Entry]
    tally: Tally

    @classmethod
    def read(
        cls,
        lines: Iterable[bytes | str],
        *,
        path: str,
        family: Family | None = None,
        keep_going: bool = False,
    ) -> "Trace":
        """Read a whole log.

        Args:
            lines: The lines, with or without their ends.  They are held in
                memory until this returns.
            path: Where they come from, for errors.
            family: What to read; by default the first family present.
            keep_going: Count damaged lines instead of raising.

        Raises:
            TraceError: A line is damaged, and not ``keep_going``.
        """
        lines = list(lines)
        present = families(lines)
        if family is None and present:
            family = present[0]

        tally = Tally()
        entries = list(parse(lines, family, path=path, tally=tally, keep_going=keep_going))
        return cls(family, present, entries, tally)


def families(lines: Iterable[bytes | str]) -> tuple[Family, ...]:
    """Return the families that have something to play, preferred ones first.

    Damaged lines are passed over; `parse` is where they are found.
    """
    found: set[Family] = set()
    for line in lines:
        try:
            _, _, event, _ = _split(_text(line))
        except BadFields:
            continue

        if event in SIGNS:
            found.add(SIGNS[event])

    return tuple(family for family in Family if family in found)


def parse(
    lines: Iterable[bytes | str],
    family: Family | None,
    *,
    path: str,
    tally: Tally,
    keep_going: bool = False,
) -> Iterator[Entry]:
    """Yield the lines of one family, one by one.

    Args:
        lines: The lines, with or without their ends.
        family: What to read; with `None` every event is skipped and counted.
        path: Where the lines come from, for errors.
        tally: Counts what becomes of the lines; it is right up to the entry
            that was yielded last.
        keep_going: Count damaged lines instead of raising.

    Raises:
        TraceError: A line is damaged, and not ``keep_going``: it is longer than
            `LINE_LIMIT`, no UTF-8 text, has no known head, or is an event of the
            family with fields that do not parse or make no sense.
    """
    for number, line in enumerate(lines, 1):
        tally.lines += 1
        try:
            entry = _entry(number, line, family, tally)
        except BadFields as damage:
            error = TraceError(path, number, _excerpt(line), str(damage))
            tally.damaged += 1
            if len(tally.errors) < DAMAGE_KEPT:
                tally.errors.append(error)

            if not keep_going:
                raise error from None
        else:
            if entry is not None:
                tally.entries += 1
                yield entry


# -- one line ----------------------------------------------------------------


def _entry(number: int, line: bytes | str, family: Family | None, tally: Tally) -> Entry | None:
    text = _text(line)
    if not text:
        tally.blank += 1
        return None

    stamp, iso, event, fields = _split(text)
    seconds = _seconds(stamp, iso)
    parser = FAMILIES[family].get(event) if family else None
    if parser is None:
        tally.skipped[event] += 1
        return None

    record = parser(fields)
    if record is None:
        tally.quiet[event] += 1
        return None

    return Entry(number, seconds, record)


def _text(line: bytes | str) -> str:
    """Return the line as text without its end; empty if it is blank."""
    if len(line) > LINE_LIMIT:
        raise BadFields(f"the line is longer than {LINE_LIMIT} characters")

    try:
        text = line.decode() if isinstance(line, bytes) else line
        text.encode()  # a lone surrogate stands for a byte that could not be decoded
    except UnicodeError:
        raise BadFields("the line is no UTF-8 text") from None

    return text.rstrip(" \t\r\n")


def _split(text: str) -> tuple[str, str, str, str]:
    """Return a line's seconds, ISO time, event and fields; what it has not is empty."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise BadFields("the line has no known head")

    stamp, iso, event, fields = match.groups(default="")
    if not (stamp or iso or "_" in event):  # a message: without a time, its first word looks like an event
        raise BadFields("the line has no known head")

    return stamp, iso, event, fields


def _seconds(stamp: str, iso: str) -> float | None:
    """Return the seconds since 1970 of a line's head, in either of its forms."""
    if stamp:
        return float(stamp)

    if not iso:
        return None

    year, month, day = int(iso[0:4]), int(iso[5:7]), int(iso[8:10])
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise BadFields(f"{iso} is no time")

    whole = calendar.timegm((year, month, day, int(iso[11:13]), int(iso[14:16]), int(iso[17:19])))
    return whole + float(f"0{iso[19:-1]}")


def _excerpt(line: bytes | str) -> str:
    """Return the start of a line as text that can always be printed and sent."""
    start = line[:EXCERPT_LIMIT]
    raw = start.encode("utf-8", "backslashreplace") if isinstance(start, str) else start
    return raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
