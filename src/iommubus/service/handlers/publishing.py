"""What a producer says on its connection: spaces, endpoints, and the changes of its tables."""

import asyncio
from collections.abc import Iterator, Mapping
from logging import getLogger
from typing import Final

from anyio.lowlevel import checkpoint

from ...errors import BadMessage, LimitReached, MappingError, NotProducer, SpaceClosed
from ...events import Event, Map, Memory
from ...wire.failures import to_failure
from ...wire.messages import Message
from ...wire.messages.heard import PublishHeard
from ...wire.messages.publishing import BeginResume, EndResume, Published, PublishFailed
from ...wire.messages.spaces import (
    Attach,
    CloseEndpoint,
    CloseSpace,
    CreateEndpoint,
    CreateSpace,
    Detach,
    SpaceCreated,
)
from ..session import Handler, Session
from ..settings.rules import Action
from ..spaces.applying import Named, apply
from ..spaces.held import Held

DONE: Final = object()

TELL_EVERY: Final = 4096
"""Events taken after which the producer is told how far a space is: a quarter of what it may
say before it is (`LINK_WINDOW` of the client), so that it need not wait."""

TELL_WITHIN: Final = 0.01
"""Seconds after which it is told in any case: a message for each hand-over would wake the producer
for nothing, in the middle of its `sync`."""

LOGGER: Final = getLogger("iommubus.service")


class Publishing:
    """The producer's half of a connection.

    Args:
        session: The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._daemon = session.daemon
        self._spaces = session.daemon.spaces
        self._taken: dict[Held, None] = {}  # of which the producer is to be told how far they are
        self._untold = 0  # events of them
        self._timer: asyncio.TimerHandle | None = None

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message."""
        return {
            CreateSpace: self._create_space,
            CloseSpace: self._close_space,
            CreateEndpoint: self._create_endpoint,
            CloseEndpoint: self._close_endpoint,
            Attach: self._attach,
            Detach: self._detach,
            PublishHeard: self._publish,
            BeginResume: self._begin_resume,
            EndResume: self._end_resume,
        }

    def lost(self, reason: str) -> None:
        """Take it that the producer is lost."""
        del reason
        if self._timer is not None:
            self._timer.cancel()
        self._taken.clear()
        self._spaces.lose(self._session)

    def flush(self) -> None:
        """Say how far the spaces are of which something was taken."""
        if not self._taken:
            return
        taken, self._taken, self._untold = self._taken, {}, 0
        for held in taken:
            if held.producer is self._session and held.told != held.taken:
                held.told = held.taken
                self._session.send(Published(held.name, held.epoch, held.taken))

    # -- spaces and endpoints --------------------------------------------------------

    def _create_space(self, wanted: CreateSpace) -> None:
        self._allow(wanted.space)
        held, resumed = self._spaces.create(wanted, self._session)
        self._session.send(SpaceCreated(wanted.request, held.epoch, resumed))
        self._spaces.ready(held)

    def _close_space(self, message: CloseSpace) -> None:
        self._spaces.close(self._spaces.find(message.space, message.epoch, self._session))
        self._session.done(message.request)

    def _create_endpoint(self, message: CreateEndpoint) -> None:
        self._allow(message.endpoint)
        self._spaces.create_endpoint(message.endpoint, self._session, resume=message.resume)
        self._session.done(message.request)

    def _close_endpoint(self, message: CloseEndpoint) -> None:
        self._spaces.endpoint(message.endpoint, self._session)
        self._spaces.close_endpoint(message.endpoint)
        self._session.done(message.request)

    def _attach(self, message: Attach) -> None:
        self._allow(message.endpoint, message.space)
        held = self._spaces.find(message.space, message.epoch, self._session)
        self._spaces.endpoint(message.endpoint, self._session).displace(held.space)
        self._session.done(message.request)

    def _detach(self, message: Detach) -> None:
        self._spaces.endpoint(message.endpoint, self._session).detach()
        self._session.done(message.request)

    def _allow(self, *names: str) -> None:
        self._daemon.allow(self._session.peer, Action.PUBLISH, names)

    # -- changes ---------------------------------------------------------------------

    def _publish(self, message: PublishHeard) -> None:
        held = self._own(message)
        if held.named is not None and not (held.resuming or held.sweeping):
            raise BadMessage("Publish", "space", message.space, "what it resumes with is said after BeginResume")
        self._check_number(held, message)
        events = iter(message.events)
        while (event := self._repeat(held, events)) is not None:
            try:
                self._make(held, event)
            except (MappingError, LimitReached, NotProducer) as failure:
                self._fail(held, message.number, failure)
            held.index += 1
        held.more = message.more
        if not message.more:
            held.taken, held.index = message.number, 0
            self._taken[held] = None
        self._untold += len(message.events)
        self._tell_later()

    def _tell_later(self) -> None:
        """Tell the producer how far its spaces are, when that is much or it is time."""
        if self._untold >= TELL_EVERY:
            self._session.flush_soon(self)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_WITHIN, self._tell)

    def _tell(self) -> None:
        self._timer = None
        if self._taken:
            self._session.flush_soon(self)

    def _repeat(self, held: Held, events: Iterator[Event]) -> Event | None:
        """Make events happen as they come; return the first of which there is more to say."""
        if held.named is not None:
            return next(events, None)
        limit = self._daemon.config.limits.mappings
        count, event = held.space.repeat(events, limit, self._check_memory)
        held.index += count
        return event

    def _make(self, held: Held, event: Event) -> None:
        """Make one event happen; raises as `apply`, and `NotProducer`."""
        if type(event) is Map and event.memory is not None:
            self._check_memory(event.memory)
        make = apply if held.named is None else held.named.apply
        make(held.space, event, self._daemon.config.limits.mappings)

    def _check_memory(self, memory: Memory) -> None:
        self._daemon.store.check(memory, self._session.peer)

    def _fail(self, held: Held, number: int, failure: Exception) -> None:
        self._daemon.counts.map_failures += 1
        self._session.send(PublishFailed(held.name, held.epoch, number, held.index, to_failure(failure)))

    def _check_number(self, held: Held, message: PublishHeard) -> None:
        """Check the number of a hand-over: they rise, and each is whole before the next one.

        Raises:
            BadMessage: It is another one's.
        """
        if held.more and message.number != held.begun:
            raise BadMessage("Publish", "number", str(message.number), f"hand-over {held.begun} is not whole yet")
        if message.number <= held.taken:
            raise BadMessage("Publish", "number", str(message.number), f"{held.taken} was taken before")
        held.begun = message.number

    def _own(self, message: PublishHeard | BeginResume | EndResume) -> Held:
        """Return the space that a message is about.

        Raises:
            BadMessage: It is none of this producer: it was told its epoch, and when the space is over.
        """
        try:
            return self._spaces.find(message.space, message.epoch, self._session)
        except (SpaceClosed, NotProducer) as wrong:
            raise BadMessage(type(message).__name__, "epoch", f"{message.epoch:#x}", str(wrong)) from wrong

    # -- resuming --------------------------------------------------------------------

    def _begin_resume(self, message: BeginResume) -> None:
        held = self._own(message)
        if held.resuming:
            raise BadMessage("BeginResume", "space", message.space, "it was begun already")
        held.begin_naming()
        held.resuming = True

    def _end_resume(self, message: EndResume) -> None:
        held = self._own(message)
        if held.named is None or not held.resuming:
            raise BadMessage("EndResume", "space", message.space, "there is nothing to resume")
        held.resuming, held.sweeping = False, True
        self._daemon.tasks.start_soon(self._sweep, held, held.named, message.request)

    async def _sweep(self, held: Held, named: Named, request: int) -> None:
        """Unmap what was not named; nobody can cancel that, for every `sync` waits for it."""
        pieces = named.sweep(held.space)
        try:
            while held.named is named:  # else it was closed, its producer lost, or it is named once more
                if next(pieces, DONE) is DONE:
                    held.settle()
                await checkpoint()
        except Exception:
            LOGGER.exception("sweeping %s failed in a way that it should not", held.name)
            self._session.close("the daemon failed at a space")
            return
        self._session.done(request)
