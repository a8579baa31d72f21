"""Where a script is played: a bus, and where those live who follow it.

The player is the same in each house.  What a consumer holds it looks at without
asking; for the rest it asks.  How either comes about is the house's business.
Here is the house in which everybody lives in one process, on one loop.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from ..bus.abc import EventBus
from ..bus.bus import Bus
from ..bus.space import LocalSpace
from ..caps import Cap
from ..mapping import Mapping as BusMapping
from .counters import Watcher
from .pages import Target
from .result import Lag, Received
from .subscribers import Cacher, Shadower, SlowShadower


class Unopened(Exception):
    """A house cannot be opened: its daemon could not be started."""


class Watching(Protocol):
    """Who is told of events, as the player sees them."""

    async def received(self) -> Received:
        """Return its counters."""
        ...


class Holder(Watching, Protocol):
    """Who holds translations, as the player sees them."""

    @property
    def name(self) -> str:
        """What the bus calls it."""
        ...

    @property
    def targets(self) -> Mapping[int, Target]:
        """What it holds at this moment, page by page."""
        ...


class Copy(Holder, Protocol):
    """Who keeps a copy."""

    async def table(self) -> Mapping[int, Target]:
        """Return the pages of the table that it keeps beside those it is judged by."""
        ...


class SlowCopy(Copy, Protocol):
    """Who keeps a copy, and takes nothing while its gate is shut."""

    async def open_gate(self) -> None:
        """Let it take what waits, and what comes."""
        ...

    async def shut_gate(self) -> None:
        """Let it take nothing any more."""
        ...


class Cache(Holder, Protocol):
    """Who asks and keeps the answers."""

    async def miss(self, iova: int) -> BusMapping | None:
        """Ask where an address leads, keep the answer, and return it; `None` if it leads nowhere."""
        ...


class House(ABC):
    """A bus, and where those live who follow it.

    Attributes:
        bus: The producer's.
        losses: Who ended before the play did, as text.
        slow_overflows: Whether the mailbox of who is slow is sure to overflow.
    """

    bus: EventBus
    losses: list[str]
    slow_overflows: bool = True

    @property
    @abstractmethod
    def processes(self) -> int:
        """How many processes take part."""

    async def copy(self, kind: type[Shadower], subject: str, granule: int) -> Copy:
        """Have a copy of a space, or of what an endpoint sees, kept from now on."""
        copy: Copy = await self._start(kind, subject, granule)
        return copy

    async def slow_copy(self, kind: type[SlowShadower], space: str, granule: int) -> SlowCopy:
        """Have a copy of a space kept, by somebody who is slow."""
        copy: SlowCopy = await self._start(kind, space, granule)
        return copy

    async def cache(self, kind: type[Cacher], space: str, granule: int) -> Cache:
        """Have a cache of a space kept."""
        cache: Cache = await self._start(kind, space, granule)
        return cache

    async def watch(self, kind: type[Watcher], spaces: Collection[str]) -> Watching:
        """Have spaces watched."""
        watching: Watching = await self._start(kind, *spaces)
        return watching

    @abstractmethod
    async def create_space(self, name: str, granule: int, offers: Cap) -> LocalSpace:
        """Make a space whose mappings may be cut."""

    @abstractmethod
    async def wait_published(self) -> None:
        """Wait until anybody's question is answered by what has been published so far."""

    @abstractmethod
    async def lags(self) -> list[Lag]:
        """Return how far each subscriber is behind."""

    @abstractmethod
    async def close(self) -> None:
        """Close the bus: those who follow it have nothing to do any more."""

    @abstractmethod
    async def _start(self, kind: type[Any], *arguments: str | int) -> Any: ...


Venue = Callable[[], AbstractAsyncContextManager[House]]
"""Opens a house for one play; at the end of the block everybody has left it."""


class Place(Struct, frozen=True):
    """Where to play, as a person is told of it."""

    about: str
    venue: Venue


class OneProcess(House):
    """The house in which everybody lives in one process.

    Args:
        bus: The bus of all.
        tasks: Where those who follow run.
    """

    def __init__(self, bus: Bus, tasks: TaskGroup) -> None:
        self.bus = self._bus = bus
        self.losses = []
        self._tasks = tasks
        self._spaces: list[LocalSpace] = []

    @property
    def processes(self) -> int:
        """How many processes take part: this one."""
        return 1

    async def create_space(self, name: str, granule: int, offers: Cap) -> LocalSpace:
        """Make a space whose mappings may be cut."""
        space = await self._bus.create_space(name, granule=granule, offers=offers, straddle="split")
        self._spaces.append(space)
        return space

    async def wait_published(self) -> None:
        """Do nothing: who publishes has changed the table."""

    async def lags(self) -> list[Lag]:
        """Return how far each subscriber is behind."""
        return [
            Lag(space.name, name, figures.lag, figures.conflations)
            for space in self._spaces
            for name, figures in space.statistics().subscriptions.items()
        ]

    async def close(self) -> None:
        """Close the bus: those who follow it have nothing to do any more."""
        await self.bus.close()

    async def _start(self, kind: type[Any], *arguments: str | int) -> Any:
        consumer = kind(*arguments)
        await self._tasks.start(consumer.run, self.bus)
        return consumer


@asynccontextmanager
async def one_process() -> AsyncGenerator[House, None]:
    """Open a house in which everybody lives in one process."""
    async with Bus() as bus, anyio.create_task_group() as tasks:
        yield OneProcess(bus, tasks)


IN_ONE_PROCESS: Final = Place("in one process", one_process)
