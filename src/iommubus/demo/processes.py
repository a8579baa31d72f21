"""The house in which the daemon and every consumer have a process of their own.

The player's process is the producer.  What a consumer holds is looked at in memory
that both processes have (see `board`); what else is to be known it is asked for over
a pipe, and nothing is published meanwhile.  Such an answer proves how things are when
it is given, which may be later than when the `sync` returned.  So only what is no
matter of a moment is asked for: counters, the table that is kept beside the pages,
and misses.

A process ends when its stream does, or when its pipe does, and that is closed by
the kernel whatever becomes of the player.  If one ends before it should, the play is
over at once, and says so.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any, Final, NoReturn, TypeVar

import anyio
from anyio import CancelScope
from anyio.abc import Process, TaskGroup
from msgspec import Struct, structs

from ..bus.space import LocalSpace
from ..caps import Cap
from ..client.channel import Channel
from ..client.remote import RemoteBus, connect
from ..client.spaces import RemoteSpace
from ..errors import Disconnected
from ..mapping import Mapping as BusMapping
from ..wire.messages.queries import ListSubscribers, SubscriberInfo, Subscribers
from .board import Reader, make_board
from .house import House, Unopened
from .pages import Target
from .pipe import QUESTIONS, Consume, Ended, Failed, Order, Pipe, Question, Serve, Started
from .result import Lag, Received
from .subscribers import Keeper

PROGRAM: Final = "iommubus.demo.process"

ANSWER_TIMEOUT: Final = 30.0
"""Seconds within which the daemon answers; a busy machine is no failure."""

END_TIMEOUT: Final = 15.0
"""Seconds within which a process ends by itself: a daemon that stops waits ten for its clients."""


DAEMON: Final = "the daemon"

T = TypeVar("T")


class Member(Struct, frozen=True, eq=False):
    """One process, as the player's sees it.

    Attributes:
        name: What it is.
        process: The process.
        pipe: To it.
        follows: Whether it follows streams of the player's bus, and ends with those.
    """

    name: str
    process: Process
    pipe: Pipe
    follows: bool

    async def ask(self, name: str, *arguments: int) -> Any:
        """Ask one of `QUESTIONS`, and return the answer; where there is none, wait to be cancelled."""
        with suppress(Ended):
            await self.pipe.send(Question(name, list(arguments)))
            return await self.pipe.receive(QUESTIONS[name])

        return await never()

    async def end(self) -> None:
        """Have it end, and see to it."""
        await self.pipe.close()
        with anyio.move_on_after(END_TIMEOUT):
            await self.process.wait()
            return

        self.process.kill()
        await self.process.wait()


class Resident:
    """A consumer in a process of its own, as the player sees it.

    Args:
        member: Its process.
        reader: Of its board.
        processes: The house.
    """

    def __init__(self, member: Member, reader: Reader, processes: "Processes") -> None:
        self.name = member.name
        self._member = member
        self._reader = reader
        self._processes = processes

    @property
    def targets(self) -> Mapping[int, Target]:
        """What it holds at this moment, page by page: read without asking it."""
        return self._reader.read()

    async def received(self) -> Received:
        """Return its counters; of its mailbox, those of the daemon."""
        received: Received = await self._member.ask("received")
        if received.conflations is None:
            return received

        found = await self._processes.subscribers()
        for one in found:
            if one.endpoints == [received.space] and one.name == received.subscriber:
                counters = one.counters
                return structs.replace(received, lag=counters.lag, conflations=counters.conflations)

        return received

    async def table(self) -> Mapping[int, Target]:
        """Return the pages of the table that it keeps beside those it is judged by, when it answers."""
        table: Mapping[int, Target] = await self._member.ask("table")
        return table

    async def miss(self, iova: int) -> BusMapping | None:
        """Have it ask where an address leads, and keep the answer."""
        found: BusMapping | None = await self._member.ask("miss", iova)
        return found

    async def open_gate(self) -> None:
        """Let it take what waits, and what comes."""
        await self._member.ask("open_gate")

    async def shut_gate(self) -> None:
        """Let it take nothing any more."""
        await self._member.ask("shut_gate")


class Processes(House):
    """The house in which everybody has a process.

    Args:
        loop: The event loop that they run on, one of `LOOPS`.
        tasks: Where they are watched.
    """

    _remote: RemoteBus

    def __init__(self, loop: str, tasks: TaskGroup) -> None:
        self.losses = []
        self.address = ""
        self.scope = CancelScope()
        self._loop = loop
        self._tasks = tasks
        self._members: list[Member] = []
        self._spaces: list[RemoteSpace] = []
        self._others = 2  # the player, and a daemon of somebody else's
        self._closing = False
        self._taken_in = 0  # events that the daemon is known to have taken in

    # -- the daemon ------------------------------------------------------------------

    async def start_daemon(self, folder: str) -> None:
        """Start a daemon that listens in a folder."""
        self._others = 1
        self.slow_overflows = True
        self.address = f"unix:{folder}/bus.sock"
        await self._begin(DAEMON, Serve(self.address))

    async def join_daemon(self, address: str) -> None:
        """Play on a daemon that there is, whose limits are its own."""
        self.slow_overflows = False
        self.address = address

    def use(self, bus: RemoteBus) -> None:
        """Publish there."""
        self.bus = self._remote = bus

    # -- for the player ----------------------------------------------------------------

    @property
    def processes(self) -> int:
        """How many processes take part."""
        return self._others + len(self._members)

    async def create_space(self, name: str, granule: int, offers: Cap) -> LocalSpace:
        """Make a space whose mappings may be cut."""
        space = await self._remote.create_space(name, granule=granule, offers=offers, straddle="split")
        self._spaces.append(space)
        return space

    async def wait_published(self) -> None:
        """Wait until the daemon has taken in all that was published.

        A consumer's question comes to it over another connection, and could be faster.
        """
        published = sum(space.seq for space in self._spaces)
        if published != self._taken_in:
            await self._ask(Channel.ping)
            self._taken_in = published

    async def lags(self) -> list[Lag]:
        """Return how far each subscriber is behind in the daemon."""
        return [
            Lag(one.space, one.name, one.counters.lag, one.counters.conflations) for one in await self.subscribers()
        ]

    async def close(self) -> None:
        """Close the bus: the others have nothing to do any more."""
        self._closing = True
        await self.bus.close()

    async def wait_ended(self) -> None:
        """Wait until all who follow spaces have ended, as they do when those are closed; an observer would go on."""
        for member in self._members:
            if member.follows:
                with anyio.move_on_after(END_TIMEOUT) as waiting:
                    await member.process.wait()
                if waiting.cancelled_caught:
                    self._lose(f"the process of {member.name} did not end with its stream")

    async def end(self) -> None:
        """End every process: the daemon, which came first, last."""
        self._closing = True
        for member in reversed(self._members):
            await member.end()

    async def subscribers(self) -> list[SubscriberInfo]:
        """Return what the daemon says of those who see the spaces."""
        names = [space.name for space in self._spaces]
        parts = await self._ask(lambda channel: channel.request_all(lambda number: ListSubscribers(number, names)))
        return [one for part in parts if isinstance(part, Subscribers) for one in part.subscribers]

    # -- inside ------------------------------------------------------------------------

    async def _ask(self, ask: Callable[[Channel], Awaitable[T]]) -> T:
        """Ask the daemon behind all that was published."""
        with anyio.move_on_after(ANSWER_TIMEOUT):
            while True:
                channels = [await space.link.flushed() for space in self._spaces]
                with suppress(Disconnected):
                    return await ask(channels[-1])

        self._lose(f"the daemon did not answer within {ANSWER_TIMEOUT:g} s")
        return await never()

    async def _start(self, kind: type[Any], *arguments: str | int) -> Any:
        board = make_board()
        try:
            reader = Reader(board)
            order = Consume(self.address, kind.__module__, kind.__qualname__, list(arguments))
            member = await self._begin(_called(kind, arguments), order, board, follows=issubclass(kind, Keeper))
        finally:
            os.close(board)

        return Resident(member, reader, self)

    async def _begin(self, name: str, order: Order, *descriptors: int, follows: bool = False) -> Member:
        """Start a process, and wait until it is what it is to be."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await self._open(theirs.fileno(), *descriptors)
        member = Member(name, process, await Pipe.over(ours), follows)
        self._members.append(member)
        self._tasks.start_soon(self._watch, member)
        with suppress(Ended):
            await member.pipe.send(order)
            said: Started | Failed = await member.pipe.receive(Started | Failed)
            if isinstance(said, Started):
                return member

            self._lose(f"{name}: {said.reason}")

        return await never()

    async def _open(self, *descriptors: int) -> Process:
        """Start a process that an interrupt of the terminal does not reach, and that imports what this one does."""
        return await anyio.open_process(
            [sys.executable, "-m", PROGRAM, self._loop, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None,
            pass_fds=descriptors,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    async def _watch(self, member: Member) -> None:
        status = await member.process.wait()
        if status or not self._closing:
            self._lose(f"the process of {member.name} {how_it_ended(status)}")

    def _lose(self, reason: str) -> None:
        """Have the play end: it cannot go on without whom it has lost."""
        if not self.losses:
            self.losses.append(reason)
        self.scope.cancel()


async def never() -> NoReturn:
    """Wait to be cancelled: somebody is lost, and whoever watches for that is about to do so."""
    await anyio.sleep_forever()
    raise AssertionError


def how_it_ended(status: int) -> str:
    """Return what the status of a process says."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"

    return f"ended with exit status {status}"


def _called(kind: type[Any], arguments: Collection[str | int]) -> str:
    name: str = kind(*arguments).name
    return name


@asynccontextmanager
async def own_processes(address: str | None, loop: str) -> AsyncGenerator[House, None]:
    """Open a house in which everybody has a process.

    Args:
        address: Of a daemon that runs already; by default one is started, and ended.
        loop: The event loop that they run on, one of `LOOPS`.

    Raises:
        Unopened: The daemon could not be started.
        IommubusError: It cannot be reached, or refuses; why.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="iommubus-demo-"))
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        stack.push_async_callback(tasks.__aexit__, None, None, None)  # told of an error, it would wrap it into a group
        house, opened = Processes(loop, tasks), False
        try:
            with house.scope:
                if address is None:
                    await house.start_daemon(folder)
                else:
                    await house.join_daemon(address)

                async with connect(house.address, name="demo") as bus:
                    house.use(bus)
                    opened = True
                    yield house
                    await house.wait_ended()
        finally:
            with CancelScope(shield=True):
                await house.end()

        if not opened:
            raise Unopened(house.losses[0])
