"""Watches what is passed on between one front end and its back end: counts it, shows it, writes it down."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from anyio import CapacityLimiter, to_thread

from ...abi.vhost_user import Channel, Message, Request, decode
from ...bridging.telling import Negotiated, Notice, Tell
from ...errors import AbiError
from ...transport.descriptors import close_all
from .counting import Counts
from .reading import Reader, agreed, lacks
from .recording import Recorder
from .seen import Backlog, Gap, Seen
from .showing import Shown

BEGINNING: Final = {Request.SET_MEM_TABLE, Request.ADD_MEM_REG}
"""Requests by which what is used was agreed upon: the device begins."""


SHORT: Final = 64
"""Bytes of a message that is remembered: of all that come again and again, an IOTLB_MSG has most, 44."""

REMEMBERED: Final = 4_096
"""Messages that are remembered, some 3 MiB: acknowledgements are all alike, and a guest uses its addresses again."""


@lru_cache(REMEMBERED)
def understood(data: bytes, channel: Channel) -> Message:
    """Read a message; raises as `decode`, which takes eight times as long for one that came before."""
    return decode(data, channel)


class Troubles:
    """Tells what should be looked at, each kind once.

    Args:
        tell: Is told.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, kind: str, text: str) -> None:
        """Tell it, if nothing of its kind was told."""
        if kind not in self._told:
            self._told.add(kind)
            self._tell(Notice(text, trouble=True))


class Watch:
    """Watches one connection.

    Args:
        peers: What the two ends are called.
        shown: What it is shown by.
        counts: What is counted.
        tell: Is told what was agreed upon.
        trouble: Is told what should be looked at.
        recorder: Where it is written down.
    """

    def __init__(
        self,
        peers: str,
        shown: Shown,
        counts: Counts,
        *,
        tell: Tell,
        trouble: Troubles,
        recorder: Recorder | None = None,
    ) -> None:
        self._peers = peers
        self._shown = shown
        self._counts = counts
        self._tell = tell
        self._trouble = trouble
        self._recorder = recorder
        self._reader = Reader()
        self._showing = True
        self._agreed: Negotiated | None = None
        self._disk = CapacityLimiter(1)

    async def run(self, backlog: Backlog) -> None:
        """Watch until nothing more comes.

        Raises:
            BusClosed, SpaceClosed: The bus cannot be used.
        """
        while passed := await backlog.take():
            waiting = iter(passed)
            try:
                await self._record(passed)
                for one in waiting:
                    await self._look(one)
            finally:
                for one in waiting:
                    close_all(one.fds if isinstance(one, Seen) else ())

    async def _record(self, passed: Sequence[Seen | Gap]) -> None:
        if self._recorder is None:
            return
        try:
            await to_thread.run_sync(self._recorder.write, passed, limiter=self._disk)
        except OSError as failure:
            self._recorder = None
            self._trouble("record", f"nothing is written down any more: {failure}")

    async def _look(self, passed: Seen | Gap) -> None:
        if isinstance(passed, Gap):
            self._miss(passed)
        elif not passed.whole:
            self._lose_track(passed)
        else:
            await self._read(passed)

    async def _read(self, seen: Seen) -> None:
        try:
            message = (understood if len(seen.data) <= SHORT else decode)(seen.data, seen.channel)
        except AbiError as wrong:
            self._counts.unread += 1
            self._trouble("unread", f"{self._peers}: a message was passed on and not understood: {wrong}")
            close_all(seen.fds)
            return
        self._counts.add(message, to_back=seen.to_back)
        act = self._reader.read(message) if seen.to_back and self._showing else None
        if act is None:
            close_all(seen.fds)
            return
        self._begin(message)
        await self._shown.show(act, seen.fds)

    def _begin(self, message: Message) -> None:
        """Tell what was agreed upon, once the device begins."""
        if message.request not in BEGINNING:
            return
        reader = self._reader
        told = Negotiated(
            self._peers, agreed(reader.features, reader.protocol), lacks(reader.features, reader.protocol)
        )
        if told != self._agreed:
            self._agreed = told
            self._tell(told)

    def _miss(self, gap: Gap) -> None:
        self._trouble(
            "lost", f"{self._peers}: messages were passed on and not shown: nobody could look at them in time"
        )
        if gap.for_good:
            self._stop_showing()
        else:
            self._shown.empty()

    def _lose_track(self, seen: Seen) -> None:
        """Go on without what cannot be followed any more."""
        self._counts.unread += 1
        who = "the front end" if seen.to_back else "the back end"
        self._trouble(
            f"{who} {seen.channel}", f"{self._peers}: {who} said what cannot be followed; it is passed on unread"
        )
        close_all(seen.fds)
        if seen.to_back and seen.channel is Channel.FRONT_END:
            self._stop_showing()

    def _stop_showing(self) -> None:
        self._showing = False
        self._shown.empty()
