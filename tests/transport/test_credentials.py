"""Who is at the other end, from real processes; and whether they have ended."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import get_native_id

import anyio
import pytest

from iommubus.errors import NoCredentials, PeerGone
from iommubus.transport import credentials
from iommubus.transport.credentials import (
    Peer,
    ask_for_sender,
    boot_id,
    has_ended,
    hung_up,
    names_in,
    numbers_of,
    peer_groups,
    peer_of,
    process_again,
    process_of,
    process_said,
    sender_of,
    start_of,
    ticks_now,
)
from tests.loops import every_loop
from tests.peers import connected, end, open_descriptors, open_to_all

UNKNOWN_OPTION = 9999


@pytest.fixture
def listening(tmp_path: Path) -> Generator[socket.socket]:
    """Give a socket that any user can reach."""
    open_to_all(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        (tmp_path / "socket").chmod(0o666)
        sock.listen()
        yield sock


@pytest.fixture(params=["SO_PEERPIDFD", "pidfd_open"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the kernel's own pidfd of a peer, and as on a kernel that gives none."""
    if request.param == "pidfd_open":
        monkeypatch.setattr(credentials, "SO_PEERPIDFD", UNKNOWN_OPTION)


def test_the_kernel_says_who_connected(listening: socket.socket) -> None:
    with connected(listening, 1234, [2345, 7, 8]) as (process, connection):
        found = peer_of(connection)

    assert found == Peer(process.pid, 1234, (2345, 7, 8))
    assert str(found) == f"uid 1234 gid 2345, 7, 8 (process {process.pid})"


def test_all_groups_are_seen_however_many(listening: socket.socket) -> None:
    with connected(listening, 1234, range(100, 300)) as (_, connection):
        assert peer_groups(connection) == tuple(range(101, 300))
        assert peer_of(connection).gids == tuple(range(100, 300))


def test_a_kernel_that_does_not_say_groups_says_the_first(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SO_PEERGROUPS", UNKNOWN_OPTION)
    with connected(listening, 1234, [5, 6]) as (_, connection):
        assert peer_of(connection).gids == (5,)


def test_other_sockets_have_no_credentials() -> None:
    with socket.socket() as sock:
        with pytest.raises(NoCredentials):
            peer_of(sock)
        with pytest.raises(NoCredentials):
            process_of(sock, ticks_now())


def test_a_peer_without_anything_is_called_so() -> None:
    assert str(Peer()) == "a peer without a name"
    assert str(Peer(names=("a", "b"))) == "the certificate of a, b"


# -- processes ---------------------------------------------------------------


@pytest.mark.usefixtures("_either_way")
def test_the_process_that_connected_is_watched(listening: socket.socket) -> None:
    with connected(listening) as (child, connection), process_of(connection, ticks_now()) as process:
        assert (process.pid, process.start) == (child.pid, start_of(child.pid))
        assert [process.ended] == [False]
        process.kill()
        child.wait()
        assert process.ended
        process.kill()


@pytest.mark.usefixtures("_either_way")
def test_a_process_that_nobody_has_waited_for_has_ended(listening: socket.socket) -> None:
    """Its memory is gone, and so is what it held."""
    with connected(listening) as (child, connection), process_of(connection, ticks_now()) as process:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.ended
        with pytest.raises(PeerGone):
            process_of(connection, ticks_now())


@pytest.mark.usefixtures("_either_way")
def test_a_peer_that_has_ended_is_not_watched(listening: socket.socket) -> None:
    with connected(listening) as (child, connection):
        end(child)
        before = open_descriptors()
        with pytest.raises(PeerGone) as gone:
            process_of(connection, ticks_now())
        assert gone.value.pid == child.pid
        assert open_descriptors() == before


def test_a_number_that_was_reused_is_noticed(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that started after the connection was accepted did not make it."""
    monkeypatch.setattr(credentials, "SO_PEERPIDFD", UNKNOWN_OPTION)
    with connected(listening) as (child, connection):
        start = start_of(child.pid)
        assert start is not None
        process_of(connection, start).close()
        before = open_descriptors()
        with pytest.raises(PeerGone):
            process_of(connection, start - 1)
        assert open_descriptors() == before


def test_who_hung_up_may_have_ended_before_its_number_was_looked_at(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's credentials name this process, which lives; only the closed connection gives it away."""
    monkeypatch.setattr(credentials, "SO_PEERPIDFD", UNKNOWN_OPTION)
    own = socket.socket(socket.AF_UNIX)
    own.connect(listening.getsockname())
    connection, _ = listening.accept()
    with connection:
        process_of(connection, ticks_now()).close()
        own.close()
        with pytest.raises(PeerGone):
            process_of(connection, ticks_now())


def test_a_process_of_an_invisible_namespace_is_refused(listening: socket.socket) -> None:
    """Law 8: an `exit` that could never be seen proves nothing.  Here the namespace is ours, and we cannot look out."""
    script = """if True:
        import os, socket, sys
        from iommubus.errors import NoCredentials
        from iommubus.transport.credentials import peer_of, process_of
        connection = socket.socket(fileno=int(sys.argv[1]))
        assert peer_of(connection).pid == 0
        try:
            process_of(connection, 2**62)
        except NoCredentials as refused:
            print(refused)
    """
    with connected(listening) as (_, connection):
        command = ["unshare", "--pid", "--fork", sys.executable, "-c", script, str(connection.fileno())]
        result = subprocess.run(command, pass_fds=[connection.fileno()], capture_output=True, text=True, check=True)
    assert "pid namespace" in result.stdout


def test_a_process_of_a_record_is_found_again(listening: socket.socket) -> None:
    with connected(listening) as (child, _):
        start = start_of(child.pid)
        assert start is not None
        again = process_again(child.pid, start)
        assert again is not None
        with again:
            assert (again.pid, again.start, again.ended) == (child.pid, start, False)
        assert process_again(child.pid, start + 1) is None
        assert process_again(child.pid, start - 1) is None
        end(child)
        before = open_descriptors()
        assert process_again(child.pid, start) is None
        assert open_descriptors() == before
    assert process_again(2**40, 1) is None


def test_a_process_is_found_by_the_number_that_its_own_kind_says(listening: socket.socket) -> None:
    with connected(listening) as (child, _):
        before = open_descriptors()
        found = process_said(child.pid, os.getpid())
        assert found is not None
        with found:
            assert (found.pid, found.start, found.ended) == (child.pid, start_of(child.pid), False)
            end(child)
            assert found.ended
        assert process_said(child.pid, os.getpid()) is None
        with pytest.raises(NoCredentials, match="another pid namespace"):
            process_said(os.getpid(), child.pid)  # who said it is gone, and nobody knows whom it meant
        assert open_descriptors() == before


def test_a_process_that_has_ended_and_was_not_waited_for_is_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        before = open_descriptors()
        assert process_said(child.pid, os.getpid()) is None
        assert open_descriptors() == before


def test_a_thread_is_no_process() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(NoCredentials, match="is a thread"):
        process_said(pool.submit(get_native_id).result(), os.getpid())


def test_a_process_of_which_nothing_can_be_read_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8: where a mounted proc hides others, they still run."""

    def hidden(pid: int) -> None:
        del pid

    before = open_descriptors()
    monkeypatch.setattr(credentials, "start_of", hidden)
    with pytest.raises(NoCredentials, match="cannot be read"):
        process_said(os.getpid(), os.getpid())
    assert open_descriptors() == before


def test_a_number_said_in_another_namespace_is_refused() -> None:
    """Law 8: it is another process's here, or nobody's, whose end would prove nothing."""
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"1\n"
        inner = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())
        assert numbers_of(inner) == (inner, 1)
        with pytest.raises(NoCredentials, match="another pid namespace"):
            process_said(1, inner)
        outer.communicate(b"\n")


def test_a_kernel_without_namespaces_has_one_number_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers_of(os.getpid()) == (os.getpid(),)
    assert numbers_of(2**40) == ()

    def status(path: Path) -> bytes:
        assert path == Path("/proc/7/status")
        return b"Name:\tpython\nPid:\t7\n"

    monkeypatch.setattr(Path, "read_bytes", status)
    assert numbers_of(7) == (7,)


def test_a_name_with_brackets_does_not_hide_when_a_process_started() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write(') S 1 (x'); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "(x)" in Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii")
        own = start_of(os.getpid())
        start = start_of(process.pid)
        assert own is not None
        assert start is not None
        assert own <= start <= ticks_now()
        end(process)


@every_loop
async def test_an_exit_is_waited_for(listening: socket.socket) -> None:
    with connected(listening) as (child, connection), process_of(connection, ticks_now()) as process:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await process.wait_exit()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.wait_exit)
            await anyio.lowlevel.checkpoint()
            child.send_signal(signal.SIGKILL)
        assert process.ended
        await process.wait_exit()
        child.wait()


def test_closing_twice_closes_once(listening: socket.socket) -> None:
    with connected(listening) as (_, connection):
        before = open_descriptors()
        process = process_of(connection, ticks_now())
        process.close()
        with process:
            assert open_descriptors() == before


def test_this_process_has_not_ended() -> None:
    fd = os.pidfd_open(os.getpid())
    assert not has_ended(fd)
    os.close(fd)


def test_a_boot_has_a_name() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


# -- certificates ------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        ({"subject": ((("countryName", "DE"),), (("commonName", "vm1"),))}, ("vm1",)),
        (
            {
                "subject": ((("commonName", "vm1"),),),
                "subjectAltName": (("DNS", "a"), ("IP Address", "10.0.0.1"), ("URI", "spiffe://b"), ("email", "c@d")),
            },
            ("a", "spiffe://b", "c@d"),
        ),
        ({"subject": ((("commonName", "vm1"),),), "subjectAltName": (("IP Address", "10.0.0.1"),)}, ("vm1",)),
    ],
)
def test_the_names_of_a_certificate(certificate: dict[str, object] | None, names: tuple[str, ...]) -> None:
    assert names_in(certificate) == names


# -- who sends ---------------------------------------------------------------


@contextmanager
def asking(listening: socket.socket) -> Generator[socket.socket]:
    """Give a connection that asks who sends on it."""
    with socket.socket(socket.AF_UNIX) as sock:
        ask_for_sender(sock)
        sock.connect(listening.getsockname())
        sock.setblocking(False)
        yield sock


@contextmanager
def served(listening: socket.socket, *, hangs_up: bool = False) -> Generator[tuple[int, socket.socket]]:
    """Give a process that serves where this one listens, and a connection that it has taken."""
    child = os.fork()
    if not child:
        taken, _ = listening.accept()
        with open(os.devnull) as sent:  # noqa: PTH123 - no path is wanted
            socket.send_fds(taken, [b"word"], [sent.fileno()])
        if hangs_up:
            taken.close()
        while True:
            signal.pause()
    try:
        with asking(listening) as sock:
            yield child, sock
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@every_loop
async def test_who_sends_is_watched_and_not_who_listens(listening: socket.socket) -> None:
    with served(listening) as (child, sock):
        before = len(open_descriptors())
        with await sender_of(sock) as process:
            assert peer_of(sock).pid == os.getpid()
            assert (process.pid, process.start) == (child, start_of(child))
            assert len(open_descriptors()) <= before + 2  # the pidfd, and what a loop opens once
            assert not process.ended
            os.kill(child, signal.SIGKILL)
            await process.wait_exit()
        data, fds, flags, _ = socket.recv_fds(sock, 16, 1)
        assert (data, len(fds), flags & socket.MSG_CTRUNC) == (b"word", 1, 0)
        os.close(fds[0])


@every_loop
async def test_who_listens_may_be_who_sends(listening: socket.socket) -> None:
    with asking(listening) as sock:
        taken, _ = listening.accept()
        with taken:
            taken.send(b"word")
            with await sender_of(sock) as process:
                assert process.pid == os.getpid()


@every_loop
async def test_who_sent_and_hung_up_may_have_ended_before_its_number_was_looked_at(listening: socket.socket) -> None:
    with served(listening, hangs_up=True) as (child, sock):
        while not hung_up(sock):  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.001)
        with pytest.raises(PeerGone) as gone:
            await sender_of(sock)
        assert gone.value.pid == child


@every_loop
async def test_a_sender_that_has_ended_is_not_watched(listening: socket.socket) -> None:
    with asking(listening) as sock:
        taken, _ = listening.accept()
        with taken:
            child = os.fork()
            if not child:
                taken.send(b"word")
                os._exit(0)
            await anyio.to_thread.run_sync(os.waitpid, child, 0)
            before = open_descriptors()
            with pytest.raises(PeerGone):
                await sender_of(sock)
            assert open_descriptors() == before


@every_loop
async def test_without_a_word_there_is_no_sender(listening: socket.socket) -> None:
    with asking(listening) as sock:
        listening.accept()[0].close()
        with pytest.raises(NoCredentials):
            await sender_of(sock)
