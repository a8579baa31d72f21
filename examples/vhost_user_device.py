"""A vhost-user device in one program: a network card that counts what a guest sends, on the guest's own memory.

QEMU connects to it as it would to DPDK: `docs/howto/vhost-user-backend.md` says how.
When the guest unmaps something, QEMU is answered once the card has let go of it.
"""

import os
import sys

import anyio
from anyio.abc import TaskGroup

from iommubus import Bus, Cap, Iotlb
from iommubus.bridges.vhost_user_backend import LiveRing, NoDevice, VhostUserBackend
from iommubus.bridging.dma import Dma, Miss
from iommubus.bridging.vring import Vring

TRANSMIT, HEADER = 1, 12  # the second ring; and before each packet stands a header


class Card(NoDevice):
    """A card whose receive ring is left alone."""

    queues, rings = 1, 2

    def __init__(self, dma: Dma, tasks: TaskGroup) -> None:
        super().__init__()
        self.dma, self.tasks, self.packets = dma, tasks, 0

    def ring_started(self, live: LiveRing) -> None:
        """Begin to serve a ring."""
        super().ring_started(live)
        if live.ring.index == TRANSMIT:
            self.ring, self.scope, self.stopped = Vring(live.ring, self.dma), anyio.CancelScope(), anyio.Event()
            self.tasks.start_soon(self.serve, live)

    async def ring_stopped(self, index: int) -> int:
        """Let go of a ring, and say how far it was served."""
        if index != TRANSMIT:
            return await super().ring_stopped(index)
        self.scope.cancel()
        await self.stopped.wait()
        return self.ring.base

    async def serve(self, live: LiveRing) -> None:
        """Take packets, and wait to be kicked when there is none; where an address is missing, ask and try again."""
        with self.scope:
            while True:
                try:
                    if not self.take(live):
                        await anyio.wait_readable(live.kick)
                        os.read(live.kick, 8)
                except Miss as miss:
                    await self.dma.translate(miss)
        self.stopped.set()

    def take(self, live: LiveRing) -> bool:
        """Take one packet: it is read and given back before anything can be unmapped."""
        if (chain := self.ring.peek()) is not None:
            packet = self.ring.read(chain)
            self.ring.push(chain, 0)
            self.ring.advance()
            live.call.notify()
            self.packets += 1
            print(f"packet {self.packets}: {len(packet) - HEADER} bytes", flush=True)
        return chain is not None


async def main(path: str) -> None:
    """Serve whoever connects."""
    async with Bus() as bus, anyio.create_task_group() as tasks, bus.subscribe("vm0", Cap.UNMAP) as events:
        iotlb = Iotlb(events)
        tasks.start_soon(iotlb.run)
        card = Card(Dma(events, iotlb), tasks)
        await VhostUserBackend(bus, listen=path, space="vm0", device=card, tell=print).run()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
