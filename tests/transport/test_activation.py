"""Sockets of the service manager: taken if each is of a kind that is known."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

import pytest

from iommubus.errors import BadActivation
from iommubus.transport.activation import announced, inherited

INHERIT = """
import os, sys
handed = [int(fd) for fd in sys.argv[1:]]
for place, fd in enumerate(handed, 3):
    os.dup2(fd, place)
    os.close(fd)
from iommubus.errors import BadActivation
from iommubus.transport.activation import inherited
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"].replace("SELF", str(os.getpid()))
listeners = []
try:
    listeners = inherited()
except BadActivation as refused:
    print("refused:", refused.reason)
for listener in listeners:
    print(listener.address, listener.sock.get_inheritable(), listener.sock.getblocking())
print(sorted(set(os.environ) & {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}))
print([fd for fd in range(3, 3 + len(handed)) if os.path.lexists(f"/proc/self/fd/{fd}")])
for listener in listeners:
    listener.close()
"""

CLEAN = "[]"
"""What the script above prints for variables and for descriptors of which none are left."""


def inherit(socks: Sequence[socket.socket | int], names: str | None, pid: str = "SELF") -> list[str]:
    """Start a process that has these as descriptors 3, 4, ..., as the service manager does; return what it said."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    environ |= {"LISTEN_PID": pid, "LISTEN_FDS": str(len(socks))}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    fds = [fcntl(sock, F_DUPFD_CLOEXEC, 20) for sock in socks]
    command = [sys.executable, "-c", INHERIT, *map(str, fds)]
    result = subprocess.run(command, env=environ, pass_fds=fds, capture_output=True, text=True, check=False)
    for fd in fds:
        os.close(fd)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def make() -> Generator["Make"]:
    with ExitStack() as stack:
        yield Make(stack)


class Make:
    """Makes sockets, and closes them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, address: object, kind: int = socket.SOCK_STREAM, *, listening: bool = True) -> socket.socket:
        family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
        sock = self._stack.enter_context(socket.socket(family, kind))
        sock.bind(address)  # type: ignore[arg-type]
        if listening:
            sock.listen()
        return sock


def test_sockets_of_every_kind_are_taken(make: Make, tmp_path: Path) -> None:
    """In their order; the variables are gone, and no child inherits one."""
    path = tmp_path / "bus.sock"
    unix, tls, tcp = make(str(path)), make(("127.0.0.1", 0)), make(("127.0.0.1", 0))

    assert inherit([unix, tls, tcp], "iommubus.socket:tls:tcp") == [
        f"unix:{path} False False",
        f"tls:127.0.0.1:{tls.getsockname()[1]} False False",
        f"tcp:127.0.0.1:{tcp.getsockname()[1]} False False",
        CLEAN,
        "[3, 4, 5]",
    ]
    assert path.is_socket()  # it belongs to the service manager


def test_a_unix_socket_needs_no_name(make: Make, tmp_path: Path) -> None:
    unix = make(str(tmp_path / "bus.sock"))
    assert inherit([unix], None)[0].startswith("unix:")


@pytest.mark.parametrize("names", [None, "unknown", "iommubus.socket"])
def test_what_a_socket_of_tcp_proves_has_to_be_said(make: Make, tmp_path: Path, names: str | None) -> None:
    """All are closed, also those that were good."""
    unix, inet = make(str(tmp_path / "bus.sock")), make(("127.0.0.1", 0))
    refused, *rest = inherit([unix, inet], None if names is None else f"x:{names}")
    assert "has no FileDescriptorName=tls or tcp" in refused
    assert rest == [CLEAN, CLEAN]


def test_plain_tcp_has_to_be_on_loopback(make: Make) -> None:
    anywhere = make(("0.0.0.0", 0))  # noqa: S104
    assert "loopback only" in inherit([anywhere], "tcp")[0]
    assert inherit([anywhere], "tls")[0].startswith("tls:0.0.0.0:")


def test_what_does_not_listen_is_refused(make: Make, tmp_path: Path) -> None:
    mute = make(str(tmp_path / "one"), listening=False)
    datagrams = make(str(tmp_path / "two"), socket.SOCK_DGRAM, listening=False)
    for sock in mute, datagrams:
        refused, *rest = inherit([sock], "x")
        assert "descriptor 3 (x) is no stream socket that listens" in refused
        assert rest == [CLEAN, CLEAN]


def test_an_abstract_socket_is_refused(make: Make) -> None:
    """It has no mode: anybody may connect."""
    abstract = make(f"\0iommubus-{os.getpid()}")
    assert "abstract" in inherit([abstract], "x")[0]


def test_what_is_no_socket_is_refused() -> None:
    with Path("/dev/null").open("rb") as file:
        refused, *rest = inherit([file.fileno()], "x")
    assert "descriptor 3 (x) is no socket" in refused
    assert rest == [CLEAN, CLEAN]


def test_what_is_meant_for_another_process_is_left(make: Make, tmp_path: Path) -> None:
    """The variables were inherited from it, and the descriptors are something else here."""
    assert inherit([make(str(tmp_path / "one"))], "x", pid="1") == [CLEAN, "[3]"]
    assert inherit([make(str(tmp_path / "two"))], "x", pid="") == [CLEAN, "[3]"]


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1000000"}
    assert len(announced(environ, os.getpid())) == 1_000_000
    script = """if True:
        import os
        from iommubus.transport.activation import inherited
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    """
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr
    assert "descriptor 3 (unknown) is no socket: Bad file descriptor" in said


def test_nothing_was_handed_over_to_this_process() -> None:
    assert inherited() == []
    assert announced({}, 7) == []


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, ["a", "b"]),
        ({"LISTEN_FDS": "2"}, ["unknown", "unknown"]),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:"}, ["a", ""]),
        ({"LISTEN_FDS": "0"}, []),
    ],
)
def test_names_belong_to_descriptors_in_order(environ: dict[str, str], names: list[str]) -> None:
    assert announced(environ | {"LISTEN_PID": "7"}, 7) == names


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "LISTEN_FDS is ''"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is '-1'"),
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS is 'two'"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "1 names for 2"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "2 names for 1"),
    ],
)
def test_what_cannot_be_announced_is_refused(environ: dict[str, str], reason: str) -> None:
    with pytest.raises(BadActivation) as refused:
        announced(environ | {"LISTEN_PID": "7"}, 7)
    assert reason in refused.value.reason
