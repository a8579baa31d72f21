"""Memories that a back end is given: those that the answers to its MISSes lead into.

A back end takes so many at most.  One that was not used for longest goes when there
is no room, and with it every translation that the back end has, so that none leads into it.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import anyio

from ...abi.vhost import invalidations
from ...abi.vhost_user import REGION_LIMIT, MemTable, Message, Region, Request
from ...bridging.telling import Notice, Tell
from ...bus.abc import Subscription
from ...errors import BadMemory, PeerRefused, UnknownMemory
from ...events import Memory
from ...mapping import Mapping
from ...ranges import LAST, IovaRange
from .asking import Asking, status_of
from .counts import Counts
from .table import Table, one_region

SLOTS: Final = 64
"""Most memories that are given one by one, however many a back end takes: each is a
descriptor in its process, and a space seldom leads into more than a few."""

REFUSED: Final = 64
"""Most memories of which it is remembered that the back end does not take them; each
is said once.  Past that they are offered, and refused, anew."""


class Lending:
    """The memories of one connection.

    Args:
        asking: The main channel.
        events: What gives descriptors of memories.
        slots: How many the back end takes one by one; 0 if it is told the whole table each time.
        counts: Where they are counted.
        tell: Told of what the back end will never have.
        peer: What errors call the back end.
    """

    def __init__(
        self, asking: Asking, events: Subscription, slots: int, counts: Counts, *, tell: Tell, peer: str
    ) -> None:
        self._asking = asking
        self._events = events
        self._one_by_one = slots > 0
        self._table = Table(min(slots, SLOTS) or REGION_LIMIT)
        self._counts = counts
        self._tell = tell
        self._peer = peer
        self._refused: set[Memory] = set()
        self._bare = False
        self._changing = anyio.Lock()

    async def address_of(self, mapping: Mapping) -> int | None:
        """Return the address that an UPDATE has for a mapping, once the back end has its memory.

        It holds until the next `await`.  It is `None` if the back end cannot have it.

        Raises:
            PeerLeft: The connection broke.
            PeerRefused: The back end has no memory any more.
        """
        if mapping.memory is None:
            self._say_bare(mapping)
            return None
        base = await self.lend(mapping.memory)
        return None if base is None or mapping.target + mapping.size > mapping.memory.size else base + mapping.target

    async def lend(self, memory: Memory) -> int | None:
        """Give a memory to the back end if it has it not; return where it begins, as `address_of` does."""
        while (base := self._table.find(memory)) is None:
            async with self._changing:
                if self._table.find(memory) is None and not await self._add(memory):
                    return None
        return base

    # -- inside ----------------------------------------------------------------

    async def _add(self, memory: Memory) -> bool:
        with ExitStack() as opened:
            new = None if memory in self._refused else self._open(memory, opened)
            if new is None:
                return False
            region = self._table.draw(memory)
            if region is None:
                self._never(memory, "it is too large")
                return False
            others = self._open_others(opened)
            status = await self._send(region, [*others, new])
        if status:
            await self._refuse(memory, status)
            return False
        self._table.add(memory, region)
        self._counts.memories += 1
        return True

    def _open(self, memory: Memory, opened: ExitStack) -> int | None:
        """Return a descriptor of a memory; `None` if it was removed, or is not in this process."""
        try:
            fd = self._events.descriptor(memory)
        except UnknownMemory:
            return None
        except BadMemory as bad:
            self._never(memory, str(bad))
            return None
        opened.callback(os.close, fd)
        return fd

    def _open_others(self, opened: ExitStack, room: int = 1) -> list[int]:
        """Take out of the table what is no more, and what there is no room for; return descriptors of the others."""
        fds = {one: self._open(one, opened) for one in self._table.memories}
        self._withdraw([one for one, fd in fds.items() if fd is None], room)
        return [fd for one in self._table.memories if (fd := fds[one]) is not None]

    def _withdraw(self, gone: Sequence[Memory], room: int) -> None:
        """Have the back end forget whatever leads into what goes, and say so of each."""
        out = self._table.make_room(gone, room)
        if not out:
            return
        self._counts.withdrawn += len(out)
        for message in invalidations(IovaRange(0, LAST)):
            self._asking.ask(Request.IOTLB_MSG, message, self._note)
        if self._one_by_one:
            for region in out:
                self._asking.ask(Request.REM_MEM_REG, one_region(region), self._note)

    async def _send(self, region: Region, fds: Sequence[int]) -> int:
        if self._one_by_one:
            return await self._asking.number(Request.ADD_MEM_REG, one_region(region), fds[-1:])
        return await self._asking.number(Request.SET_MEM_TABLE, MemTable((*self._table.regions, region)), fds)

    async def _refuse(self, memory: Memory, status: int) -> None:
        """Go on without a memory; where the whole table was refused with it, the others are told again."""
        self._counts.refused += 1
        refusal = PeerRefused(self._peer, f"the memory {memory}", status)
        self._never(memory, str(refusal))
        if self._one_by_one or not self._table.memories:
            return
        with ExitStack() as opened:
            fds = self._open_others(opened, room=0)
            if await self._asking.number(Request.SET_MEM_TABLE, MemTable(self._table.regions), fds):
                raise refusal

    def _never(self, memory: Memory, why: str) -> None:
        if memory not in self._refused:
            if len(self._refused) >= REFUSED:
                self._refused.clear()
            self._refused.add(memory)
            self._tell(Notice(f"nothing that leads into {memory} reaches {self._peer}: {why}", trouble=True))

    def _say_bare(self, mapping: Mapping) -> None:
        if not self._bare:
            self._bare = True
            text = f"{mapping} leads into no memory, so {self._peer} cannot reach it; the same goes for others like it"
            self._tell(Notice(text, trouble=True))

    def _note(self, reply: Message | None) -> None:
        if reply is not None and status_of(reply):
            self._counts.refused += 1
