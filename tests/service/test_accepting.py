"""Connections as they arrive over real sockets: who is at the other end, and who gets no further."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from iommubus.errors import PeerGone
from iommubus.service.accepting import SPARE, Acceptor, visible_process
from iommubus.service.daemon import Daemon
from iommubus.service.session import Session
from iommubus.service.settings.config import Config, Deadlines, Limits
from iommubus.transport.address import Address, TcpAddress, TlsAddress, UnixAddress
from iommubus.transport.credentials import Peer
from iommubus.transport.listeners import Listener, listen
from iommubus.transport.tls import Identity, client_context, server_context
from iommubus.wire.connection import ClientConnection
from iommubus.wire.messages import DaemonHeard
from iommubus.wire.messages.greeting import Feature, Hello, Welcome
from tests.peers import end, open_descriptors, peer
from tests.talkers import Talker, settings, until

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def accepting(
    address: Address, config: Config | None = None, context: ssl.SSLContext | None = None
) -> AsyncGenerator[tuple[Daemon, Listener]]:
    """Give a daemon that accepts connections at an address, and its listener."""
    with listen(address, 0o666) as listener:
        async with Daemon(config or Config()) as daemon:
            task = asyncio.ensure_future(Acceptor(daemon, listener, context).run())
            yield daemon, listener
            task.cancel()


async def connection(daemon: Daemon) -> Session:
    """Return the connection that a daemon has, as soon as it has one."""
    await until(lambda: len(daemon.connections) == 1)
    (session,) = daemon.connections
    assert isinstance(session, Session)
    return session


def identity(directory: Path, name: str, own: trustme.CA, trusted: trustme.CA) -> Identity:
    """Write the files of one side of TLS."""
    issued = own.issue_cert(name)
    paths = [str(directory / f"{name}.{part}") for part in ("cert", "key", "ca")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    trusted.cert_pem.write_to_path(paths[2])
    return Identity(*paths)


async def test_a_peer_over_a_unix_socket_is_who_the_kernel_says(tmp_path: Path) -> None:
    path = str(tmp_path / "bus.sock")
    async with accepting(UnixAddress(path)) as (daemon, _), connected(path) as talker:
        welcome = await talker.greet()
        session = await connection(daemon)

        assert welcome.features & Feature.DESCRIPTORS
        assert (session.peer.pid, session.peer.uid) == (os.getpid(), os.getuid())
        assert session.process is not None
        assert session.process.pid == os.getpid()


def let_in(directory: Path) -> None:
    """Let every user reach what is in a directory of this test."""
    for each in [directory, *directory.parents][:4]:
        each.chmod(each.stat().st_mode | 0o055)


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user it has to be root")
async def test_a_peer_of_another_user_is_that_user_and_is_lost_with_its_process(tmp_path: Path) -> None:
    let_in(tmp_path)
    path = str(tmp_path / "bus.sock")
    async with accepting(UnixAddress(path)) as (daemon, _):
        loop = asyncio.get_running_loop()
        holder = peer(path, uid=4242, gids=(4242, 77))
        process, outcome = await loop.run_in_executor(None, holder.__enter__)
        session = await connection(daemon)
        assert outcome == "connected"
        assert (session.peer.uid, session.peer.gids, session.peer.pid) == (4242, (4242, 77), process.pid)
        assert session.process is not None
        assert not session.process.ended
        end(process)
        await until(lambda: not daemon.connections)
        await loop.run_in_executor(None, lambda: holder.__exit__(None, None, None))


@asynccontextmanager
async def connected(path: str) -> AsyncGenerator[Talker]:
    """Give a connection to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        talker = Talker(sock)
        await asyncio.get_running_loop().sock_connect(sock, path)
        yield talker


async def test_a_peer_over_loopback_is_nobody() -> None:
    async with accepting(TcpAddress("127.0.0.1", 0)) as (daemon, listener):
        assert isinstance(listener.address, TcpAddress)
        with socket.socket() as sock:
            talker = Talker(sock)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.address.port))
            assert (await talker.greet()).features == Feature.RESUME
            session = await connection(daemon)
            assert (session.peer, session.process) == (Peer(), None)


async def test_a_peer_over_tls_is_whom_its_certificate_names(tmp_path: Path) -> None:
    ca = trustme.CA()
    server, client = identity(tmp_path, "bus.example", ca, ca), identity(tmp_path, "vm1.example", ca, ca)
    context = server_context(server)
    async with accepting(TlsAddress("127.0.0.1", 0), context=context) as (daemon, listener):
        assert isinstance(listener.address, TlsAddress)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.address.port, ssl=client_context(client), server_hostname="bus.example"
        )
        wire = ClientConnection()
        writer.write(wire.send(Hello(1, 1, "vm1", optional=3)))
        message: DaemonHeard | None = None
        while message is None:
            wire.receive_data(await reader.read(4096))
            message = wire.next_message()
        assert isinstance(message, Welcome)
        assert message.features == Feature.RESUME
        assert (await connection(daemon)).peer == Peer(names=("vm1.example",))
        writer.close()
        await until(lambda: not daemon.connections)


async def test_whoever_shows_no_good_certificate_does_not_get_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    context = server_context(identity(tmp_path, "bus.example", ca, ca))
    stranger = client_context(identity(tmp_path, "vm1.example", other, ca))
    async with accepting(TlsAddress("127.0.0.1", 0), context=context) as (daemon, listener):
        assert isinstance(listener.address, TlsAddress)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # noqa: PT012 - one of the two
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listener.address.port, ssl=stranger, server_hostname="bus.example"
            )
            writer.close()
            await reader.readexactly(1)
        await until(lambda: "not let in" in caplog.text)
        assert not daemon.connections


async def test_whoever_does_not_finish_the_handshake_is_closed(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = server_context(identity(tmp_path, "bus.example", ca, ca))
    config = settings(deadlines=Deadlines(hello=0.05))
    async with accepting(TlsAddress("127.0.0.1", 0), config, context) as (daemon, listener):
        assert isinstance(listener.address, TlsAddress)
        with socket.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.address.port))
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await until(lambda: len(daemon.tasks) == 0)


async def test_past_the_limit_nothing_is_said_and_nothing_stays_open(tmp_path: Path) -> None:
    path = str(tmp_path / "bus.sock")
    loop = asyncio.get_running_loop()
    async with accepting(UnixAddress(path), settings(limits=Limits(connections=1))) as (daemon, _):
        async with connected(path) as talker:
            await talker.greet()
            before = len(open_descriptors())
            others = [socket.socket(socket.AF_UNIX) for _ in range(2 * SPARE)]
            for other in others:
                other.setblocking(False)
                await loop.sock_connect(other, path)
            for other in others:
                while True:
                    try:
                        if not await loop.sock_recv(other, 4096):
                            break
                    except ConnectionResetError:
                        break
                other.close()
            await until(lambda: len(daemon.connections) == 1)
            await until(lambda: len(open_descriptors()) == before)
        assert daemon.counts.connections <= 1


async def test_far_past_the_limit_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.accepting.SPARE", 0)
    path = str(tmp_path / "bus.sock")
    config = settings(limits=Limits(connections=1))
    async with accepting(UnixAddress(path), config) as (_, _), connected(path) as talker:
        await talker.greet()
        async with connected(path) as other:
            assert await other.ended() is None


async def test_a_process_that_has_ended_does_not_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(_: socket.socket) -> None:
        raise PeerGone(7)

    monkeypatch.setattr("iommubus.service.accepting.visible_process", gone)
    path = str(tmp_path / "bus.sock")
    async with accepting(UnixAddress(path)) as (daemon, _), connected(path) as talker:
        assert await talker.ended() is None
        assert not daemon.connections
    assert "process 7, which connected, has ended" in caplog.text


async def test_what_the_system_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("iommubus.service.accepting.PAUSE", 0.001)
    path = str(tmp_path / "bus.sock")
    with listen(UnixAddress(path)) as listener:
        async with Daemon(Config()) as daemon:
            refusals = [OSError(24, "Too many open files")] * 2
            acceptor = Acceptor(daemon, listener, None)
            loop = asyncio.get_running_loop()

            async def sock_accept(sock: socket.socket) -> tuple[socket.socket, object]:
                if refusals:
                    raise refusals.pop()
                return await type(loop).sock_accept(loop, sock)

            patched = Loop(loop, sock_accept)
            monkeypatch.setattr(asyncio, "get_running_loop", lambda: patched)
            task = loop.create_task(acceptor.run())
            await until(lambda: not refusals)
            monkeypatch.undo()
            async with connected(path) as talker:
                await talker.greet()
            task.cancel()
    assert "Too many open files" in caplog.text


class Loop:
    """An event loop that accepts in another way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock_accept: object) -> None:
        self._loop = loop
        self.sock_accept = sock_accept

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


async def test_a_process_that_cannot_be_seen_is_none() -> None:
    with socket.socket() as sock:
        assert visible_process(sock) is None
