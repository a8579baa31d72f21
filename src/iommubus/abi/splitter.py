"""A stream of bytes cut into messages, each with a header that says how long it is.

Nothing here reads a socket, and no message is decoded.  A header is judged as
soon as it is there: one that announces too much is refused before anything is
kept for it.
"""

from collections.abc import Callable

from .fields import Bytes


class Splitter:
    """Takes bytes as they come, and gives back whole messages.

    Args:
        header_size: Length of every header, in bytes.
        length_of: Returns the length of a whole message, header included, from
            its header; it raises an `AbiError` for a header that cannot be.
    """

    def __init__(self, header_size: int, length_of: Callable[[bytes], int]) -> None:
        self._header_size = header_size
        self._length_of = length_of
        self._buffer = bytearray()
        self._announced = 0  # length of the message that has begun; 0 as long as its header is not there

    def feed(self, data: Bytes) -> None:
        """Append what the stream gave."""
        self._buffer += data

    @property
    def wanted(self) -> int:
        """How many bytes the message that has begun still needs, or first its header; 0 if it is whole.

        Who reads no more than that at a time knows with which message a descriptor came.

        Raises:
            AbiError: The header cannot be.
        """
        missing = self._header_size - len(self._buffer)
        return missing if missing > 0 else max(self._length() - len(self._buffer), 0)

    def next_message(self) -> bytes | None:
        """Remove and return the next whole message.

        Returns:
            Header and payload, or `None` if more bytes are needed.

        Raises:
            AbiError: The header cannot be.  Where the next message begins is not
                known any more, so every later call raises too: close the connection.
        """
        if len(self._buffer) < self._header_size:
            return None
        length = self._length()
        if len(self._buffer) < length:
            return None
        message = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._announced = 0
        return message

    def _length(self) -> int:
        if not self._announced:
            self._announced = self._length_of(bytes(self._buffer[: self._header_size]))
        return self._announced
