"""``iommubus ping``: an answer, or why there is none."""

import socket
from pathlib import Path

import pytest

from iommubus.transport.address import default_address
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Bye, Draining, Hello, Ping, Pong
from tests.cli.commands import iommubus, read_json
from tests.daemons import WELCOME, scripted


def test_a_daemon_that_is_there_is_told_of(address: str) -> None:
    done = iommubus("ping", address)

    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (done.exit_code, done.stderr) == (0, "")
    assert (facts["address"], facts["health"]) == (address, "ok")
    assert facts["protocol"] == "version 1, with descriptors, resume"
    assert facts["lease"] == "10 s"


def test_the_same_is_there_as_json(address: str) -> None:
    told = read_json("ping", "--address", address, "--json")

    assert 0 < told.pop("seconds") < 5
    assert int(told.pop("daemon"), 16) > 0
    assert told == {
        "address": address, "protocol": 1, "features": ["descriptors", "resume"], "lease_seconds": 10.0, "health": "ok"
    }  # fmt: skip


def test_the_environment_says_where(address: str) -> None:
    assert iommubus("ping", IOMMUBUS_ADDRESS=address).exit_code == 0


def test_without_a_word_it_is_the_default_that_is_asked(tmp_path: Path) -> None:
    done = iommubus("ping", XDG_RUNTIME_DIR=str(tmp_path))

    where = default_address({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert done.exit_code == 1
    assert done.stderr == (
        f"iommubus ping: there is no connection to the daemon at {where}: No such file or directory\n"
    )


def test_a_daemon_that_says_nothing_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()

        done = iommubus("ping", f"unix:{tmp_path}/deaf", "--timeout", "0.05")

    assert done.exit_code == 1
    assert done.stderr.endswith("/deaf: it did not answer within 0.05 s\n")


def test_something_else_that_listens_there_is_told_apart(tmp_path: Path) -> None:
    def nonsense(message: ClientMessage) -> list[DaemonMessage]:
        return [Bye("this is a printer")] if isinstance(message, Hello) else []

    with scripted(tmp_path, nonsense) as address:
        done = iommubus("ping", address)

    assert done.exit_code == 1
    assert "this is a printer" in done.stderr


def test_a_daemon_that_is_about_to_stop_says_so(tmp_path: Path) -> None:
    def draining(message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME, Draining("it was told to stop", 1_000_000)]
            case Ping():
                return [Pong(message.number)]
            case _:
                return []

    with scripted(tmp_path, draining) as address:
        told = read_json("ping", address, "--json")

    assert told["health"] == "stops soon: it was told to stop"
    assert (told["lease_seconds"], told["features"]) == (None, [])


def test_a_daemon_that_goes_while_it_is_asked_is_named(tmp_path: Path) -> None:
    def leaving(message: ClientMessage) -> list[DaemonMessage]:
        match message:
            case Hello():
                return [WELCOME]
            case Ping():
                return [Bye("good night")]
            case _:
                return []

    with scripted(tmp_path, leaving) as address:
        done = iommubus("ping", address)

    assert (done.exit_code, done.stderr) == (
        1, f"iommubus ping: there is no connection to the daemon at {address}: good night\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "an address is unix:/PATH"),
        (["tls:localhost:1"], "takes --identity CERT KEY AUTHORITY"),
        (["--timeout", "soon"], "'soon' is no number of seconds"),
    ],
)
def test_wrong_usage_has_its_own_status(words: list[str], reason: str) -> None:
    done = iommubus("ping", *words)

    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.replace("│", "").split())
