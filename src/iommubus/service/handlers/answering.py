"""Questions of clients about the daemon: its spaces, its subscribers, and its counters."""

from collections.abc import Mapping, Sequence
from typing import Final

from ...bus.reports import ObserverStatistics, SpaceStatistics, SubscriptionStatistics
from ...caps import Cap
from ...errors import UnknownName
from ...wire.messages import Message
from ...wire.messages.queries import (
    Counters,
    Found,
    ListSpaces,
    ListSubscribers,
    Lookup,
    ObserverCounters,
    SpaceCounters,
    SpaceFound,
    SpaceGone,
    SpaceOpened,
    Spaces,
    Statistics,
    SubscriberCounters,
    SubscriberInfo,
    Subscribers,
    WaitSpace,
)
from ...wire.messages.values import ENTRY_LIMIT, NAME_LIMIT, Piece, Range, clip_text
from ..proof.watch import Watch
from ..session import US, Handler, Session
from ..settings.rules import Action
from ..spaces.held import Held
from .globs import Globs, is_plain
from .outcomes import portions

SUBSCRIBERS: Final = 256
"""Most subscribers that the counters of one space name: with names of full length, a quarter of a frame."""

RANGES: Final = 16
"""Most ranges of one subscriber that are shown; the last one contains what is left.  A thousand
subscribers with all that they may have would not be taken by who asked for them."""

NAMES: Final = 128
"""Most subscribers that are named without counters, for the same reason."""


class Answering:
    """Answers the questions of one connection.

    Args:
        session: The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._daemon = session.daemon
        self._spaces = session.daemon.spaces
        self._followed: Globs | None = None  # patterns of the spaces of which it is told

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message."""
        return {
            ListSpaces: self._list_spaces,
            WaitSpace: self._wait_space,
            ListSubscribers: self._list_subscribers,
            Lookup: self._lookup,
            Statistics: self._statistics,
        }

    def lost(self, reason: str) -> None:
        """Take it that nobody asks any more."""
        del reason
        self._spaces.followers.pop(self, None)

    # -- spaces --------------------------------------------------------------------

    def opened(self, held: Held) -> None:
        """Tell of a space that was made, or has a new producer."""
        if not self._daemon.sees(self._session, held):
            return
        if self._followed is not None and self._followed.match(held.name):
            self._session.send(SpaceOpened(held.info))

    def gone(self, held: Held) -> None:
        """Tell of a space that was closed, or is another one to its producer."""
        if self._followed is not None and self._followed.match(held.name) and self._daemon.sees(self._session, held):
            self._session.send(SpaceGone(held.name, held.epoch))

    def _list_spaces(self, message: ListSpaces) -> None:
        globs = Globs(message.patterns)
        infos = [held.info for held in self._daemon.visible(self._session) if globs.match(held.name)]
        for portion, more in portions(infos, ENTRY_LIMIT):
            self._session.send(Spaces(message.request, portion, more))
        if message.follow:
            self._followed = globs
            self._spaces.followers[self] = None

    def _wait_space(self, message: WaitSpace) -> None:
        held = self._spaces.open.get(message.space)
        if held is None or held.producer is not self._session:
            self._check_seen(message.space)
        self._session.spawn(message.request, self._found, message)

    async def _found(self, message: WaitSpace) -> None:
        held = await self._spaces.wait(message.space)
        self._session.send(SpaceFound(message.request, held.info))

    def _check_seen(self, name: str) -> None:
        """Check that a client may know of a space.

        Raises:
            RuleMissing: No rule lets it do anything to one of this name.
        """
        if not self._daemon.may_name(self._session.peer, name):
            self._daemon.allow(self._session.peer, Action.OBSERVE, [name])

    # -- state ---------------------------------------------------------------------

    def _lookup(self, message: Lookup) -> None:
        held = self._spaces.open.get(message.space)
        if held is None:
            raise UnknownName(message.space, tuple(each.name for each in self._daemon.visible(self._session)))
        self._daemon.check_charge(self._session, held)
        mapping = held.space.lookup(message.iova)
        piece = None if mapping is None else Piece.of(mapping)
        self._session.send(Found(message.request, piece, held.space.seq))

    def _list_subscribers(self, message: ListSubscribers) -> None:
        shown = {held.name for held in self._in_charge(message.patterns)}
        nowhere = not message.patterns and self._daemon.rules.allows(self._session.peer, Action.ADMIN, "*")
        infos = [self._info(watch) for watch in self._daemon.proof.watches]
        infos = [info for info in infos if (info.space in shown if info.space else nowhere)]
        for portion, more in portions(infos, ENTRY_LIMIT):
            self._session.send(Subscribers(message.request, portion, more))

    def _info(self, watch: Watch) -> SubscriberInfo:
        """Return what a subscription is."""
        member, holder = watch.member, watch.holding.holder
        lease = max(holder.lease_end - self._daemon.clock(), 0.0) if watch.stops == "lease" else None
        return SubscriberInfo(
            watch.number,
            watch.name,
            holder.name,
            member.place.name if member.place is not None else "",
            list(self._daemon.bus.endpoints_of(member)),
            int(member.caps),
            shown_ranges(member.wanted),
            watch.stops,
            None if lease is None else int(lease * US),
            clip_text(member.reason) if member.fenced else "",
            subscriber_of(member.statistics()),
        )

    def _statistics(self, message: Statistics) -> None:
        spaces = [counters_of(held) for held in self._in_charge(message.patterns)]
        observers: list[ObserverCounters] = []
        if self._daemon.rules.allows(self._session.peer, Action.ADMIN, "*"):
            observers = [observer_of(each) for each in self._daemon.bus.statistics().observers]
        for portion, more in portions(spaces, ENTRY_LIMIT):
            self._session.send(Counters(message.request, portion, [], more or bool(observers)))
        for seen, more in portions(observers, ENTRY_LIMIT) if observers else ():
            self._session.send(Counters(message.request, [], seen, more))

    def _in_charge(self, patterns: Sequence[str]) -> list[Held]:
        """Return the open spaces of these names, or that match, whose state the client may see.

        Raises:
            UnknownName: No space has one of the names.
            RuleMissing: The client may not see the state of one that it names.
            LimitReached: Its patterns are too long.
        """
        for name in patterns:
            if is_plain(name):
                held = self._spaces.open.get(name)
                if held is None:
                    raise UnknownName(name, tuple(each.name for each in self._daemon.visible(self._session)))
                self._daemon.check_charge(self._session, held)
        globs, rules, peer = Globs(patterns), self._daemon.rules, self._session.peer
        return [
            held
            for held in self._spaces.open.values()
            if globs.match(held.name)
            and (held.producer is self._session or rules.allows(peer, Action.ADMIN, held.name))
        ]


def shown_ranges(wanted: Sequence[tuple[int, int]]) -> list[Range]:
    """Return the ranges of a subscriber, which are in order, as they are shown."""
    edges = [*wanted[: RANGES - 1], (wanted[RANGES - 1][0], wanted[-1][1])] if len(wanted) > RANGES else wanted
    return [Range(first, last) for first, last in edges]


def counters_of(held: Held) -> SpaceCounters:
    """Return the counters of a space."""
    counters: SpaceStatistics = held.space.statistics()
    subscribers = list(counters.subscriptions.items())[:SUBSCRIBERS]
    return SpaceCounters(
        held.name,
        held.epoch,
        counters.mappings,
        counters.seq,
        counters.published.get(Cap.UNMAP, 0),
        counters.published.get(Cap.MAP, 0),
        counters.published.get(Cap.DEVIOTLB_UNMAP, 0),
        int(counters.demand),
        counters.old_pieces,
        counters.syncs,
        counters.failed_syncs,
        dict(counters.questions),
        {name[:NAME_LIMIT]: subscriber_of(each) for name, each in subscribers},
        [name[:NAME_LIMIT] for name in counters.leaving[:NAMES]],
        [name[:NAME_LIMIT] for name in counters.unproven[:NAMES]],
    )


def subscriber_of(counters: SubscriptionStatistics) -> SubscriberCounters:
    """Return the counters of a subscription."""
    return SubscriberCounters(
        lag=counters.lag,
        unmaps=counters.delivered.get(Cap.UNMAP, 0),
        maps=counters.delivered.get(Cap.MAP, 0),
        deviotlb_unmaps=counters.delivered.get(Cap.DEVIOTLB_UNMAP, 0),
        handed=counters.handed,
        acked=counters.acked,
        conflations=counters.conflations,
        current=counters.current,
        pinned=counters.pinned,
    )


def observer_of(counters: ObserverStatistics) -> ObserverCounters:
    """Return the counters of an observer."""
    return ObserverCounters(counters.lag, counters.delivered, counters.lost)
