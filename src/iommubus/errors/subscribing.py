"""What a consumer asked for and cannot have."""

from .base import IommubusError, span


class SubscribeError(IommubusError, ValueError):
    """A subscription that cannot be had; nothing was registered."""


class EmptyMask(SubscribeError):
    """A capability mask of 0 asks for nothing."""

    caps: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} asks for nothing"


class MapAlone(SubscribeError):
    """MAP without UNMAP: who is never told to let go may not hold."""

    caps: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} has MAP without UNMAP: who is never told to let go may not hold"


class UnknownCapability(SubscribeError):
    """Bits in the mask that are no capability."""

    caps: int
    known: int

    def __str__(self) -> str:
        return f"the capability mask {self.caps:#x} has unknown bits {self.caps & ~self.known:#x}"


class CapabilityRefused(SubscribeError):
    """The space cannot deliver what the mask asks for."""

    space: str
    caps: int
    offers: int
    reason: str

    def __str__(self) -> str:
        return f"{self.space} offers the mask {self.offers:#x}, not {self.caps:#x}: {self.reason}"


class DemandRefused(SubscribeError):
    """The producer's demand callback refused; its reason is the cause."""

    space: str
    old: int
    new: int
    reason: str

    def __str__(self) -> str:
        return f"the producer of {self.space} refused the demand {self.new:#x} (it was {self.old:#x}): {self.reason}"


class OutsideRanges(SubscribeError):
    """None of the ranges asked for lies inside the space."""

    space: str
    ranges: tuple[tuple[int, int], ...]
    reason: str

    def __str__(self) -> str:
        ranges = ", ".join(span(*edges) for edges in self.ranges)
        return f"the ranges {ranges or '(none)'} cannot be subscribed on {self.space}: {self.reason}"


class BadCapacity(SubscribeError):
    """A mailbox that holds nothing."""

    capacity: int

    def __str__(self) -> str:
        return f"a mailbox holds at least one event, got a capacity of {self.capacity}"


class BadContract(SubscribeError):
    """A contract that cannot be, or makes no sense for the mask."""

    what: str
    value: int
    reason: str

    def __str__(self) -> str:
        return f"a subscription cannot have {self.what} with {self.value:#x}: {self.reason}"


class BadHolder(SubscribeError):
    """A process that cannot be waited for beside the subscriber's own.

    Attributes:
        holder: Number of the process.
        reason: Why.
    """

    holder: int
    reason: str

    def __str__(self) -> str:
        return f"a subscription cannot have process {self.holder} for its holder: {self.reason}"


class GranuleRefused(SubscribeError):
    """A shadower whose smallest unit is larger than the space's."""

    space: str
    granule: int
    space_granule: int

    def __str__(self) -> str:
        return f"{self.space} maps as little as {self.space_granule:#x}, who copies it cannot need {self.granule:#x}"


class MustShare(SubscribeError):
    """Endpoints of one subscription that would not share a space.

    Attributes:
        subscription: Who needs them to.
        endpoint: The endpoint that is to be in ``space``, or is.
        other: Another of its endpoints, which is in ``other_space``.
    """

    subscription: str
    endpoint: str
    space: str
    other: str
    other_space: str

    def __str__(self) -> str:
        return (
            f"{self.subscription} needs its endpoints in one space, "
            f"but {self.endpoint} in {self.space} contradicts {self.other} in {self.other_space}"
        )
