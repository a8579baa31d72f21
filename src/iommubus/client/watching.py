"""Observers of spaces at a daemon: they may lose events, also to a lost connection, and are told.

How many a lost connection cost is known by the numbers of the events, space by
space: once the next one comes.
"""

from collections.abc import Callable
from typing import Any, Self, cast

import anyio
from anyio.lowlevel import checkpoint

from ..bus.bus import EVERYTHING
from ..bus.observer import LocalObserver
from ..errors import Disconnected, Stopping
from ..events import Lost, Observed
from ..wire.messages import Message
from ..wire.messages.heard import ObservedHeard
from ..wire.messages.watching import Observe, Observing, Unobserve
from .channel import Channel, Handler


class RemoteObserver(LocalObserver):
    """An observer of spaces at a daemon.

    Args:
        patterns: Names of spaces, or patterns with ``*``, ``?`` and ``[]``.
        capacity: Most events that wait in this process, and again as many at the daemon.
        check: Raises if the bus cannot be used, or not by the caller.
        watchers: Those of the client.
    """

    def __init__(
        self, patterns: tuple[str, ...], capacity: int, check: Callable[[], None], watchers: "Watchers"
    ) -> None:
        super().__init__(patterns, capacity, lambda _: lambda: watchers.part(self))
        self._capacity = capacity
        self._check = check
        self._watchers = watchers
        self._entry = anyio.Event()
        self._refusal: Exception | None = None
        self._channel: Channel | None = None
        self._number = 0
        self._last: dict[str, int] = {}  # number of the last event, by space
        self._missing: dict[str, int] = {}  # the same, where a connection was lost behind it

    async def __aenter__(self) -> Self:
        """Begin to observe, once the daemon can be reached."""
        self._check()
        await checkpoint()
        self._watchers.enter(self)
        try:
            await self._entry.wait()
        except BaseException:
            self._watchers.part(self)
            raise
        if self._refusal is not None:
            self._watchers.part(self)
            raise self._refusal
        return await super().__aenter__()

    # -- the connection ------------------------------------------------------------

    def attached(self, channel: Channel) -> None:
        """Observe from now on."""
        self._channel = channel
        channel.ask(self._observe, self._answered)

    def lost(self) -> None:
        """Take it that the connection is lost, and events with it."""
        self._channel, self._number = None, 0
        self._missing |= self._last
        self._last.clear()

    def leave(self) -> None:
        """Observe no more."""
        channel, number = self._channel, self._number
        self._channel, self._number = None, 0
        if channel is not None and number:
            channel.ask(lambda request: Unobserve(request, number), lambda _: None)

    def refuse(self, error: Exception) -> None:
        """Take it that the daemon will say nothing any more."""
        self._refusal = error
        self._entry.set()
        self.end()

    def take(self, message: ObservedHeard) -> None:
        """Take what the daemon saw."""
        for event in message.events:
            self._take(event)
        if message.end:
            self.end()

    # -- inside --------------------------------------------------------------------

    def _observe(self, request: int) -> Observe:
        return Observe(request, [] if self._patterns == EVERYTHING else list(self._patterns), capacity=self._capacity)

    def _answered(self, answer: Message | Exception) -> None:
        if isinstance(answer, Disconnected | Stopping):  # another connection will come
            return
        if isinstance(answer, Exception):
            self.refuse(answer)
            return
        self._number = cast("Observing", answer).observer
        if self._channel is None or not self._watchers.number(self, self._number):
            self.leave()
        self._entry.set()

    def _take(self, event: Observed) -> None:
        first = event.seq - event.count + 1 if isinstance(event, Lost) else event.seq
        before = self._missing.pop(event.space, None)
        if before is not None:
            missed = first - 1 - before if first > before else first - 1  # else it is another space of the name
            if missed > 0:
                self._backlog.miss(Lost(event.space, first - 1, missed))
        self._last[event.space] = event.seq
        if isinstance(event, Lost):
            self._backlog.miss(event)
        else:
            self.put(event)


class Watchers:
    """The observers of one client; takes part in the keeping of its connection."""

    def __init__(self) -> None:
        self._observers: dict[RemoteObserver, None] = {}
        self._numbers: dict[int, RemoteObserver] = {}
        self._channel: Channel | None = None

    def attached(self, channel: Channel) -> None:
        """Go on: there is a connection."""
        self._channel = channel
        for observer in list(self._observers):
            observer.attached(channel)

    def lost(self, reason: str) -> None:
        """Take it that the connection is lost."""
        del reason
        self._channel = None
        self._numbers.clear()
        for observer in list(self._observers):
            observer.lost()

    def ended(self, error: Exception) -> None:
        """Take it that there will be no connection any more."""
        for observer in list(self._observers):
            observer.refuse(error)

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What takes what the daemon saw."""
        return {ObservedHeard: self._take_observed}

    # -- for observers ---------------------------------------------------------------

    def enter(self, observer: RemoteObserver) -> None:
        """Tell it of connections from now on."""
        self._observers[observer] = None
        if self._channel is not None:
            observer.attached(self._channel)

    def part(self, observer: RemoteObserver) -> None:
        """Tell it of nothing any more."""
        if observer in self._observers:
            del self._observers[observer]
            self._numbers = {number: one for number, one in self._numbers.items() if one is not observer}
            observer.leave()

    def number(self, observer: RemoteObserver, number: int) -> bool:
        """Give it what the daemon says to observer ``number``; say whether it still wants that."""
        if observer not in self._observers:
            return False
        self._numbers[number] = observer
        return True

    # -- inside ------------------------------------------------------------------------

    def _take_observed(self, channel: Channel, message: Any) -> None:
        observer = self._numbers.get(message.observer)
        if observer is not None and channel is self._channel:
            observer.take(message)
