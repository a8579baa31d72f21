"""What one line of a QEMU trace log says: plain frozen values.

They are not the bus's own events.  A record tells what QEMU did, in QEMU's
order and without a number, and a `Mapped` may lie over a live mapping; whoever
plays a trace decides what to publish.

Units are bytes; ``first..last`` is inclusive, in 0..2^64-1 and never empty.
Spaces and endpoints have the names they are played under:
``virtio-iommu/domain-0``, ``virtio-iommu/endpoint-16``, ``vtd/domain-3``, or
the name of QEMU's memory region.
"""

from msgspec import Struct

from ...caps import Perm


class Attach(Struct, frozen=True, gc=False):
    """An endpoint sees this space from now on, and no other one.

    QEMU writes the line when the guest asks, before it checks the request; a
    move to another space has no `Detach` in between.
    """

    space: str
    endpoint: str


class Detach(Struct, frozen=True, gc=False):
    """An endpoint sees nothing of this space any more.

    When it was the last one, the space's mappings go with it: without a line
    of their own, unless ``virtio_iommu_put_domain`` was traced.
    """

    space: str
    endpoint: str


class Mapped(Struct, frozen=True, gc=False):
    """``first..last`` leads to ``target`` and, in order, the addresses after it.

    Attributes:
        perm: What a device may do there; never empty.
        mmio: The guest said that the target is device memory.  The domain
            translates it all the same, but QEMU tells no notifier.
    """

    space: str
    first: int
    last: int
    target: int
    perm: Perm
    mmio: bool = False


class Unmapped(Struct, frozen=True, gc=False):
    """Nothing in ``first..last`` may be used any more; it may never have been."""

    space: str
    first: int
    last: int


class UnmappedAll(Struct, frozen=True, gc=False):
    """Nothing in the whole space may be used any more.

    Attributes:
        space: Its name, or `None` for every space named so far.
    """

    space: str | None


class Lookup(Struct, frozen=True, gc=False):
    """QEMU translated an address for a device: a result to compare with."""

    endpoint: str
    iova: int
    target: int


Record = Attach | Detach | Mapped | Unmapped | UnmappedAll | Lookup
"""What a line of the chosen family may say."""
