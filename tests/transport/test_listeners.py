"""Listening sockets: one daemon has each, and nothing of anybody else is taken away."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from iommubus.errors import AddressError, AddressTaken, CannotListen, LockTaken, NotSocket
from iommubus.transport.address import TcpAddress, TlsAddress, UnixAddress
from iommubus.transport.listeners import Listener, listen
from tests.peers import end, open_descriptors, open_to_all, peer

SERVE = """
import sys
from iommubus.transport.address import UnixAddress
from iommubus.transport.listeners import listen
from iommubus.errors import ListenError
try:
    listener = listen(UnixAddress(sys.argv[1]))
except ListenError as failure:
    print(type(failure).__name__, flush=True)
else:
    print("listens", flush=True)
    sys.stdin.read()
"""


def serve(path: Path) -> "subprocess.Popen[str]":
    """Start a process that listens there, or says why not."""
    command = [sys.executable, "-c", SERVE, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def says(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def reaches(address: str, listener: Listener) -> bool:
    """Say whether a connection made to this path arrives at this listener."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        try:
            connection, _ = listener.sock.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "iommubus" / "bus.sock"


@pytest.fixture
def _umask() -> Generator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [0o660, 0o600])
def test_a_unix_socket_has_its_mode_whatever_the_umask(path: Path, mode: int) -> None:
    with listen(UnixAddress(str(path)), mode) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert not listener.sock.get_inheritable()
        assert reaches(str(path), listener)


def test_a_unix_socket_is_never_more_open_than_it_will_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even between its making and the change of its mode, which is left out here."""

    def leave(*_: object) -> None:
        """Change no mode."""

    monkeypatch.setattr(Path, "chmod", leave)
    before = os.umask(0)
    try:
        with listen(UnixAddress(str(path)), 0o600):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_its_directory_is_made(path: Path) -> None:
    assert not path.parent.parent.exists()
    with listen(UnixAddress(str(path))) as listener:
        assert listener.address == UnixAddress(str(path))
        assert path.is_socket()


def test_the_mode_keeps_others_out_for_real(path: Path) -> None:
    """A member of its group may connect, anybody else may not."""
    with listen(UnixAddress(str(path))):
        open_to_all(path.parent)
        os.chown(path, 0, 4321)
        for gids, expected in ([1234], "PermissionError"), ([1234, 4321], "connected"):
            with peer(str(path), 1234, gids) as (_, outcome):
                assert outcome == expected


def test_it_is_removed_at_the_end(path: Path) -> None:
    before = open_descriptors()
    with listen(UnixAddress(str(path))) as listener:
        pass
    listener.close()
    assert [file.name for file in path.parent.iterdir()] == ["bus.sock.lock"]
    assert open_descriptors() == before


def test_it_is_removed_only_if_it_is_still_ours(path: Path) -> None:
    """Somebody put another there: that one stays, and works."""
    with socket.socket(socket.AF_UNIX) as other:
        with listen(UnixAddress(str(path))):
            path.unlink()
            other.bind(str(path))
            other.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_that_was_removed_is_not_missed(path: Path) -> None:
    with listen(UnixAddress(str(path))):
        path.unlink()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """The daemon was killed: its lock went with it, its file did not."""
    process = serve(path)
    with process:
        assert says(process) == "listens"
        end(process)
    assert path.is_socket()
    with listen(UnixAddress(str(path))) as listener:
        assert reaches(str(path), listener)


def test_a_live_daemon_is_left_alone(path: Path) -> None:
    with serve(path) as process:
        assert says(process) == "listens"
        with pytest.raises(LockTaken) as taken:
            listen(UnixAddress(str(path)))
        assert taken.value.pid == process.pid
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        end(process)


@pytest.mark.parametrize("waiting", [0, 2])
def test_whoever_answers_is_left_alone(path: Path, waiting: int) -> None:
    """Something that knows no lock; also when so many wait that it cannot take another."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        before = open_descriptors()
        with pytest.raises(AddressTaken) as taken:
            listen(UnixAddress(str(path)))
        assert taken.value.path == str(path)
        assert taken.value.pid == (0 if waiting else os.getpid())
        assert open_descriptors() == before
        for client in clients:
            client.close()
    assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("precious", encoding="ascii")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(NotSocket) as refused:
        listen(UnixAddress(str(path)))
    assert refused.value.path == str(path)
    assert path.is_symlink() or path.exists()


def test_of_many_daemons_that_start_at_once_one_listens(path: Path) -> None:
    """A stale socket lies there, which each of them would replace; the one that did is reached."""
    with serve(path) as first:
        assert says(first) == "listens"
        end(first)
    processes = [serve(path) for _ in range(6)]
    outcomes = [says(process) for process in processes]
    assert sorted(outcomes) == ["LockTaken"] * 5 + ["listens"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        peer_pid = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
    assert peer_pid == processes[outcomes.index("listens")].pid
    for process in processes:
        with process:
            end(process)


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotListen, match=r"unix:.*/file/bus.sock: .*[Dd]irectory|File exists"):
        listen(UnixAddress(str(tmp_path / "file" / "bus.sock")))


# -- TCP ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [TcpAddress("127.0.0.1", 0), TcpAddress("localhost", 0), TlsAddress("127.0.0.1", 0)]
)
def test_a_free_port_is_found_and_said(address: TcpAddress | TlsAddress) -> None:
    with listen(address) as listener:
        assert isinstance(listener.address, type(address))
        assert listener.address.port == listener.sock.getsockname()[1] > 0
        assert not listener.sock.getblocking()
        with socket.create_connection(listener.sock.getsockname()[:2]):
            pass


def test_a_port_that_is_taken_is_refused() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        before = open_descriptors()
        with pytest.raises(CannotListen, match="Address already in use"):
            listen(listener.address)
        assert open_descriptors() == before


def test_plain_tcp_is_refused_where_others_could_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is a resolver that leads there."""
    with pytest.raises(AddressError):
        listen(TcpAddress("0.0.0.0", 0))  # noqa: S104
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    def resolve(*_: object, **__: object) -> object:
        return found

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(AddressError, match=r"192\.0\.2\.1"):
        listen(TcpAddress("localhost", 0))


def test_a_host_that_nobody_knows_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"tls:host\.invalid:0"):
        listen(TlsAddress("host.invalid", 0))
