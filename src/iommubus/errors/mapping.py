"""What the producer asked for and a page table cannot hold."""

from .base import IommubusError, span


class MappingError(IommubusError, ValueError):
    """A change that a page table cannot hold; nothing was changed."""


class EmptyRange(MappingError):
    """A range of no bytes; size 0 never means "everything" here."""

    iova: int
    size: int

    def __str__(self) -> str:
        return f"a range has at least one byte, got iova {self.iova:#x} size {self.size:#x}"


class RangeWraps(MappingError):
    """A range that leaves 0..2^64-1."""

    iova: int
    size: int

    def __str__(self) -> str:
        return f"iova {self.iova:#x} size {self.size:#x} leaves 0..2^64-1"


class InvertedRange(MappingError):
    """A range whose first address lies behind its last one."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"first {self.first:#x} is greater than last {self.last:#x}"


class Misaligned(MappingError):
    """An address or a size that is no multiple of the granule.

    Attributes:
        what: Which value: ``"iova"``, ``"size"`` or ``"target"``.
    """

    what: str
    value: int
    granule: int

    def __str__(self) -> str:
        return f"{self.what} {self.value:#x} is no multiple of the granule {self.granule:#x}"


class OutsideSpace(MappingError):
    """A range that ends behind the last address of the space."""

    first: int
    last: int
    space_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} ends behind {self.space_last:#x}, the last address of the space"


class InReserved(MappingError):
    """A MAP that touches a reserved range (an MSI window, for instance)."""

    first: int
    last: int
    reserved_first: int
    reserved_last: int

    def __str__(self) -> str:
        reserved = span(self.reserved_first, self.reserved_last)
        return f"{span(self.first, self.last)} touches the reserved range {reserved}"


class BadPermission(MappingError):
    """A MAP that allows neither reading nor writing, or has unknown bits."""

    perm: int

    def __str__(self) -> str:
        return f"a mapping allows R (1), W (2) or both (3), got {self.perm:#x}"


class BadTarget(MappingError):
    """A MAP whose targets leave 0..2^64-1."""

    target: int
    size: int

    def __str__(self) -> str:
        return f"target {self.target:#x} size {self.size:#x} leaves 0..2^64-1"


class BadShape(MappingError):
    """A space that cannot be: its granule, last address or reserved ranges clash."""

    granule: int
    last: int
    reason: str

    def __str__(self) -> str:
        return f"a space with granule {self.granule:#x} and last address {self.last:#x} cannot be: {self.reason}"


class Overlap(MappingError):
    """A MAP over a live mapping; unmap first, or use `remap`."""

    first: int
    last: int
    held_first: int
    held_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} overlaps the live mapping {span(self.held_first, self.held_last)}"


class Straddle(MappingError):
    """An UNMAP whose edge cuts a mapping, in a space that refuses to cut."""

    first: int
    last: int
    held_first: int
    held_last: int

    def __str__(self) -> str:
        return f"{span(self.first, self.last)} cuts the mapping {span(self.held_first, self.held_last)}"


class NotOffered(MappingError):
    """An event of a kind that the space said it does not publish."""

    kind: str

    def __str__(self) -> str:
        return f"the space does not offer {self.kind}"


class PastMemory(MappingError):
    """A MAP that ends behind the memory that it leads into."""

    target: int
    size: int
    memory: str
    memory_size: int

    def __str__(self) -> str:
        return f"target {self.target:#x} size {self.size:#x} ends behind {self.memory}, of {self.memory_size:#x} bytes"


class UnknownMemory(MappingError, LookupError):
    """A memory that was not added to this bus, or was removed since.

    Attributes:
        present: Generation that the bus has of this name, 0 if it has none.
    """

    memory: str
    generation: int
    present: int

    def __str__(self) -> str:
        instead = f"{self.memory}@{self.present}" if self.present else "none of this name"
        return f"the bus has no memory {self.memory}@{self.generation} that is this one; it has {instead}"
