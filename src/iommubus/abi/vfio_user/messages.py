"""Whole vfio-user messages: a header and what is behind it; streams of them; their descriptors.

Source: QEMU ``docs/interop/vfio-user.rst``, "Header" and each command.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from ...errors import BadDescriptors, BadField, BadLength, TooLong
from ..fields import Bytes, Layout, u16, u32
from ..payloads import EMPTY, OPAQUE, Codec, Empty, Opaque
from ..splitter import Splitter
from .bits import Command, Flags
from .bodies import DATA_LIMIT, DMA_MAP, DMA_UNMAP, VERSION, DmaMap, DmaUnmap, Version

OVERHEAD: Final = 32
"""Bytes around the data of a transfer: a header, and where it goes, 16 each."""

MESSAGE: Final = "vfio-user message"
"""What errors call a message before its command is known."""

Body = Empty | Version | DmaMap | DmaUnmap | Opaque
"""Anything behind a header."""


class Header(Struct, frozen=True, gc=False):
    """The 16 bytes before every payload.

    Attributes:
        msg_id: Chosen by who asks, and repeated in the answer; need not be unique.
        command: A `Command`, or a number that is passed on.
        msg_size: Length of the whole message, this header included, in bytes.
        error: An errno or 0 if there is ERROR, otherwise as it came.
    """

    msg_id: int
    command: int
    msg_size: int
    flags: Flags
    error: int


class Message(Struct, frozen=True):
    """One message; the attributes are those of its `Header`, and what it carries."""

    msg_id: int
    command: int
    body: Body
    flags: Flags = Flags(0)
    error: int = 0

    @property
    def name(self) -> str:
        """What people call the command."""
        return _name_of(self.command)


class Shape(Struct, frozen=True):
    """What a command and its reply look like.

    Attributes:
        descriptors: How many may come with the command, and with the reply;
            `None` for as many as were agreed.
    """

    command: Codec[Any]
    reply: Codec[Any]
    descriptors: tuple[int | None, int | None] = (0, 0)


SHAPES: Final[Mapping[int, Shape]] = {
    Command.VERSION: Shape(VERSION, VERSION, (0, None)),  # the reply may bring the twin socket
    Command.DMA_MAP: Shape(DMA_MAP, EMPTY, (1, 0)),
    Command.DMA_UNMAP: Shape(DMA_UNMAP, DMA_UNMAP),
}
"""The commands that are understood here."""

UNLISTED: Final = Shape(OPAQUE, OPAQUE, (None, None))
"""What every other command looks like."""


def _check_header(header: Header) -> None:
    if header.flags & Flags.ERROR and not header.flags & Flags.REPLY:
        raise BadField(HEADER.name, "flags", header.flags, "ERROR (0x20) only together with REPLY (0x1)")
    if header.msg_size < HEADER.size:
        raise BadField(HEADER.name, "msg_size", header.msg_size, f"{HEADER.size:#x} or more")


HEADER: Final = Layout(
    Header,
    "vfio-user header",
    u16("msg_id"),
    u16("command"),
    u32("msg_size"),
    u32("flags", Flags),
    u32("error"),
    check=_check_header,
)


def splitter(limit: int = DATA_LIMIT + OVERHEAD) -> Splitter:
    """Return what cuts a stream into messages.

    Args:
        limit: Longest message that is taken, in bytes, its header included.  A
            longer one raises `TooLong` as soon as its header is there.
    """

    def length_of(data: bytes) -> int:
        size = HEADER.decode(data).msg_size
        if size > limit:
            raise TooLong(MESSAGE, size, limit)
        return size

    return Splitter(HEADER.size, length_of)


def decode(data: Bytes) -> Message:
    """Read one whole message.

    Args:
        data: The header and the payload; what a splitter gives.

    Raises:
        BadLength: Not as long as the header says, or as the command needs.
        BadField: Anything in it that cannot be.
    """
    header = HEADER.decode(data[: HEADER.size])
    if len(data) != header.msg_size:
        raise BadLength(MESSAGE, len(data), header.msg_size, header.msg_size)
    codec, payload = _codec(header.command, header.flags), bytes(data[HEADER.size :])
    if not codec.least <= len(payload) <= codec.most:
        raise BadLength(_name_of(header.command), len(payload), codec.least, codec.most)
    return Message(header.msg_id, header.command, codec.decode(payload), header.flags, header.error)


def encode(message: Message) -> bytes:
    """Write one whole message.

    Raises:
        AbiError: Something in it cannot be.
        TypeError: The command does not carry a body of this kind.
    """
    codec = _codec(message.command, message.flags)
    if type(message.body) is not codec.kind:
        raise TypeError(f"{message.name} carries no {type(message.body).__name__}")
    payload = codec.encode(message.body)
    size = HEADER.size + len(payload)
    return HEADER.encode(Header(message.msg_id, message.command, size, message.flags, message.error)) + payload


def failure(message: Message, errno: int) -> Message:
    """Return the answer that says why a command failed; to a MAP over a live mapping that is EEXIST."""
    return Message(message.msg_id, message.command, Empty(), Flags.REPLY | Flags.ERROR, errno)


def check_descriptors(message: Message, count: int, agreed: int = 1) -> None:
    """Refuse a message that came with more descriptors than belong to it.

    Who refuses it still has to close them.

    Args:
        agreed: The receiver's ``max_msg_fds``.

    Raises:
        BadDescriptors: There are more.
    """
    allowed = SHAPES.get(message.command, UNLISTED).descriptors[bool(message.flags & Flags.REPLY)]
    most = 0 if message.flags & Flags.ERROR else agreed if allowed is None else allowed
    if count > most:
        raise BadDescriptors(message.name, count, 0, most)


def _codec(command: int, flags: Flags) -> Codec[Any]:
    shape = SHAPES.get(command, UNLISTED)
    if flags & Flags.ERROR:
        return EMPTY
    return shape.reply if flags & Flags.REPLY else shape.command


def _name_of(command: int) -> str:
    known = [code.name for code in Command if code == command]
    return known[0] if known else f"command {command}"
