"""Who is told of what: the subscriptions, notifiers and observers of one space.

The tuples that publishing walks are made when somebody comes or goes, not when
something is published.
"""

from collections.abc import Callable
from functools import cache, reduce
from operator import attrgetter
from typing import Final

from msgspec import Struct

from ..caps import Cap
from ..errors import CapabilityRefused, DemandRefused, SubscribeError
from ..events import DevIotlbUnmap, Event, Unmap
from ..feed import Feed
from .abc import DemandChanged
from .attachment import Attachment
from .logs import Lines
from .notifier import Call, Registration
from .ranged import Part, Put, Ranged

Extend = Callable[[list[Event]], None]

first_of = attrgetter("first")
last_of = attrgetter("last")

REASONS: Final = {
    Cap.MAP: "it is a pull space and keeps no table; ask for UNMAP, and translate",
    Cap.UNMAP: "its producer publishes no UNMAP",
    Cap.DEVIOTLB_UNMAP: "its producer publishes no device invalidations",
}
"""Why a space does not deliver a kind."""


class Group(Struct, eq=False):
    """The subscriptions of one feed.

    Attributes:
        feed: What they follow.
        members: Who they are.
        capacity: Most events that may wait for whoever has least room.
        settled: End of the feed when all of them were idle, if they were since anybody came or went.
    """

    feed: Feed
    members: list[Attachment]
    capacity: int
    settled: int = -1

    def covered(self, seq: int) -> int:
        """Return the number up to which no removal is in use by them."""
        end = self.feed.end
        if end == self.settled:
            return seq
        if all(one.idle for one in self.members):
            self.settled = end
            return seq
        return min(one.covered for one in self.members)

    @property
    def crowded(self) -> bool:
        """Whether a producer that paces itself should wait for one of them."""
        return 2 * self.feed.behind > self.capacity and any(one.member.crowded for one in self.members)


class Routes:
    """The audience of one space.

    Args:
        space: Name of the space.
        last: Last address of the space.
        offers: The kinds it can deliver.
        demand_changed: The producer's callback.
        lines: Where refusals that cannot be given to anybody are logged.
    """

    def __init__(self, space: str, last: int, offers: Cap, demand_changed: DemandChanged | None, lines: Lines) -> None:
        self.present: list[Attachment] = []
        self.lingering: list[Attachment] = []  # who is told nothing more, and has not let go
        self.demand = Cap(0)
        self.counted = False  # somebody has to let go of what is removed
        self.maps: tuple[Put, ...] = ()
        self.unmaps: tuple[Put, ...] = ()
        self.devices: tuple[Put, ...] = ()
        self.map_calls: tuple[Call, ...] = ()
        self.unmap_calls: tuple[Call, ...] = ()
        self.device_calls: tuple[Call, ...] = ()
        self.called = False  # there are notifiers
        self._lists: tuple[Extend, ...] = ()  # of those who get every MAP and UNMAP
        self._removal_lists: tuple[Extend, ...] = ()  # of those who get every UNMAP, and no MAP
        self._edges: list[int] | None = []  # of the ranges of those who follow a part; `None` if they have to be found
        self._parts = dict.fromkeys(Cap, Ranged())  # by kind
        self._groups: list[Group] = []
        self._alone: list[Attachment] = []  # who follows no feed
        self._space = space
        self._whole = ((0, last),)
        self._offers = offers
        self._demand_changed = demand_changed
        self._lines = lines
        self._asking: list[Cap] = []  # of those who are being admitted
        self._notifiers: list[Registration] = []
        self._observers: list[Put] = []
        self._feeds: dict[tuple[Cap, tuple[tuple[int, int], ...]], Feed] = {}

    def add(self, attachment: Attachment) -> None:
        """Publish to a subscription from now on.

        Raises:
            CapabilityRefused: The space does not deliver what it asks for.
            DemandRefused: The producer refused.
        """
        try:
            self._admit(attachment.member.caps)
        except SubscribeError:
            self.narrow()  # others may have come or gone while the producer was asked
            raise
        except BaseException:  # an interrupt: the producer was told
            self._enter(attachment)
            raise
        self._enter(attachment)

    def part(self, attachment: Attachment) -> None:
        """Publish to it no longer; it still counts."""
        self._remove(attachment)
        self.lingering.append(attachment)
        self.remake()

    def forget(self, attachment: Attachment) -> None:
        """Publish to it no longer; it counts no longer."""
        self._remove(attachment)
        self.remake()

    def add_notifier(self, registration: Registration) -> None:
        """Register a notifier; raises as `add` does."""
        try:
            self._admit(registration.notifier.caps)
        except BaseException:
            self.narrow()  # an interrupted producer was told, and nobody came
            raise
        self._notifiers.append(registration)
        self.remake()

    def remove_notifier(self, registration: Registration) -> None:
        """Call it no more."""
        if registration in self._notifiers:
            self._notifiers.remove(registration)
            self.remake()
            self.narrow()

    def add_observer(self, put: Put) -> None:
        """Show an observer everything that is published."""
        self._observers.append(put)
        self.remake()

    def remove_observer(self, put: Put) -> None:
        """Show it nothing more."""
        if put in self._observers:
            self._observers.remove(put)
            self.remake()

    def counting(self) -> tuple[Attachment, ...]:
        """Return everybody a `sync` has to wait for."""
        return (*self.present, *self.lingering)

    def spread(self, events: list[Event]) -> None:
        """Tell everybody of MAPs and UNMAPs, or of one device invalidation, as `maps` and its like do of each."""
        if len(events) == 1:
            self._put(events[0])
            return
        for extend in self._lists:
            extend(events)
        if self._removal_lists:
            removals: list[Event] = [event for event in events if type(event) is Unmap]
            for extend in self._removal_lists:
                extend(removals)
        if self._parts[Cap.UNMAP]:
            self._spread_parts(events)
        for put in self._observers:
            for event in events:
                put(event)

    def covered(self, seq: int) -> int:
        """Return the number up to which nobody uses what was removed; ``seq`` is the latest."""
        covered = [one.covered for one in self._alone] + [one.covered for one in self.lingering]
        return min([*covered, *(group.covered(seq) for group in self._groups)], default=seq)

    @property
    def crowded(self) -> bool:
        """Whether a producer that paces itself should wait for somebody."""
        return any(one.member.crowded for one in self._alone) or any(group.crowded for group in self._groups)

    def share(self, attachment: Attachment) -> None:
        """Feed a subscription together with those who have the same mask and ranges."""
        caps, ranges = attachment.member.caps, attachment.ranges
        attachment.member.mailbox.follow(self._feeds.setdefault((caps, ranges), Feed(ranges)))
        self.remake()

    def narrow(self) -> None:
        """Tell the producer of a smaller demand, which it cannot refuse; it may publish in answer."""
        old, self.demand = self.demand, self._wanted()
        if old == self.demand or self._demand_changed is None:
            return
        try:
            self._demand_changed(old, self.demand)
        except Exception as failure:  # noqa: BLE001 - there is nobody it could be raised to
            self._lines.warn("demand", self._space, f"its demand callback raised {failure!r} at {self.demand!r}")

    def remake(self) -> None:
        """Make the tuples anew: somebody came, went, or changed its way."""
        self.counted = bool(self.present or self.lingering)
        self._group()
        self._partition()
        self._lists, self._removal_lists = self._extends(maps=True), self._extends(maps=False)
        self.maps = self._puts(Cap.MAP)
        self.unmaps = self._puts(Cap.UNMAP)
        self.devices = self._puts(Cap.DEVIOTLB_UNMAP)
        self.called = bool(self._notifiers)
        self.map_calls = self._calls(Cap.MAP)
        self.unmap_calls = self._calls(Cap.UNMAP)
        self.device_calls = self._calls(Cap.DEVIOTLB_UNMAP)

    # -- inside ----------------------------------------------------------------

    def _remove(self, attachment: Attachment) -> None:
        self._edges = None
        if attachment in self.present:
            attachment.member.mailbox.unshare()
            self.present.remove(attachment)
        elif attachment in self.lingering:
            self.lingering.remove(attachment)

    def _wanted(self) -> Cap:
        masks = [attachment.member.caps for attachment in self.present]
        masks += [entry.notifier.caps for entry in self._notifiers]
        masks += self._asking
        return reduce(lambda wanted, mask: wanted | mask, masks, Cap(0))

    def _enter(self, attachment: Attachment) -> None:
        self.present.append(attachment)
        self._edges = None
        self.remake()

    def _admit(self, caps: Cap) -> None:
        for kind, reason in REASONS.items():
            if caps & kind & ~self._offers:
                raise CapabilityRefused(self._space, int(caps), int(self._offers), reason)
        self._asking.append(caps)  # it counts while the producer is asked, who may have others come or go
        try:
            self._ask()
        finally:
            self._asking.remove(caps)

    def _ask(self) -> None:
        """Tell the producer of a larger demand, which it may refuse."""
        old, wanted = self.demand, self._wanted()
        if wanted == old:
            return
        self.demand = wanted
        try:
            if self._demand_changed is not None:
                self._demand_changed(old, wanted)
        except Exception as refusal:
            self.demand = old
            raise DemandRefused(self._space, int(old), int(wanted), str(refusal)) from refusal

    def _spread_parts(self, events: list[Event]) -> None:
        """Tell those who follow parts; a look at where all of it happened spares most of them a look at each event."""
        first, last = min(map(first_of, events)), max(map(last_of, events))
        if not any(self._parts[kind].concerns(first, last) for kind in (Cap.UNMAP, Cap.MAP)):
            return
        for event in events:  # the parts are found anew each time: who falls behind leaves its feed
            self._parts[Cap.UNMAP if type(event) is Unmap else Cap.MAP].put(event)

    def _put(self, event: Event) -> None:
        """Tell everybody of an event."""
        puts = self.maps
        if isinstance(event, Unmap):
            puts = self.unmaps
        elif isinstance(event, DevIotlbUnmap):
            puts = self.devices
        for put in puts:
            put(event)

    def _group(self) -> None:
        """Sort who is present by what feeds them."""
        self._feeds = {key: feed for key, feed in self._feeds.items() if feed.followed}
        groups = {key: Group(feed, [], 0) for key, feed in self._feeds.items()}
        self._alone = []
        for attachment in self.present:
            group = groups.get((attachment.member.caps, attachment.ranges))
            if group is not None and attachment.member.mailbox.shared:
                group.members.append(attachment)
            else:
                self._alone.append(attachment)
        self._groups = [group for group in groups.values() if group.members]
        for group in self._groups:
            group.capacity = min(one.member.mailbox.capacity for one in group.members)

    def _partition(self) -> None:
        """Have those found by address who follow parts of the space."""
        if self._edges is None:
            parts = {attachment.ranges for attachment in self.present} - {self._whole}
            self._edges = sorted({edge for part in parts for low, high in part for edge in (low, high + 1)})
        for kind in Cap:
            shared = [
                Part(ranges, feed.put, feed.offer)
                for (caps, ranges), feed in self._feeds.items()
                if ranges != self._whole and gets(caps, kind)
            ]
            alone = [Part(one.ranges, one.member.mailbox.put, one.offer) for one in self._unfed(kind, whole=False)]
            self._parts[kind] = Ranged(self._edges, (*shared, *alone))

    def _unfed(self, kind: Cap, *, whole: bool) -> list[Attachment]:
        """Return who gets a kind, of the whole space or of a part, and has to be put into alone."""
        return [
            one
            for one in self._alone
            if gets(one.member.caps, kind)
            and (one.ranges == self._whole) is whole
            and not one.member.mailbox.shared  # it went elsewhere while the producer was asked
        ]

    def _extends(self, *, maps: bool) -> tuple[Extend, ...]:
        """Return what takes MAPs and UNMAPs of the whole space, or what takes UNMAPs without MAPs."""
        shared = [
            feed.extend
            for (caps, ranges), feed in self._feeds.items()
            if ranges == self._whole and gets(caps, Cap.UNMAP) and gets(caps, Cap.MAP) is maps
        ]
        alone = [
            one.member.mailbox.extend
            for one in self._unfed(Cap.UNMAP, whole=True)
            if gets(one.member.caps, Cap.MAP) is maps
        ]
        return (*shared, *alone)

    def _puts(self, kind: Cap) -> tuple[Put, ...]:
        shared = [
            feed.put for (caps, ranges), feed in self._feeds.items() if ranges == self._whole and gets(caps, kind)
        ]
        alone = [one.member.mailbox.put for one in self._unfed(kind, whole=True)]
        parts = [self._parts[kind].put] if self._parts[kind] else []
        return (*shared, *alone, *parts, *self._observers)

    def _calls(self, kind: Cap) -> tuple[Call, ...]:
        return tuple(self._call(entry) for entry in self._notifiers if entry.notifier.caps & kind)

    def _call(self, entry: Registration) -> Call:
        notifier = entry.notifier
        whole = notifier.first == 0 and notifier.last >= self._whole[0][1]
        return entry, notifier.notify if whole else notifier.offer


@cache
def gets(caps: Cap, kind: Cap) -> bool:
    """Say whether who has a mask gets a kind; the operators of a flag are slow."""
    return bool(caps & kind)
