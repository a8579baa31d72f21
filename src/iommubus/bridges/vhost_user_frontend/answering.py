"""MISSes, answered by the translations of the space.

An answer races with the UNMAP that ends it.  UPDATE and INVALIDATE travel on one
socket, in order; so an UPDATE is put only while its translation is `valid`, which
it is not any more once the UNMAP was handed over, and the INVALIDATE that follows
from that is put later.
"""

from collections import OrderedDict
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from ...abi.vhost import updates
from ...abi.vhost_user import Message, Request
from ...bus.abc import Subscription, Translation
from ...caps import Perm
from ...errors import TranslationFault
from ...ranges import IovaRange
from .asking import Asking, status_of
from .counts import Counts
from .lending import Lending
from .questions import Miss, Questions

IN_FLIGHT: Final = 64
"""MISSes that are answered at the same time.  Most take one look into a table; of a
producer that walks page tables more than this is asked by nobody at once."""

PARKED: Final = 256
"""Addresses that had no translation and are looked at again; DPDK asks for none twice,
so that a ring which is mapped late, or again, would never be used."""

AGAIN: Final = 1.0
"""Seconds after which those are looked at again."""

REFUSED: Final = 1
"""Status of a MISS whose UPDATE the back end did not take."""


class Updating:
    """One answer on its way: a piece or two, and the word on each."""

    def __init__(self, pieces: int) -> None:
        self._left = pieces
        self._over = anyio.Event()
        self.status = 0
        self.lost = False

    def take(self, reply: Message | None) -> None:
        """Take what the back end says of a piece."""
        self.lost |= reply is None
        self.status = self.status or (0 if reply is None else status_of(reply))
        self._left -= 1
        if not self._left:
            self._over.set()

    async def wait(self) -> None:
        """Wait for the last word."""
        await self._over.wait()


class Answering:
    """The answers of one connection.

    Args:
        events: What is asked.
        asking: The main channel, where UPDATEs go.
        lending: What gives the back end the memories that they lead into.
        questions: Where MISSes are acknowledged.
        misses: Where they come from.
        counts: Where answers are counted.
    """

    def __init__(
        self,
        events: Subscription,
        asking: Asking,
        lending: Lending,
        questions: Questions,
        misses: MemoryObjectReceiveStream[Miss],
        *,
        counts: Counts,
    ) -> None:
        self._events = events
        self._asking = asking
        self._lending = lending
        self._questions = questions
        self._misses = misses
        self._counts = counts
        self._parked: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._some_parked = anyio.Event()

    async def work(self) -> None:
        """Answer one MISS after the other, until it is cancelled; `IN_FLIGHT` tasks do so.

        Raises:
            PeerLeft: The connection broke.
            Fenced: The subscription was fenced.
        """
        async for miss in self._misses:
            self._questions.begin(miss)
            status = await self.answer(miss.iova, miss.perm)
            if status is None and miss.reply is None:
                self._park(miss.key)
            self._questions.acknowledge(miss, status or 0)

    async def answer(self, iova: int, perm: Perm) -> int | None:
        """Say where an address leads, if it leads anywhere.

        Returns:
            What the back end said of it, 0 for success; `None` if nothing was to be said.

        Raises:
            PeerLeft: The connection broke.
            Fenced: The subscription was fenced.
        """
        while True:
            try:
                found = await self._events.translate(iova, perm)
            except TranslationFault:
                break
            address = await self._lending.address_of(found.mapping)
            if address is None:
                break
            if found.valid:
                return await self._update(found, address)
            self._counts.stale += 1
        self._counts.negative += 1
        return None

    async def look_again(self) -> None:
        """Look again, now and then, at addresses that had no translation, until it is cancelled; raises as `work`."""
        while True:
            if not self._parked:
                self._some_parked = anyio.Event()
                await self._some_parked.wait()
            await anyio.sleep(AGAIN)
            for key in list(self._parked):
                if await self.answer(key[0], Perm(key[1])) is not None:
                    self._parked.pop(key, None)

    # -- inside ----------------------------------------------------------------

    async def _update(self, found: Translation, address: int) -> int:
        """Send what was found; nothing may be awaited between the look at `valid` and this."""
        mapping = found.mapping
        pieces = updates(IovaRange(mapping.first, mapping.last), address, mapping.perm)
        sent = Updating(len(pieces))
        for piece in pieces:
            self._asking.ask(Request.IOTLB_MSG, piece, sent.take)
        await sent.wait()
        if sent.lost:
            raise self._asking.broken()
        self._counts.updates += not sent.status
        self._counts.refused += bool(sent.status)
        return REFUSED if sent.status else 0

    def _park(self, key: tuple[int, int]) -> None:
        self._parked[key] = None
        self._parked.move_to_end(key)
        if len(self._parked) > PARKED:
            self._parked.popitem(last=False)
        self._some_parked.set()
