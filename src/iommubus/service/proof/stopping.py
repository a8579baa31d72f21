"""What proves subscribers stopped: their leases, the ends of their processes, their fences.

A connection that is lost leaves its subscriptions here until each of them is
proven stopped, came back, or had nothing.  One timer waits for the next lease that
runs out, one task for the end of each process.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import anyio

from ...bus.logs import Lines
from ...errors import ExitRefused, IommubusError, NoCredentials
from ...transport.clock import Clock, boot_clock
from ...transport.credentials import Peer, Process
from ...transport.tasks import Tasks
from .keeping import Keeping, Keepings
from .leases import ExitMember, Leases
from .record import Granted, Record
from .recorder import InThread, Recorder
from .recovering import GRAIN, Recovering
from .watch import Holder, Holding, Watch

LAST_WORDS: Final = 0.05
"""Seconds between the end of a process and that of its connection: the system ends
both at once, and tells of them in any order.  Where the connection stays longer,
another process has it."""


def nobody(peer: Peer) -> bool:
    """Stand in for rules: nobody may be killed."""
    del peer
    return False


class Proof:
    """What is kept of subscriptions that may have to be proven stopped.

    Args:
        clock: Tells seconds for leases.
        lines: Where it is logged what happens.
        record: What outlives the daemon; `None` where none follows.
        may_kill: Says whether a rule lets the daemon kill the process of a peer.
        in_thread: Runs what waits for the disk.

    Attributes:
        tasks: Where it waits, from `begin` on.
        lines, may_kill: The same.
        names: Those of all subscriptions that are watched.
    """

    tasks: Tasks

    def __init__(
        self,
        clock: Clock = boot_clock,
        lines: Lines | None = None,
        *,
        record: Record | None = None,
        may_kill: Callable[[Peer], bool] = nobody,
        in_thread: InThread = anyio.to_thread.run_sync,
    ) -> None:
        self.lines = lines or Lines(clock)
        self.may_kill = may_kill
        self._clock = clock
        self._recorder = Recorder(record, self.lines, in_thread)
        before = record.before if record is not None else Granted("")
        self._recovering = Recovering(before, clock, self._recorder, self.lines)
        self._holdings: dict[Holder, Holding] = {}
        self._lost: dict[Holding, Peer] = {}
        self._watches: dict[int, Watch] = {}
        self.names: set[str] = set()
        self._keepings = Keepings()
        self._leases = Leases[Holding]()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, tasks: Tasks) -> None:
        """Wait for processes and for the disk in these tasks from now on."""
        self.tasks = tasks
        self._recorder.begin(tasks)
        self._recovering.begin(tasks)

    async def close(self) -> None:
        """Write what is left to be written; the tasks have ended."""
        if self._timer is not None:
            self._timer.cancel()
        for holding in [*self._holdings.values(), *self._lost]:
            if holding.process is not None:  # a task that was ended before it began has not done that
                holding.process.close()
        self._keepings.close()
        await self._recorder.close()

    # -- after a restart -----------------------------------------------------------------

    async def wait_recovered(self) -> None:
        """Wait until nothing of before the restart stands in the way of a `sync`."""
        await self._recovering.wait()

    @property
    def recovered(self) -> bool:
        """Whether nothing of before a restart is in use, so that `reasons` has none."""
        return self._recovering.over

    def reasons(self, now: float) -> list[str]:
        """Return what stands in the way, in words; nothing if it is over."""
        return self._recovering.reasons(now)

    def health(self, now: float) -> list[str]:
        """Return what is wrong: what stands in the way of a `sync`, and why nobody new is confirmed."""
        failure = self._recorder.failure
        return self.reasons(now) + ([] if failure is None else [str(failure)])

    # -- subscriptions -------------------------------------------------------------------

    def watch(self, holder: Holder, watch: Watch) -> None:
        """Begin to watch a subscription of a connection that is open.

        Raises:
            ExitRefused: It is to be proven stopped by the end of a process that cannot be seen.
            LimitReached: Its peer has named too many processes that keep what it is given.
            OSError: There is no descriptor left to watch its process.
        """
        if watch.stops == "exit" and holder.process is None:
            raise ExitRefused(watch.name, "it cannot be seen from here; only one that connects by a Unix socket can")
        holding = self._holdings.get(holder) or self._hold(holder)
        try:
            watch.keeping = self._keeping(holder, watch)
        except (IommubusError, OSError):
            if not holding.watches:
                self._drop(holding)
            raise
        watch.enter(holding, self, self._over)
        holding.watches[watch.number] = watch
        self._watches[watch.number] = watch
        self.names.add(watch.name)

    async def grant(self, watch: Watch, seconds: float) -> None:
        """Return once the disk has taken what it has to before a subscription is confirmed.

        Args:
            watch: The subscription.
            seconds: How long its lease is, if it has one.

        Raises:
            LeasesUnwritable: It does not, so it must not be confirmed.
        """
        if watch.stops == "lease":
            await self._recorder.grant(seconds)
        else:
            await self._recorder.probe()

    async def remember(self, watch: Watch) -> None:
        """Return once the record names a subscription that is about to be handed something.

        Its client has to know its number by then: it could not come back for it
        otherwise, and its process would be waited for until it ends.

        Raises:
            LeasesUnwritable: It does not, so nothing must be handed over.
        """
        member = member_of(watch)
        if member is not None and watch.number in self._watches:  # else another has taken its place already
            await self._recorder.add(member)

    async def forgotten(self, watch: Watch) -> None:
        """Return once the record does not name a subscription any more that has let go.

        Raises:
            LeasesUnwritable: It does.
        """
        member = member_of(watch)
        if member is not None:
            await self._recorder.forgotten(member)

    def forget(self, watch: Watch) -> None:
        """Watch a subscription no longer: it was not confirmed."""
        self._over(watch)

    def lost(self, holder: Holder) -> None:
        """Take it that a connection is gone: its lease runs out, and its subscriptions are in nobody's hands."""
        holding = self._holdings.pop(holder, None)
        if holding is None:
            return
        now = self._clock()
        self._lost[holding] = holder.peer
        holding.lost.set()
        self._leases.grant(holding, holder.lease_end - now, now)
        holding.look()
        self._arm()

    def replace(self, holder: Holder, number: int) -> None:
        """Take it that a client is back, and has dropped everything that a subscription of its had.

        Nobody but who had that subscription is believed: the same peer, as far as
        peers can be told apart, and of before a restart the same process.
        """
        watch = self._watches.get(number)
        if watch is None:
            self._recovering.back(number, holder.process)
        elif watch.peer == holder.peer:
            watch.member.leave()
            watch.look()

    @property
    def watches(self) -> Collection[Watch]:
        """All subscriptions that are watched, also those whose connection is lost."""
        return self._watches.values()

    def watch_of(self, holder: Holder, number: int) -> Watch | None:
        """Return what is kept of a subscription, if it is one of this connection."""
        watch = self._watches.get(number)
        return watch if watch is not None and watch.holding.holder is holder else None

    def of_peer(self, holder: Holder) -> list[Watch]:
        """Return the subscriptions of a connection, and lost ones of its peer that are not proven stopped."""
        holdings = [holding for holding, peer in self._lost.items() if peer == holder.peer]
        if holder in self._holdings:
            holdings.append(self._holdings[holder])
        return [watch for holding in holdings for watch in holding.watches.values()]

    def count(self, holder: Holder) -> int:
        """Return how many those are."""
        return len(self.of_peer(holder))

    # -- inside ------------------------------------------------------------------

    def _hold(self, holder: Holder) -> Holding:
        process = holder.process.another() if holder.process is not None else None
        holding = self._holdings[holder] = Holding(holder, process)
        if process is not None:
            self.tasks.start_soon(self._await_end, holding, process)
        return holding

    def _keeping(self, holder: Holder, watch: Watch) -> Keeping | None:
        """Return the process that keeps what a subscription is given; `None` if there is none, or it has ended.

        Raises:
            ExitRefused, LimitReached, OSError: As `watch`.
        """
        if not watch.holder or holder.process is None:
            return None
        others = {each.keeping for each in self.of_peer(holder) if each.keeping is not None}
        try:
            return self._keepings.take(watch.holder, holder.process.pid, watch, others, self.tasks)
        except NoCredentials as failure:
            raise ExitRefused(watch.name, str(failure)) from failure

    def _over(self, watch: Watch) -> None:
        if self._watches.pop(watch.number, None) is None:
            return
        self.names.discard(watch.name)
        holding = watch.holding
        del holding.watches[watch.number]
        if watch.keeping is not None:
            self._keepings.part(watch.keeping, watch)
        member = member_of(watch)
        if member is not None:
            self._recorder.forget(member)
        if not holding.watches:
            self._drop(holding)

    def _drop(self, holding: Holding) -> None:
        """Forget a connection that holds nothing any more."""
        holding.waiting.cancel()
        self._leases.drop(holding)
        self._lost.pop(holding, None)
        if self._holdings.get(holding.holder) is holding:
            del self._holdings[holding.holder]

    async def _await_end(self, holding: Holding, process: Process) -> None:
        with process, holding.waiting.begin():
            await process.wait_exit()
            with anyio.move_on_after(LAST_WORDS):
                await holding.lost.wait()
            holding.ended = True
            holding.inherited = not holding.lost.is_set()
            if holding.inherited:
                holding.holder.close(f"process {process.pid}, which connected, has ended")
            holding.look()

    # -- the timer ---------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        end = self._leases.next_end()
        if end is not None:
            delay = max(end - self._clock(), 0.0) + GRAIN
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        for holding in self._leases.expire(self._clock()):
            holding.lease_over.set()
            holding.look()
        self._arm()


def member_of(watch: Watch) -> ExitMember | None:
    """Return what the record says of a subscription; `None` if it is proven by a lease."""
    process = watch.holding.process
    if watch.stops == "lease" or process is None:
        return None
    if watch.keeping is None:
        return ExitMember(process.pid, process.start, str(watch.number))
    kept = watch.keeping.process
    return ExitMember(process.pid, process.start, str(watch.number), kept.pid, kept.start)
