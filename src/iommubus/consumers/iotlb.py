"""A cacher's cache, as vhost keeps one: filled by misses, emptied by UNMAPs."""

from ..bus.abc import Subscription
from ..caps import Perm
from ..errors import AccessDenied, Fenced, NotMapped
from ..events import DevIotlbUnmap, Event, Unmap
from ..table import Mapping, Table
from .views import Views


class Iotlb:
    """Translations that were asked for and have not been invalidated since.

    An invalidation drops every entry it touches, whole, as the kernel's does.

    Args:
        subscription: What answers its misses and invalidates it.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._table = Table()
        self._views = Views(subscription)

    def apply(self, event: Event) -> None:
        """Follow one event: drop what it takes away.

        Raises:
            ViewInUse: As for `invalidate`; say `Subscription.fail`, and apply it
                when it comes again.
        """
        if isinstance(event, Unmap | DevIotlbUnmap):
            self.invalidate(event.first, event.last)

    def invalidate(self, first: int, last: int) -> None:
        """Drop every entry that overlaps the range, and release the views of it.

        Raises:
            ViewInUse: The entries are gone, and a view of the range is still in use.
        """
        self._drop(first, last)
        self._views.take_back(first, last)

    def view(self, iova: int, size: int | None = None, perm: Perm = Perm.R) -> memoryview:
        """Return the bytes that cached addresses lead to, until one of them is invalidated.

        All is as for `Mirror.view`, and a miss raises `NotMapped`: translate first.
        """
        entry = self.lookup(iova, perm)
        if entry is None:
            raise NotMapped(iova)
        return self._views.give(self._table, entry, iova, size, perm)

    def _drop(self, first: int, last: int) -> None:
        for entry in self._table.walk(first, last, last - first + 1):
            self._table.remove(entry.first, entry.last)

    def lookup(self, iova: int, perm: Perm = Perm.R) -> Mapping | None:
        """Return the entry for one access now, or `None` at a miss.

        Raises:
            AccessDenied: The entry does not allow the access.
            Fenced: The subscription was fenced.
        """
        if self._subscription.fenced:
            raise Fenced(self._subscription.name, "its cache must not be used")
        entry = self._table.lookup(iova)
        if entry is not None and int(perm) & ~int(entry.perm):
            raise AccessDenied(iova, int(perm), int(entry.perm))
        return entry

    async def translate(self, iova: int, perm: Perm = Perm.R) -> Mapping:
        """Return where an address leads, from the cache or by asking.

        Raises:
            NotMapped, AccessDenied, NoTranslator: As `Subscription.translate`.
            Fenced: The subscription was fenced.
        """
        while True:
            entry = self.lookup(iova, perm)
            if entry is not None:
                return entry
            answer = await self._subscription.translate(iova, perm)
            if answer.valid:
                mapping = answer.mapping
                self._drop(mapping.first, mapping.last)  # not the views: what they show ends with its own UNMAP
                self._table.insert(mapping.first, mapping.last, mapping.target, mapping.perm, mapping.memory)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"<iotlb of {self._subscription.name}, {len(self)} entries>"
