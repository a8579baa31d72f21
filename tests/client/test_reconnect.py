"""Keeping a connection: in a virtual loop, against scripted daemons."""

# pyright: reportPrivateUsage=false

import asyncio
from pathlib import Path
from random import Random

import pytest

from iommubus.client.channel import Channel
from iommubus.client.reconnect import (
    CLOSE_TIMEOUT,
    HELLO_TIMEOUT,
    RETRY_LEAST,
    RETRY_MOST,
    STEADY,
    Keeper,
    Rank,
    connector_to,
    retry_delay,
)
from iommubus.errors import BusClosed, Disconnected, LimitReached, VersionRefused
from iommubus.transport.address import TcpAddress, UnixAddress
from iommubus.wire.failures import to_failure
from iommubus.wire.messages import Message
from iommubus.wire.messages.greeting import Bye, Hello
from tests.client.rig import ADDRESS, Rig, rigged
from tests.client.scripted import Script, until


class Witness:
    """Takes part, and notes what it is told."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def attached(self, channel: Channel) -> None:
        assert channel.open
        self.log.append(f"{self.name} attached")

    def lost(self, reason: str) -> None:
        self.log.append(f"{self.name} lost: {reason}")

    def ended(self, error: Exception) -> None:
        self.log.append(f"{self.name} ended: {type(error).__name__}")


class Daemons:
    """Accepts connections; each has a script of its own."""

    def __init__(self, rig: Rig, *, refusal: Exception | None = None) -> None:
        self.scripts: list[Script] = []
        self.refusal = refusal
        self._rig = rig
        self.start()

    def start(self) -> None:
        self._rig.network.listen(ADDRESS, lambda _: self._accept())

    def stop(self) -> None:
        self._rig.network.stop_listening(ADDRESS)
        self._rig.cut()

    def _accept(self) -> Script:
        script = Script(welcome=None) if self.refusal is not None else Script()
        script.on_hear = lambda message: self._refuse(script, message)
        self.scripts.append(script)
        return script

    def _refuse(self, script: Script, message: Message) -> None:
        if self.refusal is not None and isinstance(message, Hello):
            script.say(Bye("", to_failure(self.refusal)))


def test_delays_grow_up_to_a_bound_and_are_spread() -> None:
    chance = Random(7)  # noqa: S311
    for attempt in range(40):
        bound = min(RETRY_MOST, RETRY_LEAST * 2**attempt)
        delays = [retry_delay(attempt, chance) for _ in range(200)]
        assert 0 <= min(delays) < bound / 10
        assert bound * 0.9 < max(delays) <= bound


@rigged
async def test_a_daemon_that_is_not_there_is_said_to_whoever_connects(rig: Rig) -> None:
    keeper = rig.keeper()

    with pytest.raises(Disconnected, match="nobody listens at unix:/daemon") as caught:
        await keeper.begin()

    assert isinstance(caught.value.__cause__, OSError)
    await keeper.end()


@rigged
async def test_with_patience_a_daemon_that_comes_is_found(rig: Rig) -> None:
    keeper = rig.keeper()
    rig.loop.call_later(7, lambda: Daemons(rig))

    await keeper.begin(patience=20)

    assert 7 <= rig.loop.time() - 1000 <= 7 + RETRY_MOST + 1
    await keeper.end()


@rigged
async def test_patience_has_an_end(rig: Rig) -> None:
    keeper = rig.keeper()

    with pytest.raises(Disconnected):
        await keeper.begin(patience=20)

    assert rig.loop.time() - 1000 <= 20
    await keeper.end()


@rigged
async def test_a_daemon_that_does_not_greet_is_given_up(rig: Rig) -> None:
    script = Script(welcome=None)
    rig.network.listen(ADDRESS, lambda _: script)
    keeper = rig.keeper()

    with pytest.raises(Disconnected, match="did not answer"):
        await keeper.begin()

    assert rig.loop.time() - 1000 == pytest.approx(HELLO_TIMEOUT, abs=0.1)
    await until(lambda: script.lost)
    await keeper.end()


@rigged
async def test_why_a_daemon_does_not_let_the_client_in_is_raised(rig: Rig) -> None:
    for refusal in (VersionRefused(1, 1, 2, 2), LimitReached("limits.connections", 1)):
        Daemons(rig, refusal=refusal)
        keeper = rig.keeper()
        with pytest.raises(type(refusal)):
            await keeper.begin(patience=60)
        await keeper.end()


@rigged
async def test_who_takes_part_is_told_in_order(rig: Rig) -> None:
    log: list[str] = []
    daemons, keeper = Daemons(rig), rig.keeper()
    for rank in (Rank.SEATS, Rank.ENDPOINTS, Rank.MEMORIES, Rank.LINKS):
        keeper.join(rank, Witness(rank.name, log))
    await keeper.begin()
    keeping = asyncio.create_task(keeper.keep())
    late = Witness("late", log)
    keeper.join(Rank.SEATS, late)

    order = ["MEMORIES", "LINKS", "ENDPOINTS", "SEATS"]
    assert log == [*(f"{name} attached" for name in order), "late attached"]
    keeper.part(late)
    del log[:]
    daemons.scripts[0].say(Bye("restarting"))
    await until(lambda: len(daemons.scripts) == 2 and keeper.channel)
    assert log == [*(f"{name} lost: restarting" for name in order), *(f"{name} attached" for name in order)]
    del log[:]
    await keeper.end()
    assert [line for line in log if "ended" in line] == [f"{name} ended: BusClosed" for name in order]
    await keeping


@rigged
async def test_a_daemon_that_is_away_is_not_stormed(rig: Rig) -> None:
    daemons, keeper = Daemons(rig), rig.keeper()
    await keeper.begin()
    keeping = asyncio.create_task(keeper.keep())
    await asyncio.sleep(2 * STEADY)
    tries = 0
    connect = keeper._connect

    async def counted(make: object) -> object:
        nonlocal tries
        tries += 1
        return await connect(make)  # type: ignore[arg-type]

    keeper._connect = counted
    daemons.stop()
    await asyncio.sleep(300)

    assert 300 / RETRY_MOST <= tries <= 300 / RETRY_MOST * 4
    daemons.start()
    await until(lambda: keeper.channel)
    await keeper.end()
    await keeping


@rigged
async def test_a_daemon_that_throws_everybody_out_is_not_stormed(rig: Rig) -> None:
    daemons, keeper = Daemons(rig), rig.keeper()
    await keeper.begin()
    keeping = asyncio.create_task(keeper.keep())
    end = rig.loop.time() + 100
    while rig.loop.time() < end:
        script = daemons.scripts[-1]
        if script.heard and not script.of(Bye) and not script.lost:
            script.transport.abort()
        await asyncio.sleep(0.01)

    assert len(daemons.scripts) <= 100
    await keeper.end()
    await keeping


@rigged
async def test_what_another_attempt_would_not_change_is_the_end(rig: Rig) -> None:
    log: list[str] = []
    daemons, keeper = Daemons(rig), rig.keeper()
    keeper.join(Rank.LINKS, Witness("link", log))
    await keeper.begin()
    keeping = asyncio.create_task(keeper.keep())
    daemons.refusal = VersionRefused(1, 1, 2, 2)

    waiting = asyncio.create_task(until_lost_and_open(keeper))
    daemons.scripts[0].transport.abort()
    with pytest.raises(VersionRefused):
        await waiting
    await keeping

    assert log[-1] == "link ended: VersionRefused"
    assert isinstance(keeper.disconnected(), VersionRefused)
    with pytest.raises(VersionRefused):
        await keeper.wait_open()
    await keeper.end()
    assert len([line for line in log if "ended" in line]) == 1


async def until_lost_and_open(keeper: Keeper) -> None:
    await until(lambda: keeper.channel is None)
    await keeper.wait_open()


@rigged
async def test_a_daemon_that_reads_nothing_keeps_nobody_from_leaving(rig: Rig) -> None:
    daemons, keeper = Daemons(rig), rig.keeper()
    await keeper.begin()
    channel = await keeper.wait_open()
    await until(lambda: daemons.scripts[0].heard)
    daemons.scripts[0].transport.pause_reading()
    assert channel._transport is not None
    channel._transport.write(bytes(1 << 20))  # more than anybody has room for
    start = rig.loop.time()

    await keeper.end()

    assert rig.loop.time() - start == pytest.approx(CLOSE_TIMEOUT, abs=0.1)
    with pytest.raises(BusClosed):
        await keeper.begin()


@pytest.mark.asyncio
async def test_addresses_are_connected_to(tmp_path: Path) -> None:
    scripts: list[Script] = []

    def accept() -> Script:
        scripts.append(Script())
        return scripts[-1]

    loop = asyncio.get_running_loop()
    unix = await loop.create_unix_server(accept, tmp_path / "bus")
    tcp = await loop.create_server(accept, "127.0.0.1", 0)
    port = tcp.sockets[0].getsockname()[1]
    async with unix, tcp:
        for address in (UnixAddress(str(tmp_path / "bus")), TcpAddress("127.0.0.1", port)):
            keeper = Keeper(connector_to(address), str(address))
            await keeper.begin()
            await keeper.end()
        keeper = Keeper(connector_to(UnixAddress("/nowhere")), "unix:/nowhere")
        with pytest.raises(Disconnected, match="No such file"):
            await keeper.begin()
    assert [type(script.heard[0]) for script in scripts] == [Hello, Hello]
