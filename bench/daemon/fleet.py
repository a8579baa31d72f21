"""A server, a publisher and subscribers: all processes of one subject, and what can be measured of them."""

import asyncio
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from .check import Disorder, Run
from .events import Script
from .peer import ACKS
from .processes import cpu_seconds, memory, pin
from .servers import start, stop
from .subject import Subject
from .words import (
    Answer,
    Create,
    Expect,
    Failed,
    Join,
    Meet,
    Order,
    Pace,
    Pipe,
    Publish,
    Published,
    Rounds,
    Seen,
    Times,
)

PATIENCE: Final = 60.0
"""Seconds after which what did not arrive is lost; a run takes one or so."""

PUBLISHER: Final = "publisher"
SUBSCRIBER: Final = "subscriber"
ROLES: Final = ("publisher", "server", "subscriber")
"""Whose processor time is told apart."""


class Throughput(Struct, frozen=True):
    """What publishing took.

    Attributes:
        events: How many there were.
        seconds: From before the first was published to when the last subscriber had seen the last.
        cpu: Processor time by role, in seconds; that of one subscriber.
    """

    events: int
    seconds: float
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    def cpu_each(self, role: str) -> float:
        """Return the microseconds of processor time that an event takes."""
        return 1e6 * self.cpu[role] / self.events


class Member:
    """One process that does what it is told.

    Args:
        process: It.
        pipe: To it.
        who: What it is, for people.
    """

    def __init__(self, process: Process, pipe: Pipe, who: str) -> None:
        self.process = process
        self._pipe = pipe
        self._who = who

    async def tell(self, order: Order) -> Answer:
        """Have something done, and return the answer; raises as `hear`."""
        await self._pipe.send(order)
        return await self.hear()

    async def hear(self) -> Answer:
        """Return what it says next.

        Raises:
            Disorder: Something was lost, or came out of order, or the process failed.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                answer: Answer = await self._pipe.receive(Answer)
        except TimeoutError:
            raise Disorder(f"{self._who} has waited {PATIENCE:g} s: something was lost") from None
        except (EOFError, ConnectionError):
            raise Disorder(f"the process of {self._who} has ended") from None
        if isinstance(answer, Failed):
            raise Disorder(f"{self._who}: {answer.reason}")
        return answer


class Fleet:
    """All processes of one subject.

    Args:
        subject: What they are of.
        key: What it is called on command lines.
        place: Their directory.
        server: The server's process.
        stack: Ends them.
    """

    def __init__(self, subject: Subject, key: str, place: Path, server: Process, stack: AsyncExitStack) -> None:
        self.subject = subject
        self._key = key
        self._place = place
        self._server = server
        self._stack = stack
        self._publisher: Member
        self._subscribers: list[Member] = []  # those who want what is published
        self._others: list[Member] = []  # those who do not
        self._joined = 0
        self._matching = 0
        self._published = 0  # in each space

    # -- making ------------------------------------------------------------------

    async def begin(self, subscribers: int) -> None:
        """Start the publisher, and subscribers in a process each."""
        self._publisher = await self._start(PUBLISHER)
        await asyncio.gather(*(self.add(1) for _ in range(subscribers)))

    async def add(self, count: int, *, matching: bool = True) -> None:
        """Start a process of more subscribers."""
        join = Join(count, self._joined, matching)
        self._joined += count
        member = await self._start(SUBSCRIBER)
        (self._subscribers if matching else self._others).append(member)
        await member.tell(join)
        if matching:
            self._matching += count

    async def meet(self) -> None:
        """Wait until every subscriber gets what is published."""
        await self._publisher.tell(Meet(self._matching))

    async def create(self, spaces: int) -> None:
        """Have so many spaces, and have every subscriber follow each."""
        for member in (self._publisher, *self._subscribers):
            await member.tell(Create(spaces))

    # -- measuring -----------------------------------------------------------------

    async def publish(self, script: Script, count: int, batch: int = 1) -> Throughput:
        """Publish, and wait until everybody has seen it."""
        return await self._measure(Publish(script, count, batch), count, batch)

    async def spread(self, each: int, spaces: int) -> Throughput:
        """Publish so much in each of the spaces."""
        measured = await self._measure(Publish("mixed", each, spread=True), each, 1)
        return Throughput(measured.events * spaces, measured.seconds, measured.cpu)

    async def rounds(self, count: int, each: int) -> list[float]:
        """Return the seconds that each of some round trips took."""
        await self.publish("map", count * each, 64)
        await self._expect(Run(self._published + 1, count * each, ack_every=each))
        answer = await self._publisher.tell(Rounds(count, each))
        assert isinstance(answer, Times)  # noqa: S101 - that is what answers
        await self._seen()
        self._published += count * each
        return answer.seconds

    async def latencies(self, count: int, interval: float) -> list[float]:
        """Return the seconds that each event took to each subscriber, published slowly."""
        await self._expect(Run(self._published + 1, count, ack_every=self._ack_every(1), stamps=True))
        answer = await self._publisher.tell(Pace(count, interval))
        assert isinstance(answer, Times)  # noqa: S101 - that is what answers
        seen = await self._seen()
        self._published += count
        return [at - sent for each in seen for sent, at in zip(answer.seconds, each.stamps, strict=True)]

    def pin(self, cpus: Iterable[int]) -> None:
        """Let all processes run on these CPUs alone."""
        allowed = set(cpus)
        for process in self._processes:
            pin(process.pid, allowed)

    def memory(self, role: str) -> int:
        """Return the bytes that the process of a role takes."""
        return memory((self._server if role == "server" else self._publisher.process).pid)

    # -- inside --------------------------------------------------------------------

    async def _measure(self, order: Publish, count: int, batch: int) -> Throughput:
        count += count % 2 if order.script in {"in order", "at random"} else 0
        before = self._cpu()
        await self._expect(Run(self._published + 1, count, batch, self._ack_every(batch)))
        answer = await self._publisher.tell(order)
        assert isinstance(answer, Published)  # noqa: S101 - that is what answers
        seen = await self._seen()
        after = self._cpu()
        self._published += answer.count
        spent = {role: after[role] - before[role] for role in ROLES}
        return Throughput(answer.count, max(each.at for each in seen) - answer.began, spent)

    def _ack_every(self, batch: int) -> int:
        """Return after how many events there is an acknowledgement, so that a publisher knows what is on its way."""
        return self.subject.ahead(batch) * batch // ACKS

    async def _expect(self, run: Run) -> None:
        await self._check_others()
        for member in self._subscribers:
            await member.tell(Expect(run))

    async def _seen(self) -> list[Seen]:
        answers = [await member.hear() for member in self._subscribers]
        await self._check_others()
        return [answer for answer in answers if isinstance(answer, Seen)]

    async def _check_others(self) -> None:
        """Check that who wants nothing has got nothing."""
        for member in self._others:
            await member.tell(Expect(Run(self._published + 1, 0)))
            await member.hear()

    @property
    def _processes(self) -> list[Process]:
        members = [self._publisher, *self._subscribers, *self._others]
        return [self._server, *(member.process for member in members)]

    def _cpu(self) -> dict[str, float]:
        each = [cpu_seconds(member.process.pid) for member in self._subscribers]
        spent = (cpu_seconds(self._publisher.process.pid), cpu_seconds(self._server.pid), sum(each) / len(each))
        return dict(zip(ROLES, spent, strict=True))

    async def _start(self, role: str) -> Member:
        """Start a process, and wait until it is there."""
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            command = [sys.executable, "-m", "bench.daemon.worker", role, self._key, str(self._place), str(end)]
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, pass_fds=(end,))
        self._stack.push_async_callback(stop, process)
        member = Member(process, await Pipe.over(ours), f"{self.subject.name}, {role}")
        await member.hear()
        return member


@asynccontextmanager
async def fleet(subject: Subject, key: str, subscribers: int) -> AsyncGenerator[Fleet]:
    """Start the processes of a subject, and end them.

    Raises:
        Missing, NoServer: Its server cannot be had, or does not come up.
        Disorder: A process failed.
    """
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iommubus-bench-")))
        server = await start(subject.server(place), place)
        stack.push_async_callback(stop, server)
        made = Fleet(subject, key, place, server, stack)
        await made.begin(subscribers)
        await made.meet()
        yield made
