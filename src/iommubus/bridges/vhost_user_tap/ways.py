"""One direction of a channel: what is read at one end is sent at the other, and then seen.

It does not wait: what cannot be sent at once is kept, and nothing is read meanwhile.

Source: ``unix(7)``.
"""

import socket
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from ...abi.vhost_user import Channel, Request
from ...transport.descriptors import close_all, receive_part
from .cutting import Cutter, Passage
from .seen import Seen

CHUNK: Final = 0x8000
"""Bytes that are read at once: what the kernel keeps in one piece on its way, so that who reads a message
behind its header finds it whole."""

DESCRIPTORS: Final = 253
"""Descriptors of one part of a stream; ``SCM_MAX_FD`` of the kernel, so that none is left out."""

AT_ONCE: Final = int(socket.MSG_DONTWAIT)
QUIETLY: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
"""Flags for receiving and sending, as numbers: the sockets are others' too, and stay as they are."""

KEPT: Final = {Request.SET_MEM_TABLE, Request.ADD_MEM_REG}
"""Requests whose descriptors are needed after they were passed on."""

See = Callable[[Seen, int], object]
"""Is told what was passed on, and of what request that is."""


class Going(Struct):
    """What is on its way, and how much of it has been sent."""

    passage: Passage
    sent: int = 0


class Way:
    """One direction of one channel.

    Args:
        source: Where it is read.
        sink: Where it is sent.
        channel: Whose requests it carries.
        see: Is told what was passed on.
        to_back: Whether it leads to the back end.

    Attributes:
        exchange: Is given a SET_BACKEND_REQ_FD before it is sent, to put another descriptor in.
        ended: Why no more will be read; "" while more may.
        broken: Why no more can be sent; "" while more can.
        hung: Whether the sender has left, while it was not read.
    """

    def __init__(
        self, source: socket.socket, sink: socket.socket, channel: Channel, see: See, *, to_back: bool
    ) -> None:
        self.source = source
        self.sink = sink
        self._channel = channel
        self._to_back = to_back
        self._see = see
        self._cutter = Cutter(channel)
        self._going: deque[Going] = deque()
        self.exchange: Callable[[Passage], object] | None = None
        self.ended = ""
        self.broken = ""
        self.hung = False

    @property
    def waits(self) -> bool:
        """Whether the receiver takes no more for now."""
        return bool(self._going)

    @property
    def abandoned(self) -> bool:
        """Whether the sender has left, and is not read because the receiver takes no more."""
        return self.hung and self.waits

    def read(self) -> None:
        """Read what there is and send it."""
        try:
            data, fds, cut = receive_part(self.source, CHUNK, DESCRIPTORS, AT_ONCE)
        except BlockingIOError:
            return
        except OSError as failure:
            self._end(failure.strerror or str(failure))
            return
        if cut:
            close_all(fds)
            self._end("descriptors were lost: too many are open here")
        elif not data:
            self._end("it closed the connection")
        else:
            for passage in self._cutter.feed(data, fds):
                self._send(passage)

    def flush(self) -> None:
        """Send what waits."""
        while self._going and self._try(self._going[0]):
            self._going.popleft()

    def close(self) -> None:
        """Close what was not sent."""
        for going in self._going:
            close_all(going.passage.fds)
        close_all(self._cutter.rest().fds)
        self._going.clear()

    def _send(self, passage: Passage) -> None:
        if self.exchange is not None and passage.whole and passage.request == Request.SET_BACKEND_REQ_FD:
            self.exchange(passage)
        going = Going(passage)
        if self._going or not self._try(going):
            self._going.append(going)

    def _try(self, going: Going) -> bool:
        """Send what can be sent now, and say whether that was all; then it is seen."""
        passage = going.passage
        rights = (
            [] if going.sent or not passage.fds else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", passage.fds))]
        )
        data = passage.data[going.sent :] if going.sent else passage.data
        try:
            sent = self.sink.sendmsg([data], rights, QUIETLY)
        except BlockingIOError:
            return False
        except OSError as failure:
            self.broken = failure.strerror or str(failure)
            close_all(passage.fds)
            return True
        going.sent += sent
        if going.sent < len(passage.data):
            return False
        self._saw(passage)
        return True

    def _saw(self, passage: Passage) -> None:
        count, fds = len(passage.fds), passage.fds
        if fds and not (self._to_back and passage.whole and passage.request in KEPT):
            close_all(fds)
            fds = []
        seen = Seen(time.monotonic_ns(), self._channel, self._to_back, passage.data, passage.whole, count, fds)
        self._see(seen, passage.request)

    def _end(self, why: str) -> None:
        self.ended = self.ended or why
        rest = self._cutter.rest()
        if rest.data:
            self._send(rest)
