"""Observers: they see everything that matches, delay nobody, and may lose some."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Final, Protocol, Self

import anyio
from anyio.lowlevel import checkpoint

from ..errors import AlreadyIterated, NotEntered
from ..events import Event, Lost, Observed
from .abc import Observer
from .reports import ObserverStatistics

OBSERVER_CAPACITY: Final = 16_384
"""Most events that wait for an observer by default: about 2 MiB, and more than
a tenth of a second at 100,000 changes a second."""


class Watcher(Protocol):
    """What a bus feeds with everything that it may see."""

    def matches(self, name: str) -> bool:
        """Say whether it sees a space of this name."""
        ...

    def put(self, event: Event) -> None:
        """Take an event."""
        ...

    def end(self) -> None:
        """Take it that there will be no more."""
        ...

    def statistics(self) -> ObserverStatistics:
        """Return its counters."""
        ...


class Backlog:
    """What waits for one observer, and what it was too slow for.

    Args:
        capacity: Most events that wait.

    Attributes:
        ended: Whether nothing more will come.
        on_ready: Called when something came, and at the end.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queue: deque[Observed] = deque()
        self._missed: dict[str, Lost] = {}
        self._delivered = 0
        self._lost = 0
        self.ended = False
        self.on_ready: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def missing(self) -> int:
        """Of how many spaces events were lost that it was not told of yet."""
        return len(self._missed)

    def put(self, event: Event) -> None:
        """Take an event if there is room, else count it as lost."""
        if len(self._queue) >= self._capacity:
            self._lose(event)
            return
        if self._missed:
            self._tell_lost()
        self._queue.append(event)
        if self.on_ready is not None:
            self.on_ready()

    def miss(self, lost: Lost) -> None:
        """Count events that were lost on their way here."""
        self._count(lost)
        self.settle()
        if self.on_ready is not None:
            self.on_ready()

    def end(self) -> None:
        """Let nothing more come."""
        self.ended = True
        if self.on_ready is not None:
            self.on_ready()

    def settle(self) -> bool:
        """Let it be told of what was lost, where nothing else waits; say whether there is anything to take."""
        if not self._queue:
            self._tell_lost()
        return bool(self._queue)

    def take(self) -> Observed:
        """Return the next event."""
        self._delivered += 1
        return self._queue.popleft()

    def statistics(self) -> ObserverStatistics:
        """Return its counters."""
        return ObserverStatistics(lag=len(self._queue), delivered=self._delivered, lost=self._lost)

    # -- inside ----------------------------------------------------------------

    def _lose(self, event: Event) -> None:
        self._count(Lost(event.space, event.seq, 1))

    def _count(self, lost: Lost) -> None:
        self._lost += lost.count
        missed = self._missed.get(lost.space)
        count = missed.count if missed is not None else 0
        self._missed[lost.space] = Lost(lost.space, lost.seq, count + lost.count)

    def _tell_lost(self) -> None:
        self._queue.extend(self._missed.values())
        self._missed.clear()


class LocalObserver(Observer):
    """An observer in the process of the bus.

    Args:
        patterns: Names of spaces, or patterns with ``*``, ``?`` and ``[]``.
        capacity: Most events that wait.
        attach: Begins to feed it; returns what stops that.
    """

    def __init__(
        self,
        patterns: tuple[str, ...],
        capacity: int,
        attach: Callable[["LocalObserver"], Callable[[], None]],
    ) -> None:
        self._patterns = patterns
        self._attach = attach
        self._detach: Callable[[], None] | None = None
        self._backlog = Backlog(capacity)
        self._waiting = False
        self.put = self._backlog.put

    def matches(self, name: str) -> bool:
        """Say whether a space of this name is observed."""
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def end(self) -> None:
        """End the stream once it is empty."""
        self._backlog.end()

    async def __aenter__(self) -> Self:
        await checkpoint()
        self._detach = self._attach(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._detach is not None:
            self._detach()
        self.end()

    def __aiter__(self) -> AsyncIterator[Observed]:
        return self

    async def __anext__(self) -> Observed:
        if self._detach is None:
            raise NotEntered(repr(self))
        if self._waiting:
            raise AlreadyIterated(repr(self))
        if not self._backlog:
            self._waiting = True
            try:
                await self._wait()
            finally:
                self._waiting = False
        if not self._backlog:
            raise StopAsyncIteration
        return self._backlog.take()

    def statistics(self) -> ObserverStatistics:
        return self._backlog.statistics()

    def __repr__(self) -> str:
        counters = self._backlog.statistics()
        return f"<observer of {', '.join(self._patterns)}, lag {counters.lag}, lost {counters.lost}>"

    # -- inside ----------------------------------------------------------------

    async def _wait(self) -> None:
        if self._backlog.settle() or self._backlog.ended:
            await checkpoint()
            return
        arrival = anyio.Event()
        self._backlog.on_ready = arrival.set
        try:
            await arrival.wait()
        finally:
            self._backlog.on_ready = None
