"""Frames: how a stream of bytes is cut into payloads.

A frame is the length of its payload, four bytes little endian, and the payload.
What is in a payload is not known here.
"""

from struct import Struct
from typing import Final

from ..errors import FrameTooLarge

HEADER_SIZE: Final = 4
"""Bytes that say how long the payload is."""

FRAME_LIMIT: Final = 1 << 20
"""Longest payload, in bytes.  The longest that has to be sent is the answer to a
failed `sync`: with everything at its limit, in ASCII, some 700 KiB.  One of 4,096
events has at most 200 KiB.  A peer that announces more is not believed, so it makes
nobody keep more than this much, and one chunk of the transport, for it."""

GREETING_LIMIT: Final = 4096
"""Longest payload before both ends have greeted each other, in bytes: a greeting has
less than 1 KiB, and who has not said who it is gets no more memory than that."""


_HEADER: Final = Struct("<I")
_write_header = _HEADER.pack
_read_header = _HEADER.unpack_from


def frame(payload: bytes) -> bytes:
    """Return the frame of one payload.

    Raises:
        FrameTooLarge: The payload is longer than `FRAME_LIMIT`.
    """
    size = len(payload)
    if size > FRAME_LIMIT:
        raise FrameTooLarge(size, FRAME_LIMIT)
    return _write_header(size) + payload


class FrameReader:
    """Cuts a stream into payloads, however it was sliced on its way.

    What arrives in whole frames is not gathered first: payloads are cut out of it.  Otherwise
    each byte is copied a constant number of times: a `bytearray` gives up bytes at
    its front without moving the rest.

    Args:
        limit: Longest payload that is taken, in bytes.

    Attributes:
        limit: The same; it may be changed between two payloads.
    """

    __slots__ = ("_at", "_data", "limit")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self._data: bytes | bytearray = b""
        self._at = 0  # where in it the next frame begins

    @property
    def partial(self) -> bool:
        """Whether bytes are there that make no whole frame yet, or were not asked for."""
        return self._at < len(self._data)

    def feed(self, data: bytes) -> None:
        """Add what arrived.  Ask for the payloads in it before adding more."""
        if self._at == len(self._data):
            self._data, self._at = data, 0
            return
        if not isinstance(self._data, bytearray):
            self._data = bytearray(memoryview(self._data)[self._at :])
        elif self._at:
            del self._data[: self._at]
        self._at = 0
        self._data += data

    def next_payload(self) -> bytes | None:
        """Remove and return the next payload, or `None` if more bytes are needed.

        Raises:
            FrameTooLarge: It will be longer than the limit.  Where the next one
                begins is not known then: give up the connection.
        """
        data, at = self._data, self._at
        length, begin = len(data), at + HEADER_SIZE
        if length < begin:
            return None
        (size,) = _read_header(data, at)
        if size > self.limit:
            raise FrameTooLarge(size, self.limit)
        end = begin + size
        if length < end:
            return None
        if end == length:
            self._data, self._at = b"", 0
        else:
            self._at = end
        return data[begin:end] if type(data) is bytes else bytes(memoryview(data)[begin:end])
