"""The 12 bytes before every vhost-user message, and streams of messages.

Source: QEMU ``docs/interop/vhost-user.rst``, "Header".
"""

from typing import Final

from msgspec import Struct

from ...errors import BadField, TooLong
from ..fields import Layout, u32
from ..splitter import Splitter
from .bits import Flags

VERSION: Final = 1
"""What the lowest two bits of the flags hold."""

PAYLOAD_LIMIT: Final = 4096
"""Bytes of the longest payload that is taken.  The longest that is defined, a
session of a crypto device with its keys, has some 1,200; a page leaves room for
what will be, and keeps a forged header from reserving 4 GiB."""

MESSAGE: Final = "vhost-user message"
"""What errors call a message before its request is known."""


class Header(Struct, frozen=True, gc=False):
    """What is said before the payload.

    Attributes:
        request: Number of the request; its meaning depends on the channel.
        flags: Whether it is a reply, and whether one is needed.
        size: Length of the payload, in bytes.
    """

    request: int
    flags: Flags
    size: int


class _Raw(Struct, frozen=True, gc=False):
    request: int
    flags: int
    size: int


HEADER: Final = Layout(_Raw, "vhost-user header", u32("request"), u32("flags"), u32("size"))

_KNOWN: Final = int(Flags.REPLY | Flags.NEED_REPLY)


def decode_header(data: bytes) -> Header:
    """Read a header.

    Raises:
        BadLength: Not 12 bytes.
        BadField: A version that is not 1, or flags that mean nothing.
    """
    found = HEADER.decode(data)
    if found.flags & ~_KNOWN != VERSION:
        raise BadField(HEADER.name, "flags", found.flags, f"the bits {_KNOWN:#x}, and version {VERSION}")
    return Header(found.request, Flags(found.flags & _KNOWN), found.size)


def encode_header(header: Header) -> bytes:
    """Write a header.

    Raises:
        BadField: Flags that mean nothing, or a number that does not fit.
    """
    if header.flags & ~_KNOWN:
        raise BadField(HEADER.name, "flags", header.flags, f"the bits {_KNOWN:#x}")
    return HEADER.encode(_Raw(header.request, header.flags | VERSION, header.size))


def splitter(limit: int = PAYLOAD_LIMIT) -> Splitter:
    """Return what cuts a stream of either channel into messages.

    Args:
        limit: Longest payload that is taken, in bytes.  A longer one raises
            `TooLong` as soon as its header is there.
    """

    def length_of(data: bytes) -> int:
        size = decode_header(data).size
        if size > limit:
            raise TooLong(MESSAGE, size, limit)
        return HEADER.size + size

    return Splitter(HEADER.size, length_of)
