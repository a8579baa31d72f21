"""A cacher's cache, as vhost keeps one: filled by misses, emptied by UNMAPs."""

from collections.abc import Iterator

from ..bus.abc import Subscription
from ..caps import Perm
from ..errors import AccessDenied, Fenced
from ..events import DevIotlbUnmap, Event, Unmap
from ..table import Mapping, Table


class Iotlb:
    """Translations that were asked for and have not been invalidated since.

    An invalidation drops every entry it touches, whole, as the kernel's does.

    Args:
        subscription: What answers its misses and invalidates it.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._table = Table()

    def apply(self, event: Event) -> None:
        """Follow one event: drop what it takes away."""
        if isinstance(event, Unmap | DevIotlbUnmap):
            self.invalidate(event.first, event.last)

    def invalidate(self, first: int, last: int) -> None:
        """Drop every entry that overlaps the range."""
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
                self.invalidate(answer.mapping.first, answer.mapping.last)
                mapping = answer.mapping
                self._table.insert(mapping.first, mapping.last, mapping.target, mapping.perm)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._table)

    def __repr__(self) -> str:
        return f"<iotlb of {self._subscription.name}, {len(self)} entries>"
