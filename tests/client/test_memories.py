"""The second connection, from the client's end: descriptors come, go, and are waited for."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import anyio
import pytest

from iommubus import Cap, EventBus, Perm
from iommubus.bus.memory import Memories, anonymous
from iommubus.client.memories import LentMemories, open_at
from iommubus.errors import BadMemory, UnknownMemory
from iommubus.events import Memory
from iommubus.transport.descriptors import DescriptorChannel
from iommubus.transport.tasks import Tasks
from iommubus.wire.connection import ServerConnection, State
from iommubus.wire.messages import DaemonMessage
from iommubus.wire.messages.greeting import Bind, Bound, Bye, Descriptor, Feature
from iommubus.wire.messages.spaces import MemoryRemoved
from iommubus.wire.messages.values import MemoryName
from tests.client.scripted import until
from tests.daemons import bus_at, daemon

PAGE: Final = 0x1000
RAM: Final = Memory("ram", 1, 0x1000)
TOKEN: Final = b"token"


class FirstConnection:
    """A first connection, as far as the second one needs it."""

    def __init__(self, features: Feature = Feature.DESCRIPTORS, token: bytes = TOKEN) -> None:
        self.features = features
        self.welcome = SimpleNamespace(token=token)
        self.lost: list[str] = []

    def lose(self, error: Exception) -> None:
        self.lost.append(str(error))


class Scene:
    """A client's memories, and the daemon's end of the second connection."""

    def __init__(self, lent: LentMemories, sock: socket.socket, known: list[Memory], own: Memories) -> None:
        self.lent = lent
        self.known = known
        self.own = own
        self.first: Any = FirstConnection()
        self.channel = DescriptorChannel(sock)
        self.wire = ServerConnection()

    async def say(self, message: DaemonMessage, *fds: int) -> None:
        await self.channel.send(self.wire.send(message), fds)

    async def hear(self) -> tuple[Any, list[int]]:
        received = await self.channel.receive()
        assert received is not None
        self.wire.receive_data(received[0])
        return self.wire.next_message(), received[1]

    async def bind(self) -> None:
        self.lent.attached(self.first)
        assert await self.hear() == (Bind(TOKEN), [])
        await self.say(Bound())

    async def show(self, memory: Memory, *fds: int) -> None:
        await self.say(Descriptor(MemoryName.of(memory)), *fds)
        count = len(self.known)
        await until(lambda: len(self.known) > count)

    def remove(self, memory: Memory) -> None:
        self.lent.handlers[MemoryRemoved](self.first, MemoryRemoved(MemoryName.of(memory)))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def scene_of(open_second: Callable[[], Any] | None = None) -> AsyncGenerator[Scene]:
    ours, theirs = socket.socketpair()
    known: list[Memory] = []
    own = Memories()

    async def give() -> socket.socket:
        return ours

    before = open_files()
    async with Tasks() as tasks:
        lent = LentMemories(open_second or give, tasks.start_soon, own.find, known.append)
        scene = Scene(lent, theirs, known, own)
        yield scene
        lent.lost("the end")
        await until(lambda: not len(tasks))
    scene.channel.close()
    ours.close()
    own.close()
    assert open_files() == before - 2


async def lost(scene: Scene) -> None:
    """Wait until the first connection was lost."""
    await until(lambda: scene.first.lost)


@asynccontextmanager
async def file_of(memory: Memory) -> AsyncGenerator[int]:
    fd = anonymous(memory.size)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.mark.asyncio
async def test_a_memory_can_be_looked_at_once_its_descriptor_has_come() -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        await scene.bind()
        assert not scene.lent.knows(RAM)
        with pytest.raises(UnknownMemory):
            scene.lent.find(RAM).view()
        await scene.show(RAM, fd)
        assert (scene.lent.knows(RAM), scene.known) == (True, [RAM])
        os.pwrite(fd, b"bytes", 8)
        assert bytes(scene.lent.find(RAM).view()[8:13]) == b"bytes"


@pytest.mark.asyncio
async def test_what_has_no_bytes_here_is_not_waited_for() -> None:
    """Its mappings are handed out; who looks at the bytes is told."""
    read, write = os.pipe()
    async with scene_of() as scene, file_of(Memory("small", 1, 0x800)) as small:
        await scene.bind()
        for name, fds in ("none", ()), ("pipe", (read,)), ("small", (small,)):
            memory = Memory(name, 1, 0x1000)
            await scene.show(memory, *fds)
            assert scene.lent.knows(memory)
            with pytest.raises(BadMemory):
                scene.lent.find(memory).view()
    os.close(read)
    os.close(write)


@pytest.mark.asyncio
async def test_the_clients_own_are_known_and_stay_its_own() -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        own = scene.own.add("ram", RAM.size, None)
        await scene.bind()
        assert scene.lent.knows(own)
        await scene.say(Descriptor(MemoryName.of(own)), fd)
        await scene.show(Memory("rom", 1, 0x1000))
        scene.lent.find(own).view()[0:4] = b"mine"
        assert os.pread(fd, 4, 0) == bytes(4)


@pytest.mark.asyncio
async def test_what_was_removed_is_gone_before_or_after_it_came() -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        await scene.bind()
        await scene.show(RAM, fd)
        view = scene.lent.find(RAM).view()
        scene.remove(RAM)
        with pytest.raises(UnknownMemory):
            scene.lent.find(RAM).view()
        assert view[0] == 0
        del view  # it keeps the file open
        late = Memory("ram", 2, RAM.size)
        scene.remove(late)
        assert scene.known == [RAM, RAM, late]
        await scene.say(Descriptor(MemoryName.of(late)), fd)
        await scene.show(Memory("rom", 1, 0x1000), fd)
        with pytest.raises(UnknownMemory):
            scene.lent.find(late).view()


@pytest.mark.asyncio
async def test_descriptors_are_lent_to_the_daemon() -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        scene.lent.lend(RAM, fd)  # there is no connection: it will be asked for again
        await scene.bind()
        for _ in range(2):
            scene.lent.lend(RAM, fd)
            message, fds = await scene.hear()
            assert message == Descriptor(MemoryName.of(RAM))
            os.pwrite(fds[0], b"daemon", 0)
            os.close(fds[0])
        assert os.pread(fd, 6, 0) == b"daemon"


@pytest.mark.asyncio
async def test_what_was_not_sent_is_closed_with_the_connection() -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        scene.lent.attached(scene.first)
        scene.lent.lend(RAM, fd)
        scene.lent.lost("it was cut")
        await scene.hear()
        await scene.say(Bound())


@pytest.mark.asyncio
async def test_a_second_connection_that_breaks_takes_the_first_with_it() -> None:
    """Else a MAP would wait for ever for its descriptor, and every UNMAP behind it."""

    async def refused() -> socket.socket:
        raise ConnectionRefusedError(111, "nobody listens")

    async with scene_of(refused) as scene:
        scene.lent.attached(scene.first)
        await until(lambda: scene.first.lost)
        assert "nobody listens" in scene.first.lost[0]
    for words in (Bye("no such token"), Bound()):
        async with scene_of() as scene:
            scene.lent.attached(scene.first)
            await scene.hear()
            await scene.say(words)
            scene.channel.close()
            await lost(scene)


@pytest.mark.asyncio
async def test_what_is_no_descriptor_breaks_it() -> None:
    async with scene_of() as scene:
        await scene.bind()
        scene.wire.state = State.READY
        await scene.say(MemoryRemoved(MemoryName.of(RAM)))
        await until(lambda: scene.first.lost)
        assert "may not say MemoryRemoved" in scene.first.lost[0]


@pytest.mark.parametrize("first", [FirstConnection(Feature(0)), FirstConnection(token=b"")])
@pytest.mark.asyncio
async def test_nothing_is_waited_for_where_descriptors_do_not_travel(first: Any) -> None:
    async with scene_of() as scene, file_of(RAM) as fd:
        scene.lent.attached(first)
        scene.lent.lend(RAM, fd)
        assert scene.lent.knows(RAM)
        with pytest.raises(UnknownMemory):
            scene.lent.find(RAM).view()


@pytest.mark.asyncio
async def test_it_is_opened_at_the_socket_of_the_first(tmp_path: Any) -> None:
    accepted: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(await reader.readexactly(5))
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "bus.sock"):
        sock = await open_at(str(tmp_path / "bus.sock"))()
        with sock:
            await asyncio.get_running_loop().sock_sendall(sock, b"hello")
            await until(lambda: accepted)
        with pytest.raises(OSError, match="No such file"), anyio.fail_after(5):
            await open_at(str(tmp_path / "nobody.sock"))()


def test_the_bytes_of_what_was_asked_for_are_there_with_the_answer(tmp_path: Path) -> None:
    """
    Their descriptor travels on the second connection, and may be the later one.
    """

    async def look(bus: EventBus) -> bytes:
        async with bus.subscribe("space", Cap.UNMAP) as events:
            mapping = (await events.translate(0)).mapping
            assert mapping.memory is not None
            return bytes(events.backing(mapping.memory)[:1])

    with daemon(tmp_path) as served, bus_at(served.address, "producer") as (portal, bus):
        space = portal.call(bus.create_space, "space")
        memory = portal.call(bus.add_memory, "ram", PAGE)
        portal.call(lambda: bus.memory_view(memory).__setitem__(0, 7))
        portal.call(lambda: space.map(0, PAGE, 0, Perm.R, memory=memory))
        portal.call(space.sync)
        for _ in range(5):
            with bus_at(served.address, "cacher") as (other, far):
                assert other.call(look, far) == b"\x07"
