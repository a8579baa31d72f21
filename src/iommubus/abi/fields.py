"""Other people's structures as tables: what each field is called, where it lies, what it may hold.

A `Layout` reads a structure from exactly its bytes into a frozen value, and
writes the value back to the same bytes.  Nothing is believed: a length that is
not the structure's, a code that nobody defined, a bit that has no meaning, or
a reserved field that has to be zero and is not, is refused in both directions.
Where a specification says that a field is ignored it is kept as it came, and
written again.

There is no padding but what a table names.  Numbers are in the machine's own
byte order, which is what sockets and ioctls of one host use; virtio is little
endian everywhere.
"""

import struct
from collections.abc import Callable, Iterable
from enum import IntEnum, IntFlag
from functools import partial
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from ..errors import BadField, BadLength

NATIVE: Final = "="
"""The machine's byte order, without padding."""

LITTLE: Final = "<"
"""The byte order of virtio, without padding."""

Bytes = bytes | bytearray | memoryview
"""What decodes."""

V = TypeVar("V")
"""The value that a layout reads and writes."""

Admit = Callable[[str, str, Any], Any]
"""Returns what a field holds, as the value has it; takes the structure's name, the field's and the raw value."""


class Field(Struct, frozen=True):
    """One field of a structure.

    Attributes:
        name: Its name in the specification, and in the value.
        code: Its form, as the module `struct` writes it.
        admit: Refuses what it cannot hold.
        judged: Its form admits more than it may hold, so what is read is judged, too.
        fixed: What it always holds; then the value has no such attribute.
    """

    name: str
    code: str
    admit: Admit
    judged: bool = False
    fixed: int | None = None


# -- kinds of fields ---------------------------------------------------------


def u8(name: str, kind: type[IntEnum] | type[IntFlag] | None = None) -> Field:
    """Return a field of 8 bits: a number, one of an enumeration, or a set of flags."""
    return Field(name, "B", _admit(8, kind), judged=kind is not None)


def u16(name: str, kind: type[IntEnum] | type[IntFlag] | None = None) -> Field:
    """Return a field of 16 bits."""
    return Field(name, "H", _admit(16, kind), judged=kind is not None)


def u32(name: str, kind: type[IntEnum] | type[IntFlag] | None = None) -> Field:
    """Return a field of 32 bits."""
    return Field(name, "I", _admit(32, kind), judged=kind is not None)


def u64(name: str) -> Field:
    """Return a field of 64 bits, a number."""
    return Field(name, "Q", _admit(64, None))


def s32(name: str) -> Field:
    """Return a signed field of 32 bits: a file descriptor, or -1 for none."""
    return Field(name, "i", partial(_number, -(2**31), 2**31 - 1))


def raw(name: str, size: int) -> Field:
    """Return a field of ``size`` bytes that nobody reads, and that stay as they came."""
    return Field(name, f"{size}s", partial(_octets, size))


def fixed(name: str, code: str, value: int = 0) -> Field:
    """Return a field that holds one value: a reserved one, or the size of the structure."""
    return Field(name, code, partial(_number, value, value), judged=True, fixed=value)


def _admit(bits: int, kind: type[IntEnum] | type[IntFlag] | None) -> Admit:
    if kind is None:
        return partial(_number, 0, 2**bits - 1)
    if issubclass(kind, IntEnum):
        return partial(_member, {int(code): code for code in kind})
    return partial(_flags, kind, int(sum(kind)))


def _number(least: int, most: int, message: str, field: str, value: int) -> int:
    if not least <= value <= most:
        raise BadField(message, field, value, f"{least:#x}..{most:#x}" if least < most else f"{least:#x}")
    return value


def _member(codes: dict[int, IntEnum], message: str, field: str, value: int) -> IntEnum:
    if value not in codes:
        raise BadField(message, field, value, "one of " + ", ".join(map(str, codes)))
    return codes[value]


def _flags(kind: type[IntFlag], known: int, message: str, field: str, value: int) -> IntFlag:
    if value & ~known:
        raise BadField(message, field, value, f"the bits {known:#x}")
    return kind(value)


def _octets(size: int, message: str, field: str, value: bytes) -> bytes:
    if len(value) != size:
        raise BadLength(f"{field} of {message}", len(value), size, size)
    return value


# -- structures --------------------------------------------------------------


class Layout(Generic[V]):
    """How one structure lies in memory.

    Args:
        kind: The value's class; it takes the fields by name.
        name: What the specification calls the structure.
        fields: The fields, in order, without gaps.
        order: `NATIVE` or `LITTLE`.
        check: Refuses what only several fields together show, by raising.

    Attributes:
        size: Length of the structure in bytes.
        least: The same, for who asks how short it can be,
        most: or how long.
    """

    def __init__(
        self,
        kind: type[V],
        name: str,
        *fields: Field,
        order: str = NATIVE,
        check: Callable[[V], object] | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.fields = fields
        self._order = order
        self._struct = struct.Struct(order + "".join(field.code for field in fields))
        self._check = check
        self._judged = [(at, field) for at, field in enumerate(fields) if field.judged]
        self._free = [(at, field.name) for at, field in enumerate(fields) if field.fixed is None]
        self.size = self.least = self.most = self._struct.size

    def decode(self, data: Bytes) -> V:
        """Read the structure from exactly its bytes.

        Raises:
            BadLength: There are fewer bytes, or more.
            BadField: A field holds what it cannot hold.
        """
        if len(data) != self.size:
            raise BadLength(self.name, len(data), self.size, self.size)
        found = list(self._struct.unpack(data))
        for at, field in self._judged:
            found[at] = field.admit(self.name, field.name, found[at])
        return self._checked(self.kind(**{name: found[at] for at, name in self._free}))

    def encode(self, value: V) -> bytes:
        """Write the structure.

        Raises:
            BadField: A field holds what it cannot hold.
            BadLength: Bytes of the wrong number.
        """
        held = [self._held(field, value) for field in self.fields]
        self._checked(value)
        return self._struct.pack(*held)

    def offset(self, name: str) -> int:
        """Return where a field begins, in bytes."""
        before = [field.name for field in self.fields].index(name)
        return struct.calcsize(self._order + "".join(field.code for field in self.fields[:before]))

    def _held(self, field: Field, value: V) -> object:
        if field.fixed is not None:
            return field.fixed
        return field.admit(self.name, field.name, getattr(value, field.name))

    def _checked(self, value: V) -> V:
        if self._check is not None:
            self._check(value)
        return value


def by_kind(layouts: Iterable[Layout[Any]]) -> dict[type, Layout[Any]]:
    """Return the layouts by the class of their values."""
    return {layout.kind: layout for layout in layouts}
