"""A space: what publishes, with those who are told, and those who wait for them."""

from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

from ..caps import Cap
from ..errors import SyncFailed, UnknownName
from ..events import DevIotlbUnmap, Memory
from ..ledger import OldPieces
from ..mapping import Mapping
from ..ranges import IovaRange
from .abc import SYNC_TIMEOUT, Subscription
from .attachment import Attachment, State
from .publisher import Making, Publisher, Surroundings
from .reports import SpaceStatistics, SyncReport
from .subscription import StreamSubscription
from .sync import Sync


class LocalSpace(Publisher):
    """A space in the process of the bus.

    Args:
        making: What it is made of.
        around: What it shares with other spaces.
        on_close: Called when it is closed.
    """

    def __init__(self, making: Making, around: Surroundings, on_close: Callable[["LocalSpace"], None]) -> None:
        super().__init__(making, around)
        self._on_close = on_close
        self._room: anyio.Event | None = None  # what everybody waits for who drains
        self._syncs = 0
        self._failed_syncs = 0

    # -- waiting -----------------------------------------------------------------

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        self._check_thread()
        return await Sync((self,)).run(timeout)

    async def drain(self) -> None:
        self._check_thread()
        await checkpoint()
        while self.crowded:
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    async def fence(self, subscription: Subscription | str) -> bool:
        self._check_thread()
        members = [attachment.member for attachment in self._find(subscription)]
        for member in members:
            member.abandon("the producer fenced it")
        await checkpoint()
        return all([await member.prove() for member in members])

    async def close(self) -> None:
        self._check_thread()
        self.shut()
        await checkpoint()

    def shut(self) -> None:
        """Close without waiting: UNMAP of all, then the end.

        Raises:
            NotifierFailed: Some raised; it is closed.
        """
        if not self._open_in:
            return
        self._open_in = 0  # first: a notifier that is told of the UNMAP can map nothing any more
        try:
            self.take_all()
        finally:
            self._on_close(self)

    def take_all(self) -> None:
        """Take everything away from everybody: it is closed, or its producer is lost.

        Who hears of device invalidations alone is told by one.

        Raises:
            NotifierFailed: Some raised; it is done.
        """
        self._trim()  # what was let go of before must not seem to be of what is taken now
        try:
            self._change((IovaRange(0, self.shape.last),))
        finally:
            for attachment in self.routes.present:
                if not attachment.member.caps & Cap.UNMAP:
                    attachment.member.mailbox.unshare()
                    attachment.offer(DevIotlbUnmap(self.name, self.seq, 0, self.shape.last))

    @property
    def crowded(self) -> bool:
        """Whether some mailbox is more than half full."""
        return self.routes.crowded

    def statistics(self) -> SpaceStatistics:
        self._trim()
        maps = self.seq - self._unmapped - self._invalidated
        return SpaceStatistics(
            mappings=len(self._table),
            seq=self.seq,
            published={Cap.UNMAP: self._unmapped, Cap.MAP: maps, Cap.DEVIOTLB_UNMAP: self._invalidated},
            demand=self.routes.demand,
            subscriptions={one.member.name: one.member.statistics() for one in self.routes.present},
            leaving=tuple(one.member.name for one in self.routes.lingering if one.member.state is State.JOINED),
            unproven=tuple(one.member.name for one in self.routes.lingering if one.member.state is State.UNPROVEN),
            old_pieces=len(self._removed),
            syncs=self._syncs,
            failed_syncs=self._failed_syncs,
            questions=dict(self.questions.counts),
        )

    def __repr__(self) -> str:
        state = f"{len(self._table)} mappings, seq {self.seq}" if self._open_in else "closed"
        return f"<space {self.name} {self.offers!r}, {state}, {len(self.routes.present)} subscriptions>"

    # -- for attachments ---------------------------------------------------------

    def walk(self, first: int, last: int, limit: int) -> list[Mapping]:
        """Return the first ``limit`` mappings that overlap the range."""
        return self._table.walk(first, last, limit)

    def lookup(self, iova: int) -> Mapping | None:
        """Return the mapping at an address of the table."""
        return self._table.lookup(iova)

    def leading_to(self, memory: Memory) -> Mapping | None:
        """Return a mapping that leads into the memory, if there is one."""
        return self._table.leading_to(memory)

    async def find(self, iova: int, perm: int) -> Mapping | None:
        """Return the mapping at an address, from the table or by asking the producer.

        Raises:
            TranslationFault: As `Questions.ask`.
        """
        if not self._open_in:
            return None
        return await self.questions.ask(iova, perm) if self.pull else self.lookup(iova)

    def abandon_lost(self) -> None:
        """Abandon those whose handle was lost: they have no say any more."""
        self._buried.abandon()

    def admit(self, attachment: Attachment) -> None:
        """Publish to it from now on; raises as `Routes.add` does."""
        self.check_open()
        self.routes.add(attachment)
        if not self._open_in:  # the producer closed it when it was asked
            attachment.member.end()

    def part(self, attachment: Attachment) -> None:
        """Publish to it no longer; a `sync` still waits for it."""
        member = attachment.member
        if member.state is State.UNPROVEN:
            self._lines.warn("unproven", member.name, f"fenced and not proven stopped: {member.reason}")
        self.routes.part(attachment)
        self.moved()

    def forget(self, attachment: Attachment) -> None:
        """Publish to it no longer, and wait for it no longer."""
        member = attachment.member
        if member.fenced and not attachment.left:
            self._lines.info("fenced", member.name, f"fenced: {member.reason}")
        self.routes.forget(attachment)
        if not self.routes.counted:
            self._trim()  # nothing that happens will
        self.moved()

    def share(self, attachment: Attachment) -> None:
        """Feed it together with those who get the same."""
        self.routes.share(attachment)

    def unshared(self) -> None:
        """Note that somebody has to be put into by itself from now on."""
        self.routes.remake()

    def narrow(self) -> None:
        """Tell the producer if the demand is smaller now."""
        self.routes.narrow()

    def old_pieces(self, attachment: Attachment) -> OldPieces:
        """Return what was removed, or left behind, and may be in use."""
        return self._removed.since(attachment, everybody=not self._open_in)

    def moved(self) -> None:
        """Note that a mailbox has more room."""
        if self._room is not None:
            room, self._room = self._room, None
            room.set()

    # -- for a sync --------------------------------------------------------------

    def counting(self) -> tuple[Attachment, ...]:
        """Return everybody a `sync` has to wait for."""
        self._buried.abandon()
        return self.routes.counting()

    def forget_old(self) -> None:
        """Forget what was removed and nobody uses any more; else that is done now and then."""
        self._buried.abandon()
        self._trim()

    def synced(self, failure: SyncFailed | None) -> None:
        """Note how a `sync` ended."""
        if failure is None:
            self._syncs += 1
        else:
            self._failed_syncs += 1
            self._lines.warn("sync", self.name, str(failure))
        if self._removed.many:
            self._trim()

    # -- inside ----------------------------------------------------------------

    def _find(self, subscription: Subscription | str) -> list[Attachment]:
        """Return those that count and have this name, or this handle.

        Raises:
            UnknownName: There is none.
        """
        counting = self.counting()
        if isinstance(subscription, str):
            found = [attachment for attachment in counting if attachment.member.name == subscription]
        elif isinstance(subscription, StreamSubscription):
            found = [attachment for attachment in counting if subscription.stands_for(attachment.member)]
        else:
            found = []
        if not found:
            name = subscription if isinstance(subscription, str) else subscription.name
            raise UnknownName(name, tuple(attachment.member.name for attachment in counting))
        return found
