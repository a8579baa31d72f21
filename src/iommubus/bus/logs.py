"""The log lines of the bus: one for what happened to somebody, never one an event.

A guest can provoke some of them as fast as it likes, so of each kind at most
`BURST` lines appear in `INTERVAL`; the next one says how many were left out.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

LOGGER: Final = logging.getLogger("iommubus")

INTERVAL: Final = 1.0
"""Seconds after which lines of a kind may appear again: a person reads no faster."""

BURST: Final = 5
"""Most lines of a kind in one interval: enough to see whether it is one subject or many."""


class Lines:
    """A rate limit for log lines, by kind.

    Args:
        clock: Tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._written: dict[str, int] = {}

    def info(self, kind: str, subject: str, text: str) -> None:
        """Write ``subject: text`` for whoever wants to follow what happens."""
        self._write(logging.INFO, kind, subject, text)

    def warn(self, kind: str, subject: str, text: str) -> None:
        """Write ``subject: text`` for whoever has to act."""
        self._write(logging.WARNING, kind, subject, text)

    def _write(self, level: int, kind: str, subject: str, text: str) -> None:
        now = self._clock()
        if now - self._since.get(kind, -INTERVAL) >= INTERVAL:
            left_out = max(self._written.get(kind, 0) - BURST, 0)
            self._since[kind], self._written[kind] = now, 0
            if left_out:
                text = f"{text} ({left_out} lines like this were left out)"
        self._written[kind] = self._written.get(kind, 0) + 1
        if self._written[kind] <= BURST:
            LOGGER.log(level, "%s: %s", subject, text)
