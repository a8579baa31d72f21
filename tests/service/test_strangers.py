"""Strangers at a real daemon: other users, other certificates, and no rule for what they want."""

import asyncio
import datetime as dt
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
import trustme

from iommubus.transport.tls import Identity, client_context
from iommubus.wire.connection import ClientConnection
from iommubus.wire.messages import ClientMessage, DaemonHeard
from iommubus.wire.messages.greeting import Bye, Hello, Welcome
from iommubus.wire.messages.replies import Refused
from iommubus.wire.messages.subscribing import Subscribe
from iommubus.wire.messages.syncing import Sync
from iommubus.wire.messages.values import Range
from iommubus.wire.messages.watching import Observe
from tests.attacked import DaemonProcess, serving
from tests.talkers import creating, until

STRANGER: Final = 4242

ASKING: Final = """
import asyncio, json, os, sys
import anyio, anyio._backends._asyncio
import iommubus
from iommubus.client.remote import connect
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
from iommubus import Cap

async def refusal(work):
    try:
        await work()
    except iommubus.IommubusError as refused:
        return f"{type(refused).__name__}: {refused}"
    return "allowed"

async def main():
    async with connect(f"unix:{path}") as bus:
        async def subscribe():
            async with bus.subscribe("vtd0", Cap.IOTLB):
                pass
        async def observe():
            async with bus.observe("vtd0"):
                pass
        said = {
            "publish": await refusal(lambda: bus.create_space("vtd0")),
            "subscribe": await refusal(subscribe),
            "observe": await refusal(observe),
            "admin": await refusal(bus.sync),
        }
        print(json.dumps(said))

anyio.run(main)
"""


def ask_as(uid: int, path: Path) -> dict[str, str]:
    """Return what a process of another user is told when it tries everything."""
    for each in [path.parent, *path.parent.parents][:4]:
        each.chmod(each.stat().st_mode | 0o011)
    asking = subprocess.run(
        [sys.executable, "-c", ASKING, str(path), str(uid)], capture_output=True, text=True, check=False, timeout=60
    )
    assert asking.returncode == 0, asking.stderr
    said: dict[str, str] = json.loads(asking.stdout)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_told_which_rule_is_missing(tmp_path: Path) -> None:
    """So is whoever reads the log, word by word as the rule would stand in the file."""
    with serving(tmp_path, "socket_mode=0666") as daemon:
        said = ask_as(STRANGER, daemon.path)
        log = daemon.log

    assert said["publish"].startswith("RuleMissing")
    assert said["subscribe"].startswith("MayNotSubscribe")
    for action in ("publish", "subscribe", "observe"):
        rule = f'[[rules]] uid = {STRANGER}, {action} = ["vtd0"]'
        assert rule in said[action]
        assert rule in log
    assert daemon.troubles == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_rule_for_others_is_none_for_this_one(tmp_path: Path) -> None:
    rules = (
        f'[[rules]]\nuid = {STRANGER + 1}\npublish = ["*"]\nsubscribe = ["*"]\n[[rules]]\ngid = 1\nobserve = ["*"]\n'
    )
    rules += f'[[rules]]\nuid = {STRANGER}\npublish = ["smmu*"]\nobserve = ["*"]\n'
    with serving(tmp_path, "socket_mode=0666", rules=rules) as daemon:
        said = ask_as(STRANGER, daemon.path)

    assert [said[action].split(":")[0] for action in ("publish", "subscribe", "observe")] == [
        "RuleMissing",
        "MayNotSubscribe",
        "UnknownName",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_socket_that_is_not_theirs_lets_nobody_connect(tmp_path: Path) -> None:
    with serving(tmp_path, "socket_mode=0600") as daemon, pytest.raises(AssertionError, match=r"PermissionError|13"):
        ask_as(STRANGER, daemon.path)


# -- certificates ------------------------------------------------------------------


class Certificates:
    """Writes certificates, of the daemon and of its peers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = trustme.CA()
        self.other = trustme.CA()

    def identity(self, name: str, ca: trustme.CA | None = None, *, expired: bool = False) -> Identity:
        """Return an identity that trusts whom the right authority vouches for."""
        past = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
        issued = (ca or self.ca).issue_cert(
            name,
            common_name=name,
            not_before=past if expired else None,
            not_after=past + dt.timedelta(days=1) if expired else None,
        )
        paths = [self._directory / f"{name}.{part}.pem" for part in ("cert", "key", "ca")]
        issued.cert_chain_pems[0].write_to_path(paths[0])
        issued.private_key_pem.write_to_path(paths[1])
        self.ca.cert_pem.write_to_path(paths[2])
        return Identity(*map(str, paths))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[DaemonProcess, int]]:
    """Give a daemon at a TLS address, and its port; one peer may observe."""
    own = certificates.identity("bus.example")
    lines = f'[tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\nauthority = "{own.authority}"\n'
    lines += '[[rules]]\ncertificate = "*.lab.example"\nobserve = ["*"]\n'
    with serving(tmp_path_factory.mktemp("secured"), rules=lines, listen="tls:127.0.0.1:0") as daemon:
        port = next(int(word.rpartition(":")[2].strip(",")) for word in daemon.log.split() if word.startswith("tls:"))
        yield daemon, port


async def talk(port: int, context: ssl.SSLContext, *messages: ClientMessage) -> list[DaemonHeard]:
    """Greet over TLS, say these, and return as many answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="bus.example")
    wire = ClientConnection()
    heard: list[DaemonHeard] = []
    try:
        writer.write(wire.send(Hello(1, 1, "remote")))
        while len(heard) <= len(messages):
            while (message := wire.next_message()) is not None:
                heard.append(message)
                if isinstance(message, Welcome):
                    writer.write(b"".join(map(wire.send, messages)))
                if isinstance(message, Bye):
                    return heard
            if len(heard) <= len(messages):
                data = await reader.read(65536)
                if not data:
                    raise ConnectionResetError
                wire.receive_data(data)
    finally:
        writer.transport.abort()
    return heard


def without_certificate(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=identity.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def older(identity: Identity) -> ssl.SSLContext:
    context = without_certificate(identity)
    context.load_cert_chain(identity.certificate, identity.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("what", ["other authority", "expired", "none", "TLS 1.2"])
def test_whoever_shows_no_good_certificate_is_not_let_in(
    secured: tuple[DaemonProcess, int], certificates: Certificates, what: str
) -> None:
    daemon, port = secured
    context = {
        "other authority": lambda: client_context(certificates.identity("vm1.lab.example", certificates.other)),
        "expired": lambda: client_context(certificates.identity("vm2.lab.example", expired=True)),
        "none": lambda: without_certificate(certificates.identity("vm3.lab.example")),
        "TLS 1.2": lambda: older(certificates.identity("vm4.lab.example")),
    }[what]()
    before = daemon.log.count("not let in")

    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(talk(port, context))

    asyncio.run(until(lambda: daemon.log.count("not let in") > before, 20_000))
    assert daemon.troubles == []


def test_a_peer_by_certificate_is_told_which_rule_is_missing(
    secured: tuple[DaemonProcess, int], certificates: Certificates
) -> None:
    """It may do what a rule for its name says, and cannot be one whose process is watched."""
    daemon, port = secured
    everywhere = [Range(0, 2**64 - 1)]
    messages: list[ClientMessage] = [
        creating(1, "vtd0"),
        Subscribe(2, ["vtd0"], 3, everywhere, stops="exit"),
        Observe(3, ["*"]),
        Sync(4, 0, ["vtd0"]),
    ]
    context = client_context(certificates.identity("vm5.lab.example"))
    heard = asyncio.run(talk(port, context, *messages))

    refused = {message.request: message.failure for message in heard if isinstance(message, Refused)}
    assert set(refused) == {1, 2, 4}
    for request, action in ((1, "publish"), (2, "subscribe")):
        rule = f'[[rules]] certificate = "vm5.lab.example", {action} = ["vtd0"]'
        assert rule in refused[request].text
        assert rule in daemon.log
    assert daemon.troubles == []
