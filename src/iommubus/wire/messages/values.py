"""What messages are made of: numbers, names, texts, ranges and mappings; and their limits.

Every number is an unsigned one of 64 bits; durations are in microseconds, so that
none is infinite, negative or no number.  Bits that a reader does not know are no
error here: what a mask means is judged by the bus.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from ...errors import BadMessage
from ...events import Memory
from ...mapping import PERMS, Mapping
from ...ranges import LAST

NAME_LIMIT: Final = 255
"""Most characters in a name: as many as Linux allows in that of a file, and far more
than any device, domain or memory is called by."""

TEXT_LIMIT: Final = 512
"""Most characters of a reason or a sentence; what is said beyond that is cut off."""

RANGE_LIMIT: Final = 4096
"""Most ranges in one message: as many as a space remembers merged (`ledger`)."""

PATTERN_LIMIT: Final = 1024
"""Most names or patterns in one message: more spaces than a machine has devices."""

ENTRY_LIMIT: Final = 128
"""Most entries in one answer about spaces, subscribers or failures: with names and
texts of their full length they fit a frame.  Where there are more, another answer follows."""

U64 = Annotated[int, Meta(ge=0)]
"""A number of 64 bits; MessagePack has no larger one."""

Access = Annotated[int, Meta(ge=0, le=3)]
"""What is wanted: R=1, W=2, both, or no more than to know."""

Rights = Annotated[int, Meta(ge=1, le=3)]
"""What a mapping allows: R=1, W=2, or both; one that allows nothing does not exist."""

Name = Annotated[str, Meta(max_length=NAME_LIMIT)]
Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]


def clip_text(text: str) -> str:
    """Return what fits a `Text`; characters that have no UTF-8 are replaced."""
    return text[:TEXT_LIMIT].encode(errors="replace").decode()


class Range(Struct, frozen=True, array_like=True, gc=False):
    """A run of addresses, both ends inclusive.

    Attributes:
        first: First address.
        last: Last address; not less than ``first``.
    """

    first: U64
    last: U64

    def __post_init__(self) -> None:
        check_order("Range", self.first, self.last)


class MemoryName(Struct, frozen=True, array_like=True, gc=False):
    """Which memory; its descriptor travels elsewhere.

    Attributes:
        name: Its name.
        generation: How often the daemon has had one of this name, from 1.
        size: Length in bytes.
    """

    name: Name
    generation: U64
    size: U64

    @classmethod
    def of(cls, memory: Memory) -> "MemoryName":
        """Return what a memory is called on the wire."""
        return cls(memory.name, memory.generation, memory.size)

    @property
    def memory(self) -> Memory:
        """The same in the words of the bus."""
        return Memory(self.name, self.generation, self.size)


class Piece(Struct, frozen=True, array_like=True, gc=False):
    """A mapping.

    Attributes:
        first: First address.
        last: Last address; not less than ``first``.
        target: Where ``first`` leads to; later addresses follow linearly, up to 2^64-1.
        perm: What a device may do there.
        memory: What ``target`` is an offset into; nil for a bare address.
    """

    first: U64
    last: U64
    target: U64
    perm: Rights
    memory: MemoryName | None = None

    def __post_init__(self) -> None:
        check_order("Piece", self.first, self.last)
        check_target("Piece", self.first, self.last, self.target)

    @classmethod
    def of(cls, mapping: Mapping) -> "Piece":
        """Return a mapping as it travels."""
        memory = None if mapping.memory is None else MemoryName.of(mapping.memory)
        return cls(mapping.first, mapping.last, mapping.target, int(mapping.perm), memory)

    @property
    def mapping(self) -> Mapping:
        """The same in the words of the bus."""
        memory = None if self.memory is None else self.memory.memory
        return Mapping(self.first, self.last, self.target, PERMS[self.perm], memory)


def check_order(message: str, first: int, last: int) -> None:
    """Refuse a range whose ends are the wrong way round.

    Raises:
        BadMessage: They are.
    """
    if first > last:
        raise BadMessage(message, "last", f"{last:#x}", f"it is less than first, which is {first:#x}")


def check_target(message: str, first: int, last: int, target: int) -> None:
    """Refuse targets that leave 0..2^64-1.

    Raises:
        BadMessage: They do.
    """
    if target + (last - first) > LAST:
        raise BadMessage(message, "target", f"{target:#x}", f"{last - first + 1:#x} bytes from there leave 0..2^64-1")


Ranges = Annotated[list[Range], Meta(max_length=RANGE_LIMIT)]
Patterns = Annotated[list[Name], Meta(max_length=PATTERN_LIMIT)]
