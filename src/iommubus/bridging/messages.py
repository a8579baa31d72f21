"""Whole messages with their descriptors over a Unix stream socket: vhost-user's, and vfio-user's.

Where descriptors may come, what is read at once never goes past the end of a message, so
that one belongs to the message that is being read; both protocols send theirs with
the message's first byte.  Where none may, as much is read as there is.

What cannot be sent at once waits here, in order: one that may be sent now, and not
in a moment, is put by a plain call.

Source: ``unix(7)`` and ``cmsg(3)`` under SCM_RIGHTS; QEMU ``docs/interop/vhost-user.rst``.
"""

import os
import socket
import sys
from array import array
from collections import deque
from collections.abc import Sequence
from fcntl import ioctl
from termios import FIONREAD
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ..abi.splitter import Splitter
from ..errors import PeerBroke, PeerLeft
from ..transport.descriptors import close_all, receive_part

OUTGOING_LIMIT: Final = 1 << 20
"""Bytes that wait for a peer that reads nothing: some 20,000 IOTLB messages, after which it is given up."""

AHEAD: Final = 1 << 14
"""Bytes that are read at once where no descriptors come: some 800 acknowledgements."""

BURST: Final = 32
"""Messages that are received one after the other before others have their turn: a peer that never
pauses would otherwise keep the loop to itself."""

Received = tuple[bytes, list[int]]
"""A whole message, and the descriptors that came with it, which belong to who is given them."""


class MessageSocket:
    """One connection.  One task may receive, and one may `pump`; `put` may be called by any.

    Args:
        sock: A connected Unix stream socket; this object closes it.
        splitter: What cuts its stream into messages.
        descriptor_limit: Most descriptors of one message; 0 where none may come.
        peer: What errors call the peer.
        outgoing_limit: Bytes that may wait for it.

    Attributes:
        handed: How many bytes the messages had that `receive` has returned.
    """

    def __init__(
        self,
        sock: socket.socket,
        splitter: Splitter,
        *,
        descriptor_limit: int,
        peer: str,
        outgoing_limit: int = OUTGOING_LIMIT,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._splitter = splitter
        self._limit = descriptor_limit
        self._peer = peer
        self._outgoing_limit = outgoing_limit
        self._in_a_row = 0
        self._came: list[int] = []
        self._going: deque[tuple[bytes, list[int]]] = deque()
        self._going_bytes = 0
        self._more = anyio.Event()
        self._read = 0
        self.handed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    @property
    def sock(self) -> socket.socket:
        """The socket, to find out who is at its other end."""
        return self._sock

    @property
    def arrived(self) -> int:
        """How many bytes the peer had sent by now, read or not; counted as `handed` is."""
        try:
            waiting = ioctl(self._sock, FIONREAD, bytes(4))
        except OSError as failure:
            raise PeerLeft(self._peer, str(failure)) from failure
        return self._read + int.from_bytes(waiting, sys.byteorder)

    # -- receiving -------------------------------------------------------------

    async def receive(self) -> Received:
        """Wait for the next message.  When it is cancelled nothing is lost.

        Raises:
            PeerLeft: The peer has no more, or the connection broke.
            AbiError: A header that cannot be; what comes behind it cannot be read.
            PeerBroke: More descriptors than may come with one message.
        """
        await self._give_way()
        while (message := self._splitter.next_message()) is None:
            try:
                data, fds, cut = receive_part(self._sock, self._size, self._limit)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                self._in_a_row = 0
                continue
            except OSError as failure:
                raise PeerLeft(self._peer, str(failure)) from failure
            self._came += fds
            if cut or len(self._came) > self._limit:
                raise PeerBroke(self._peer, f"it sent more than {self._limit} descriptors, or too many are open here")
            if not data:
                raise PeerLeft(self._peer, "it closed the connection")
            self._read += len(data)
            self._splitter.feed(data)
        self.handed += len(message)
        fds, self._came = self._came, []
        return message, fds

    @property
    def _size(self) -> int:
        """How many bytes to read at once."""
        return self._splitter.wanted if self._limit else AHEAD

    # -- sending ---------------------------------------------------------------

    def put(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a whole message, or have `pump` send what the socket does not take now.

        Args:
            data: The message.
            fds: Descriptors to send with it; they stay the caller's.

        Raises:
            PeerLeft: The connection broke, or the peer reads nothing.
        """
        if self._going_bytes + len(data) > self._outgoing_limit:
            raise PeerLeft(self._peer, f"it has not read the last {self._going_bytes} bytes")
        sent = 0 if self._going else self._send(data, fds)
        if sent < len(data):
            self._going.append((data[sent:], [] if sent else [os.dup(fd) for fd in fds]))
            self._going_bytes += len(data) - sent
            self._more.set()

    async def pump(self) -> None:
        """Send what waits, until it is cancelled.

        Raises:
            PeerLeft: The connection broke.
        """
        while True:
            if not self._going:
                self._more = anyio.Event()
                await self._more.wait()
            await anyio.wait_writable(self._sock)
            self._flush()

    def close(self) -> None:
        """Close the connection, and the descriptors that nobody took."""
        close_all(self._came)
        self._came = []
        while self._going:
            close_all(self._going.popleft()[1])
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
        self._sock.close()

    # -- inside ----------------------------------------------------------------

    async def _give_way(self) -> None:
        self._in_a_row = (self._in_a_row + 1) % BURST
        await (checkpoint_if_cancelled() if self._in_a_row else checkpoint())

    def _flush(self) -> None:
        while self._going:
            data, fds = self._going[0]
            sent = self._send(data, fds)
            self._going_bytes -= sent
            if sent:
                close_all(fds)
                self._going[0] = data[sent:], []
            if sent < len(data):
                return
            self._going.popleft()

    def _send(self, data: bytes, fds: Sequence[int]) -> int:
        """Send what the socket takes now, and return how many bytes that was."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as failure:
            raise PeerLeft(self._peer, str(failure)) from failure
