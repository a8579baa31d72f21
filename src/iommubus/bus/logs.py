"""The log lines of the bus: one for what happened to somebody, never one an event.

A guest can provoke some of them as fast as it likes, so each kind of line
appears at most once in `INTERVAL` for each subject; the next one says how many
were left out.
"""

import logging
import time
from typing import Final

LOGGER: Final = logging.getLogger("iommubus")

INTERVAL: Final = 1.0
"""Seconds between two lines of a kind about one subject: a person reads no faster."""

SUBJECTS: Final = 1024
"""Most subjects remembered; a guest that makes more than these starts them anew."""


class Lines:
    """A rate limit for log lines, by kind and subject."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def warn(self, kind: str, subject: str, text: str) -> None:
        """Write ``subject: text``, unless such a line has just been written."""
        now = time.monotonic()
        last, left_out = self._last.get((kind, subject), (-self._interval, 0))
        if now - last < self._interval:
            self._last[kind, subject] = (last, left_out + 1)
            return
        if len(self._last) >= SUBJECTS:
            self._last.clear()
        self._last[kind, subject] = (now, 0)
        more = f" ({left_out} such lines left out)" if left_out else ""
        LOGGER.warning("%s: %s%s", subject, text, more)
