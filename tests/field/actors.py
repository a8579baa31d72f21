"""The processes of a field test around a daemon: a bridge, a cacher, an observer, each of which keeps a log.

python -m tests.field.actors ROLE ADDRESS LOG [SOCKET DEADLINE]
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio

from iommubus import Cap, Fenced, Lost, TranslationFault, Unmap, connect
from iommubus.abi.vhost import range_of
from iommubus.abi.vhost_user import IotlbMsg, IotlbType
from iommubus.bridges.vhost_user_backend import VhostUserBackend
from iommubus.bridges.vhost_user_backend.answers import ACKNOWLEDGED, Answer
from iommubus.bridges.vhost_user_backend.handling import Handling
from iommubus.bridges.vhost_user_backend.sink import Sink
from iommubus.bridging.messages import MessageSocket
from iommubus.bridging.telling import Notice, Told
from iommubus.bus.abc import Subscription, Translation
from iommubus.errors import UnknownMemory
from tests.field.logs import Kind, Log

SPACE: Final = "vm"
PAGE: Final = 0x1000

REMEMBERED: Final = 8
"""Addresses that the cacher tries again: those that the guest took away last, and will use again."""

TURN: Final = 0.002
"""Seconds between two looks of the cacher at what it holds."""


# -- the bridge --------------------------------------------------------------------


def watch(log: Log) -> None:
    """Have the bridge of this process write down what comes from QEMU and what leaves to it, where it does."""
    take, put = Handling._iotlb, MessageSocket.put

    def taking(self: Handling, body: IotlbMsg, fds: list[int], answer: Answer) -> None:
        take(self, body, fds, answer)
        space: Any = self._around.space
        if body.type is IotlbType.INVALIDATE:
            where = range_of(body)
            log.add(Kind.INVALIDATE, space.seq, where.first, where.last)
        else:
            log.add(Kind.UPDATE)

    def putting(self: MessageSocket, data: bytes, fds: Any = ()) -> None:
        if data == ACKNOWLEDGED:
            log.add(Kind.ACKNOWLEDGED)
        put(self, data, fds)

    Handling._iotlb = taking  # type: ignore[assignment, method-assign]
    MessageSocket.put = putting  # type: ignore[method-assign]


async def bridge(address: str, log: Log, socket: str, deadline: str) -> None:
    """Be the bridge, with a card behind it that takes packets."""

    def tell(told: Told) -> None:
        print(told, flush=True)
        if isinstance(told, Notice) and "fenced" in told.text:
            log.add(Kind.FENCED)

    watch(log)
    async with connect(address, name="bridge", patience=10) as bus, anyio.create_task_group() as tasks:
        sink = Sink(bus, SPACE, tell=tell, name="card")
        await tasks.start(sink.run)
        await tasks.start(
            VhostUserBackend(bus, listen=socket, space=SPACE, device=sink, tell=tell, deadline=float(deadline)).run
        )
        log.add(Kind.READY)
        while True:
            await anyio.sleep(0.05)
            log.add(Kind.PACKETS, sink.statistics().packets, sink.statistics().bytes)


# -- the others --------------------------------------------------------------------


class Cacher:
    """Holds what it can get of the pages that the guest uses, and reads them as long as it may.

    Args:
        events: Its subscription.
        log: What it writes down.
    """

    def __init__(self, events: Subscription, log: Log) -> None:
        self._events = events
        self._log = log
        self._held: dict[int, Translation] = {}
        self._recent: dict[int, None] = {}

    async def follow(self) -> None:
        """Let go of what is taken away."""
        async for batch in self._events.batches():
            for event in batch:
                self._held = {iova: held for iova, held in self._held.items() if not event.first <= iova <= event.last}
                self._recent.pop(event.first, None)
                self._recent[event.first] = None
            while len(self._recent) > REMEMBERED:
                del self._recent[next(iter(self._recent))]
            self._log.add(Kind.LET_GO, batch[-1].seq)
            self._events.ack(batch)

    async def use(self) -> None:
        """Ask where the guest's pages lead, and read them."""
        while True:
            for iova in list(self._recent):
                if iova not in self._held:
                    with suppress(TranslationFault):
                        answer = await self._events.translate(iova)
                        if answer.valid:
                            self._held[iova] = answer
                self._read_all()
            await anyio.sleep(TURN)

    def _read_all(self) -> None:
        """Read each page that is held; nothing can come in between."""
        self._events.check_use()
        for iova, held in self._held.items():
            if held.valid and held.mapping.memory is not None:
                with suppress(UnknownMemory):
                    backing = self._events.backing(held.mapping.memory)
                    self._log.add(Kind.USE, held.seq, iova)
                    bytes(backing[held.mapping.target : held.mapping.target + 64])


async def cacher(address: str, log: Log) -> None:
    """Be the cacher, until it is fenced."""
    async with connect(address, name="cacher") as bus:
        try:
            async with bus.subscribe(SPACE, Cap.UNMAP, ack="manual", name="cacher") as events:
                own = Cacher(events, log)
                log.add(Kind.READY)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(own.follow)
                    tasks.start_soon(own.use)
        except* Fenced as fenced:
            log.add(Kind.FENCED)
            print(*fenced.exceptions, flush=True)


async def observer(address: str, log: Log) -> None:
    """Be the observer."""
    async with connect(address, name="observer") as bus, bus.observe(SPACE, capacity=1 << 20) as events:
        log.add(Kind.READY)
        async for event in events:
            if isinstance(event, Unmap):
                log.add(Kind.UNMAP, event.seq, event.first, event.last)
            elif isinstance(event, Lost):
                log.add(Kind.LOST)


ROLES: Final[dict[str, Callable[..., Any]]] = {"bridge": bridge, "cacher": cacher, "observer": observer}

if __name__ == "__main__":
    role, where, path, *more = sys.argv[1:]
    anyio.run(ROLES[role], where, Log(Path(path)), *more, backend_options={"use_uvloop": True})
