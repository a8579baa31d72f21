"""What is asked of a space, and what its producer was told of it.

A producer that wants a say is asked before a subscriber is registered that asks for more,
one at a time.  An endpoint that moves asks nobody: the producer is told then, and a
subscriber that it refuses is fenced.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from ...bus.space import LocalSpace
from ...caps import Cap
from ...errors import ConnectionLost, DemandRefused
from ...transport.tasks import Tasks
from ...wire.messages import Message
from ...wire.messages.publishing import DemandChanged
from ..clients import Client

NOTHING: Final = Cap(0)

UNANSWERED: Final = 256
"""Most questions about those who moved that a producer leaves open for one space: each has a task, and
who moves endpoints back and forth without an answer would have any number of them."""


class Demand:
    """The demand of one space.

    Args:
        tasks: Where the producer is asked about those who moved.

    Attributes:
        told: What the producer was told last.
    """

    def __init__(self, tasks: Tasks) -> None:
        self.told = NOTHING
        self._tasks = tasks
        self._lock = anyio.Lock()
        self._coming = NOTHING  # what the one asks for who is being registered
        self._space: LocalSpace | None = None
        self._producer: Client | None = None
        self._epoch = 0
        self._asks = False
        self._judging = 0  # questions about those who moved that are open

    def meet(self, space: LocalSpace, producer: Client, epoch: int, *, asks: bool) -> None:
        """Tell a producer that is new what is asked of its space.

        Args:
            space: The space.
            producer: Its producer.
            epoch: The epoch of the space.
            asks: Whether the producer may refuse.
        """
        self._space, self._producer, self._epoch, self._asks = space, producer, epoch, asks
        self.told = NOTHING
        self.changed(NOTHING, space.routes.demand)

    def part(self) -> None:
        """Take it that the producer is lost; nobody is asked until another one comes."""
        self._producer = None

    def changed(self, _: Cap, wanted: Cap) -> None:
        """Note that the demand has changed; the callback of the space."""
        wanted |= self._coming
        old, producer = self.told, self._producer
        if producer is None or wanted == old:
            return
        self.told = wanted
        if self._asks and wanted & ~old:
            if self._judging >= UNANSWERED:
                producer.close(f"it left {UNANSWERED} questions about the demand of {self._name} unanswered")
                return
            self._judging += 1
            self._tasks.start_soon(self._judge_counted, producer, old, wanted)
        else:
            producer.tell(self._make(old, wanted))

    @asynccontextmanager
    async def widened(self, caps: Cap) -> AsyncGenerator[None]:
        """Ask the producer, if it wants to be, before somebody is registered with these capabilities.

        The registration has to be done inside the block, and without waiting.

        Raises:
            DemandRefused: The producer refused.
        """
        if not self._asks:
            yield
            return
        async with self._lock:
            self._coming = caps
            try:
                await self._ask()
                yield
            finally:
                self._coming = NOTHING
                if self._space is not None:
                    self.changed(NOTHING, self._space.routes.demand)

    # -- inside ----------------------------------------------------------------

    async def _ask(self) -> None:
        """Ask until the one who is producer agrees; without one nobody has to."""
        while (space := self._space) is not None and (producer := self._producer) is not None:
            old, wanted = self.told, space.routes.demand | self._coming
            if not wanted & ~old:
                return
            self.told = wanted  # what it is told in the meantime builds on that
            try:
                await producer.ask(self._make(old, wanted))
            except ConnectionLost:
                continue
            except Exception as refusal:
                self._take_back(producer, old, wanted)
                raise DemandRefused(space.name, int(old), int(wanted), str(refusal)) from refusal

    async def _judge_counted(self, producer: Client, old: Cap, wanted: Cap) -> None:
        try:
            await self._judge(producer, old, wanted)
        finally:
            self._judging -= 1

    async def _judge(self, producer: Client, old: Cap, wanted: Cap) -> None:
        """Ask a producer about those who have moved: all at once, and if it refuses, each by itself."""
        refusal = await self._refusal(producer, old, wanted)
        if refusal is None:
            return
        self._take_back(producer, old, wanted)
        masks = {mask | old for mask in self._masks if mask & ~old}
        for mask in sorted(masks):
            if masks != {mask}:
                refusal = await self._refusal(producer, old, mask)
            if refusal is None:
                old, self.told = old | mask, self.told | mask
            else:
                self._fence(mask & ~old, refusal)

    async def _refusal(self, producer: Client, old: Cap, wanted: Cap) -> DemandRefused | None:
        """Ask a producer; return what it refuses with, if it does."""
        try:
            await producer.ask(self._make(old, wanted))
        except ConnectionLost:
            return None
        except Exception as refusal:  # noqa: BLE001 - whatever it says, it refuses
            return DemandRefused(self._name, int(old), int(wanted), str(refusal))
        return None

    @property
    def _masks(self) -> list[Cap]:
        """What each subscription asks for that is there now."""
        return [] if self._space is None else [attachment.member.caps for attachment in self._space.routes.present]

    def _take_back(self, producer: Client, old: Cap, wanted: Cap) -> None:
        if producer is self._producer:
            self.told &= ~(wanted & ~old)

    def _fence(self, refused: Cap, reason: DemandRefused) -> None:
        present = () if self._space is None else tuple(self._space.routes.present)
        for attachment in present:
            if attachment.member.caps & refused:
                attachment.member.abandon(str(reason))

    @property
    def _name(self) -> str:
        return "" if self._space is None else self._space.name

    def _make(self, old: Cap, wanted: Cap) -> Callable[[int], Message]:
        name, epoch = self._name, self._epoch
        return lambda number: DemandChanged(number, name, epoch, int(old), int(wanted))
