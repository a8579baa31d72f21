"""The clock of leases.

It goes on while the machine is suspended: a daemon elsewhere does not wait for a
client that sleeps.  On one machine all processes read the same.

Source: ``clock_gettime(2)`` under CLOCK_BOOTTIME.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since some moment; it never goes back."""


def boot_clock() -> float:
    """Return seconds since the machine was booted, those of its sleep among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
