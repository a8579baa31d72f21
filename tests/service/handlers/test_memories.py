"""Memories of clients, and their descriptors: real files, real sockets, and second connections that mean no good."""

import asyncio
import os
import socket
from array import array
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from pathlib import Path

import pytest

from iommubus.errors import (
    BadMemory,
    LimitReached,
    MemoryInUse,
    MemoryNameTaken,
    NotProducer,
    RuleMissing,
    UnknownMemory,
)
from iommubus.events import Memory
from iommubus.service.daemon import Daemon
from iommubus.service.handlers.memories import Lane, Lending
from iommubus.service.session import Session
from iommubus.service.settings.config import Config, Limits
from iommubus.service.settings.rules import Rule
from iommubus.transport.credentials import Peer
from iommubus.transport.descriptors import DescriptorChannel, close_all
from iommubus.wire.connection import ClientConnection
from iommubus.wire.failures import to_error
from iommubus.wire.messages import Message
from iommubus.wire.messages.greeting import Bind, Bound, Bye, Descriptor, Hello, Ping
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.publishing import Publish
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.rows import MapRow
from iommubus.wire.messages.spaces import AddMemory, MemoryAdded, MemoryRemoved, RemoveMemory
from iommubus.wire.messages.subscribing import Subscribe, Subscribed
from iommubus.wire.messages.values import MemoryName, Range
from tests.peers import open_descriptors
from tests.talkers import OWN, PAGE, STRANGER, Talker, greeted, settings, until
from tests.wire.packed import packed

pytestmark = pytest.mark.asyncio

SIZE = 16 * PAGE
EVERYWHERE = [Range(0, 2**64 - 1)]


class Second:
    """The client's end of a second connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.channel = DescriptorChannel(sock)
        self.wire = ClientConnection()

    async def bind(self, token: bytes) -> None:
        await self.channel.send(self.wire.send(Bind(token)))
        assert isinstance(await self.hear(), Bound)

    async def hear(self) -> Message:
        """Return what is said, without a descriptor."""
        message, fds = await self.next()
        assert fds == []
        return message

    async def next(self) -> tuple[Message, list[int]]:
        received = await self.channel.receive()
        if received is None:
            raise EOFError
        frame, fds = received
        self.wire.receive_data(frame)
        message = self.wire.next_message()
        assert message is not None
        return message, fds

    async def lend(self, memory: Memory, *fds: int) -> None:
        await self.channel.send(self.wire.send(Descriptor(MemoryName.of(memory))), fds)

    async def given(self) -> tuple[Memory, list[int]]:
        """Return which memory a descriptor is of, and the descriptor."""
        message, fds = await self.next()
        assert isinstance(message, Descriptor), message
        return message.memory.memory, fds


@asynccontextmanager
async def bound(daemon: Daemon, talker: Talker, peer: Peer = OWN) -> AsyncGenerator[Second]:
    """Give the second connection of a client."""
    assert talker.welcome is not None
    async with seconding(daemon, peer) as second:
        await second.bind(talker.welcome.token)
        yield second


@asynccontextmanager
async def seconding(daemon: Daemon, peer: Peer = OWN) -> AsyncGenerator[Second]:
    """Give a connection that may become a second one."""
    theirs, ours = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: daemon.session(peer), theirs)
    second = Second(ours)
    try:
        yield second
    finally:
        second.channel.close()


def lending_of(daemon: Daemon, talker: Talker) -> Lending:
    assert talker.welcome is not None
    session = daemon.clients[talker.welcome.client]
    assert isinstance(session, Session)
    return session.part(Lending)


async def add(
    talker: Talker, name: str = "ram", size: int = SIZE, generation: int = 0, *, descriptor: bool = True
) -> Memory:
    await talker.say(AddMemory(talker.request, name, size, descriptor, generation))
    added = await talker.skip_to(MemoryAdded)
    return Memory(name, added.generation, size)


async def refused(talker: Talker, message: Message) -> Exception:
    """Return why a request is refused."""
    await talker.say(message)  # type: ignore[arg-type]
    return to_error((await talker.skip_to(Refused)).failure)


async def publish(talker: Talker, epoch: int, memory: Memory, number: int = 1, name: str = "vtd0", at: int = 0) -> None:
    """Map a page into a memory."""
    rows = [MapRow(number, at * PAGE, at * PAGE + PAGE - 1, 0, 3, 1)]
    await talker.say(Publish(name, epoch, number, packed(*rows), [MemoryName.of(memory)]))


async def follow(talker: Talker, endpoint: str = "vtd0") -> int:
    await talker.say(Subscribe(talker.request, [endpoint], 3, EVERYWHERE))
    return (await talker.skip_to(Subscribed)).subscription


def ram(size: int = SIZE, text: bytes = b"the bytes of a guest") -> int:
    """Return the descriptor of some memory."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, size)
    os.pwrite(fd, text, 0)
    return fd


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Generator[None]:
    before = open_descriptors()
    yield
    left = {fd: what for fd, what in open_descriptors().items() if what not in before.values()}
    assert {fd: what for fd, what in left.items() if "ram" in what or "socket" in what or "pipe" in what} == {}


@pytest.fixture
def descriptor() -> Generator[int]:
    fd = ram()
    yield fd
    os.close(fd)


# -- from one client to another -------------------------------------------------------


@pytest.mark.parametrize("order", ["descriptor first", "mapping first"])
async def test_a_descriptor_reaches_whoever_is_told_of_a_mapping(order: str, descriptor: int) -> None:
    """Once each, whenever it comes; the bytes are the same, and the producer is not sent its own."""
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        greeted(daemon) as consumer,
        bound(daemon, producer) as lender,
        bound(daemon, consumer) as borrower,
    ):
        epoch = await producer.space()
        memory = await add(producer)
        if order == "descriptor first":
            await lender.lend(memory, descriptor)
            await until(lambda: daemon.store.descriptors_of(memory))
        for talker in consumer, producer:
            await follow(talker)
        await publish(producer, epoch, memory)
        delivered = await consumer.skip_to(DeliverHeard)
        while not delivered.events:
            delivered = await consumer.skip_to(DeliverHeard)
        assert delivered.memories == (memory,)
        if order == "mapping first":
            await lender.lend(memory, descriptor)
        got, (fd,) = await borrower.given()
        assert (got, os.pread(fd, 9, 0)) == (memory, b"the bytes")
        os.close(fd)
        await publish(producer, epoch, memory, 2, at=1)
        other = await add(producer, "rom", descriptor=False)
        await publish(producer, epoch, other, 3, at=2)
        assert await borrower.given() == (other, [])


async def test_who_binds_late_is_given_everything_then(descriptor: int) -> None:
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        greeted(daemon) as consumer,
        bound(daemon, producer) as lender,
    ):
        epoch = await producer.space()
        memory = await add(producer)
        await lender.lend(memory, descriptor)
        await follow(consumer)
        await publish(producer, epoch, memory)
        await consumer.skip_to(DeliverHeard)
        async with bound(daemon, consumer) as borrower:
            got, fds = await borrower.given()
            assert (got, len(fds)) == (memory, 1)
            close_all(fds)


async def test_whoever_has_no_second_connection_is_sent_none(descriptor: int) -> None:
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        greeted(daemon, features=0) as consumer,
        bound(daemon, producer) as lender,
    ):
        assert consumer.welcome is not None
        assert consumer.welcome.token == b""
        epoch = await producer.space()
        memory = await add(producer)
        await lender.lend(memory, descriptor)
        await follow(consumer)
        await publish(producer, epoch, memory)
        await consumer.skip_to(DeliverHeard)
        assert lending_of(daemon, consumer).shown == frozenset()


async def test_a_memory_that_goes_is_taken_back_from_whoever_was_told_of_it(descriptor: int) -> None:
    """Also from those to whom its descriptor did not get: they are told that there is none."""
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        greeted(daemon) as consumer,
        bound(daemon, consumer) as borrower,
    ):
        epoch = await producer.space()
        memory = await add(producer)
        await follow(consumer)
        await publish(producer, epoch, memory)
        assert isinstance(await refused(producer, RemoveMemory(9, MemoryName.of(memory))), MemoryInUse)
        await until(lambda: lending_of(daemon, consumer).shown)
        daemon.spaces.open["vtd0"].space.unmap_all()
        await producer.say(RemoveMemory(10, MemoryName.of(memory)))
        assert (await producer.skip_to(Done)).request == 10
        assert (await consumer.skip_to(MemoryRemoved)).memory == MemoryName.of(memory)
        assert await borrower.given() == (memory, [])
        assert (await add(producer)).generation == memory.generation + 1
        async with bound(daemon, producer) as lender:  # one that is gone needs no descriptor
            await lender.lend(memory, descriptor)
            await producer.say(Ping(1))


async def test_a_producer_that_never_sends_one_is_not_waited_for_once_it_is_lost() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as consumer, bound(daemon, consumer) as borrower:
        async with greeted(daemon) as producer:
            epoch = await producer.space()
            memory = await add(producer)
            await follow(consumer)
            await publish(producer, epoch, memory)
            await until(lambda: lending_of(daemon, consumer).shown)
        assert await borrower.given() == (memory, [])
        await until(lambda: daemon.store.find(memory) is None)


async def test_a_second_connection_that_ends_is_not_waited_for() -> None:
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as consumer,
        bound(daemon, consumer) as borrower,
        greeted(daemon) as producer,
    ):
        async with bound(daemon, producer):
            epoch = await producer.space()
            memory = await add(producer)
            await follow(consumer)
            await publish(producer, epoch, memory)
            await until(lambda: lending_of(daemon, consumer).shown)
        assert await borrower.given() == (memory, [])


# -- names, limits and rules ------------------------------------------------------------


async def test_a_name_is_of_one_memory_and_its_own_client_removes_it() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        memory = await add(one)
        for talker in one, other:
            assert isinstance(await refused(talker, AddMemory(5, "ram", SIZE)), MemoryNameTaken)
        assert isinstance(await refused(other, RemoveMemory(6, MemoryName.of(memory))), NotProducer)
        assert isinstance(await refused(one, RemoveMemory(7, MemoryName("rom", 1, SIZE))), UnknownMemory)
        assert isinstance(await refused(one, AddMemory(8, "", SIZE)), BadMemory)
        assert isinstance(await refused(one, AddMemory(9, "rom", SIZE, generation=2**63)), BadMemory)


async def test_a_client_has_no_more_memories_than_the_setting_says() -> None:
    async with Daemon(settings(limits=Limits(memories=2))) as daemon, greeted(daemon) as talker:
        first = await add(talker, "a")
        await add(talker, "b")
        assert isinstance(await refused(talker, AddMemory(5, "c", SIZE)), LimitReached)
        await talker.say(RemoveMemory(6, MemoryName.of(first)))
        await talker.skip_to(Done)
        await add(talker, "c")


async def test_whoever_may_publish_nothing_has_no_memories() -> None:
    rule = Rule(uid=4243, publish=("vtd*",))
    async with Daemon(settings(rules=(rule,))) as daemon:
        async with greeted(daemon, STRANGER) as talker:
            assert isinstance(await refused(talker, AddMemory(5, "ram", SIZE)), RuleMissing)
        async with greeted(daemon, Peer(8, 4243, (4243,))) as talker:
            await add(talker)


async def test_a_client_that_is_back_goes_on_with_its_memories(descriptor: int) -> None:
    """While they are in use they are kept; the generation stays, and the descriptor."""
    async with Daemon(settings(producer_grace=60.0)) as daemon:
        async with greeted(daemon) as old, bound(daemon, old) as lender:
            epoch = await old.space()
            memory = await add(old)
            unused = await add(old, "rom", descriptor=False)
            await lender.lend(memory, descriptor)
            await publish(old, epoch, memory)
            await until(lambda: daemon.store.descriptors_of(memory) and daemon.spaces.open["vtd0"].space.seq)
        await until(lambda: not daemon.clients)
        assert daemon.store.find(unused) is None
        async with greeted(daemon) as new:
            assert await add(new, generation=memory.generation) == memory
            assert len(daemon.store.descriptors_of(memory)) == 1
            assert await add(new, "rom", generation=5) == Memory("rom", 5, SIZE)  # of before a restart, say
            async with greeted(daemon) as newer:  # the connection before only seems to be there
                assert await add(newer, generation=memory.generation) == memory
                assert (await new.ended()) is not None


async def test_a_client_that_begins_anew_gets_the_name_of_what_was_left() -> None:
    """Of its own user alone; what lost producers map there goes."""
    async with Daemon(settings(producer_grace=60.0, rules=(Rule(uid=4242, publish=("*",)),))) as daemon:
        async with greeted(daemon) as old:
            epoch = await old.space()
            memory = await add(old)
            await publish(old, epoch, memory)
            await until(lambda: daemon.spaces.open["vtd0"].space.seq)
        await until(lambda: not daemon.clients)
        async with greeted(daemon, STRANGER) as other:
            assert isinstance(await refused(other, AddMemory(5, "ram", SIZE)), MemoryNameTaken)
        async with greeted(daemon) as new:
            assert (await add(new, size=2 * SIZE)).generation == memory.generation + 1
            assert daemon.spaces.open["vtd0"].space.leading_to(memory) is None


async def test_what_a_lost_producer_left_goes_once_its_mappings_do() -> None:
    async with Daemon(settings(producer_grace=0.02)) as daemon:
        async with greeted(daemon) as old:
            epoch = await old.space()
            memory = await add(old)
            await publish(old, epoch, memory)
            await until(lambda: daemon.spaces.open["vtd0"].space.seq)
        await until(lambda: not daemon.clients)
        assert daemon.store.find(memory) is not None
        await until(lambda: daemon.store.find(memory) is None)


# -- second connections that mean no good ---------------------------------------------------


@pytest.mark.parametrize("words", ["wrong", "used", "another's", "of one who left"])
async def test_a_token_opens_one_connection_of_one_peer_once(words: str) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        assert talker.welcome is not None
        token, peer = talker.welcome.token, OWN
        if words == "wrong":
            token = bytes(32)
        elif words == "used":
            async with bound(daemon, talker):
                pass
        elif words == "another's":
            peer = STRANGER
        else:
            async with greeted(daemon) as gone:
                assert gone.welcome is not None
                token = gone.welcome.token
            await until(lambda: len(daemon.clients) == 1)
        async with seconding(daemon, peer) as second:
            await second.channel.send(second.wire.send(Bind(token)))
            bye = await second.hear()
            assert isinstance(bye, Bye)
            assert "token" in bye.reason
        await talker.say(Ping(1))
        await talker.next()


async def test_a_second_connection_is_no_first_one() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        assert talker.welcome is not None
        await talker.write(ClientConnection().send(Bind(talker.welcome.token)))
        bye = await talker.ended()
        assert bye is not None
        assert bye.failure is not None
        assert bye.failure.kind == "OutOfPlace"


def small_file(path: Path) -> int:
    (path / "ram").write_bytes(b"x" * (SIZE - 1))
    return os.open(path / "ram", os.O_RDWR)


def write_only(path: Path) -> int:
    (path / "ram").write_bytes(b"x" * SIZE)
    return os.open(path / "ram", os.O_WRONLY)


def pipe(_: Path) -> int:
    read, write = os.pipe()
    os.close(write)
    return read


EVIL: dict[str, Sequence[Callable[[Path], int]]] = {
    "none": [],
    "two": [lambda _: ram(), lambda _: ram()],
    "directory": [lambda path: os.open(path, os.O_RDONLY)],
    "pipe": [pipe],
    "small": [lambda _: ram(SIZE - 1)],
    "small file": [small_file],
    "write only": [write_only],
}
"""What makes descriptors that are no memory."""


@pytest.mark.parametrize("kind", EVIL)
async def test_what_can_be_no_memory_closes_only_the_connection_it_came_on(kind: str, tmp_path: Path) -> None:
    """The reason is said where it can be, whoever waits for it is told that there is none, and nothing stays open."""
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        greeted(daemon) as consumer,
        bound(daemon, producer) as lender,
        bound(daemon, consumer) as borrower,
    ):
        epoch = await producer.space()
        memory = await add(producer)
        await follow(consumer)
        await publish(producer, epoch, memory)
        await until(lambda: lending_of(daemon, consumer).shown)
        before = len(open_descriptors())
        fds = [make(tmp_path) for make in EVIL[kind]]
        data = lender.wire.send(Descriptor(MemoryName.of(memory)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        lender.sock.sendmsg([data], rights)
        close_all(fds)
        if kind == "two":
            with pytest.raises((EOFError, ConnectionResetError)):
                await lender.hear()
        else:
            bye = await lender.hear()
            assert isinstance(bye, Bye)
            assert bye.failure is not None
            assert bye.failure.kind == ("DescriptorsRefused" if kind == "none" else "BadMemory")
        assert await borrower.given() == (memory, [])
        await until(lambda: len(open_descriptors()) < before)
        for talker in producer, consumer:
            await talker.say(Ping(1))
            await talker.next()


@pytest.mark.parametrize("seals", [F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_WRITE | F_SEAL_SHRINK])
async def test_sealed_memory_is_taken(seals: int) -> None:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl(fd, F_ADD_SEALS, seals)
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, bound(daemon, producer) as lender:
        memory = await add(producer)
        await lender.lend(memory, fd)
        await until(lambda: daemon.store.descriptors_of(memory))
    os.close(fd)


def nowhere(fd: int) -> bool:
    """Say that no file lives in memory."""
    return fd < 0


async def test_a_file_on_a_disk_is_looked_at_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.store.in_memory", nowhere)
    fd = ram()
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, bound(daemon, producer) as lender:
        memory = await add(producer)
        await lender.lend(memory, fd)
        await until(lambda: daemon.store.descriptors_of(memory))
        await lender.lend(memory, fd)  # once more, which is too many and no matter
        await producer.say(Ping(1))
    os.close(fd)


async def test_nobody_gives_a_descriptor_to_the_memory_of_another(descriptor: int) -> None:
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as one,
        greeted(daemon) as other,
        bound(daemon, one),
        bound(daemon, other) as second,
    ):
        memory = await add(one)
        await second.lend(memory, descriptor)
        bye = await second.hear()
        assert isinstance(bye, Bye)
        assert bye.failure is not None
        assert bye.failure.kind == "NotProducer"
        assert daemon.store.descriptors_of(memory) == []


async def test_other_words_end_a_second_connection() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        async with bound(daemon, talker) as second:
            await second.channel.send(ClientConnection().send(Hello(1, 1)))
            bye = await second.hear()
            assert isinstance(bye, Bye)
            assert bye.failure is not None
            assert bye.failure.kind == "OutOfPlace"
        await talker.say(Ping(1))
        await talker.next()


async def test_a_second_connection_ends_with_the_first() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker, bound(daemon, talker) as second:
        talker.sock.close()
        with pytest.raises(EOFError):
            await second.hear()


async def test_a_second_connection_may_end_before_it_begins() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        theirs, ours = socket.socketpair()
        lane = Lane(theirs, lending_of(daemon, talker))
        lane.close()
        await lane.run()
        assert ours.recv(1) == b""
        ours.close()


async def test_a_client_that_leaves_may_say_so() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker, bound(daemon, talker) as second:
        await second.channel.send(second.wire.send(Bye("enough")))
        with pytest.raises(EOFError):
            await second.hear()
