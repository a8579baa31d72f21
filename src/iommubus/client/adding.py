"""The memories that a client adds: in this process, and in the daemon."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

import anyio

from ..bus.memory import anonymous_or_same
from ..errors import Disconnected, IommubusError
from ..events import Memory
from ..wire.messages import Message
from ..wire.messages.greeting import Feature
from ..wire.messages.spaces import AddMemory, MemoryAdded, RemoveMemory
from ..wire.messages.values import MemoryName
from .channel import Channel
from .link import Link
from .reconnect import Keeper
from .spaces import OwnSpaces, RemoteSpace

Lend = Callable[[Memory, int], object]
"""Gives the daemon the descriptor of a memory, which stays the caller's."""

Links = Callable[[], Iterable[Link]]
"""Gives the links of the spaces of the client."""


class AddedMemories:
    """The memories that a client has added.

    Args:
        keeper: Keeps the connection.
        own: The bus of what the client publishes.
        links: Gives the links of its spaces.
        lend: Gives the daemon a descriptor.
    """

    def __init__(self, keeper: Keeper, own: OwnSpaces, links: Links, lend: Lend) -> None:
        self._keeper = keeper
        self._own = own
        self._links = links
        self._lend = lend
        self._added: dict[Memory, Channel] = {}  # and on which connection the daemon was told of it
        self._gone: list[Memory] = []  # that the daemon has still to be told of
        self._told = anyio.Event()

    async def add(self, name: str, size: int, fd: int | None) -> Memory:
        """Add one; raises as `EventBus.add_memory` does, and what the daemon refuses it with."""
        self._own.memories.check_new(name, size)
        file = anonymous_or_same(name, size, fd)
        try:
            while any(memory.name == name for memory in self._gone):
                await self._told.wait()
            return await self._add(name, size, file)
        finally:
            os.close(file)

    def remove(self, memory: Memory) -> bool:
        """Remove one; raises as `EventBus.remove_memory` does.

        Returns:
            Whether `tell` has to be run.
        """
        self._own.remove_memory(memory)
        self._added.pop(memory, None)
        self._gone.append(memory)
        return len(self._gone) == 1

    async def tell(self) -> None:
        """Tell the daemon of what was removed, each once it has been told that nothing leads there."""
        while self._gone and self._keeper.error is None:
            with suppress(Disconnected):  # the next one is told; that a stranger has none of it is no matter
                await self._tell(self._gone[0])
                self._gone.pop(0)
                told, self._told = self._told, anyio.Event()
                told.set()

    # -- connections ---------------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Have the daemon add them again, by the generations that they have."""
        for memory, had in self._added.items():
            if had is not channel:
                self._again(channel, memory)

    def lost(self, reason: str) -> None:
        """Wait for the next connection."""

    def ended(self, error: Exception) -> None:
        """Do nothing: nobody waits."""

    # -- inside ----------------------------------------------------------------------------

    async def _add(self, name: str, size: int, file: int) -> Memory:
        channel = self._keeper.channel
        if channel is None:
            raise self._keeper.disconnected()
        lent = bool(channel.features & Feature.DESCRIPTORS)
        made: list[Memory] = []

        def take(answer: MemoryAdded) -> None:
            memory = self._own.memories.announce(name, size, answer.generation)
            self._own.memories.supply(memory, file)
            self._added[memory] = channel
            made.append(memory)

        def undo(answer: MemoryAdded) -> None:
            unwanted = MemoryName(name, answer.generation, size)
            channel.ask(lambda number: RemoveMemory(number, unwanted), lambda _: None)

        await channel.make(lambda number: AddMemory(number, name, size, lent), take, undo)
        if lent:
            self._lend(made[0], file)
        return made[0]

    async def _tell(self, memory: Memory) -> None:
        for link in self._links():
            with suppress(IommubusError):  # one that the daemon does not take leads nowhere there
                await link.flushed()
        channel = await self._keeper.wait_open()
        try:
            await channel.request(lambda number: RemoveMemory(number, MemoryName.of(memory)))
        except Disconnected:
            raise
        except IommubusError:  # it is another daemon, which never had it
            pass

    def _again(self, channel: Channel, memory: Memory) -> None:
        backing = self._own.memories.find(memory)
        lent = backing.fd is not None and bool(channel.features & Feature.DESCRIPTORS)

        def answered(answer: Message | Exception) -> None:
            if memory not in self._added or isinstance(answer, Disconnected):
                return
            if isinstance(answer, Exception):
                self._refused(memory, answer)
            elif lent and backing.fd is not None:
                self._lend(memory, backing.fd)

        self._added[memory] = channel
        channel.ask(lambda number: AddMemory(number, memory.name, memory.size, lent, memory.generation), answered)

    def _refused(self, memory: Memory, error: Exception) -> None:
        """Have the next `sync` of the spaces that lead there raise what the daemon refused."""
        for space in self._own.spaces():
            if isinstance(space, RemoteSpace) and space.leading_to(memory) is not None:
                space.link.fail_whole(error)
