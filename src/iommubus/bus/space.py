"""A space: its table, the numbers of its events, and their way to the audience.

Publishing is plain code in the caller's stack: check, change the table, number
the event, put it into the mailboxes, run the notifiers.  The table has changed
before anybody is told.
"""

from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ..caps import Cap, Perm
from ..errors import NotOffered, SpaceClosed, SyncFailed, UnknownName, WrongThread
from ..events import DevIotlbUnmap, Event, Map, Memory, Unmap
from ..ledger import PIECE_LIMIT, TRIM_EVERY, Ledger, OldPieces
from ..ranges import IovaRange
from ..shape import Shape
from ..staging import Staged, Staging
from ..table import PERMS, Mapping, Table
from .abc import SYNC_TIMEOUT, AddressSpace, DemandChanged, Straddling, Subscription, Translate
from .attachment import Attachment, State
from .buried import Buried
from .logs import Lines
from .memory import Memories
from .notifier import Call, Notice, Notifier, Registration
from .questions import Questions
from .reports import SpaceStatistics, SyncReport
from .routes import Routes
from .subscription import LocalSubscription
from .sync import Sync

NOTHING: Final = Ledger()
"""What was removed for somebody who is not told of it."""

HALF: Final = 2**63
"""A target up to here cannot wrap, if the mapping is no larger than this."""

PERMISSIONS: Final[dict[int, Perm]] = {int(perm): perm for perm in (Perm.R, Perm.W, Perm.RW)}
"""What a mapping may allow."""


class LocalSpace(AddressSpace):
    """A space in the process of the bus.

    Args:
        name: Its name.
        shape: The addresses it accepts.
        offers: The kinds it can deliver.
        straddle: What an UNMAP does that cuts a mapping.
        demand_changed: The producer's callback.
        translate: Its handler for misses, in a pull space.
        answer_timeout: Seconds that the handler has.
        memories: What its mappings may lead into.
        lines: Where it logs.
        buried: Those of the bus that are to be abandoned.
        on_close: Called when it is closed.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        *,
        offers: Cap,
        straddle: Straddling,
        demand_changed: DemandChanged | None,
        translate: Translate | None,
        answer_timeout: float,
        memories: Memories,
        lines: Lines,
        buried: Buried,
        on_close: Callable[["LocalSpace"], None],
    ) -> None:
        self.name = name
        self.offers = offers
        self.shape = shape
        self.seq = 0
        self._removed = Ledger()
        self._invalidated_ranges = Ledger()  # of device TLBs, for those who were told
        self.routes = Routes(name, shape.last, offers, demand_changed, lines)
        self._split = straddle == "split"
        self._memories = memories
        self._lines = lines
        self._on_close = on_close
        self._owner = get_ident()
        self._open_in = self._owner  # the thread that may publish; 0 once closed
        self._table = Table()
        self.pull = not offers & Cap.MAP
        self.questions = Questions(name, shape, translate, answer_timeout, lines)
        # Up to here a MAP, and an UNMAP, is plain: it needs no look at the shape,
        # and is one event.  Everything else takes the way through the checks.
        low_reserved = min((window.first for window in shape.reserved), default=HALF)
        self._plain_map_last = -1 if self.pull else min(shape.last, low_reserved - 1, HALF - 1)
        self._plain_unmap_last = -1 if self.pull or self._split else shape.last
        self._mask = shape.granule - 1
        self._buried = buried
        self._to_abandon = buried.members
        self._notice = Notice()
        self._room: anyio.Event | None = None  # what everybody waits for who drains
        self._unmapped = 0
        self._invalidated = 0
        self._syncs = 0
        self._failed_syncs = 0

    # -- publishing --------------------------------------------------------------

    def map(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        last = iova + size - 1
        bits = iova | size | target
        allowed = PERMISSIONS.get(perm)
        if (
            allowed is None
            or get_ident() != self._open_in
            or not 0 <= iova <= last <= self._plain_map_last
            or bits & self._mask
            or type(bits) is not int
            or not 0 <= target <= HALF
            or memory is not None
        ):
            self._check_map(iova, size, target, perm, memory)
            allowed = PERMS[perm]
        if not self._table.insert(iova, last, target, allowed, memory):
            return
        self.seq = seq = self.seq + 1
        event = Map(self.name, seq, iova, last, target, allowed, memory)
        routes = self.routes
        for put in routes.maps:
            put(event)
        if routes.map_calls:
            self._notice.tell(event, routes.map_calls)
        if self._to_abandon:
            self._buried.abandon()

    def unmap(self, iova: int, size: int) -> Sequence[Mapping]:
        last = iova + size - 1
        bits = iova | size
        if (
            get_ident() != self._open_in
            or not 0 <= iova <= last <= self._plain_unmap_last
            or bits & self._mask
            or type(bits) is not int
        ):
            return self._unmap_staged(iova, size)
        removed = self._table.remove(iova, last)
        if removed:
            self.seq = seq = self.seq + 1
            self._unmapped += 1
            event = Unmap(self.name, seq, iova, last)
            routes = self.routes
            if routes.counted:
                fresh = self._removed.fresh
                if len(fresh) >= TRIM_EVERY:
                    self._trim()  # before: nobody was told of this one yet, and so nobody seems to use it
                fresh.append((seq, removed))
            for put in routes.unmaps:
                put(event)
            if routes.unmap_calls:
                self._notice.tell(event, routes.unmap_calls)
            if self._to_abandon:
                self._buried.abandon()
        return removed

    def unmap_all(self) -> Sequence[Mapping]:
        return self.unmap(0, self.shape.last + 1)

    def remap(self, iova: int, size: int, target: int, perm: Perm, *, memory: Memory | None = None) -> None:
        self._check_map(iova, size, target, perm, memory)
        wanted = Mapping(iova, iova + size - 1, target, PERMS[perm], memory)
        if self._table.lookup(iova) != wanted:
            self.apply((IovaRange(iova, iova + size - 1), wanted))

    def apply(self, changes: Iterable[Mapping | IovaRange]) -> None:
        self._check_thread()
        made = tuple(changes)  # first: an iterable may publish itself, or close the space
        self.check_open()
        self._publish(self._stage(made))

    def invalidate_device(self, iova: int, size: int) -> None:
        self._check_range(iova, size)
        if not self.offers & Cap.DEVIOTLB_UNMAP:
            raise NotOffered("DEVIOTLB_UNMAP")
        last = iova + size - 1
        if self._table.walk(iova, last, 1):
            self._lines.warn("mapped", self.name, f"device TLB invalidated at {iova:#x}, which is still mapped")
        self._publish([Staged(DevIotlbUnmap(self.name, self.seq + 1, iova, last), ())])

    def register(self, notifier: Notifier) -> Registration:
        """Have a notifier called inside every later change; embedded only.

        One that asks for MAP is called with every present mapping first.

        Raises:
            CapabilityRefused, DemandRefused: As for a subscription.
            NotifierFailed: It raised at a present mapping; it is not registered.

        Source: QEMU ``memory_region_register_iommu_notifier`` and
        ``memory_region_iommu_replay``, in one step.
        """
        self.check_open()
        registration = Registration(notifier, self._unregister)
        self.routes.add_notifier(registration)
        try:
            if notifier.caps & Cap.MAP:
                self._replay(registration)
        except BaseException:
            registration.close()
            raise
        return registration

    # -- waiting -----------------------------------------------------------------

    async def sync(self, timeout: float = SYNC_TIMEOUT) -> SyncReport:  # noqa: ASYNC109
        self._check_thread()
        return await sync_spaces((self,), timeout)

    async def drain(self) -> None:
        self._check_thread()
        await checkpoint()
        while any(attachment.member.crowded for attachment in self.routes.present):
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
            self._publish(self._stage((IovaRange(0, self.shape.last),)))
        finally:
            for attachment in self.routes.present:
                if not attachment.member.caps & Cap.UNMAP:
                    attachment.member.mailbox.unshare()
                    attachment.offer(DevIotlbUnmap(self.name, self.seq, 0, self.shape.last))
            self._on_close(self)

    def statistics(self) -> SpaceStatistics:
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
        return await self.questions.ask(iova, perm) if self.pull else self.lookup(iova)

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
        """Return what may be in use by a subscription, of the kinds that it is told of.

        Who went elsewhere may still use what it left behind, too: that is all
        there is, for nobody took notes of what came after it had left.
        """
        caps, ranges, covered = attachment.member.caps, attachment.ranges, attachment.covered
        told = caps & Cap.UNMAP or not self._open_in or attachment.left  # the end is told to everybody
        removed = self._removed if told else NOTHING
        invalidated = self._invalidated_ranges if caps & Cap.DEVIOTLB_UNMAP else NOTHING
        pieces = removed.since(covered, ranges).beside(invalidated.since(covered, ranges).ranges)
        if not attachment.left:
            return pieces
        if self.pull:
            return pieces.beside(ranges)
        return pieces.among(*self._table.snapshot(PIECE_LIMIT))

    def moved(self) -> None:
        """Note that a mailbox has more room."""
        if self._room is not None:
            room, self._room = self._room, None
            room.set()

    # -- for a sync --------------------------------------------------------------

    def counting(self) -> tuple[Attachment, ...]:
        """Return everybody a `sync` has to wait for."""
        self._buried.abandon()
        self._trim()  # so that a failure names nothing that was let go of before
        return self.routes.counting()

    def synced(self, failure: SyncFailed | None) -> None:
        """Note how a `sync` ended."""
        if failure is None:
            self._syncs += 1
        else:
            self._failed_syncs += 1
            self._lines.warn("sync", self.name, str(failure))
        self._trim()

    # -- inside: checks ------------------------------------------------------------

    def _check_thread(self) -> None:
        if get_ident() != self._owner:
            raise WrongThread(self._owner, get_ident())

    def check_open(self) -> None:
        self._check_thread()
        if not self._open_in:
            raise SpaceClosed(self.name)

    def _check_range(self, iova: int, size: int) -> None:
        self.check_open()
        self.shape.check_range(iova, size)

    def _check_map(self, iova: int, size: int, target: int, perm: int, memory: Memory | None) -> None:
        self.check_open()
        self.shape.check_map(iova, size, target, perm)
        if self.pull:
            raise NotOffered("MAP")
        if memory is not None:
            self._memories.check(memory, target, size)

    # -- inside: staging and publishing ----------------------------------------------

    def _stage(self, changes: Iterable[Mapping | IovaRange]) -> list[Staged]:
        """Make the changes in the table, all or none; return what is to be published."""
        table = None if self.pull else self._table
        check_memory = self._memories.check
        staging = Staging(self.name, self.seq, table, self.shape, split=self._split, check_memory=check_memory)
        try:
            for change in changes:
                staging.add(change)
        except BaseException:
            staging.undo()
            raise
        return staging.staged

    def _unmap_staged(self, iova: int, size: int) -> Sequence[Mapping]:
        """Unmap where that may be no event, or several; or say what is wrong with it."""
        self._check_range(iova, size)
        last = iova + size - 1
        staged = self._stage((IovaRange(iova, last),))
        self._publish(staged)
        return [piece.clip(iova, last) for step in staged for piece in step.removed]

    def _publish(self, staged: list[Staged]) -> None:
        """Put events that are in the table into the mailboxes, then run the notifiers.

        In that order for all of them: a notifier may publish too, and nobody
        may see what it says before what it was told.
        """
        for step in staged:
            self.seq = step.event.seq
            self._send(step.event, step.removed)
        try:
            self._notice.tell_all([(step.event, self._calls_for(step.event)) for step in staged])
        finally:
            self._buried.abandon()

    def _send(self, event: Event, removed: Sequence[Mapping]) -> None:
        puts = self.routes.maps
        if isinstance(event, Unmap):
            puts = self.routes.unmaps
            self._unmapped += 1
        elif isinstance(event, DevIotlbUnmap):
            puts = self.routes.devices
            self._invalidated += 1
        if not isinstance(event, Map):
            self.questions.outdate()
            if self.routes.counted:
                self._remember(event, removed)
        for put in puts:
            put(event)

    def _calls_for(self, event: Event) -> Sequence[Call]:
        if isinstance(event, Map):
            return self.routes.map_calls
        if isinstance(event, Unmap):
            return self.routes.unmap_calls
        return self.routes.device_calls

    def _unregister(self, registration: Registration) -> None:
        self._check_thread()
        registration.live = False
        self.routes.remove_notifier(registration)

    def _replay(self, registration: Registration) -> None:
        """Call a notifier with every mapping of its range that is present now."""
        notifier = registration.notifier
        calls = ((registration, notifier.offer),)
        present = self._table.walk(notifier.first, notifier.last, len(self._table))
        self._notice.tell_all([(mapping.event(self.name, self.seq), calls) for mapping in present])

    # -- inside: old translations --------------------------------------------------

    def _remember(self, event: Event, removed: Sequence[Mapping]) -> None:
        """Keep what was removed until everybody has let go of it."""
        if len(self._removed.fresh) >= TRIM_EVERY:
            self._trim()  # before: nobody was told of this one yet, and so nobody seems to use it
        if isinstance(event, DevIotlbUnmap):
            self._invalidated_ranges.add_range(event.seq, event.first, event.last)
        elif removed:
            self._removed.fresh.append((event.seq, removed))
        else:
            self._removed.add_range(event.seq, event.first, event.last)

    def _trim(self) -> None:
        seq = min((attachment.covered for attachment in self.routes.counting()), default=self.seq)
        self._removed.trim(seq)
        self._invalidated_ranges.trim(seq)

    def _find(self, subscription: Subscription | str) -> list[Attachment]:
        """Return those that count and have this name, or this handle.

        Raises:
            UnknownName: There is none.
        """
        counting = self.counting()
        if isinstance(subscription, str):
            found = [attachment for attachment in counting if attachment.member.name == subscription]
        elif isinstance(subscription, LocalSubscription):
            found = [attachment for attachment in counting if subscription.stands_for(attachment.member)]
        else:
            found = []
        if not found:
            name = subscription if isinstance(subscription, str) else subscription.name
            raise UnknownName(name, tuple(attachment.member.name for attachment in counting))
        return found


async def sync_spaces(spaces: Sequence[LocalSpace], timeout: float) -> SyncReport:  # noqa: ASYNC109
    """Sync several spaces at once; raises as `AddressSpace.sync` does."""
    counting = [attachment for space in spaces for attachment in space.counting()]
    try:
        report = await Sync(counting).run(timeout)
    except SyncFailed as failure:
        for space in spaces:
            space.synced(failure)
        raise
    for space in spaces:
        space.synced(None)
    return report
