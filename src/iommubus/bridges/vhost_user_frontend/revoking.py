"""UNMAPs, told to the back end as INVALIDATEs, many at a time, and acknowledged once it has.

The acknowledgement of an INVALIDATE says that the back end uses nothing of the range any more.
"""

from contextlib import suppress
from functools import partial
from typing import Final

import anyio

from ...abi.vhost import IotlbMsg, invalidations
from ...abi.vhost_user import Message, Request
from ...bus.abc import Batch, Subscription
from ...errors import Fenced, PeerRefused, SubscriptionClosed, span
from ...events import Event
from ...ranges import IovaRange
from .asking import Asking, status_of
from .counts import Counts

WINDOW: Final = 128
"""INVALIDATEs that may be unacknowledged: with 20 us for each at DPDK, as many as it works
off in 3 ms; an UPDATE waits behind no more than these."""


class Given:
    """A hand-over whose INVALIDATEs are on their way."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.pieces: list[tuple[Event, IotlbMsg]] = [
            (event, piece) for event in batch for piece in invalidations(IovaRange(event.first, event.last))
        ]
        self.left = len(self.pieces)
        self.failed: set[int] = set()  # events, by identity: an UNMAP of two pieces fails once

    def fails(self, event: Event) -> bool:
        """Say whether this is the first piece of an event to fail, and the event was not taken back meanwhile."""
        first = id(event) not in self.failed and any(each is event for each in self.batch)
        self.failed.add(id(event))
        return first


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
            for event, piece in given.pieces:
                await self._window.acquire()
                self._asking.ask(Request.IOTLB_MSG, piece, partial(self._take, given, event))
                self._counts.invalidations += 1
        for _ in range(WINDOW):
            await self._window.acquire()

    # -- inside ----------------------------------------------------------------

    def _take(self, given: Given, event: Event, reply: Message | None) -> None:
        if reply is None:
            return
        self._window.release()
        with suppress(Fenced, SubscriptionClosed):  # what is proven now is how it stopped
            self._judge(given, event, status_of(reply))
            given.left -= 1
            if not given.left:
                self._events.ack(given.batch)

    def _judge(self, given: Given, event: Event, status: int) -> None:
        if not status:
            self._counts.acknowledged += 1
            return
        self._counts.refused += 1
        if given.fails(event):
            self._events.fail(event, PeerRefused(self._peer, f"INVALIDATE of {span(event.first, event.last)}", status))
