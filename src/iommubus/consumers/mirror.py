"""A shadower's copy of what is mapped, as VFIO keeps one in the IOMMU."""

from collections.abc import Iterator
from typing import assert_never

from ..bus.abc import Subscription
from ..caps import Perm
from ..errors import AccessDenied, Fenced, NotMapped
from ..events import DevIotlbUnmap, Event, Map, Unmap
from ..mapping import Mapping
from ..ranges import LAST
from ..table import Table
from .pins import Pin, Pins
from .views import Views


class Mirror:
    """The mappings that a subscription was told of and not told to drop.

    Args:
        subscription: What feeds it; once that is fenced, nothing here may be used.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._table = Table()
        self._pins = Pins(subscription)
        self._views = Views(subscription)

    def apply(self, event: Event) -> None:
        """Follow one event.

        Raises:
            Overlap: A MAP over a live mapping, which a shadower is never sent.
            Straddle: An UNMAP that cuts a mapping, which it is never sent either.
        """
        match event:
            case Map():
                self._table.insert(event.first, event.last, event.target, event.perm, event.memory)
            case Unmap():
                self._table.remove(event.first, event.last)
                self._pins.revoke(event.first, event.last)
                self._views.take_back(event.first, event.last)
            case DevIotlbUnmap():
                pass  # concerns the caches behind it
            case _:
                assert_never(event)

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

    def lookup(self, iova: int, perm: Perm = Perm.R) -> Mapping:
        """Return the mapping of an address, for one access now.

        Raises:
            NotMapped: There is none.
            AccessDenied: It does not allow the access.
            Fenced, SubscriptionClosed: As `Subscription.check_use`.
        """
        self._subscription.check_use()
        mapping = self._table.lookup(iova)
        if mapping is None:
            raise NotMapped(iova)
        if int(perm) & ~int(mapping.perm):
            raise AccessDenied(iova, int(perm), int(mapping.perm))
        return mapping

    def pin(self, iova: int, perm: Perm = Perm.R) -> Pin:
        """Return a pin on the mapping of an address, which holds back the acknowledgement of its UNMAP.

        Raises:
            NotMapped, AccessDenied, Fenced: As `lookup`.
        """
        return self._pins.add(self.lookup(iova, perm))

    def view(self, iova: int, size: int | None = None, perm: Perm = Perm.R) -> memoryview:
        """Return the bytes that addresses lead to, until one of them is unmapped.

        Neighbouring mappings that are one piece of the same memory count as one.
        When an UNMAP of any address of it is applied, the view is released: using it raises
        `ValueError`.  While a slice or a cast of it, or an array made of it, is
        left, the UNMAP is not acknowledged, as with a pin.

        Args:
            iova: First address.
            size: Length in bytes; up to the end of the mapping if there is none.
            perm: What the caller is going to do; the view can be written
                wherever the mappings and the memory allow it.

        Raises:
            NotMapped, AccessDenied, Fenced: As for `lookup`, for the whole range.
            NotContiguous: The range does not lead to one piece of one memory.
            NoBacking: The mapping leads to a bare address.
            EmptyRange: ``size`` is less than 1.
            UnknownMemory: The memory was removed, and the UNMAP is on its way.
        """
        return self._views.give(self._table, self.lookup(iova, perm), iova, size, perm)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._table)

    def __repr__(self) -> str:
        return f"<mirror of {self._subscription.name}, {len(self)} mappings>"
