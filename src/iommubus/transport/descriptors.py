"""Descriptors over a Unix socket, each beside a frame that says what it is.

The connection on which messages of the bus travel loses descriptors, so these
have one of their own.  It begins with a *token* that the peer was given on the
first connection, which ties the two together and works once.

A frame is one of the wire protocol with a payload of at most `PAYLOAD` bytes, and
at most `LIMIT` descriptors come with its first byte.  One that is cut or has more is
refused, and whatever had come of it is closed.  Never are two frames read
at once: the kernel would not say to which of them a descriptor belonged.

Source: ``unix(7)`` and ``cmsg(3)`` under SCM_RIGHTS.
"""

import os
import socket
from array import array
from collections.abc import Sequence
from secrets import token_bytes
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ..errors import DescriptorsRefused, TokenRefused
from ..wire.framing import GREETING_LIMIT, HEADER_SIZE
from .credentials import Peer

Owner = TypeVar("Owner")

PAYLOAD: Final = GREETING_LIMIT
"""Most bytes of a payload: a token, or the name of a memory, with room to grow."""

LIMIT: Final = 1
"""Most descriptors of one frame, which names one memory."""

TOKEN: Final = 32
"""Bytes of a token: 256 bits, which nobody guesses."""

NUMBER: Final = array("i").itemsize
"""Bytes of a descriptor."""

CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
CUT: Final = int(socket.MSG_CTRUNC)
"""Flags as numbers: what enumerations do with them takes as long as receiving."""

Message = tuple[bytes, list[int]]
"""A whole frame, and the descriptors that came with it, which belong to who is given them."""


class Incoming:
    """One frame while it arrives: it is fed, and says how much more it takes.

    It owns the descriptors until they are taken.
    """

    __slots__ = ("_bytes", "_fds")

    def __init__(self) -> None:
        self._bytes = b""
        self._fds: list[int] = []

    @property
    def begun(self) -> bool:
        """Whether some of it has come."""
        return bool(self._bytes or self._fds)

    @property
    def wanted(self) -> int:
        """How many bytes it still takes; 0 if it is complete."""
        missing = HEADER_SIZE - len(self._bytes)
        return missing if missing > 0 else missing + self._announced

    def feed(self, data: bytes, fds: Sequence[int], *, cut: bool = False) -> None:
        """Take what was received, at most `wanted` bytes.

        Args:
            data: The bytes.
            fds: The descriptors that came with them.
            cut: Whether the kernel left some out.

        Raises:
            DescriptorsRefused: It is none that is taken; all its descriptors are closed.
        """
        self._bytes += data
        self._fds += fds
        wrong = self._wrong(cut)
        if wrong:
            self.close()
            raise DescriptorsRefused(wrong)

    def take(self) -> Message:
        """Return the complete frame, and begin another."""
        message = self._bytes, self._fds
        self._bytes, self._fds = b"", []
        return message

    def close(self) -> None:
        """Close what came and was not taken."""
        _, fds = self.take()
        close_all(fds)

    @property
    def _announced(self) -> int:
        """Bytes of the payload."""
        return int.from_bytes(self._bytes[:HEADER_SIZE], "little")

    def _wrong(self, cut: bool) -> str:
        if cut:
            return f"the kernel left out some of its descriptors; {LIMIT} is taken, if so many can be open"
        announced = self._announced if len(self._bytes) >= HEADER_SIZE else 0
        return wrong_size(announced, len(self._fds))


class DescriptorChannel:
    """The second connection: frames with descriptors, whole or not at all.

    One task may send and one may receive.  A cancelled `receive` loses nothing.
    A cancelled `send` may have sent a part, so the channel is closed then.

    Args:
        sock: A connected Unix stream socket; this object closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = Incoming()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    async def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Send a whole frame; the descriptors stay open here.

        Raises:
            DescriptorsRefused: It is larger than is taken; nothing was sent.
            BrokenPipeError: The peer is gone.
        """
        wrong = wrong_size(len(frame) - HEADER_SIZE, len(fds))
        if wrong:
            raise DescriptorsRefused(wrong)
        rest = frame
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        await checkpoint_if_cancelled()
        try:
            while rest:
                try:
                    sent = self._sock.sendmsg([rest], rights, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                    continue
                rest, rights = rest[sent:], []  # they went with the first byte
        except BaseException:
            self.close()
            raise

    async def receive(self) -> Message | None:
        """Wait for the next frame, header and all; `None` if the peer has no more.

        Raises:
            DescriptorsRefused: It is none that is taken, or was cut; the channel
                is closed, and so is every descriptor of it.
        """
        await checkpoint_if_cancelled()
        while self._incoming.wanted:
            try:
                data, fds, cut = receive_part(self._sock, self._incoming.wanted, LIMIT)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            if not data:
                self._end()
                return None
            self._feed(data, fds, cut)
        return self._incoming.take()

    def close(self) -> None:
        """Close the connection, and descriptors that came and were not taken; whoever waits here is told."""
        self._incoming.close()
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
        self._sock.close()

    def _feed(self, data: bytes, fds: list[int], cut: bool) -> None:
        try:
            self._incoming.feed(data, fds, cut=cut)
        except DescriptorsRefused:
            self.close()
            raise

    def _end(self) -> None:
        begun = self._incoming.begun
        self.close()
        if begun:
            raise DescriptorsRefused("the connection ended in the middle of it")


def wrong_size(size: int, count: int) -> str:
    """Say what is wrong with so many bytes of payload and so many descriptors; "" if nothing is."""
    if size > PAYLOAD:
        return f"it has {size} bytes, at most {PAYLOAD} are taken"
    if count > LIMIT:
        return f"it has {count} descriptors, at most {LIMIT} is taken"
    return ""


def receive_part(sock: socket.socket, size: int, limit: int, flags: int = 0) -> tuple[bytes, list[int], bool]:
    """Receive at most ``size`` bytes, and what descriptors came with them.

    Args:
        sock: A Unix stream socket.
        size: Most bytes.
        limit: Most descriptors.
        flags: Flags of ``recvmsg(2)``.

    Returns:
        The bytes, the descriptors, at most ``limit`` of them, and whether some were left out.
    """
    data, ancillary, found, _ = sock.recvmsg(size, socket.CMSG_SPACE(limit * NUMBER), flags | CLOSE_ON_EXEC)
    if not ancillary:
        return data, [], bool(found & CUT)
    fds = array("i")
    for level, kind, rights in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    return data, list(fds), bool(found & CUT)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


# -- tokens ------------------------------------------------------------------


class Tokens(Generic[Owner]):
    """Tokens that were given out and not used yet: one for each owner, for one peer, once."""

    def __init__(self) -> None:
        self._given: dict[bytes, tuple[Owner, Peer]] = {}

    def issue(self, owner: Owner, peer: Peer) -> bytes:
        """Return a new token with which ``peer`` finds ``owner``; an older one of this owner is void."""
        self.revoke(owner)
        token = token_bytes(TOKEN)
        self._given[token] = owner, peer
        return token

    def redeem(self, token: bytes, peer: Peer) -> Owner:
        """Return whose token it is, and make it void.

        Raises:
            TokenRefused: It is nobody's, or was given to another peer than this.
        """
        owner, given_to = self._given.pop(token, (None, None))
        if owner is None or given_to != peer:
            raise TokenRefused
        return owner

    def revoke(self, owner: Owner) -> None:
        """Make the token of an owner void: its first connection has ended."""
        self._given = {token: entry for token, entry in self._given.items() if entry[0] != owner}
