"""QEMU's trace log as a source of mapping changes: lines in, records out.

* `records`: what a line says, as frozen values
* `families`: the events that are understood, and how their fields are read
* `trace`: a whole log, with every line accounted for

Nothing here opens a file, looks at a clock or starts a task.  A log in which
several families describe the same changes is played by one of them.

Source: QEMU ``hw/virtio/trace-events``, ``hw/i386/trace-events`` and, for the
heads of the lines, ``scripts/tracetool/backend/log.py``.
"""

from .families import FAMILIES, Family, Parser
from .records import Attach, Detach, Lookup, Mapped, Record, Unmapped, UnmappedAll
from .trace import DAMAGE_KEPT, EXCERPT_LIMIT, LINE_LIMIT, Entry, Tally, Trace, families, parse

__all__ = [
    "DAMAGE_KEPT",
    "EXCERPT_LIMIT",
    "FAMILIES",
    "LINE_LIMIT",
    "Attach",
    "Detach",
    "Entry",
    "Family",
    "Lookup",
    "Mapped",
    "Parser",
    "Record",
    "Tally",
    "Trace",
    "Unmapped",
    "UnmappedAll",
    "families",
    "parse",
]
