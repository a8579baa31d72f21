"""What both socket protocols have behind some of their headers: nothing, or bytes that are passed on.

Here is also what every reader of a payload looks like, so that a table can name it.
"""

from typing import Final, Protocol, TypeVar

from msgspec import Struct

from .fields import Bytes, Layout

V = TypeVar("V")


class Codec(Protocol[V]):
    """Reads and writes one kind of payload; a `Layout` is one."""

    @property
    def kind(self) -> type[V]:
        """The value's class."""
        ...

    @property
    def least(self) -> int:
        """Bytes of the shortest."""
        ...

    @property
    def most(self) -> int:
        """Bytes of the longest."""
        ...

    def decode(self, data: Bytes, /) -> V:
        """Read it, or raise an `AbiError`."""
        ...

    def encode(self, value: V, /) -> bytes:
        """Write it, or raise an `AbiError`."""
        ...


class Empty(Struct, frozen=True, gc=False):
    """Nothing."""


class Opaque(Struct, frozen=True):
    """A payload that is passed on unread: that of a request which is not listed."""

    data: bytes


class OpaqueCodec:
    """Passes a payload on."""

    kind = Opaque
    least = 0
    most = 2**32 - 1

    def decode(self, data: Bytes, /) -> Opaque:
        """Keep the bytes."""
        return Opaque(bytes(data))

    def encode(self, value: Opaque, /) -> bytes:
        """Give the bytes."""
        return value.data


EMPTY: Final = Layout(Empty, "empty payload")
OPAQUE: Final = OpaqueCodec()
