"""What stands behind the bridge and serves the rings: a device, or nothing yet."""

import os
from contextlib import suppress
from typing import Final, Protocol

from msgspec import Struct

from ...bridging.vring import Ring

ONE: Final = (1).to_bytes(8, "little")
"""What is written to an eventfd that is signalled."""


class Call:
    """How the guest's driver is told of what was pushed; the descriptor may change while the ring is served.

    Attributes:
        fd: An eventfd that does not block; `None` while nobody wants to be told.
    """

    def __init__(self) -> None:
        self.fd: int | None = None

    def notify(self) -> None:
        """Tell the driver, as the front end wants it: by an interrupt, if it wants one."""
        if self.fd is not None:
            with suppress(BlockingIOError):  # it was signalled so often that once more makes no difference
                os.write(self.fd, ONE)


class LiveRing(Struct, frozen=True):
    """A ring that is to be served.

    Attributes:
        ring: Where it is, by I/O virtual addresses.
        kick: An eventfd that does not block, readable when something was made available; it stays open until the
            ring has stopped.
        call: How the driver is told.
        features: All that was agreed upon with the guest's driver, as bits.
    """

    ring: Ring
    kick: int
    call: Call
    features: int


class Device(Protocol):
    """What serves rings.

    It reaches the guest's memory as every cacher does: by a subscription of its own to the space of the bridge.

    Attributes:
        features: Bits that it offers to the guest's driver, beside those of the bridge.
        queues: What GET_QUEUE_NUM is answered: of a network card, pairs of rings.
        rings: How many rings it has.
        config: Its configuration space; empty if it has none.
    """

    @property
    def features(self) -> int: ...  # noqa: D102 - told above

    @property
    def queues(self) -> int: ...  # noqa: D102

    @property
    def rings(self) -> int: ...  # noqa: D102

    @property
    def config(self) -> bytes: ...  # noqa: D102

    def write_config(self, offset: int, data: bytes) -> bool:
        """Take what is written into the configuration space, inside of it; return whether it may be."""
        ...

    def ring_started(self, live: LiveRing) -> None:
        """Begin to serve a ring; a plain call, so what works is another task."""
        ...

    async def ring_stopped(self, index: int) -> int:
        """Stop serving a ring that was started, and return the index of the first entry that was not used."""
        ...


class NoDevice:
    """Rings are kept, and nobody serves them: the device is in another process, or only IOTLB messages matter."""

    features = 0
    queues = 32
    rings = 64
    config = b""

    def __init__(self) -> None:
        self._bases: dict[int, int] = {}

    def write_config(self, offset: int, data: bytes) -> bool:  # noqa: ARG002 - whatever it is
        """Refuse it."""
        return False

    def ring_started(self, live: LiveRing) -> None:
        """Remember where it begins."""
        self._bases[live.ring.index] = live.ring.base

    async def ring_stopped(self, index: int) -> int:
        """Return where it began."""
        return self._bases.pop(index)
