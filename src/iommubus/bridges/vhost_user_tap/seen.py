"""What was passed on, on its way from the thread that passes it to the event loop that looks at it.

Traffic never waits for who looks at it.  So what waits is bounded, and what goes
beyond is not shown; where that happened is marked, in order.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final

import anyio
from msgspec import Struct

from ...abi.vhost_user import Channel, Request
from ...bus.soon import Soon
from ...transport.descriptors import close_all

BACKLOG: Final = 65_536
"""Messages that wait to be looked at: more than 5 s of a guest's traffic, while the daemon is away and
memory cannot be added; some 10 MiB.  Beyond, UPDATEs and INVALIDATEs are left out."""

SPARE: Final = 4_096
"""Other messages that are taken beyond that: they set up what UPDATEs mean.  A device needs some 50 to begin."""


GATHER: Final = 0.01
"""Seconds in which what comes is looked at together.  To wake the event loop, the daemon and whoever watches for each
message would take more of the machine than all the rest, and the guest waits meanwhile for its next one."""


class Seen(Struct):
    """What was passed on at once.

    Attributes:
        time: When, in nanoseconds of the monotonic clock.
        channel: Whose requests the channel carries.
        to_back: Whether it went to the back end.
        data: The bytes.
        whole: Whether it is one whole message.
        count: How many descriptors went with it.
        fds: Those that are needed here, which belong to who is given this.
    """

    time: int
    channel: Channel
    to_back: bool
    data: bytes
    whole: bool
    count: int
    fds: list[int]


class Gap(Struct, frozen=True):
    """Here something was left out.

    Attributes:
        for_good: Nothing more follows.
    """

    for_good: bool = False


class Backlog:
    """What waits to be looked at.  One thread puts, one event loop takes.

    Args:
        soon: Has a callback run by that loop.
        limit: Messages that wait.
        spare: Messages beyond, where they are no UPDATE and no INVALIDATE.

    Attributes:
        lost: How many messages were left out.
    """

    def __init__(self, soon: Soon, limit: int = BACKLOG, spare: int = SPARE) -> None:
        self._soon = soon
        self._limit = limit
        self._spare = spare
        self._lock = Lock()
        self._waiting: deque[Seen | Gap] = deque()
        self._wake: Callable[[], object] | None = None
        self._ended = False
        self._over = False  # something was left out without which the rest means nothing
        self.lost = 0

    def put(self, seen: Seen, request: int) -> None:
        """Take what was passed on.

        Args:
            seen: What it was.
            request: What the message asks or answers.
        """
        with self._lock:
            taken = self._append(seen, request)
            wake, self._wake = self._wake, None
        if not taken:
            close_all(seen.fds)
        if wake is not None:
            self._soon(wake)

    def end(self) -> None:
        """Say, in the loop, that no more will come."""
        self._ended = True
        if self._wake is not None:
            self._wake()

    async def take(self) -> list[Seen | Gap]:
        """Wait for what came, and return all of it; nothing once it has ended."""
        while True:
            arrival = anyio.Event()
            with self._lock:
                if self._waiting or self._ended:
                    taken, self._waiting = list(self._waiting), deque()
                    return taken
                self._wake = arrival.set
            await arrival.wait()
            await anyio.sleep(GATHER)

    def close(self) -> None:
        """Close the descriptors of what nobody has taken."""
        while self._waiting:
            seen = self._waiting.popleft()
            if isinstance(seen, Seen):
                close_all(seen.fds)

    def _append(self, seen: Seen, request: int) -> bool:
        """Have it wait if there is room for it."""
        count = len(self._waiting)
        spare = 0 if seen.channel is Channel.BACK_END or request == Request.IOTLB_MSG else self._spare
        if not self._over and count < self._limit + spare:
            self._waiting.append(seen)
            return True
        self.lost += 1
        if spare and not self._over:
            self._over = True
            self._waiting.append(Gap(for_good=True))
        elif not self._over and not isinstance(self._waiting[-1], Gap):
            self._waiting.append(Gap())
        return False
