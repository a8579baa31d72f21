"""Waiting for subscribers: `sync`, `drain` and `fence` of clients."""

from collections.abc import Mapping, Sequence
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ...bus.reports import Missing, SyncReport
from ...bus.space import LocalSpace, sync_spaces
from ...errors import LimitReached, SpaceClosed, SyncFailed, UnknownName
from ...ledger import OldPieces
from ...ranges import LAST
from ...wire.messages import Message
from ...wire.messages.syncing import Drain, Fence, FenceJudged, SpaceEpoch, Sync
from ..clients import same_user
from ..session import US, Handler, Session
from ..settings.rules import Action
from ..spaces.held import Held
from .globs import Globs, is_plain
from .outcomes import refused, synced

WAITS: Final = 1 << 15
"""Most subscribers, each counted as often as it is waited for, that the syncs of one connection wait
for at once, but for one that does so alone.  All may reach their deadline at once, and
some ten microseconds are spent on each then."""

LONGEST: Final = 86_400.0
"""Most seconds that a `sync` may take, whatever it asks for: longer than a day nobody waits."""

DAEMON: Final = "the daemon"
"""What is named where it is no subscriber that a `sync` waited for in vain."""


class Covered:
    """What one `sync` is about.

    Attributes:
        held: Open spaces.
        spaces: Closed ones.
        before: Names of spaces of a daemon before this one.
    """

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.spaces: list[LocalSpace] = []
        self.before: list[str] = []

    def all(self) -> list[LocalSpace]:
        """Return every space, each once."""
        opened = [space for held in self.held for space in held.synced]
        return list(dict.fromkeys([*opened, *self.spaces]))


class Syncing:
    """Those of a connection's requests that wait for subscribers.

    Args:
        session: The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._daemon = session.daemon
        self._spaces = session.daemon.spaces
        self._waits = 0
        self._telling = anyio.Lock()

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message."""
        return {Sync: self._sync, Drain: self._drain, Fence: self._fence}

    def lost(self, reason: str) -> None:
        """Take it that nobody waits any more; the requests have been ended."""

    # -- what is asked for -----------------------------------------------------------

    def _sync(self, message: Sync) -> None:
        covered = Covered()
        covered.held += self._select(message.patterns, everything=not message.spaces)
        for entry in message.spaces:
            self._cover(entry, covered)
        self._session.spawn(message.request, self._wait, message, covered)

    def _select(self, patterns: Sequence[str], *, everything: bool) -> list[Held]:
        """Return the open spaces of these names, or that match; all if there are no names.

        Those that the client may not even see are none to it.

        Raises:
            UnknownName: There is no such space.
            RuleMissing: It may see one of them, and not sync it.
            LimitReached: Its patterns are too long.
        """
        known = self._daemon.visible(self._session)
        named = [self._named(name, known) for name in patterns if is_plain(name)]
        globs = Globs(patterns)
        matching = [held for held in known if globs.match(held.name)] if patterns or everything else []
        selected = list(dict.fromkeys([*named, *matching]))
        for held in selected:
            self._daemon.check_charge(self._session, held)
        return selected

    def _named(self, name: str, known: Sequence[Held]) -> Held:
        held = self._spaces.open.get(name)
        if held is None:
            raise UnknownName(name, tuple(each.name for each in known))
        return held

    def _cover(self, entry: SpaceEpoch, covered: Covered) -> None:
        """Have one certain space covered, which may be closed.

        Raises:
            SpaceClosed: It goes on under another epoch, or nothing is known of it.
            RuleMissing: Neither is it the client's, nor may it see to it.
        """
        held = self._spaces.open.get(entry.space)
        if held is not None and held.epoch == entry.epoch:
            self._daemon.check_charge(self._session, held)
            covered.held.append(held)
            return
        if entry.epoch >> 32 != self._daemon.incarnation:
            covered.before.append(entry.space)  # nothing is left of it once nothing is of before the restart
            return
        found = self._spaces.closed.find(entry.epoch)
        if found is None:
            raise SpaceClosed(entry.space)
        spaces, peer = found
        if not same_user(peer, self._session.peer):
            self._daemon.allow(self._session.peer, Action.ADMIN, [entry.space])
        covered.spaces += spaces

    async def _wait(self, message: Sync, covered: Covered) -> None:
        timeout = min(message.timeout_us / US, LONGEST)
        try:
            report = await self._synced(covered, timeout)
        except SyncFailed as failed:
            self._daemon.counts.map_failures += len(failed.failures)
            async with self._telling:  # one a turn: many may have had one deadline, and each takes milliseconds
                await checkpoint()
                self._session.send(refused(message.request, failed))
            return
        self._daemon.counts.sync_seconds.observe(report.seconds)
        for answer in synced(message.request, report):
            self._session.send(answer)

    async def _synced(self, covered: Covered, timeout: float) -> SyncReport:  # noqa: ASYNC109 - a deadline of the bus
        """Wait for what is of before a restart, for who resumes, and then for the subscribers.

        Raises:
            SyncFailed: Not all of it came to an end in time.
        """
        start = anyio.current_time()
        left = timeout
        if self._stands_in_the_way(covered):
            with anyio.move_on_after(timeout):
                await self._daemon.proof.wait_recovered()
                for held in covered.held:
                    await held.settled.wait()
            self._check_before(covered)
            left = max(timeout - (anyio.current_time() - start), 0.0)
        report = await self._sync_all(covered.all(), left)
        return SyncReport(report.outcomes, anyio.current_time() - start)

    async def _sync_all(self, spaces: Sequence[LocalSpace], timeout: float) -> SyncReport:  # noqa: ASYNC109
        """Wait for the subscribers.

        Raises:
            SyncFailed: Not all came to an end in time.
            LimitReached: Too many are waited for.
        """
        waits = sum(len(space.counting()) for space in spaces)
        if self._waits and self._waits + waits > WAITS:
            raise LimitReached("subscribers that the syncs of one connection wait for", WAITS)
        self._waits += waits
        try:
            return await sync_spaces(spaces, timeout)
        finally:
            self._waits -= waits

    def _stands_in_the_way(self, covered: Covered) -> bool:
        """Say whether there is anything to be waited for before the subscribers."""
        resuming = any(not held.settled.is_set() for held in covered.held)
        return resuming or bool(self._daemon.proof.reasons(self._daemon.clock()))

    def _check_before(self, covered: Covered) -> None:
        """Check that nothing stands in the way of a `sync` that is no subscriber.

        Raises:
            SyncFailed: Something does.
        """
        reasons = "; ".join(self._daemon.proof.reasons(self._daemon.clock()))
        unsettled = [held for held in covered.held if not held.settled.is_set()]
        missing = [absent(held.space, "waits for its producer to resume it") for held in unsettled]
        if reasons:
            missing += [absent(space, reasons) for space in covered.all()]
            missing += [Missing(DAEMON, name, reasons, OldPieces((), (), [(0, LAST)])) for name in covered.before]
        if missing:
            raise SyncFailed(missing, [])

    # -- drain and fence -------------------------------------------------------------

    def _drain(self, message: Drain) -> None:
        held = self._found(message.space, message.epoch)
        self._session.spawn(message.request, self._drained, message.request, held)

    async def _drained(self, request: int, held: Held) -> None:
        await held.space.drain()
        self._session.done(request)

    def _fence(self, message: Fence) -> None:
        held = self._spaces.open.get(message.space)
        if held is None:
            raise UnknownName(message.space, ())
        self._daemon.check_charge(self._session, held)
        self._session.spawn(message.request, self._fenced, message, held)

    async def _fenced(self, message: Fence, held: Held) -> None:
        proven = await held.space.fence(message.subscriber)
        self._session.send(FenceJudged(message.request, proven))

    def _found(self, name: str, epoch: int) -> Held:
        """Return an open space that the client may see to.

        Raises:
            SpaceClosed: There is none of this name and epoch.
            RuleMissing: Neither is it the client's, nor may it see to it.
        """
        held = self._spaces.open.get(name)
        if held is None or held.epoch != epoch:
            raise SpaceClosed(name)
        self._daemon.check_charge(self._session, held)
        return held


def absent(space: LocalSpace, reason: str) -> Missing:
    """Return what a failed `sync` says of what is no subscriber: all of the space may be in use."""
    return Missing(DAEMON, space.name, reason, OldPieces((), (), [(0, space.shape.last)]))
