"""A small vhost-user back end: it keeps an IOTLB, and reads and writes through it.

In a process of its own it takes orders and says what came of them, one line each::

    python -m tests.bridges.vhost_user_backends SOCKET [--plain]
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from typing import Final, Self

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from iommubus.abi.vhost_user import (
    DESCRIPTOR_LIMIT,
    U64,
    BackendRequest,
    Channel,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemRegion,
    MemTable,
    Message,
    ProtocolFeatures,
    Region,
    Request,
    VringFd,
    VringState,
    acknowledge,
    decode,
    encode,
    splitter,
)
from iommubus.bridging.messages import MessageSocket
from iommubus.caps import Perm
from iommubus.errors import PeerLeft
from iommubus.mapping import Mapping
from iommubus.ranges import LAST
from iommubus.table import Table
from iommubus.transport.descriptors import close_all
from tests.daemons import environment

OFFERED: Final = int(Features.PROTOCOL_FEATURES | Features.ACCESS_PLATFORM | Features.VERSION_1)
PROTOCOL: Final = int(ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ)

ROOT: Final = Path(__file__).parents[2]

PATIENCE: Final = 30.0
"""Seconds after which what a test waits for will not come any more."""


class BackEnd:
    """A back end that takes one connection at a time.

    Args:
        path: Where it listens.
        offered: Its features.
        protocol: Its protocol features.
        slots: How many memories it takes one by one.

    Attributes:
        keeps: Whether it remembers what it heard.
        heard: Every message of the main channel, in order.
        acked: INVALIDATEs that were acknowledged, as ranges.
        answers: Acknowledgements of MISSes: their status.
        held: Whether acknowledgements of INVALIDATEs wait until `let_go`.
        silent: Whether nothing is answered at all.
        status: Says how a message is acknowledged.
        cache: The IOTLB; targets are the front end's addresses.
    """

    def __init__(self, path: Path, *, offered: int = OFFERED, protocol: int = PROTOCOL, slots: int = 0) -> None:
        self.path = path
        self.offered = offered
        self.protocol = protocol
        self.slots = slots
        self.heard: list[Message] = []
        self.acked: list[tuple[int, int]] = []
        self.answers: list[int] = []
        self.cache = Table()
        self.regions: dict[int, tuple[Region, mmap]] = {}
        self.rings: set[int] = set()
        self.events: dict[int, list[int]] = {}
        self.keeps = True
        self.held = False
        self.silent = False
        self.connections = 0
        self.status: Callable[[Message], int] = lambda _: 0
        self._holding: list[Message] = []
        self._unanswered: list[tuple[Message, list[int]]] = []
        self._news = anyio.Event()
        self._main: MessageSocket | None = None
        self._back: MessageSocket | None = None

    # -- for tests -----------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take connections, one after the other."""
        with socket.socket(socket.AF_UNIX) as listening:
            self.path.unlink(missing_ok=True)
            listening.bind(str(self.path))
            self.listen(listening)
            listening.setblocking(False)
            task_status.started()
            while True:
                await anyio.wait_readable(listening)
                sock, _ = listening.accept()
                self.connections += 1
                with ExitStack() as opened:
                    await self._serve(sock, opened)

    def listen(self, sock: socket.socket) -> None:
        """Listen."""
        sock.listen()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                self._news = anyio.Event()
                await self._news.wait()

    def miss(self, iova: int, perm: Perm = Perm.R, *, reply: bool = False) -> None:
        """Ask where an address leads."""
        asked = IotlbMsg(iova, 0, 0, int(perm), IotlbType.MISS)
        flags = Flags.NEED_REPLY if reply else Flags(0)
        self.say(encode(Message(BackendRequest.IOTLB_MSG, asked, flags, Channel.BACK_END)))

    def say(self, data: bytes, *, main: bool = False) -> None:
        """Say something on the back-end channel, or on the main one."""
        line = self._main if main else self._back
        assert line is not None
        line.put(data)

    def hang_up(self) -> None:
        """Close the connection."""
        assert self._main is not None
        self._main.close()

    def let_go(self, count: int | None = None) -> None:
        """Acknowledge what was held back, all of it or the first few."""
        self.held = count is not None
        for message in self._holding[:count]:
            self._holding.remove(message)
            self._forget(message)

    def answer_late(self) -> None:
        """Answer what came in silence, and go on."""
        self.silent = self.held = False
        unanswered, self._unanswered = self._unanswered, []
        for message, fds in unanswered:
            self._do(message, fds)
            close_all(fds)
        self._tell()

    @property
    def connected(self) -> bool:
        """Whether it can ask."""
        return self._back is not None

    def has(self, iova: int) -> bool:
        """Say whether the IOTLB has an address."""
        return self.cache.lookup(iova) is not None

    @property
    def iotlb(self) -> list[Mapping]:
        """What the IOTLB has, in the order of the addresses."""
        return list(self.cache)

    def window(self, iova: int) -> tuple[mmap, int]:
        """Return the memory that an address leads to, and where in it."""
        entry = self.cache.lookup(iova)
        assert entry is not None
        uaddr = entry.target + iova - entry.first
        for region, view in self.regions.values():
            if region.user_address <= uaddr < region.user_address + region.size:
                return view, region.mmap_offset + uaddr - region.user_address
        raise AssertionError(f"{uaddr:#x} is in no region")

    def read(self, iova: int, size: int) -> bytes:
        """Read what an address leads to."""
        view, at = self.window(iova)
        return view[at : at + size]

    def drop(self, first: int, last: int) -> None:
        """Drop every entry that overlaps a range, whole."""
        for entry in self.cache.walk(first, last, len(self.cache)):
            self.cache.remove(entry.first, entry.last)
            self.dropped(entry.first)

    def kept(self, iova: int) -> None:
        """Take it that there is a new entry that begins at an address."""

    def dropped(self, iova: int) -> None:
        """Take it that one is gone."""

    def of(self, request: Request) -> list[Message]:
        """Return every message of a request that was heard."""
        return [message for message in self.heard if message.request == request]

    def iotlb_messages(self, kind: IotlbType) -> list[IotlbMsg]:
        """Return every IOTLB message of a kind, in order."""
        bodies = [message.body for message in self.of(Request.IOTLB_MSG)]
        return [body for body in bodies if isinstance(body, IotlbMsg) and body.type is kind]

    # -- inside ----------------------------------------------------------------

    async def _serve(self, sock: socket.socket, opened: ExitStack) -> None:
        self.drop(0, LAST)
        self._drop_regions()
        self.rings.clear()
        self._main = MessageSocket(sock, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer="the front end")
        opened.enter_context(self._main)
        opened.callback(self._leave)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, self._main)
            try:
                while True:
                    data, fds = await self._main.receive()
                    self._hear(decode(data), fds, opened, tasks)
            except (PeerLeft, anyio.ClosedResourceError):
                tasks.cancel_scope.cancel()
        self._tell()

    def _leave(self) -> None:
        """Take it that the connection is over."""
        self._back = None
        self._drop_regions()
        while self._unanswered:
            close_all(self._unanswered.pop()[1])

    async def _pump(self, line: MessageSocket) -> None:
        try:
            await line.pump()
        except (PeerLeft, anyio.ClosedResourceError):
            return

    def _hear(self, message: Message, fds: list[int], opened: ExitStack, tasks: anyio.abc.TaskGroup) -> None:
        if self.keeps:
            self.heard.append(message)
        if message.request == Request.SET_BACKEND_REQ_FD:
            sock = socket.socket(fileno=fds.pop())
            self._back = opened.enter_context(
                MessageSocket(sock, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer="the front end")
            )
            tasks.start_soon(self._pump, self._back)
            tasks.start_soon(self._hear_answers, self._back)
        try:
            if self.silent:
                self._unanswered.append((message, fds[:]))
                fds.clear()
            else:
                self._do(message, fds)
        finally:
            close_all(fds)
            self._tell()

    async def _hear_answers(self, line: MessageSocket) -> None:
        try:
            while True:
                data, _ = await line.receive()
                reply = decode(data, Channel.BACK_END)
                body = reply.body
                self.answers.append(body.value if isinstance(body, U64) else -1)
                self._tell()
        except (PeerLeft, anyio.ClosedResourceError):
            return

    def _do(self, message: Message, fds: list[int]) -> None:
        match message:
            case Message(request=Request.GET_FEATURES):
                self._reply(message, U64(self.offered))
            case Message(request=Request.GET_PROTOCOL_FEATURES):
                self._reply(message, U64(self.protocol))
            case Message(request=Request.GET_MAX_MEM_SLOTS):
                self._reply(message, U64(self.slots))
            case Message(request=Request.GET_VRING_BASE, body=VringState(index=index)):
                self.rings.discard(index)
                self._reply(message, VringState(index, 7))
            case Message(body=IotlbMsg(type=IotlbType.INVALIDATE)):
                self._invalidate(message)
            case _:
                status = self.status(message)
                if not status:
                    self._take(message, fds)
                self._acknowledge(message, status)

    def _take(self, message: Message, fds: list[int]) -> None:
        match message:
            case Message(body=IotlbMsg(type=IotlbType.UPDATE) as update):
                last = update.iova + update.size - 1
                self.drop(update.iova, last)
                self.cache.insert(update.iova, last, update.uaddr, update.perm)
                self.kept(update.iova)
            case Message(request=Request.SET_MEM_TABLE, body=MemTable(regions=regions)):
                self._drop_regions()
                self.drop(0, LAST)  # as DPDK does
                for region, fd in zip(regions, fds, strict=True):
                    self._add(region, fd)
            case Message(request=Request.ADD_MEM_REG, body=MemRegion() as region):
                self._add(region, fds[0])
            case Message(request=Request.REM_MEM_REG, body=MemRegion(user_address=address)):
                self.regions.pop(address)[1].close()
            case Message(request=Request.SET_VRING_ENABLE, body=VringState(index=index)):
                self.rings.add(index)
            case Message(body=VringFd(index=index)):
                self.events.setdefault(index, []).append(len(fds))
            case _:
                pass

    def _add(self, region: Region, fd: int) -> None:
        self.regions[region.user_address] = region, mmap(fd, region.size + region.mmap_offset)

    def _drop_regions(self) -> None:
        while self.regions:
            self.regions.popitem()[1][1].close()

    def _invalidate(self, message: Message) -> None:
        if self.held:
            self._holding.append(message)
        else:
            self._forget(message)

    def _forget(self, message: Message) -> None:
        body = message.body
        assert isinstance(body, IotlbMsg)
        first, last = body.iova, body.iova + body.size - 1
        status = self.status(message)
        if not status:
            self.drop(first, last)
            if self.keeps:
                self.acked.append((first, last))
        self._acknowledge(message, status)

    def _acknowledge(self, message: Message, status: int) -> None:
        if message.flags & Flags.NEED_REPLY and self._main is not None:
            self._main.put(encode(acknowledge(message, status)))

    def _reply(self, message: Message, body: U64 | VringState) -> None:
        assert self._main is not None
        self._main.put(encode(Message(message.request, body, Flags.REPLY)))

    def _tell(self) -> None:
        self._news.set()


class Handed(BackEnd):
    """One whose socket another process listened on, which has ended since."""

    def listen(self, sock: socket.socket) -> None:
        other = os.fork()
        if not other:
            sock.listen()
            os._exit(0)
        os.waitpid(other, 0)


class Device(Struct):
    """What runs in a process of its own: a back end that misses where it is told to."""

    end: BackEnd

    @classmethod
    def at(cls, path: str, *flags: str) -> Self:
        """Make one that listens at a path; a plain one knows no IOMMU, and another listens for one that is handed."""
        offered = OFFERED & ~int(Features.ACCESS_PLATFORM) if "--plain" in flags else OFFERED
        kind = Handed if "--handed" in flags else BackEnd
        return cls(kind(Path(path), offered=offered))

    async def run(self) -> None:
        """Serve, and do what is said: ``miss IOVA`` waits for the address, ``wait IOVA`` until it is gone."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.end.run)
            self._say("ready")
            async for line in anyio.wrap_file(sys.stdin):
                await self._order(*line.split())
            tasks.cancel_scope.cancel()

    async def _order(self, word: str, address: str = "0") -> None:
        iova = int(address, 0)
        if word == "miss":
            self.end.miss(iova)
            await self.end.until(lambda: self.end.has(iova))
            self._say(f"has {self.end.read(iova, 4).hex()}")
        elif word == "wait":
            await self.end.until(lambda: not self.end.has(iova))
            self._say("gone")

    def _say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class Backend:
    """A back end in a process of its own, to the test that starts it; its end kills it.

    Args:
        path: Where it listens, once it has said "ready".
        flags: What else is said on its command line.
    """

    def __init__(self, path: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "tests.bridges.vhost_user_backends", str(path), *flags]
        variables = environment(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=variables, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def hear(self) -> str:
        """Return what it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, order: str = "") -> str:
        """Give it an order, and return what comes back; without words, just that."""
        if order:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
        return self.hear()


if __name__ == "__main__":
    anyio.run(Device.at(*sys.argv[1:]).run)
