"""Pins: translations that a device is using right now.

What is pinned may be taken away at any moment; then nobody new gets it, and the
acknowledgement waits until who has it is through.  So an acknowledgement means
drained.

Source: semantics of DPDK's ``vhost_user_iotlb_rd_lock`` and of vfio-user's
``DMA_UNMAP`` ("release all references before replying").
"""

from types import TracebackType
from typing import Self

from ..bus.abc import Subscription, Use
from ..mapping import Mapping


class Pin:
    """One translation in use; release it, or use it as a context manager.

    Attributes:
        mapping: Where the addresses lead, until it is released.
        revoked: Whether the mapping was taken away meanwhile: finish quickly.
    """

    __slots__ = ("_pins", "_use", "mapping", "revoked")

    def __init__(self, mapping: Mapping, use: Use, pins: "Pins") -> None:
        self.mapping = mapping
        self.revoked = False
        self._use = use
        self._pins = pins

    def release(self) -> None:
        """Say that the use is over.  A second time does nothing."""
        self._pins.forget(self)
        self._use.end()

    def revoke(self) -> None:
        """Note that the mapping was taken away."""
        self.revoked = True
        self._use.revoke()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<pin of {self.mapping}{', revoked' if self.revoked else ''}>"


class Pins:
    """The pins of one cache or copy.

    Args:
        subscription: Whose acknowledgements they hold back.
    """

    __slots__ = ("_live", "_subscription")

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._live: dict[Pin, None] = {}

    def __len__(self) -> int:
        return len(self._live)

    def add(self, mapping: Mapping) -> Pin:
        """Return a new pin; raises as `Subscription.use`."""
        pin = Pin(mapping, self._subscription.use(), self)
        self._live[pin] = None
        return pin

    def revoke(self, first: int, last: int) -> None:
        """Revoke those that overlap a range that is taken away."""
        for pin in self._live:
            if pin.mapping.first <= last and pin.mapping.last >= first:
                pin.revoke()

    def forget(self, pin: Pin) -> None:
        """Count one no longer."""
        self._live.pop(pin, None)
