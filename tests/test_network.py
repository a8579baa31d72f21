"""The network in memory: what arrives was sent, in its order, and everybody learns when that ends."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

import anyio
import pytest

from tests.network import Network, Quality, VirtualTransport
from tests.virtual import VirtualLoop, VirtualProcess, run

SEEDS: Final = range(40)

BAD: Final = Quality(delay=0.3, piece=7, window=200, learn=5.0)


class Ear(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.said: list[str] = []
        self.error: Exception | None = None
        self.over = anyio.Event()
        self.transport: VirtualTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, VirtualTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.over.is_set()
        self.heard += data

    def eof_received(self) -> None:
        self.said.append("eof")

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> None:
        self.said.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.over.is_set()
        self.error = exc
        self.over.set()


class Echo(Ear):
    """Says everything again."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


Case = Callable[[VirtualLoop, Network, Random], Coroutine[Any, Any, None]]


def play(case: Case, seed: int = 0, quality: Quality = BAD) -> None:
    async def whole(loop: VirtualLoop) -> None:
        dice = Random(seed)  # noqa: S311 - the same each time
        network = Network(loop, dice, quality)
        await case(loop, network, dice)
        assert not network.links

    run(whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_comes_back_in_its_order(seed: int) -> None:
    async def case(_: VirtualLoop, network: Network, dice: Random) -> None:
        echo = Echo()
        network.listen("here", lambda _: echo)
        transport, ear = await network.connect("here", Ear)
        sent = b""
        while len(sent) < 3000:
            data = dice.randbytes(dice.randrange(200))
            transport.write(data)
            sent += data
            if dice.random() < 0.1:
                next(iter(network.links)).stall(3)
            await anyio.sleep(dice.uniform(0, 0.1))
        await anyio.sleep(100)
        assert ear.heard == sent
        transport.close()
        await echo.over.wait()
        await ear.over.wait()
        assert (echo.said[-1], echo.error, ear.error) == ("eof", None, None)

    play(case, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_written_before_a_close_arrives(seed: int) -> None:
    async def case(_: VirtualLoop, network: Network, dice: Random) -> None:
        ear = Ear()
        network.listen("here", lambda _: ear)
        transport, own = await network.connect("here", Ear)
        sent = dice.randbytes(5000)
        transport.writelines([sent[:100], sent[100:]])
        transport.close()
        assert transport.is_closing()
        await ear.over.wait()
        await own.over.wait()
        assert ear.heard == sent

    play(case, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_loses_only_the_end_of_each_direction_and_both_learn_of_it(seed: int) -> None:
    async def case(_: VirtualLoop, network: Network, dice: Random) -> None:
        there = Ear()
        network.listen("here", lambda _: there)
        transport, here = await network.connect("here", Ear)
        await anyio.sleep(1)
        sent = dice.randbytes(150)
        transport.write(sent)
        there.transport.write(sent)
        await anyio.sleep(dice.uniform(0, 0.3))
        next(iter(network.links)).cut_off()
        transport.write(b"lost")
        await here.over.wait()
        await there.over.wait()
        assert sent.startswith(bytes(here.heard))
        assert sent.startswith(bytes(there.heard))
        assert isinstance(here.error, ConnectionResetError)
        assert isinstance(there.error, ConnectionResetError)

    play(case, seed)


def test_who_does_not_read_stops_the_writer() -> None:
    async def case(_: VirtualLoop, network: Network, __: Random) -> None:
        ear = Ear()
        network.listen("here", lambda _: ear)
        transport, writer = await network.connect("here", Ear)
        transport.set_write_buffer_limits(high=1000)
        await anyio.sleep(1)
        ear.transport.pause_reading()
        transport.write(bytes(1200))
        assert (writer.said, transport.get_write_buffer_size()) == ([], 1000)
        transport.write(bytes(1))
        assert (writer.said, transport.get_write_buffer_size()) == (["pause"], 1001)
        await anyio.sleep(100)
        assert (len(ear.heard), writer.said) == (0, ["pause"])
        ear.transport.resume_reading()
        await anyio.sleep(100)
        assert (len(ear.heard), writer.said) == (1201, ["pause", "resume"])
        transport.abort()
        await ear.over.wait()

    play(case)


def test_nobody_listens() -> None:
    async def case(_: VirtualLoop, network: Network, __: Random) -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.connect("here", Ear)
        network.listen("here", lambda _: Ear())
        network.stop_listening("here")
        with pytest.raises(ConnectionRefusedError):
            await network.connect("here", Ear)

    play(case)


def test_an_end_of_writing_is_not_the_end() -> None:
    class Polite(Ear):
        def eof_received(self) -> bool:  # type: ignore[override]
            super().eof_received()
            self.transport.write(b"good night")
            self.transport.close()
            return True

    async def case(_: VirtualLoop, network: Network, __: Random) -> None:
        network.listen("here", lambda _: Polite())
        transport, ear = await network.connect("here", Ear)
        transport.write_eof()
        await ear.over.wait()
        assert ear.heard == b"good night"

    play(case)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_killed_process_what_the_system_had_arrives(seed: int) -> None:
    async def case(loop: VirtualLoop, network: Network, dice: Random) -> None:
        ear, process = Ear(), VirtualProcess(loop, "sender", 7)
        network.listen("here", lambda peer: ear if peer is process else Ear())
        sent = dice.randbytes(2000)

        async def send() -> None:
            transport, _ = await network.connect("here", Ear)
            transport.write(sent)
            await anyio.sleep_forever()

        _ = process.start(send)
        await anyio.sleep(0.5)
        process.kill()
        await ear.over.wait()
        assert sent.startswith(ear.heard)
        assert 200 <= len(ear.heard) < 2000
        await process.bury()

    play(case, seed)


def test_a_stopped_process_reads_nothing_until_it_goes_on() -> None:
    async def case(loop: VirtualLoop, network: Network, _: Random) -> None:
        process, ear = VirtualProcess(loop, "listener", 7), Ear()

        async def serve() -> None:
            network.listen("here", lambda _: ear)

        await process.start(serve)
        transport, own = await network.connect("here", Ear)
        await anyio.sleep(1)
        process.stop()
        transport.write(bytes(1000))
        await anyio.sleep(100)
        assert (len(ear.heard), transport.get_write_buffer_size()) == (0, 800)
        process.go_on()
        await anyio.sleep(100)
        assert (len(ear.heard), transport.get_write_buffer_size()) == (1000, 0)
        process.kill()
        await own.over.wait()
        with pytest.raises(ConnectionRefusedError):
            await network.connect("here", Ear)

    play(case)


def test_writing_to_who_has_closed_ends_it() -> None:
    async def case(_: VirtualLoop, network: Network, __: Random) -> None:
        ear = Ear()
        network.listen("here", lambda _: ear)
        transport, own = await network.connect("here", Ear)
        await anyio.sleep(1)
        ear.transport.abort()
        transport.write(b"too late")
        await own.over.wait()
        assert isinstance(own.error, BrokenPipeError)
        transport.write(b"still later")

    play(case)


def test_a_run_is_the_same_each_time() -> None:
    traces: list[list[tuple[float, int]]] = []

    async def case(loop: VirtualLoop, network: Network, dice: Random) -> None:
        trace: list[tuple[float, int]] = []
        traces.append(trace)

        class Noting(Echo):
            def data_received(self, data: bytes) -> None:
                trace.append((loop.time(), len(data)))
                super().data_received(data)

        network.listen("here", lambda _: Noting())
        transport, ear = await network.connect("here", Ear)
        transport.write(dice.randbytes(3000))
        await anyio.sleep(100)
        transport.close()
        await anyio.sleep(100)
        assert ear.over.is_set()

    play(case, 1)
    play(case, 1)
    play(case, 2)

    assert traces[0] == traces[1] != traces[2]
