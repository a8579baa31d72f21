"""What the clients of all peers have in common: numbers, acknowledgements, pacing.

No peer tells a publisher that everybody has applied what was sent, so subscribers
answer over the peer itself: to every event of a round trip, and else just often
enough that a publisher knows how much is on its way, where the peer would lose
events, or take up any amount of memory, if nobody held the publisher back.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from .check import Acks, Check, Take, finished
from .events import HELLO, Change, encode, messages
from .subject import Follower, Publisher, Subject

ACKS: Final = 4
"""Acknowledgements while as much is on its way as may be."""

BURST: Final = 256
"""Events published before the event loop has its turn."""

AHEAD: Final = 4096
"""Messages that may be on their way where nothing else holds a publisher back: as
many as the events that a mailbox of iommubus takes."""

AGAIN: Final = 0.05
"""Seconds after which is asked again who is there."""


Until = Callable[[Callable[[], bool]], Awaitable[None]]
"""Waits for a condition."""


class Channel(StrEnum):
    """What messages are about."""

    EVENTS = "events"
    ACKS = "acks"
    NOTHING = "nothing"


class Client(ABC):
    """One connection to a peer's server."""

    @abstractmethod
    async def send(self, payloads: Iterable[bytes]) -> None:
        """Send one message for each, and return when the next may be sent, as far as the peer says so."""

    def pump(self, seconds: float) -> bool:
        """Receive what there is, and wait for it so long; for clients that have no event loop.

        Returns:
            Whether there was any.
        """
        raise NotImplementedError


class Signal:
    """Wakes who waits for something that comes in by callbacks.

    Args:
        threads: Whether they come from other threads.
    """

    def __init__(self, *, threads: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Have who waits look again."""
        if self._threads:
            self._loop.call_soon_threadsafe(self._wake)
        else:
            self._wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        while not condition():
            self._waiter = self._loop.create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Peer(Subject):
    """A subject whose clients send and receive bytes.

    Attributes:
        threads: Whether messages arrive in threads of the client's own.
        blocking: Whether it has clients without an event loop, which are to be pumped.
    """

    threads = False
    blocking = False

    def ahead(self, batch: int) -> int:  # noqa: ARG002 - for others it matters
        """Return how many messages may be on their way."""
        return AHEAD

    @abstractmethod
    def client(self, place: Path, receives: Channel, sends: Channel, take: Take) -> AbstractAsyncContextManager[Client]:
        """Connect; what ``take`` returns for a message that arrived is sent as the answer."""

    @asynccontextmanager
    async def publisher(self, place: Path) -> AsyncGenerator[Publisher]:
        """Connect the publisher, which receives acknowledgements."""
        signal = Signal(threads=self.threads)
        acks = Acks(signal.set)
        async with self.client(place, Channel.ACKS, Channel.EVENTS, acks.take) as client:
            yield PeerPublisher(client, acks, self._until(client, signal), self.ahead)

    @asynccontextmanager
    async def subscriber(self, place: Path, number: int, *, matching: bool) -> AsyncGenerator[Follower]:
        """Connect a subscriber, which sends acknowledgements."""
        receives = Channel.EVENTS if matching else Channel.NOTHING
        signal = Signal(threads=self.threads)
        check = Check(number, signal.set)
        async with (
            self.client(place, receives, Channel.ACKS, check.take) as client,
            pumped(client) if self.blocking else nullcontext(),
        ):
            yield PeerFollower(check, self._until(client, signal))

    def _until(self, client: Client, signal: Signal) -> Until:
        return Pumping(client).until if self.blocking else signal.until


@asynccontextmanager
async def pumped(client: Client) -> AsyncGenerator[None]:
    """Receive now and then while nobody waits: a subscriber is asked whether it is there."""

    async def pump() -> None:
        while True:
            client.pump(0)
            await asyncio.sleep(AGAIN)

    task = asyncio.create_task(pump())
    yield
    task.cancel()


class Pumping:
    """Waits by receiving, where no event loop does."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def until(self, condition: Callable[[], bool]) -> None:
        """Receive until a condition holds."""
        while not condition():
            if not self._client.pump(AGAIN):
                await asyncio.sleep(0)


class PeerPublisher:
    """The publisher of a peer.

    Args:
        client: Its connection.
        acks: What was acknowledged.
        until: Waits for a condition.
        ahead: Says how many messages of so many events may be on their way; 0 for any number.
    """

    def __init__(self, client: Client, acks: Acks, until: Until, ahead: Callable[[int], int]) -> None:
        self._client = client
        self._acks = acks
        self._until = until
        self._ahead = ahead
        self._seq = 0

    async def meet(self, subscribers: int) -> None:
        """Ask who is there until everybody has answered."""
        self._acks.count(subscribers)
        while not self._acks.reached(0):
            await self._client.send((encode(HELLO),))
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await self._until(lambda: self._acks.reached(0))

    async def publish(self, changes: Sequence[Change], batch: int) -> None:
        """Publish burst by burst."""
        ahead = self._ahead(batch) * batch
        length = min(BURST, ahead // ACKS) or BURST
        for start in range(0, len(changes), length):
            burst = changes[start : start + length]
            if ahead:
                await self._acked(self._seq + len(burst) - ahead)
            await self._client.send(messages(self._seq + 1, burst, batch))
            self._seq += len(burst)

    async def settle(self) -> None:
        """Wait for the acknowledgements of all."""
        await self._acked(self._seq)

    async def _acked(self, seq: int) -> None:
        if not self._acks.reached(seq):
            await self._until(lambda: self._acks.reached(seq))


class PeerFollower:
    """The subscriber of a peer.

    Args:
        check: Sees everything that it gets.
        until: Waits for a condition.

    Attributes:
        checks: The check alone.
    """

    def __init__(self, check: Check, until: Until) -> None:
        self.checks = [check]
        self._until = until

    async def wait(self) -> None:
        """Wait until the check is done, or has found a fault."""
        await self._until(lambda: finished(self.checks))
