"""What is kept of a subscription until it has let go, or is proven stopped; also beyond its connection.

A subscription that was fenced is asked to stop (`RunFence`), once at a time for
all who need the proof.  What proves it otherwise, and earlier perhaps, ends that.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio

from ...bus.abc import Stops
from ...bus.attachment import State
from ...bus.logs import Lines
from ...bus.member import Member
from ...errors import ConnectionLost, IommubusError, StopUnproven
from ...transport.credentials import Peer, Process
from ...transport.tasks import Tasks
from ...wire.messages import Message
from ...wire.messages.subscribing import RunFence
from ..requests import Waiting
from .evidence import Evidence, verdict
from .keeping import Keeping


class Holder(Protocol):
    """A connection, to those who have to know what its client may still use.

    Attributes:
        name: What its client calls itself.
        peer: Who is at the other end.
        process: Its process; `None` if that cannot be seen.
        open: Whether the client was let in, and is not lost.
        lease_end: When its lease runs out, by the clock of the daemon.
    """

    name: str
    peer: Peer
    process: Process | None
    open: bool
    lease_end: float

    async def ask(self, make: Callable[[int], Message], /) -> Message:
        """Ask the client something; raises `ConnectionLost`, or what it refused it with."""
        ...

    def close(self, reason: str, /) -> None:
        """Close it; its client is lost at once."""
        ...


class Means(Protocol):
    """What a watch needs of its surroundings.

    Attributes:
        tasks: Where it asks.
        lines: Where it is logged what it had to do.
    """

    tasks: Tasks
    lines: Lines

    def may_kill(self, peer: Peer, /) -> bool:
        """Say whether a rule lets the daemon kill the process of a peer."""
        ...


class Holding:
    """What one connection holds, until all of it is let go, or proven to be.

    Args:
        holder: The connection.
        process: Its process, which somebody watches; `None` if it cannot be seen.

    Attributes:
        holder, process: The same.
        watches: Its subscriptions.
        lost: Set once its connection is gone.
        lease_over: Set once its lease has run out after that.
        ended: Whether its process has ended.
        inherited: Whether its connection was still there then.
        waiting: Ends the watch of its process.
    """

    def __init__(self, holder: Holder, process: Process | None) -> None:
        self.holder = holder
        self.process = process
        self.watches: dict[int, Watch] = {}
        self.lost = asyncio.Event()
        self.lease_over = asyncio.Event()
        self.ended = False
        self.inherited = False
        self.waiting = Waiting()

    def look(self) -> None:
        """Look at everybody again: something became known."""
        for watch in list(self.watches.values()):
            watch.look()


class Attempt:
    """One attempt to stop a subscription, for all who wait for it.

    Attributes:
        waiting: Ends it.
        over: Set at its end.
        failure: Why it proved nothing, if it did not.
    """

    def __init__(self) -> None:
        self.waiting = Waiting()
        self.over = asyncio.Event()
        self.failure: Exception | None = None


class Watch:
    """One subscription, until it has let go or is proven stopped.

    Args:
        number: Its number.
        name: Its name in reports.
        stops: How it is proven stopped.
        has_on_fence: Whether its client can stop it.
        holder: Number of another process that keeps what it is given; 0 for none.

    Attributes:
        number, name, stops, has_on_fence, holder: The same.
        keeping: That process, if it had not ended at the beginning.
        uses: How many translations are in use, as its client said last.
        member: What the bus keeps of it.
    """

    member: Member

    def __init__(self, number: int, name: str, stops: Stops, *, has_on_fence: bool, holder: int = 0) -> None:
        self.number = number
        self.name = name
        self.stops: Stops = stops
        self.has_on_fence = has_on_fence
        self.holder = holder
        self.keeping: Keeping | None = None
        self.uses = 0
        self._fenced = False
        self._attempt: Attempt | None = None

    def enter(self, holding: Holding, means: Means, on_over: Callable[["Watch"], None]) -> None:
        """Begin.

        Args:
            holding: That of its connection.
            means: What it needs.
            on_over: Called once it is gone.
        """
        self._holding = holding
        self._means = means
        self._on_over = on_over

    @property
    def holding(self) -> Holding:
        """What its connection holds."""
        return self._holding

    @property
    def peer(self) -> Peer:
        """Who has it."""
        return self._holding.holder.peer

    # -- what becomes known -----------------------------------------------------------

    def look(self) -> None:
        """See whether it is proven stopped, or has let go."""
        member = self.member
        if member.state is State.UNPROVEN and (proof := verdict(self.stops, self._evidence)):
            member.stop(proof)
        if member.state is State.GONE:
            self._end()

    def using(self, uses: int) -> None:
        """Take what its client says of how many translations are in use."""
        self.uses = uses
        self.look()

    def fenced(self, *, by_client: bool) -> None:
        """Take it that it was fenced.

        Args:
            by_client: Whether its client did that, so that nothing new is used already.
        """
        self._fenced = self._fenced or by_client
        self.look()
        if self.member.state is State.UNPROVEN and self.stops == "lease" and self._holding.holder.open:
            self._begin()  # it costs nothing, and until it is proven what was removed has to be remembered

    # -- making it known --------------------------------------------------------------

    async def prove(self) -> None:
        """Return once it is stopped; the bus runs this where it needs a proof.

        Raises:
            StopUnproven: Nothing that may be done proves it.
            Exception: What its client could not stop it for.
        """
        attempt = self._begin()
        if self.stops == "lease" and self.uses and not attempt.over.is_set():
            raise self._unproven(f"{self.uses} translations are in use")  # a `sync` waits for their end, nobody else
        await attempt.over.wait()
        if attempt.failure is not None:
            raise attempt.failure

    # -- inside ------------------------------------------------------------------

    @property
    def _evidence(self) -> Evidence:
        holding = self._holding
        return Evidence(
            seen=holding.process is not None and not holding.ended,
            ended=holding.ended,
            inherited=holding.inherited,
            lost=holding.lost.is_set(),
            lease_over=holding.lease_over.is_set(),
            fenced=self._fenced,
            uses=self.uses,
            kept=self._kept_by is not None,
        )

    @property
    def _kept_by(self) -> Process | None:
        """The process that keeps what it was given, as long as that has not ended."""
        return None if self.keeping is None or self.keeping.ended else self.keeping.process

    def _end(self) -> None:
        if self._attempt is not None:
            self._attempt.waiting.cancel()
            self._attempt.over.set()
        self._on_over(self)

    def _begin(self) -> Attempt:
        if self._attempt is None or self._attempt.over.is_set():
            self._attempt = Attempt()
            self._means.tasks.start_soon(self._try, self._attempt)
        return self._attempt

    async def _try(self, attempt: Attempt) -> None:
        try:
            with attempt.waiting.begin():
                await self._stop()
                self.member.stop("its client has stopped it")
                self.look()
        except Exception as failure:  # noqa: BLE001 - it goes to whoever needs the proof
            attempt.failure = failure
        finally:
            attempt.over.set()

    async def _stop(self) -> None:
        """Return once its client has stopped it; wait for what proves it otherwise as long as there is hope."""
        refusal = await self._ask()
        if refusal is None:
            return
        if self.stops == "lease":
            if self._holding.holder.open:
                raise refusal
            await self._holding.lease_over.wait()
        self._kill(refusal)
        await anyio.sleep_forever()  # until its end is seen

    async def _ask(self) -> Exception | None:
        """Have its client stop it; return why that did not help, if it did not."""
        holder = self._holding.holder
        if self.stops == "exit" and not self.has_on_fence:
            return self._unproven("it has no on_fence")
        if not holder.open:
            return self._unproven("its connection is lost")
        try:
            await holder.ask(lambda request: RunFence(request, self.number))
        except ConnectionLost as failure:
            return self._unproven(str(failure))
        except (IommubusError, OSError) as failure:  # what its client could not stop it for
            return failure
        return None

    def _kill(self, refusal: Exception) -> None:
        """Kill its process, if a rule allows that; else raise why it is not stopped."""
        holding, means = self._holding, self._means
        if holding.process is None or holding.ended or not means.may_kill(holding.holder.peer):
            raise refusal
        try:
            holding.process.kill()
        except PermissionError as failure:
            raise self._unproven(f"{refusal}, and the daemon may not kill it: {failure}") from refusal
        means.lines.warn("kill", self.name, f"killed process {holding.process.pid}, as a rule says: {refusal}")

    def _unproven(self, reason: str) -> StopUnproven:
        pid = self._holding.process.pid if self._holding.process is not None else 0
        if (keeper := self._kept_by) is None:
            return StopUnproven(self.name, pid, reason)
        if self._holding.ended:
            return StopUnproven(self.name, keeper.pid, f"its own, {pid}, has, and this one keeps what it was given")
        return StopUnproven(self.name, pid, f"{reason}; nor before {keeper.pid} has, which keeps what it was given")
