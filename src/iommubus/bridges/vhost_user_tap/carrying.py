"""Carries what a front end and a back end say to each other, in a thread of its own.

Nothing is held up: what is read is sent at once, by the thread that read it, whatever
the event loop does meanwhile; and no direction waits for another.  Where a receiver
takes no more, its sender alone is not read, as if they were connected directly.

One descriptor is not passed on as it came: that of SET_BACKEND_REQ_FD, the channel of the
back end's own requests.  The back end is given one end of another, and what
it says there is carried to the front end's.

Source: ``poll(2)``; QEMU ``docs/interop/vhost-user.rst``, "Back-end communication".
"""

import math
import os
import select
import socket
import stat
import time
from types import TracebackType
from typing import Final, Self

from ...abi.vhost_user import Channel
from .cutting import Passage
from .ways import See, Way

LINGER: Final = 1.0
"""Seconds that a receiver who takes no more has for the last words of a sender who has left."""

CHANNELS: Final = 4
"""Back-end channels that are carried at once.  A front end gives one, and another when it starts anew, before
the first has ended."""

READ: Final = select.POLLIN
WRITE: Final = select.POLLOUT
GONE: Final = select.POLLRDHUP

UNREAD: Final = "it closed the connection, and what it had said was not taken"
"""Why one who is not read at the moment has left."""


class Pair:
    """One channel: two sockets, and both directions between them.

    Args:
        front: The front end's.
        back: The back end's.
        channel: Whose requests it carries.
        see: Is told what was passed on.
    """

    def __init__(self, front: socket.socket, back: socket.socket, channel: Channel, see: See) -> None:
        self.to_back = Way(front, back, channel, see, to_back=True)
        self.to_front = Way(back, front, channel, see, to_back=False)
        self._ends = {front.fileno(): (self.to_back, self.to_front), back.fileno(): (self.to_front, self.to_back)}

    @property
    def ends(self) -> dict[int, int]:
        """What each socket, by its descriptor, is waited for; nothing where that is 0."""
        return {fd: source_mask(source) | WRITE * sink.waits for fd, (source, sink) in self._ends.items()}

    @property
    def why(self) -> str:
        """Who has left, and why; "" while both are there."""
        front = self.to_back.ended or self.to_front.broken or (UNREAD if self.to_back.abandoned else "")
        back = self.to_front.ended or self.to_back.broken or (UNREAD if self.to_front.abandoned else "")
        return f"the front end is gone: {front}" if front else f"the back end is gone: {back}" if back else ""

    @property
    def speaking(self) -> bool:
        """Whether one who has left has still something on its way."""
        return any(way.abandoned or (way.ended and way.waits) for way in (self.to_back, self.to_front))

    def serve(self, fd: int, ready: int) -> bool:
        """Do what one of the sockets is ready for, and say whether `ends` may have changed."""
        source, sink = self._ends[fd]
        if ready & WRITE:
            sink.flush()
        if source.waits:
            source.hung = source.hung or bool(ready & ~WRITE)
        elif ready & ~WRITE and not source.ended:
            source.read()
        return ready != READ or source.waits or bool(source.ended or source.broken)

    def close(self) -> None:
        """Close both sockets, and what was not sent."""
        for way in (self.to_back, self.to_front):
            way.close()
            way.source.close()


def source_mask(way: Way) -> int:
    """Return what the source of a direction is waited for: to say something, or only to leave."""
    if way.ended or way.abandoned:
        return 0
    return GONE if way.waits else READ


class Carrier:
    """Carries one connection, and the back-end channels that it opens.

    Args:
        front: The front end's connection; this object closes it.
        back: The back end's; this object closes it.
        see: Is told, in the thread, what was passed on.

    Attributes:
        main: The connection itself.
    """

    def __init__(self, front: socket.socket, back: socket.socket, see: See) -> None:
        self._see = see
        self._poll = select.poll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._stop, READ)
        self._asked: dict[int, int] = {}  # of the poll
        self._pairs: dict[int, Pair] = {}  # by the descriptors of their sockets
        self._channels: list[Pair] = []
        self.main = self._add(front, back, Channel.FRONT_END)
        self.main.to_back.exchange = self._exchange

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        for pair in {*self._pairs.values()}:
            self._remove(pair)
        os.close(self._stop)

    def run(self) -> str:
        """Carry, until one side leaves or it is told to stop; return who has left and why."""
        until = math.inf
        while True:
            left = max(until - time.monotonic(), 0.0) * 1000 if self.main.why else None
            for fd, mask in self._poll.poll(left):
                if fd == self._stop:
                    return "it was told to stop"
                if fd in self._pairs:
                    self._serve(self._pairs[fd], fd, mask)
            if self.main.why:
                until = min(until, time.monotonic() + LINGER)
                if not self.main.speaking or time.monotonic() >= until:
                    return self.main.why

    def stop(self) -> None:
        """Have `run` return; may be called from any thread."""
        os.eventfd_write(self._stop, 1)

    def _serve(self, pair: Pair, fd: int, ready: int) -> None:
        if not pair.serve(fd, ready):
            return
        if pair.why and not pair.speaking and pair is not self.main:
            self._remove(pair)
            return
        for each, mask in pair.ends.items():
            self._ask(each, mask)

    def _ask(self, fd: int, mask: int) -> None:
        before = self._asked.get(fd, 0)
        if mask and not before:
            self._poll.register(fd, mask)
        elif mask and mask != before:
            self._poll.modify(fd, mask)
        elif before and not mask:  # a poll for nothing still tells that somebody hung up, again and again
            self._poll.unregister(fd)
        self._asked[fd] = mask

    def _add(self, front: socket.socket, back: socket.socket, channel: Channel) -> Pair:
        pair = Pair(front, back, channel, self._see)
        for fd, mask in pair.ends.items():
            self._pairs[fd] = pair
            self._ask(fd, mask)
        return pair

    def _remove(self, pair: Pair) -> None:
        for fd in pair.ends:
            self._ask(fd, 0)
            del self._pairs[fd], self._asked[fd]
        pair.close()
        if pair in self._channels:
            self._channels.remove(pair)

    def _exchange(self, passage: Passage) -> None:
        """Give the back end another channel than the front end's, if it gave one."""
        try:
            if len(passage.fds) != 1 or not is_stream(passage.fds[0]):
                return
            here, there = socket.socketpair()
        except OSError:  # too many are open; the front end's own is as good, only that it is not seen
            return
        if len(self._channels) == CHANNELS:
            self._remove(self._channels[0])
        self._channels.append(self._add(socket.socket(fileno=passage.fds[0]), here, Channel.BACK_END))
        passage.fds[:] = [there.detach()]


def is_stream(fd: int) -> bool:
    """Say whether a descriptor is of a Unix stream socket; others cannot be carried."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
