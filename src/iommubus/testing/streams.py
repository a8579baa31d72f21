"""Two byte streams that are connected, and as bad as a link can be.

What one end sends arrives at the other in pieces of any size, late, or not at
all: a `Plan` says so before, and `hold`, `release` and `cut` say so while it
happens.  There is no clock in it; the same plan gives the same story each time.

A link that is *cut* loses what was held back or not sent yet, in both
directions.  What was on its way arrives; then each end is told:
`anyio.BrokenResourceError` from whatever it does next.  The one who sent what was lost is not told by that call,
as nobody is by a socket.
"""

from random import Random
from typing import Final

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from msgspec import Struct

WINDOW: Final = 65_536
"""Bytes on their way before `PlannedStream.send` waits: some socket buffer, no
more than a test should have to fill."""

MOST_PIECES: Final = 64
"""Sizes in a plan that was made from a seed; then they begin again."""


class Plan(Struct, frozen=True):
    """What a link does to the bytes of one direction.

    Attributes:
        pieces: Sizes, in bytes, in which they arrive, over and over; none: as
            many at a time as are there.
        cut_after: Bytes after which the link is cut.
        held: Whether they are held back until `PlannedStream.release`.
        window: Bytes that may be on their way before sending waits.
    """

    pieces: tuple[int, ...] = ()
    cut_after: int | None = None
    held: bool = False
    window: int = WINDOW

    def __post_init__(self) -> None:
        if min((1, self.window, *self.pieces)) < 1 or (self.cut_after is not None and self.cut_after < 0):
            raise ValueError(f"sizes are at least one byte, and a cut comes after none or more, got {self}")

    @classmethod
    def seeded(cls, seed: int, *, most: int = 16, cut_within: int | None = None) -> "Plan":
        """Return a plan that looks random and is the same for the same seed.

        Args:
            seed: Whatever tells this plan from others.
            most: Largest piece, in bytes.
            cut_within: The link is cut after fewer bytes than this; by default it is not.
        """
        dice = Random(seed)
        pieces = tuple(dice.randint(1, most) for _ in range(MOST_PIECES))
        return cls(pieces, None if cut_within is None else dice.randrange(cut_within))


WHOLE: Final = Plan()
"""A link that does nothing to the bytes."""

BYTEWISE: Final = Plan(pieces=(1,))
"""A link that gives one byte at a time."""


class Link:
    """What both directions share: whether the link is there.

    Attributes:
        cut: Whether it was cut.
    """

    def __init__(self) -> None:
        self.cut = False
        self._changed = anyio.Event()

    def change(self) -> None:
        """Have everybody who waits look again."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def wait_change(self) -> None:
        """Wait until something is different."""
        await self._changed.wait()


class Pipe:
    """One direction.

    Attributes:
        held: Whether bytes are held back.
        ended: Whether the sender has said that nothing more comes.
        deserted: Whether the receiver has gone.
    """

    def __init__(self, plan: Plan, link: Link) -> None:
        self.held = plan.held
        self.ended = False
        self.deserted = False
        self._plan = plan
        self._link = link
        self._bytes = bytearray()
        self._sent = 0
        self._given = 0  # pieces begun
        self._rest = 0  # of the piece begun

    @property
    def full(self) -> bool:
        """Whether sending has to wait."""
        return len(self._bytes) >= self._plan.window and not self._link.cut

    @property
    def ready(self) -> bool:
        """Whether bytes can be received now."""
        return bool(self._bytes) and not self.held

    def put(self, data: bytes) -> int:
        """Take what the window and the plan allow; return how much was taken, lost or not."""
        room = self._plan.window - len(self._bytes)
        part = data[:room]
        limit = self._plan.cut_after
        if limit is not None and self._sent + len(part) >= limit:
            self._bytes += part[: limit - self._sent]
            self._link.cut = True
            part = data
        else:
            self._bytes += part
        self._sent += len(part)
        self._link.change()
        return len(part)

    def get(self, most: int) -> bytes:
        """Return the next piece, or what of it fits."""
        if not self._rest and self._plan.pieces:
            self._rest = self._plan.pieces[self._given % len(self._plan.pieces)]
            self._given += 1
        size = min(most, self._rest or most)
        data = bytes(self._bytes[:size])
        del self._bytes[:size]
        self._rest = max(0, self._rest - len(data))
        self._link.change()
        return data


class PlannedStream(ByteStream):
    """One end of a link; what it sends obeys its plan.

    Closing either end ends both directions; `send_eof` ends one.
    """

    def __init__(self, link: Link, out: Pipe, into: Pipe) -> None:
        self._link = link
        self._out = out
        self._in = into
        self._closed = False
        self._sending = False
        self._receiving = False

    # -- as every byte stream ----------------------------------------------------

    async def send(self, item: bytes) -> None:
        """Send bytes; wait while the window is full.

        Raises:
            anyio.BrokenResourceError: The link was cut, or the other end has gone.
            anyio.ClosedResourceError: This end was closed, or has said that it ends.
            anyio.BusyResourceError: Another task is sending.
        """
        if self._sending:
            raise anyio.BusyResourceError("sending")
        await checkpoint()
        self._check_send()
        self._sending = True
        try:
            await self._send_all(bytes(item))
        finally:
            self._sending = False

    async def receive(self, max_bytes: int = WINDOW) -> bytes:
        """Receive the next piece.

        Raises:
            anyio.EndOfStream: The other end sends nothing more.
            anyio.BrokenResourceError: The link was cut.
            anyio.ClosedResourceError: This end was closed.
            anyio.BusyResourceError: Another task is receiving.
        """
        if max_bytes < 1:
            raise ValueError(f"at least one byte is received, got max_bytes={max_bytes}")
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        await checkpoint()
        self._receiving = True
        try:
            while not self._in.ready or self._closed:
                self._check_receive()
                await self._link.wait_change()
        finally:
            self._receiving = False
        return self._in.get(max_bytes)

    async def send_eof(self) -> None:
        """Say that nothing more is sent."""
        self._out.ended = True
        self._link.change()
        await checkpoint()

    async def aclose(self) -> None:
        """Close this end; what it has sent still arrives."""
        self._closed = True
        self._out.ended = True
        self._in.deserted = True
        self._link.change()
        await checkpoint()

    # -- as a test has it --------------------------------------------------------

    def hold(self) -> None:
        """Hold back what this end sends, and has sent, until `release`."""
        self._out.held = True

    def release(self) -> None:
        """Let arrive what was held back, unless the link was cut meanwhile."""
        self._out.held = self._out.held and self._link.cut
        self._link.change()

    def cut(self) -> None:
        """Cut the link now, in both directions; what was held back is lost."""
        self._link.cut = True
        self._link.change()

    # -- inside ----------------------------------------------------------------

    async def _send_all(self, data: bytes) -> None:
        while data:
            while self._out.full and not self._closed and not self._out.deserted:
                await self._link.wait_change()
            self._check_send()
            data = data[self._out.put(data) :]

    def _check_send(self) -> None:
        if self._closed or self._out.ended:
            raise anyio.ClosedResourceError
        if self._link.cut or self._out.deserted:
            raise anyio.BrokenResourceError

    def _check_receive(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._link.cut:
            raise anyio.BrokenResourceError
        if self._in.ended and not self._in.held:
            raise anyio.EndOfStream


def stream_pair(there: Plan = WHOLE, back: Plan = WHOLE) -> tuple[PlannedStream, PlannedStream]:
    """Return two connected streams.

    Args:
        there: What happens to what the first one sends.
        back: What happens to what the second one sends.
    """
    link = Link()
    first, second = Pipe(there, link), Pipe(back, link)
    return PlannedStream(link, first, second), PlannedStream(link, second, first)
