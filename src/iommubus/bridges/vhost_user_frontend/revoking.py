"""UNMAPs, told to the back end as INVALIDATEs, many at a time, and acknowledged once it has.

The acknowledgement of an INVALIDATE says that the back end uses nothing of the range any more.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from ...abi.vhost import invalidations
from ...abi.vhost_user import Message, Request
from ...bus.abc import Batch, Subscription
from ...errors import Fenced, PeerRefused, SubscriptionClosed
from ...events import Event
from ...ranges import IovaRange
from ...rangeset import RangeSet
from .asking import Asking, status_of
from .counts import Counts

WINDOW: Final = 128
"""INVALIDATEs that may be unacknowledged, and most for one hand-over: with 20 us for each at DPDK,
as many as it works off in 3 ms; an UPDATE waits behind no more than these."""


class Given:
    """A hand-over whose INVALIDATEs are on their way."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.pieces = [(where, piece) for where in covering(batch) for piece in invalidations(where)]
        self.left = len(self.pieces)
        self._failed: set[int] = set()  # events, by identity: what an INVALIDATE of two pieces covers fails once

    def failing(self, where: IovaRange) -> Iterator[Event]:
        """Yield the events that fail with a range; what was taken back behind one of them fails with it."""
        for event in [event for event in self.batch if event.first <= where.last and where.first <= event.last]:
            if id(event) not in self._failed and any(each is event for each in self.batch):
                self._failed.add(id(event))
                yield event


def covering(batch: Sequence[Event]) -> list[IovaRange]:
    """Return ranges that cover all that a hand-over takes away, in order.

    There are at most `WINDOW`.  Where more would be needed this is behind, and they reach over the
    smallest gaps: what a back end loses there it asks for again.
    """
    ranges = RangeSet()
    for event in batch:
        ranges.add(event.first, event.last, mark=False)
    ranges.close_gaps(WINDOW)
    return [IovaRange(first, last) for first, last, _ in ranges]


class Revoking:
    """What goes, on one connection.

    Args:
        events: Where UNMAPs come from.
        asking: The main channel.
        counts: Where they are counted.
        peer: What errors call the back end.
    """

    def __init__(self, events: Subscription, asking: Asking, counts: Counts, *, peer: str) -> None:
        self._events = events
        self._asking = asking
        self._counts = counts
        self._peer = peer
        self._window = anyio.Semaphore(WINDOW, fast_acquire=True)

    async def run(self) -> None:
        """Tell the back end of UNMAPs until there will be no more, and all are acknowledged.

        Raises:
            PeerLeft: The connection broke.
            Fenced: The subscription was fenced.
        """
        async for batch in self._events.batches():
            given = Given(batch)
            for where, piece in given.pieces:
                await self._window.acquire()
                self._asking.ask(Request.IOTLB_MSG, piece, partial(self._take, given, where))
                self._counts.invalidations += 1
        for _ in range(WINDOW):
            await self._window.acquire()

    # -- inside ----------------------------------------------------------------

    def _take(self, given: Given, where: IovaRange, reply: Message | None) -> None:
        if reply is None:
            return
        self._window.release()
        with suppress(Fenced, SubscriptionClosed):  # what is proven now is how it stopped
            self._judge(given, where, status_of(reply))
            given.left -= 1
            if not given.left:
                self._events.ack(given.batch)

    def _judge(self, given: Given, where: IovaRange, status: int) -> None:
        if not status:
            self._counts.acknowledged += 1
            return
        self._counts.refused += 1
        for event in given.failing(where):
            self._events.fail(event, PeerRefused(self._peer, f"INVALIDATE of {where}", status))
