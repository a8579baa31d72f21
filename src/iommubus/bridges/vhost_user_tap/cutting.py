"""A stream of vhost-user messages cut where they begin, so that each descriptor goes on with its message.

The kernel says with which part of a stream descriptors came, not where in what
was read: it ends a read behind the part that had some.  Everybody sends a
message and its descriptors with one call, so they belong to the message that
begins last in what was read.

Nothing is judged here beyond the header.  One that cannot be read ends the
cutting: what follows is given as it comes.

Source: ``unix(7)`` under SCM_RIGHTS; Linux ``unix_stream_read_generic``.
"""

from functools import lru_cache
from typing import Final

from msgspec import Struct

from ...abi.vhost_user import HEADER, PAYLOAD_LIMIT, Channel, Descriptors, decode_header, shape_of
from ...errors import AbiError

HEADERS: Final = 256
"""Headers that are remembered, one for each kind of message: reading one takes as long as receiving it."""

header_of = lru_cache(HEADERS)(decode_header)


class Passage(Struct):
    """What is passed on at once.

    Attributes:
        data: The bytes.
        fds: The descriptors that go with the first of them.
        whole: Whether it is one whole message, and not bytes of which nothing is known.
        request: What the message asks, or answers.
    """

    data: bytes
    fds: list[int]
    whole: bool = False
    request: int = 0


class Cutter:
    """Cuts one direction of one channel.

    It owns the descriptors of a message that has begun until that is whole.

    Args:
        channel: Whose requests the stream carries.

    Attributes:
        lost: Whether it cuts no more, because a header could not be read.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._data = b""
        self._fds: list[int] = []
        self.lost = False

    def feed(self, data: bytes, fds: list[int]) -> list[Passage]:
        """Take what was read at once, and return what can be passed on."""
        if self.lost:
            return [Passage(data, fds)]
        began = self._fds
        data = self._data + data
        passages: list[Passage] = []
        at = 0
        while (passage := self._next(data, at)) is not None:
            passages.append(passage)
            at += len(passage.data)
        self._data, self._fds = data[at:], []
        if began:  # with the message that begins what is here
            (passages[0].fds if passages else self._fds).extend(began)
        if fds:
            self._allot(fds, passages)
        return passages

    def rest(self) -> Passage:
        """Return the message that has begun and will not be whole."""
        passage = Passage(self._data, self._fds)
        self._data, self._fds = b"", []
        return passage

    def _next(self, data: bytes, at: int) -> Passage | None:
        """Return what begins there, if it is whole, or if nothing is known of it."""
        if self.lost or len(data) - at < HEADER.size:
            return None
        try:
            header = header_of(data[at : at + HEADER.size])
        except AbiError:
            self.lost = True
        else:
            self.lost = header.size > PAYLOAD_LIMIT
            end = at + HEADER.size + header.size
            if not self.lost:
                return Passage(data[at:end], [], True, header.request) if end <= len(data) else None
        return Passage(data[at:], [])

    def _allot(self, fds: list[int], passages: list[Passage]) -> None:
        """Give descriptors to the message that begins last in what was read, of which these passages are whole."""
        if self._data or not passages:
            self._fds.extend(fds)
        else:
            (next(filter(self._takes, reversed(passages)), passages[-1])).fds.extend(fds)

    def _takes(self, passage: Passage) -> bool:
        """Say whether descriptors come with such a message: some program may send several with one call."""
        return not passage.whole or shape_of(self._channel, passage.request).descriptors is not Descriptors.NONE
