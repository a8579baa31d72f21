"""The observers of one connection: they see what a rule lets them, and delay nobody.

What they are told leaves only while the transport takes it.  Until then it waits
here, up to the capacity of the observer, and past that is lost and counted.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ...bus.bus import EVERYTHING
from ...bus.observer import OBSERVER_CAPACITY, Backlog
from ...bus.reports import ObserverStatistics
from ...caps import Cap
from ...errors import FrameTooLarge, LimitReached, UnknownName
from ...events import DevIotlbUnmap, Event, Map, Observed, Unmap
from ...wire.messages import Message, watching
from ...wire.messages.rows import EVENT_LIMIT
from ...wire.messages.watching import Observe, Observing, Unobserve
from ...wire.runs import to_watched
from ..session import Handler, Session
from ..settings.rules import Action
from .globs import Globs, is_plain

MISSED: Final = 4096
"""Most spaces of which an observer is told later that it lost events.  One that reads nothing while
so many spaces come and go is at its end: each costs some 200 bytes, and there may be any number."""

KINDS: Final[dict[type[Event], Cap]] = {Unmap: Cap.UNMAP, Map: Cap.MAP, DevIotlbUnmap: Cap.DEVIOTLB_UNMAP}
"""The bit of each kind of event."""


class Watched:
    """One observer.

    Args:
        number: Its number.
        session: Where it is told.
        message: What was asked for.
    """

    def __init__(self, number: int, session: Session, message: Observe) -> None:
        self.number = number
        self._session = session
        self._globs = Globs(message.patterns)
        self._backlog = Backlog(min(message.capacity or OBSERVER_CAPACITY, OBSERVER_CAPACITY))
        self._kinds = frozenset(kind for kind, bit in KINDS.items() if bit & message.kinds)
        self._told_end = False

    def begin(self) -> None:
        """Begin to tell it."""
        self._stop = self._session.daemon.bus.attach_observer(self)
        self._backlog.on_ready = self._wake
        self._wake()

    def stop(self) -> None:
        """Tell it nothing more."""
        self._backlog.on_ready = None
        self._stop()

    def matches(self, name: str) -> bool:
        """Say whether it sees a space of this name: it asked for it, and a rule lets it."""
        daemon = self._session.daemon
        return self._globs.match(name) and (daemon.rules.allows(self._session.peer, Action.OBSERVE, name))

    def put(self, event: Event) -> None:
        """Take an event, if it is of a kind that was asked for."""
        if type(event) in self._kinds and not self._backlog.ended:
            self._backlog.put(event)
            if self._backlog.missing > MISSED:
                self._backlog.end()

    def end(self) -> None:
        """Take it that there will be no more."""
        self._backlog.end()

    def statistics(self) -> ObserverStatistics:
        """Return its counters."""
        return self._backlog.statistics()

    def flush(self) -> None:
        """Tell it what waits, as much as goes into one message."""
        backlog = self._backlog
        if backlog.on_ready is None or self._told_end:
            return
        if backlog.settle():
            self._say([backlog.take() for _ in range(min(len(backlog), EVENT_LIMIT))])
        if backlog.settle():
            self._wake()
        elif backlog.ended:
            self._told_end = True
            self._session.send(watching.Observed(self.number, [], end=True))

    # -- inside ----------------------------------------------------------------

    def _wake(self) -> None:
        self._session.flush_soon(self)

    def _say(self, events: Sequence[Observed]) -> None:
        """Tell it these; names of full length may take more than one message."""
        try:
            self._session.send(watching.Observed(self.number, to_watched(events)))
        except FrameTooLarge:
            half = len(events) // 2
            self._say(events[:half])
            self._say(events[half:])


class Watching:
    """The observers of one connection.

    Args:
        session: The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._daemon = session.daemon
        self._watched: dict[int, Watched] = {}

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message."""
        return {Observe: self._observe, Unobserve: self._unobserve}

    def lost(self, reason: str) -> None:
        """Take it that nobody observes any more."""
        del reason
        while self._watched:
            self._watched.popitem()[1].stop()

    def _observe(self, message: Observe) -> None:
        limit = self._daemon.config.limits.observers
        if len(self._watched) >= limit:
            raise LimitReached("limits.observers", limit)
        for pattern in message.patterns or EVERYTHING:
            self._check(pattern)
        watched = Watched(self._daemon.new_id(), self._session, message)
        self._watched[watched.number] = watched
        self._session.send(Observing(message.request, watched.number))
        watched.begin()

    def _unobserve(self, message: Unobserve) -> None:
        """End an observer; one that is over is left alone."""
        watched = self._watched.pop(message.observer, None)
        if watched is not None:
            watched.stop()
        self._session.done(message.request)

    def _check(self, pattern: str) -> None:
        """Check that something of this name may be observed.

        Raises:
            RuleMissing: A rule is missing for the name; for a pattern, there is none at all.
            UnknownName: It is a name, and no space has it.
        """
        daemon, peer = self._daemon, self._session.peer
        if not is_plain(pattern):
            daemon.allow_any(peer, Action.OBSERVE, pattern)
            return
        daemon.allow(peer, Action.OBSERVE, [pattern])
        if pattern not in daemon.spaces.open:
            raise UnknownName(pattern, tuple(held.name for held in daemon.visible(self._session)))
