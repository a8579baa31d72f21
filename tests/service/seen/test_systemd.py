"""The service manager is told, at a real socket; without one nothing happens.  And what `packaging` says holds."""

import configparser
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from iommubus.service.seen.systemd import Supervisor, place, watchdog_interval
from iommubus.service.settings.config import Config
from iommubus.transport.address import default_address
from tests.peers import open_descriptors

PACKAGING = Path(__file__).parents[3] / "packaging"


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[socket.socket, str]]:
    """Give a socket as the service manager has it, and what ``NOTIFY_SOCKET`` says."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@iommubus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        yield sock, name


def test_each_message_arrives(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    before = open_descriptors()
    supervisor = Supervisor({"NOTIFY_SOCKET": name})
    assert supervisor.ready()
    assert supervisor.status("serves 3 spaces\nREADY=0")
    assert supervisor.watchdog()
    assert supervisor.stopping()
    assert [sock.recv(100) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=serves 3 spaces READY=0",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]
    assert open_descriptors() == before


def test_a_manager_that_does_not_read_holds_up_nothing(manager: tuple[socket.socket, str]) -> None:
    """Its queue is full; the daemon serves on."""
    supervisor = Supervisor({"NOTIFY_SOCKET": manager[1]})
    assert not all(supervisor.watchdog() for _ in range(10_000))


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1234", "/nowhere/at/all"])
def test_without_a_manager_nothing_is_sent(name: str) -> None:
    assert not Supervisor({"NOTIFY_SOCKET": name}).ready()
    assert not Supervisor({}).ready()


def test_abstract_sockets_begin_with_a_zero() -> None:
    assert place("@x@y") == "\0x@y"
    assert place("/x") == "/x"


def test_the_environment_of_this_process_counts() -> None:
    script = "from iommubus.service.seen.systemd import Supervisor; s = Supervisor(); print(s.interval, s.ready())"
    environ = {**os.environ, "WATCHDOG_USEC": "3000000"}
    environ.pop("NOTIFY_SOCKET", None)
    said = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert said.stdout == "1.5 False\n"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "7"}, 5e-7),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_told_twice_in_its_time(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(environ, 7) == seconds
    assert Supervisor({}).interval is None


# -- packaging ---------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(PACKAGING / name)
    return parser


def test_the_socket_unit_says_what_the_daemon_would_do() -> None:
    """The same path, the same mode."""
    sock = unit("iommubus.socket")["Socket"]
    assert sock["ListenStream"] == default_address({}).path
    assert int(sock["SocketMode"], 8) == Config().mode


def test_the_unit_fits_the_defaults() -> None:
    """It waits longer than the daemon takes, allows its descriptors, and keeps what it has to remember."""
    service = unit("iommubus.service")["Service"]
    assert float(service["TimeoutStopSec"]) > Config().deadlines.shutdown
    assert int(service["LimitNOFILE"]) >= 4 * Config().limits.connections
    assert service["Type"] == "notify"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert default_address({}).path.startswith(f"/run/{service['RuntimeDirectory']}/")
    assert unit("iommubus.service")["Unit"]["Requires"] == "iommubus.socket"


def test_systemd_itself_understands_the_units(tmp_path: Path) -> None:
    """Where it is installed; the command and the user are made to be some that exist."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    text = (PACKAGING / "iommubus.service").read_text(encoding="utf-8")
    text = text.replace("/usr/bin/iommubus", sys.executable).replace("=iommubus\nGroup", "=root\nGroup")
    (tmp_path / "iommubus.service").write_text(text.replace("Group=iommubus", "Group=root"), encoding="utf-8")
    shutil.copy(PACKAGING / "iommubus.socket", tmp_path)
    units = [str(tmp_path / "iommubus.service"), str(tmp_path / "iommubus.socket")]
    result = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert [line for line in result.stderr.splitlines() if "iommubus." in line] == []
