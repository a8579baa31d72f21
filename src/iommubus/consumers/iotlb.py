"""A cacher's cache, as vhost keeps one: filled by misses, emptied by UNMAPs."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..bus.abc import Subscription
from ..caps import Perm
from ..errors import AccessDenied, BadCapacity, Fenced, NotMapped
from ..events import DevIotlbUnmap, Event, Unmap
from ..mapping import Mapping
from ..ranges import LAST
from ..table import Table
from .pins import Pin, Pins
from .views import Views

IOTLB_CAPACITY: Final = 2048
"""Most entries by default: what Linux vhost (``max_iotlb_entries``) and DPDK keep."""


class IotlbStatistics(NamedTuple):
    """Counters of one cache."""

    #: entries now
    entries: int
    #: look-ups that found an entry
    hits: int
    #: look-ups that found none
    misses: int
    #: look-ups whose entry did not allow the access
    access_failures: int
    #: answers that an UNMAP overtook, and that were asked for again
    stale: int
    #: entries dropped because there was no room
    evictions: int
    #: entries dropped because they were invalidated
    invalidations: int
    #: pins now
    pinned: int


class Iotlb:
    """Translations that were asked for and have not been invalidated since.

    An invalidation drops every entry it touches, whole, as the kernel's does.
    Where there is no room, the entry goes that was not used for longest.

    Args:
        subscription: What answers its misses and invalidates it.
        capacity: Most entries.

    Raises:
        BadCapacity: There is room for none.
    """

    def __init__(self, subscription: Subscription, *, capacity: int = IOTLB_CAPACITY) -> None:
        if capacity < 1:
            raise BadCapacity(capacity)
        self._subscription = subscription
        self._capacity = capacity
        self._table = Table()
        self._used: OrderedDict[int, None] = OrderedDict()  # first addresses, longest unused first
        self._pins = Pins(subscription)
        self._views = Views(subscription)
        self._hits = self._misses = self._access_failures = 0
        self._stale = self._evictions = self._invalidations = 0

    # -- following -----------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Follow one event: drop what it takes away, and hold back its acknowledgement for what is in use."""
        if isinstance(event, Unmap | DevIotlbUnmap):
            self.invalidate(event.first, event.last)

    async def run(self) -> None:
        """Follow the subscription to its end.

        Raises:
            Fenced: The subscription was fenced; the views were released.
        """
        try:
            async for event in self._subscription:
                self.apply(event)
        except Fenced:
            self._pins.revoke(0, LAST)
            self._views.take_back(0, LAST)
            raise

    def invalidate(self, first: int, last: int) -> None:
        """Drop every entry that overlaps the range; revoke its pins, and release its views."""
        self._invalidations += self._drop(first, last)
        self._pins.revoke(first, last)
        self._views.take_back(first, last)

    # -- using -----------------------------------------------------------------------

    def lookup(self, iova: int, perm: Perm = Perm.R) -> Mapping | None:
        """Return the entry for one access now, or `None` at a miss.

        Raises:
            AccessDenied: The entry does not allow the access.
            Fenced, SubscriptionClosed: As `Subscription.check_use`.
        """
        self._subscription.check_use()
        entry = self._table.lookup(iova)
        if entry is None:
            self._misses += 1
            return None
        if int(perm) & ~int(entry.perm):
            self._access_failures += 1
            raise AccessDenied(iova, int(perm), int(entry.perm))
        self._hits += 1
        self._used.move_to_end(entry.first)
        return entry

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Mapping:
        """Return where an address leads, from the cache or by asking.

        It holds until the next `await`: longer uses are pinned.

        Raises:
            TranslationFault: As `Subscription.translate`.
            Fenced, SubscriptionClosed: As `Subscription.check_use`.
        """
        while True:
            entry = self.lookup(iova, perm)
            if entry is not None:
                return entry
            answer = await self._subscription.translate(iova, perm)
            if answer.valid:
                self._install(answer.mapping)
                return answer.mapping
            self._stale += 1

    async def pin(self, iova: int, perm: Perm = Perm.R) -> Pin:
        """Return a pin on where an address leads; raises as `translate`."""
        return self._pins.add(await self.translate(iova, perm))

    def pin_nowait(self, iova: int, perm: Perm = Perm.R) -> Pin | None:
        """Return a pin on the entry of an address, or `None` at a miss; raises as `lookup`."""
        entry = self.lookup(iova, perm)
        return None if entry is None else self._pins.add(entry)

    def view(self, iova: int, size: int | None = None, perm: Perm = Perm.R) -> memoryview:
        """Return the bytes that cached addresses lead to, until one of them is invalidated.

        All is as for `Mirror.view`, and a miss raises `NotMapped`: translate first.
        """
        entry = self.lookup(iova, perm)
        if entry is None:
            raise NotMapped(iova)
        return self._views.give(self._table, entry, iova, size, perm)

    def statistics(self) -> IotlbStatistics:
        """Return its counters."""
        return IotlbStatistics(
            entries=len(self._used),
            hits=self._hits,
            misses=self._misses,
            access_failures=self._access_failures,
            stale=self._stale,
            evictions=self._evictions,
            invalidations=self._invalidations,
            pinned=len(self._pins),
        )

    def __len__(self) -> int:
        return len(self._used)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._table)

    def __repr__(self) -> str:
        return f"<iotlb of {self._subscription.name}, {len(self)} entries>"

    # -- inside ----------------------------------------------------------------------

    def _install(self, mapping: Mapping) -> None:
        self._drop(mapping.first, mapping.last)  # what was asked for before, when less was allowed or mapped
        if len(self._used) >= self._capacity:
            self._evict()
        self._table.insert(mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory)
        self._used[mapping.first] = None

    def _evict(self) -> None:
        first, _ = self._used.popitem(last=False)
        for entry in self._table.walk(first, first, 1):
            self._table.remove(entry.first, entry.last)
        self._evictions += 1

    def _drop(self, first: int, last: int) -> int:
        found = self._table.walk(first, last, len(self._used))
        for entry in found:
            self._table.remove(entry.first, entry.last)
            del self._used[entry.first]
        return len(found)
