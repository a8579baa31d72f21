"""Whole vhost-user messages: a header and what is behind it, read together and written together."""

from typing import Final

from msgspec import Struct

from ...errors import BadDescriptors, BadLength
from ..fields import Bytes
from .bits import Channel, Flags
from .bodies import U64, Body, MemTable, VringFd
from .header import HEADER, MESSAGE, Header, decode_header, encode_header
from .requests import COUNTS, UNLISTED, Descriptors, name_of, shape_of

NOTHING: Final = Flags(0)
"""The flags of a request that needs no answer beyond its own."""


class Message(Struct, frozen=True):
    """One message.

    Attributes:
        request: Number of the request, a `Request` or a `BackendRequest` if it is known.
        body: What it carries.
        flags: Whether it is a reply, and whether one is needed.
        channel: The socket it travels on.
    """

    request: int
    body: Body
    flags: Flags = NOTHING
    channel: Channel = Channel.FRONT_END

    @property
    def name(self) -> str:
        """What people call the request."""
        return name_of(self.channel, self.request)


def decode(data: Bytes, channel: Channel = Channel.FRONT_END) -> Message:
    """Read one whole message.

    Args:
        data: The header and the payload; what a splitter gives.
        channel: The socket that it came from.

    Raises:
        BadLength: The payload is not as long as the header says, or as the request needs.
        BadField: Anything in it that cannot be.
    """
    header = decode_header(bytes(data[: HEADER.size]))
    payload = bytes(data[HEADER.size :])
    if len(payload) != header.size:
        raise BadLength(MESSAGE, len(data), HEADER.size + header.size, HEADER.size + header.size)
    return Message(header.request, _decode_body(channel, header, payload), header.flags, channel)


def encode(message: Message) -> bytes:
    """Write one whole message.

    Raises:
        AbiError: Something in it cannot be.
        TypeError: The request does not carry a body of this kind.
    """
    shape = shape_of(message.channel, message.request)
    for codec in shape.reply if message.flags & Flags.REPLY else shape.request:
        if type(message.body) is codec.kind:
            payload = codec.encode(message.body)
            return encode_header(Header(message.request, message.flags, len(payload))) + payload
    raise TypeError(f"{message.name} carries no {type(message.body).__name__}")


def acknowledge(message: Message, status: int = 0) -> Message:
    """Return the answer to a request that has NEED_REPLY and no reply of its own.

    Args:
        status: 0 for success.  For an IOTLB_MSG success means that the back end
            has stopped using what was invalidated.
    """
    return Message(message.request, U64(status), Flags.REPLY, message.channel)


def descriptors(message: Message) -> tuple[int, int]:
    """Return how many descriptors come with a message, at least and at most."""
    shape = shape_of(message.channel, message.request)
    if message.flags & Flags.REPLY and shape is not UNLISTED:
        return COUNTS[Descriptors.NONE]
    match shape.descriptors, message.body:
        case Descriptors.PER_REGION, MemTable(regions=regions):
            return len(regions), len(regions)
        case Descriptors.UNLESS_POLLED, VringFd(has_descriptor=wanted):
            return int(wanted), int(wanted)
        case _:
            return COUNTS[shape.descriptors]


def check_descriptors(message: Message, count: int) -> None:
    """Refuse a message that came with another number of descriptors than belong to it.

    Who refuses it still has to close them.

    Raises:
        BadDescriptors: There are fewer, or more.
    """
    least, most = descriptors(message)
    if not least <= count <= most:
        raise BadDescriptors(message.name, count, least, most)


def _decode_body(channel: Channel, header: Header, payload: bytes) -> Body:
    shape = shape_of(channel, header.request)
    codecs = shape.reply if header.flags & Flags.REPLY else shape.request
    for codec in codecs:
        if codec.least <= len(payload) <= codec.most:
            body: Body = codec.decode(payload)
            return body
    least, most = min(codec.least for codec in codecs), max(codec.most for codec in codecs)
    raise BadLength(name_of(channel, header.request), len(payload), least, most)
