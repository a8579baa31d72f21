"""Waiting for subscribers: `sync`, `drain` and `fence` of clients."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from ...bus.reports import Missing, SyncReport
from ...bus.space import LocalSpace
from ...bus.sync import Sync
from ...errors import LimitReached, SpaceClosed, SyncFailed, UnknownName
from ...ledger import OldPieces
from ...ranges import LAST
from ...wire.messages import Message, syncing as words
from ...wire.messages.syncing import Drain, Fence, FenceJudged, SpaceEpoch
from ..clients import same_user
from ..session import US, Handler, Session
from ..settings.rules import Action
from ..spaces.held import Held
from .globs import Globs, is_plain
from .outcomes import refused, synced
from .pending import Pending

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


def seconds(message: words.Sync) -> float:
    """Return how long a `sync` may take."""
    return min(message.timeout_us / US, LONGEST)


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
        self._over: list[Pending] = []
        self._telling = anyio.Lock()

    @property
    def handlers(self) -> Mapping[type[Message], Handler]:
        """What takes each kind of message."""
        return {words.Sync: self._sync, Drain: self._drain, Fence: self._fence}

    def lost(self, reason: str) -> None:
        """Take it that nobody waits any more; the requests have been ended."""

    # -- what is asked for -----------------------------------------------------------

    def _sync(self, message: words.Sync) -> None:
        covered = Covered()
        if message.patterns or not message.spaces:
            covered.held += self._select(message.patterns)
        for entry in message.spaces:
            self._cover(entry, covered)
        if self._stands_in_the_way(covered):
            self._session.spawn(message.request, self._wait_behind, message, covered)
        else:
            self._wait(message, covered.all())

    def _select(self, patterns: Sequence[str]) -> list[Held]:
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
        matching = [held for held in known if globs.match(held.name)]
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

    def _wait(self, message: words.Sync, spaces: Sequence[LocalSpace]) -> None:
        """Wait for the subscribers, and answer once they have let go.

        Raises:
            LimitReached: Too many are waited for.
            BadMessage: Another request of this number waits.
        """
        self._session.check_new(message.request)
        self._check_room(spaces)
        pending = Pending(message.request, Sync(spaces), seconds(message), self._daemon.deadlines, self)
        if pending.sync.over:
            self._finish(pending)
            return
        self._session.hold(message.request, pending)
        self._waits += pending.sync.count
        pending.begin()

    def drop(self, pending: Pending) -> None:
        """Forget a `sync`: nobody wants the answer."""
        self._let_go(pending)
        if pending in self._over:
            self._over.remove(pending)

    def over(self, pending: Pending) -> None:
        """Answer, at the end of the loop's turn, a `sync` that waits for nobody any more."""
        self._over.append(pending)
        self._session.flush_soon(self)

    def go_on(self, pending: Pending, left: float) -> None:
        """Wait in a task for those who have to be proven stopped, or be told that it is too late."""
        self._let_go(pending)
        self._session.spawn(pending.request, self._wait_on, pending, left)

    def flush(self) -> None:
        """Answer those that wait for nobody any more."""
        over, self._over = self._over, []
        for pending in over:
            self._let_go(pending)
            self._finish(pending)

    def _let_go(self, pending: Pending) -> None:
        self._session.release(pending.request)
        self._waits -= pending.sync.count

    def _finish(self, pending: Pending) -> None:
        """Answer a `sync` that is over."""
        try:
            report = pending.sync.judge(pending.timeout)
        except SyncFailed as failed:  # somebody has answered that it could not
            self._session.spawn(pending.request, self._refuse, pending.request, failed)
        else:
            self._answer(pending.request, report)

    def _answer(self, request: int, report: SyncReport) -> None:
        self._daemon.counts.sync_seconds.observe(report.seconds)
        for answer in synced(request, report):
            self._session.send(answer)

    async def _wait_on(self, pending: Pending, left: float) -> None:
        self._waits += pending.sync.count
        try:
            await self._report(pending.request, pending.sync.run(pending.timeout, left))
        finally:
            self._waits -= pending.sync.count

    async def _report(self, request: int, run: Awaitable[SyncReport]) -> None:
        """Answer when it has come to an end."""
        try:
            report = await run
        except SyncFailed as failed:
            await self._refuse(request, failed)
        else:
            self._answer(request, report)

    async def _refuse(self, request: int, failed: SyncFailed) -> None:
        self._daemon.counts.map_failures += len(failed.failures)
        async with self._telling:  # one a turn: many may come to their end at once, and each takes milliseconds
            await checkpoint()
            self._session.send(refused(request, failed))

    async def _wait_behind(self, message: words.Sync, covered: Covered) -> None:
        await self._report(message.request, self._behind(covered, seconds(message)))

    async def _behind(self, covered: Covered, timeout: float) -> SyncReport:  # noqa: ASYNC109 - a deadline of the bus
        """Wait for what is of before a restart, for who resumes, and then for the subscribers.

        Raises:
            SyncFailed: Not all of it came to an end in time.
            LimitReached: Too many are waited for.
        """
        start = anyio.current_time()
        with anyio.move_on_after(timeout):
            await self._daemon.proof.wait_recovered()
            for held in covered.held:
                await held.settled.wait()
        self._check_before(covered)
        spaces = covered.all()
        self._check_room(spaces)
        taken = anyio.current_time() - start
        sync = Sync(spaces, behind=taken)
        self._waits += sync.count
        try:
            return await sync.run(timeout, max(timeout - taken, 0.0))
        finally:
            self._waits -= sync.count

    def _check_room(self, spaces: Sequence[LocalSpace]) -> None:
        """Check that one more `sync` may wait for everybody who counts in spaces; one alone always may.

        Raises:
            LimitReached: With those whom the others wait for they are too many.
        """
        if self._waits and self._waits + sum(len(space.counting()) for space in spaces) > WAITS:
            raise LimitReached("subscribers that the syncs of one connection wait for", WAITS)

    def _stands_in_the_way(self, covered: Covered) -> bool:
        """Say whether there is anything to be waited for before the subscribers."""
        return not self._daemon.proof.recovered or any(not held.at_rest for held in covered.held)

    def _check_before(self, covered: Covered) -> None:
        """Check that nothing stands in the way of a `sync` that is no subscriber.

        Raises:
            SyncFailed: Something does.
        """
        reasons = "; ".join(self._daemon.proof.reasons(self._daemon.clock()))
        unsettled = [held for held in covered.held if not held.at_rest]
        missing = [absent(held.space, "waits for its producer to resume it") for held in unsettled]
        if reasons:
            missing += [absent(space, reasons) for space in covered.all()]
            missing += [Missing(DAEMON, name, reasons, OldPieces((), (), [(0, LAST)])) for name in covered.before]
        if missing:
            raise SyncFailed(missing, [])

    # -- drain and fence -------------------------------------------------------------

    def _drain(self, message: Drain) -> None:
        held = self._found(message.space, message.epoch)
        self._session.check_new(message.request)
        if held.space.crowded:
            self._session.spawn(message.request, self._drained, message.request, held)
        else:
            self._session.done(message.request)

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
