"""A network card that takes all packets a guest sends and throws them away: for trying a bridge out.

It reaches the guest's memory as any cacher on the bus does, through a subscription of
its own.  What a guest would receive is not there: its receive rings are left alone.

Source: virtio 1.2, 5.1 "Network Device".
"""

import os
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from ...abi.vhost_user import Features
from ...bridging.dma import Dma, Miss
from ...bridging.telling import Notice, Tell, log
from ...bridging.vring import Vring
from ...bus.abc import EventBus
from ...caps import Cap
from ...consumers.iotlb import Iotlb
from ...errors import BadMemory, Fenced, LeaseRunOut, NoAnswer, RingBroken, TranslationFault, UnknownMemory, Unreachable
from .device import LiveRing

BURST: Final = 64
"""Packets that are taken in one turn of the loop: some two milliseconds' work."""

RETRY: Final = 0.1
"""Seconds before an access is tried again that nobody could answer: the front end, or the daemon, is away."""

HEADER: Final = 12
HEADER_BEFORE_1: Final = 10
"""Bytes of ``struct virtio_net_hdr`` before each packet, and what they were without VERSION_1."""


class SinkStatistics(NamedTuple):
    """Counters of a sink."""

    #: packets that were taken
    packets: int
    #: their bytes, without headers
    bytes: int
    #: translations that had to be asked for
    misses: int
    #: rings that were given up because of what their driver put into them
    broken: int


class Served:
    """A transmit ring that is being served.

    Args:
        live: The ring.
        dma: How its memory is reached.
    """

    def __init__(self, live: LiveRing, dma: Dma) -> None:
        self.live = live
        self.vring = Vring(live.ring, dma)
        self.header = HEADER if live.features & Features.VERSION_1 else HEADER_BEFORE_1
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()


class Sink:
    """The device; `run` does its work, and has to run before rings are started.

    Args:
        bus: The bus, embedded or remote.
        endpoint: What the device sees: the name of the bridge's space.
        tell: Is told of rings that are broken, and when one stops what it gave.
        name: How reports of the bus call it.
    """

    features = 0
    queues = 1
    rings = 2
    config = b""

    def __init__(self, bus: EventBus, endpoint: str, *, tell: Tell = log, name: str | None = None) -> None:
        self._subscription = bus.subscribe(endpoint, Cap.UNMAP, name=name)
        self._iotlb = Iotlb(self._subscription)
        self._dma = Dma(self._subscription, self._iotlb)
        self._tell = tell
        self._tasks: TaskGroup | None = None
        self._served: dict[int, Served] = {}
        self._bases: dict[int, int] = {}  # of rings that are left alone
        self._packets = self._bytes = self._misses = self._broken = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve rings until it is cancelled, or the stream of its subscription ends.

        Raises:
            Fenced: The subscription was fenced.
            SubscribeError, BusClosed: It cannot be had.
        """
        async with self._subscription:
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    task_status.started()
                    await self._iotlb.run()
                    tasks.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await self._subscription.close()  # nothing works on rings any more: all of it was dropped
                raise
            finally:
                self._tasks = None

    def write_config(self, offset: int, data: bytes) -> bool:  # noqa: ARG002 - there is none
        """Refuse it."""
        return False

    def ring_started(self, live: LiveRing) -> None:
        """Begin to serve a transmit ring; those have odd numbers."""
        if live.ring.index % 2 == 0 or self._tasks is None:
            self._bases[live.ring.index] = live.ring.base
            return
        served = self._served[live.ring.index] = Served(live, self._dma)
        self._tasks.start_soon(self._serve, served)

    async def ring_stopped(self, index: int) -> int:
        """Stop serving a ring."""
        if index in self._bases:
            return self._bases.pop(index)
        served = self._served.pop(index)
        served.scope.cancel()
        await served.over.wait()
        self._tell(Notice(f"ring {index} has stopped; {self._packets} packets, {self._bytes} bytes taken so far"))
        return served.vring.base

    def statistics(self) -> SinkStatistics:
        """Return its counters."""
        return SinkStatistics(self._packets, self._bytes, self._misses, self._broken)

    # -- inside ----------------------------------------------------------------

    async def _serve(self, served: Served) -> None:
        kick = served.live.kick
        try:
            with served.scope:
                while True:
                    await self._drain(served)
                    await anyio.wait_readable(kick)
                    with suppress(BlockingIOError):
                        os.read(kick, 8)
        except (RingBroken, TranslationFault, UnknownMemory, BadMemory) as wrong:
            self._broken += 1
            self._tell(Notice(f"ring {served.live.ring.index} is left alone from now on: {wrong}", trouble=True))
        finally:
            served.over.set()

    async def _drain(self, served: Served) -> None:
        """Take all that is available."""
        more = True
        while more:
            try:
                more = self._burst(served)
                await checkpoint()
            except Miss as miss:
                await self._ask(miss)
            except LeaseRunOut:
                await anyio.sleep(RETRY)
            except Fenced:  # whoever runs this is told by the subscription
                await anyio.sleep_forever()

    async def _ask(self, miss: Miss) -> None:
        self._misses += 1
        try:
            await self._dma.translate(miss)
        except (NoAnswer, Unreachable):
            await anyio.sleep(RETRY)

    def _burst(self, served: Served) -> bool:
        """Take some packets, and return whether there may be more."""
        vring, before = served.vring, self._packets
        try:
            for _ in range(BURST):
                chain = vring.peek()
                if chain is None:
                    return False
                packet = vring.read(chain)
                vring.push(chain, 0)
                vring.advance()
                self._packets += 1
                self._bytes += max(len(packet) - served.header, 0)
        finally:
            if self._packets != before and must_notify(vring):
                served.live.call.notify()
        return True


def must_notify(vring: Vring) -> bool:
    """Say whether the driver is to be told; where that cannot be read now, it is."""
    try:
        return vring.must_notify()
    except Miss:
        return True
