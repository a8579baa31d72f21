"""The daemon at its sockets, from its start to its end: signals, pages, the service manager, and nothing left."""

import asyncio
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from iommubus.errors import AddressTaken, BadCertificate, BadSetting, ConfigUnreadable, LeasesUnreadable
from iommubus.service.serve import LOOK, Reload, serve
from iommubus.service.settings.config import Config, Deadlines, Leases, Metrics
from iommubus.service.settings.rules import Rule
from iommubus.transport.address import Address, UnixAddress
from iommubus.transport.listeners import listen
from iommubus.transport.tls import Identity
from iommubus.wire.messages.greeting import Bye, Draining, Ping, Pong
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.publishing import Answer, Ask, Published
from iommubus.wire.messages.replies import Refused
from iommubus.wire.messages.subscribing import Ack, Subscribe, Subscribed, Translate, Translated
from iommubus.wire.messages.syncing import Sync, Synced
from iommubus.wire.messages.values import Piece, Range
from tests.peers import open_descriptors
from tests.talkers import Talker, creating, gone, page, publishing, settings, until

pytestmark = pytest.mark.asyncio


class Serving:
    """A daemon that serves in this loop."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "bus.sock")
        self.addresses: Sequence[Address] = ()
        self.told = False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.told = self.told or number is not signal.SIGHUP
        os.kill(os.getpid(), number)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Talker]:
        """Give a client of it."""
        with socket.socket(socket.AF_UNIX) as sock:
            talker = Talker(sock)
            await asyncio.get_running_loop().sock_connect(sock, self.path)
            await talker.greet()
            yield talker


@asynccontextmanager
async def serving(directory: Path, reload: Reload | None = None, **values: Any) -> AsyncGenerator[Serving]:
    """Give a daemon that serves; it is told to stop at the end of the block, if it was not."""
    one = Serving(directory)
    ready = asyncio.Event()

    def tell(addresses: Sequence[Address]) -> None:
        one.addresses = addresses
        ready.set()

    config = settings(**{"listen": (f"unix:{one.path}",), "deadlines": Deadlines(shutdown=30), **values})
    task = asyncio.ensure_future(serve(config, reload=reload, ready=tell))
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not ready.is_set():
        waiting.cancel()
        await task
    yield one
    if not one.told:
        one.signal(signal.SIGTERM)
    await task


async def page_of(path: str, what: str) -> str:
    """Return what a page of a daemon says."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {what} HTTP/1.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


def there(path: str) -> bool:
    """Say whether there is a file of this name."""
    return Path(path).exists()


async def serve_once(directory: Path) -> None:
    """Have a daemon serve a client, and end."""
    async with serving(directory, socket_mode="0600") as daemon:
        assert daemon.addresses == [UnixAddress(daemon.path)]
        assert stat.S_IMODE(os.stat(daemon.path).st_mode) == 0o600  # noqa: PTH116
        async with daemon.client() as talker:
            epoch = await talker.space()
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            await talker.hear(Published)
    assert not there(daemon.path)


async def test_it_serves_and_leaves_nothing(tmp_path: Path) -> None:
    await serve_once(tmp_path)  # for the first signal the loop opens what stays open
    descriptors, tasks = len(open_descriptors()), asyncio.all_tasks()
    await serve_once(tmp_path)
    assert asyncio.all_tasks() == tasks
    await until(lambda: len(open_descriptors()) == descriptors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(tmp_path) as daemon, daemon.client() as talker:
        daemon.signal(number)
        draining = await talker.hear(Draining)
        assert (draining.reason, draining.left_us) == ("the daemon was told to stop", 30_000_000)
        assert await talker.ended() == Bye("the daemon was told to stop")


async def test_what_is_under_way_comes_to_its_end(tmp_path: Path) -> None:
    """A `sync` is answered, and a subscriber given what it is owed."""
    async with serving(tmp_path) as daemon, daemon.client() as producer, daemon.client() as consumer:
        epoch = await producer.space()
        await consumer.say(Subscribe(1, ["vtd0"], 3, [Range(0, 2**64 - 1)]))
        number = (await consumer.hear(Subscribed)).subscription
        await producer.say(publishing("vtd0", epoch, 1, page(1)))
        await producer.skip_to(Published)
        await consumer.skip_to(DeliverHeard)
        await producer.say(publishing("vtd0", epoch, 2, gone(1)), Sync(60, 20_000_000, ["vtd0"]))
        deliver = await consumer.skip_to(DeliverHeard)
        daemon.signal(signal.SIGTERM)
        await producer.skip_to(Draining)
        await producer.say(creating(61, "vtd1"))
        assert (await producer.skip_to(Refused)).failure.kind == "Stopping"
        while deliver.number < 2:
            deliver = await consumer.skip_to(DeliverHeard)
        await consumer.say(Ack(number, deliver.number))
        await producer.skip_to(Synced)
        assert isinstance(await consumer.ended(), Bye)


PATIENT: Final[dict[str, Any]] = {"deadlines": Deadlines(shutdown=600), "leases": Leases(seconds=60)}
"""Settings of a daemon that ends by nothing that a test does not do."""


async def owing(producer: Talker, consumer: Talker) -> int:
    """Have a consumer be given something; return the number of its subscription."""
    epoch = await producer.space()
    await consumer.say(Subscribe(1, ["vtd0"], 3, [Range(0, 2**64 - 1)]))
    number = (await consumer.hear(Subscribed)).subscription
    await producer.say(publishing("vtd0", epoch, 1, page(1)))
    await consumer.skip_to(DeliverHeard)
    return number


async def looks(talker: Talker) -> None:
    """Let a daemon look several times whether it has anything left to do; it is there all the while."""
    for number in range(5):
        await asyncio.sleep(LOOK)
        await talker.say(Ping(number))
        await talker.skip_to(Pong)


async def test_what_was_handed_over_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path, **PATIENT) as daemon, daemon.client() as producer, daemon.client() as consumer:
        number = await owing(producer, consumer)
        daemon.signal(signal.SIGTERM)
        await consumer.skip_to(Draining)
        await looks(consumer)
        await consumer.say(Ack(number, 1))
        assert isinstance(await consumer.ended(), Bye)


async def test_an_answer_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path, **PATIENT) as daemon, daemon.client() as producer, daemon.client() as consumer:
        await producer.space(offers=1, answers=True, answer_us=60_000_000)
        await consumer.say(Subscribe(1, ["vtd0"], 1, [Range(0, 2**64 - 1)]))
        number = (await consumer.hear(Subscribed)).subscription
        await consumer.say(Translate(2, number, 7, 1))
        ask = await producer.skip_to(Ask)
        daemon.signal(signal.SIGTERM)
        await consumer.skip_to(Draining)
        await looks(consumer)
        await producer.say(Answer(ask.request, Piece(0, 0xFFF, 0, 1)))
        await consumer.skip_to(Translated)
        assert isinstance(await consumer.ended(), Bye)


async def test_a_second_signal_stops_it_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, **PATIENT) as daemon, daemon.client() as producer, daemon.client() as consumer:
        await owing(producer, consumer)
        daemon.signal(signal.SIGTERM)
        await consumer.skip_to(Draining)
        await looks(consumer)
        daemon.signal(signal.SIGTERM)
        assert isinstance(await consumer.ended(), Bye)


async def test_what_does_not_come_to_its_end_is_given_up_in_time(tmp_path: Path) -> None:
    quick = Deadlines(shutdown=0.1)
    async with serving(tmp_path, deadlines=quick) as daemon, daemon.client() as producer, daemon.client() as consumer:
        epoch = await producer.space()
        await consumer.say(Subscribe(1, ["vtd0"], 3, [Range(0, 2**64 - 1)]))
        await consumer.hear(Subscribed)
        await producer.say(publishing("vtd0", epoch, 1, page(1)))
        await consumer.skip_to(DeliverHeard)
        daemon.signal(signal.SIGTERM)
        assert isinstance(await consumer.ended(), Bye)


# -- SIGHUP ------------------------------------------------------------------------


async def test_sighup_replaces_the_rules_and_a_bad_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iommubus.service.daemon.os.getuid", lambda: 4242)
    monkeypatch.setattr("iommubus.service.serve.os.getuid", lambda: 4242)
    caplog.set_level(logging.INFO)
    mine = Rule(uid=os.geteuid(), publish=("vtd*",))
    outcomes: list[Callable[[], Config]] = [lambda: settings(rules=(mine,)), failing, Config]

    def again() -> Config:
        return outcomes.pop(0)()

    async with serving(tmp_path, again) as daemon, daemon.client() as talker:
        allowed: list[bool] = []
        for step, said in enumerate(["", "there are 1 rules now", "the rules stay as they are", "there are 0 rules"]):
            if said:
                daemon.signal(signal.SIGHUP)
                await until(partial(logged, caplog, said))
            await talker.say(creating(100 + step, f"vtd{step}"))
            allowed.append(not isinstance(await talker.next(), Refused))
    assert allowed == [False, True, True, False]
    assert "nonsense" in caplog.text


def logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


def failing() -> Config:
    raise ConfigUnreadable("bus.toml", "nonsense")


async def test_sighup_without_a_file_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as daemon:
        daemon.signal(signal.SIGHUP)
        await until(lambda: "there is no file" in caplog.text)
        async with daemon.client():
            pass


# -- around it -----------------------------------------------------------------------


async def test_pages_say_how_it_is(tmp_path: Path) -> None:
    place = str(tmp_path / "pages.sock")
    async with serving(tmp_path, metrics=Metrics(listen=f"unix:{place}")) as daemon, daemon.client() as talker:
        await talker.space()
        assert "200 OK" in await page_of(place, "/healthz")
        metrics = await page_of(place, "/metrics")
        assert 'iommubus_mappings{space="vtd0"} 0.0' in metrics
        assert "iommubus_connections 1.0" in metrics
    assert not there(place)


async def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        async with serving(tmp_path):
            heard: list[str] = []

            async def hear(count: int) -> None:
                while heard.count("WATCHDOG=1") < count:
                    heard.append((await asyncio.get_running_loop().sock_recv(manager, 4096)).decode())

            await hear(3)
        while "STOPPING=1" not in heard:
            heard.append((await asyncio.get_running_loop().sock_recv(manager, 4096)).decode())
    assert "READY=1" in heard
    assert "STATUS=0 connections, 0 spaces, 0 subscriptions" in heard


async def test_sockets_of_the_service_manager_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = UnixAddress(str(tmp_path / "handed.sock"))
    with listen(place) as listener:
        monkeypatch.setattr("iommubus.service.serve.inherited", lambda: [listener])
        async with serving(tmp_path) as daemon:
            assert daemon.addresses == [place]
            daemon.path = place.path
            async with daemon.client():
                pass
    assert (tmp_path / "handed.sock.leases.lock").exists()


async def test_the_next_daemon_takes_its_place(tmp_path: Path) -> None:
    numbers: set[int] = set()
    for _ in range(2):
        async with serving(tmp_path) as daemon, daemon.client() as talker:
            assert talker.welcome is not None
            numbers.add(talker.welcome.daemon)
    assert len(numbers) == 2


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"listen": ("tcp:127.0.0.1:0",)}, BadSetting),
        ({"tls": Identity("/none", "/none", "/none")}, BadCertificate),
        ({"metrics": Metrics(listen="unix:{taken}")}, AddressTaken),
    ],
)
async def test_what_cannot_be_is_said_and_leaves_nothing(
    tmp_path: Path, values: dict[str, Any], error: type[Exception]
) -> None:
    descriptors = open_descriptors()
    taken = tmp_path / "taken.sock"
    with listen(UnixAddress(str(taken))):
        os.unlink(f"{taken}.lock")  # noqa: PTH108 - somebody who knows no lock
        if "metrics" in values:
            values = {"metrics": Metrics(listen=f"unix:{taken}")}
        with pytest.raises(error):
            async with serving(tmp_path, **values):
                pass
    assert not (tmp_path / "bus.sock").exists()
    await until(lambda: open_descriptors() == descriptors)


async def test_without_knowing_who_may_still_use_what_it_does_not_serve(tmp_path: Path) -> None:
    (tmp_path / "bus.sock.leases").write_text("not for long")
    with pytest.raises(LeasesUnreadable):
        async with serving(tmp_path):
            pass
    assert not (tmp_path / "bus.sock").exists()


async def test_nothing_that_was_not_asked_for_is_loaded() -> None:
    probe = "import sys, iommubus.service.serve; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert not [name for name in found.stdout.split() if name.startswith(("prometheus_client", "trio", "rich"))]
