"""How a hand-over reaches a server: as many commands at a time as may be, and in order where that matters.

Commands that have nothing to do with one another wait for their answers together.
One that overlaps another waits for that one's answer first: what came of it says
whether there is still anything to do.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

from ...bus.abc import Batch, Subscription
from ...errors import BadMemory, BridgeError, IommubusError, NoBacking, PeerBroke, UnknownMemory
from ...events import Event, Map, Unmap
from ...rangeset import RangeSet
from .link import Link

UNREACHABLE: Final = (NoBacking, BadMemory, UnknownMemory)
"""Why a mapping cannot be given to another process: there are no bytes that could be."""


class Sent(Struct):
    """An event whose commands were sent.

    Attributes:
        event: The event.
        error: What went wrong with it, if anything did.
    """

    event: Event
    error: IommubusError | None = None

    def note(self, error: BridgeError | None) -> None:
        """Note what came of a piece of it."""
        self.error = self.error or error


class Applying:
    """Applies the hand-overs of one subscription.

    Args:
        events: The subscription.
        link: The server.
        count: Told of each event that was applied.
    """

    def __init__(self, events: Subscription, link: Link, count: Callable[[Event], object]) -> None:
        self._events = events
        self._link = link
        self._count = count
        self._sent: list[Sent] = []
        self._touched = RangeSet()

    async def apply(self, batch: Batch) -> None:
        """Apply a hand-over, say what could not be, and acknowledge it; nothing if all is being taken back.

        Raises:
            PeerLeft: The connection has ended.
            PeerBroke: The server is in a state that nobody can mend.
            Fenced: The subscription was fenced.
        """
        at = 0
        while at < len(batch):  # it becomes shorter where something fails
            event = batch[at]
            if self._touched.overlaps(event.first, event.last):
                await self._land()
                continue
            if self._link.stopping:
                return
            at += 1
            await self._send(event)
        await self._land()
        if not self._link.stopping:
            self._events.ack(batch)

    # -- inside ----------------------------------------------------------------

    async def _send(self, event: Event) -> None:
        sent = Sent(event)
        self._sent.append(sent)
        self._touched.add(event.first, event.last, mark=False)
        if isinstance(event, Map):
            await self._map(event, sent)
        elif isinstance(event, Unmap):
            await self._link.unmap(event, sent.note)

    async def _map(self, event: Map, sent: Sent) -> None:
        try:
            if event.memory is None:
                raise NoBacking(event.first, event.target)
            fd = self._events.descriptor(event.memory)
        except UNREACHABLE as error:
            sent.error = error
            return
        try:
            await self._link.map(event, fd, sent.note)
        finally:
            os.close(fd)

    async def _land(self) -> None:
        """Wait for the answers to all that was sent, and say what failed."""
        await self._link.calls.settle()
        sent, self._sent = self._sent, []
        self._touched.clear()
        if self._link.stopping:
            return
        for one in sent:
            if one.error is None:
                self._count(one.event)
                continue
            if isinstance(one.event, Map):
                await self._undo(one.event)
            self._events.fail(one.event, one.error)

    async def _undo(self, event: Map) -> None:
        """Take back the half of the whole space that was mapped, where the other was refused."""
        errors: list[BridgeError] = []
        await self._link.unmap(event, partial(_keep, errors))
        await self._link.calls.settle()
        if errors:
            raise PeerBroke(self._link.peer, f"it holds a part of {event}, and does not let go of it: {errors[0]}")


def _keep(errors: list[BridgeError], error: BridgeError | None) -> None:
    if error is not None:
        errors.append(error)
