"""The clock by which leases run."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Says the time in seconds, from some moment that stays the same; it never goes back."""


def boot_clock() -> float:
    """Return the seconds since the machine was started; they go on while it is suspended.

    Source: ``clock_gettime(2)`` under CLOCK_BOOTTIME.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
