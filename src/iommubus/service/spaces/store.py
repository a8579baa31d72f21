"""The memories of clients: who added each, who has its descriptor, and when it goes.

The daemon maps none of them.  What a client sends as a descriptor may be a file of a
file system that answers when it likes.  Only what lives in memory is looked at
in the event loop, all else in threads, of which a few are set aside for that.

Source: ``fcntl(2)`` under F_GET_SEALS, which files in memory alone have.
"""

from fcntl import F_GET_SEALS, fcntl
from typing import Final, Protocol

import anyio

from ...bus.bus import Bus
from ...bus.memory import duplicate
from ...errors import BadMemory, LimitReached, MemoryInUse, MemoryNameTaken, NotProducer, UnknownMemory
from ...events import Memory
from ...transport.credentials import Peer
from ...transport.descriptors import close_all
from ...wire.messages.spaces import AddMemory
from ...wire.messages.values import MemoryName
from ..clients import same_user
from .held import Spaces

LOOKERS: Final = 4
"""Threads that may wait at once for a file system to say what a descriptor is."""

GENERATIONS: Final = 2**32
"""Most that a client may say a memory has had: one more each millisecond for a month and a
half.  The numbers that follow have to fit 64 bits."""


class Owner(Protocol):
    """The memories of one connection.

    Attributes:
        peer: Who is at its other end.
    """

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        ...

    def give(self, name: MemoryName, /) -> None:
        """Send the client the descriptor of a memory, or that there is none."""
        ...

    def removed(self, memory: Memory, /) -> None:
        """Tell the client that a memory is gone of which it was told."""
        ...

    def displace(self) -> None:
        """Close the connection: its client is back on another one."""
        ...


class HeldMemory:
    """One memory.

    Attributes:
        memory: What the bus knows of it.
        owner: Who added it; `None` while that one is lost.
        awaited: Whether its descriptor is to come.
        wanted: Who is to be given its descriptor once it has come, or will not.
        shown: Who was told of it on the second connection, or is going to be.
    """

    def __init__(self, memory: Memory, owner: Owner, *, awaited: bool) -> None:
        self.memory = memory
        self.owner: Owner | None = owner
        self.peer = owner.peer
        self.awaited = awaited
        self.wanted: list[Owner] = []
        self.shown: dict[Owner, None] = {}

    def settle(self) -> None:
        """Take it that its descriptor has come, or will not."""
        self.awaited = False
        wanted, self.wanted = self.wanted, []
        for client in wanted:
            client.give(MemoryName.of(self.memory))


class Store:
    """The memories of a daemon.

    Args:
        bus: The bus that knows them.
        spaces: Whose mappings lead into them.
        limit: Most that one client may have.
    """

    def __init__(self, bus: Bus, spaces: Spaces, limit: int) -> None:
        self._bus = bus
        self._spaces = spaces
        self._limit = limit
        self._held: dict[str, HeldMemory] = {}
        self._lookers: anyio.CapacityLimiter | None = None

    def find(self, memory: Memory) -> HeldMemory | None:
        """Return what is known of a memory, if it is there."""
        held = self._held.get(memory.name)
        return held if held is not None and held.memory == memory else None

    def check(self, memory: Memory, peer: Peer) -> None:
        """Check that a peer may lead mappings into a memory: whoever is told of them is given its descriptor.

        Raises:
            NotProducer: Another user has added it.
        """
        held = self.find(memory)
        if held is not None and not same_user(held.peer, peer):
            raise NotProducer(memory.name)

    def add(self, message: AddMemory, owner: Owner) -> HeldMemory:
        """Add a memory, or go on with one.

        Raises:
            MemoryNameTaken: Somebody has it.
            BadMemory: It cannot be.
            LimitReached: The client has too many.
        """
        self.sweep()
        self._check_limit(message.name, owner)
        if message.generation > GENERATIONS:
            raise BadMemory(message.name, message.size, f"its generation {message.generation} cannot be")
        wanted = Memory(message.name, message.generation, message.size)
        held = self._held.get(message.name)
        if held is not None:
            self._make_way(held, wanted, owner)
        if self.find(wanted) is held and held is not None:  # it goes on
            held.owner, held.peer = owner, owner.peer
            held.awaited = message.descriptor and not self.descriptors_of(wanted)
            return held
        memory = self._bus.memories.announce(message.name, message.size, message.generation)
        held = self._held[message.name] = HeldMemory(memory, owner, awaited=message.descriptor)
        return held

    def remove(self, held: HeldMemory) -> None:
        """Remove a memory, and tell who has its descriptor.

        Raises:
            MemoryInUse: A mapping leads into it.
        """
        self._bus.remove_memory(held.memory)
        del self._held[held.memory.name]
        held.settle()
        for client in held.shown:
            client.removed(held.memory)

    def lose(self, owner: Owner) -> None:
        """Take it that a client is lost: what nothing leads into goes, all else once nothing does."""
        for held in self._held.values():
            held.shown.pop(owner, None)
            if owner in held.wanted:
                held.wanted.remove(owner)
            if held.owner is owner:
                held.owner = None
                held.settle()
        self.sweep()

    def give_up(self, owner: Owner) -> None:
        """Take it that no descriptor of a client comes any more."""
        for held in self._held.values():
            if held.owner is owner and held.awaited:
                held.settle()

    def sweep(self) -> None:
        """Remove what nobody has and nothing leads into."""
        for held in [each for each in self._held.values() if each.owner is None]:
            try:
                self.remove(held)
            except MemoryInUse:
                continue

    def descriptors_of(self, memory: Memory) -> list[int]:
        """Return the descriptor of a memory, which stays the daemon's; nothing if it has none, or is gone."""
        try:
            fd = self._bus.memories.find(memory).fd
        except UnknownMemory:
            return []
        return [] if fd is None else [fd]

    async def supply(self, held: HeldMemory, fd: int) -> None:
        """Give a memory its descriptor, which is duplicated.

        Raises:
            BadMemory: It will not do.
        """
        memory = held.memory
        own = await self._looked_at(memory, fd)
        if self.find(memory) is held and not self.descriptors_of(memory):
            self._bus.memories.adopt(memory, own)
            held.settle()
        else:  # it was removed meanwhile, or has come on another connection
            close_all([own])

    # -- inside ------------------------------------------------------------------

    async def _looked_at(self, memory: Memory, fd: int) -> int:
        """Return a descriptor of the same file, if it can be that memory; raises as `supply`."""
        if self._lookers is None:
            self._lookers = anyio.CapacityLimiter(LOOKERS)
        try:
            if in_memory(fd):
                return duplicate(memory.name, memory.size, fd)
            return await anyio.to_thread.run_sync(duplicate, memory.name, memory.size, fd, limiter=self._lookers)
        except OSError as failure:
            raise BadMemory(memory.name, memory.size, str(failure)) from failure

    def _make_way(self, held: HeldMemory, wanted: Memory, owner: Owner) -> None:
        """See to it that a name can be had, by who may have it.

        Raises:
            MemoryNameTaken: It cannot.
        """
        if not same_user(held.peer, owner.peer):
            raise MemoryNameTaken(wanted.name)
        back = held.memory == wanted
        if held.owner is not None and back and held.owner is not owner and held.peer == owner.peer:
            held.owner.displace()
            if self.find(wanted) is not held:  # nothing led into it
                return
        if held.owner is not None:
            raise MemoryNameTaken(wanted.name)
        if not back:
            self._empty(held)

    def _empty(self, held: HeldMemory) -> None:
        """Remove a memory that nobody has, and the mappings of lost producers that lead into it.

        Raises:
            MemoryNameTaken: Somebody else maps it.
        """
        for each in list(self._spaces.open.values()):
            if each.producer is None and each.space.leading_to(held.memory) is not None:
                each.empty()
        try:
            self.remove(held)
        except MemoryInUse:
            raise MemoryNameTaken(held.memory.name) from None

    def _check_limit(self, name: str, owner: Owner) -> None:
        """Count what a client has, and what lost ones of the same user have left.

        Raises:
            LimitReached: It is too much.
        """
        others = [held for held in self._held.values() if held.memory.name != name]
        own = [held for held in others if held.owner is owner]
        left = [held for held in others if held.owner is None and same_user(held.peer, owner.peer)]
        if len(own) + len(left) >= self._limit:
            raise LimitReached("limits.memories", self._limit)


def in_memory(fd: int) -> bool:
    """Say whether a file lives in memory, so that nothing waits when it is looked at."""
    try:
        fcntl(fd, F_GET_SEALS)
    except OSError:
        return False
    return True
