"""A card that takes what a guest sends, with a guest that sends it, kind or not."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from iommubus import Bus
from iommubus.bridges.vhost_user_backend import VhostUserBackend
from iommubus.bridges.vhost_user_backend.sink import Sink, must_notify
from iommubus.bridging.dma import Miss
from iommubus.bridging.telling import Told
from iommubus.bridging.vring import Ring, Vring
from iommubus.caps import Perm
from iommubus.errors import Fenced
from tests.bridges.vhost_user_backend.stage import run_in
from tests.guests import PAGE, PAGES, Driver, Guest, guest
from tests.loops import every_loop
from tests.peers import open_descriptors

RINGS = 0x10_0000
DATA = 0x20_0000


class Card(anyio.AsyncContextManagerMixin):
    """A sink behind a bridge, and a guest with a driver of its transmit ring."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.options = options
        self.path = str(directory / "vhost.sock")
        self.told: list[Told] = []

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator["Card"]:
        before = open_descriptors()
        async with Bus() as self.bus, anyio.create_task_group() as tasks:
            self.sink = Sink(self.bus, "vm", tell=self.told.append)
            self.bridge = VhostUserBackend(
                self.bus, listen=self.path, space="vm", device=self.sink, tell=self.told.append, **self.options
            )
            await tasks.start(self.sink.run)
            await tasks.start(self.bridge.run)
            yield self
            tasks.cancel_scope.cancel()
        assert open_descriptors() == before

    async def until(self, seen: Callable[["Card"], bool]) -> None:
        """Wait until something can be seen."""
        while not seen(self):  # noqa: ASYNC110 - whatever it is
            await anyio.sleep(0.001)

    @property
    def lines(self) -> list[str]:
        return list(map(str, self.told))


async def transmit(qemu: Guest, base: int = 0) -> Driver:
    """Return the driver of a transmit ring that was set up."""
    driver = Driver(qemu, 1, place=0, iova=RINGS)
    await driver.start(base)
    return driver


@every_loop
async def test_packets_are_taken_counted_and_given_back(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = await transmit(qemu)
        for number in range(40):  # five times round
            at, place = number % 8, (8 + number % 8) * PAGE
            qemu.map(DATA + at * PAGE, place, Perm.R)
            driver.send(bytes(60 + number), iova=DATA + at * PAGE, place=place, at=at)
            assert await driver.used() == (at, 0)
            unmapped = qemu.unmap(DATA + at * PAGE)
            await unmapped.came.wait()
        packets, size, misses, broken = card.sink.statistics()
        assert (packets, size, broken) == (40, sum(range(60, 100)), 0)
        assert misses == 40 + 3
        assert await driver.stop() == 40
        assert "40 packets" in card.lines[-1]


@every_loop
async def test_what_was_there_before_the_kick_is_taken_at_the_start(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = Driver(qemu, 1, place=0, iova=RINGS)
        qemu.map(DATA, 8 * PAGE)
        driver.send(b"early", iova=DATA, place=8 * PAGE)
        os.eventfd_read(driver.kick_fd)
        await driver.start()
        assert await driver.used() == (0, 0)
        assert card.sink.statistics()[:2] == (1, 5)


@every_loop
async def test_a_packet_across_pages_that_lie_apart_is_read_whole(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = await transmit(qemu)
        qemu.map(DATA, 20 * PAGE)
        qemu.map(DATA + PAGE, 8 * PAGE)
        driver.describe(0, DATA + 10, 12, 1, 1)
        driver.describe(1, DATA + PAGE - 100, 1500)
        driver.offer(0)
        assert await driver.used() == (0, 0)
        assert card.sink.statistics()[:2] == (1, 1500)


@every_loop
async def test_a_driver_that_wants_no_interrupt_gets_none(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = await transmit(qemu)
        driver.put(PAGE, "<H", 1)
        qemu.map(DATA, 8 * PAGE)
        driver.send(b"quiet", iova=DATA, place=8 * PAGE)
        await card.until(lambda card: card.sink.statistics().packets == 1)
        assert await driver.stop() == 1
        with pytest.raises(BlockingIOError):
            os.eventfd_read(driver.call_fd)


def test_a_driver_whose_wish_cannot_be_read_is_told() -> None:
    """
    An interrupt too many does no harm.
    """

    class Nowhere:
        def read(self, iova: int, size: int) -> bytes:
            raise Miss(iova + size, Perm.R)

        def write(self, iova: int, data: bytes) -> None:
            raise Miss(iova + len(data), Perm.W)

    assert must_notify(Vring(Ring(1, 8, 0, 0, 0), Nowhere()))


@every_loop
async def test_more_packets_than_one_turn_takes_are_taken(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = Driver(qemu, 1, place=0, iova=RINGS, size=128)
        await driver.start()
        qemu.map(DATA, 8 * PAGE)
        for at in range(100):
            driver.describe(at, DATA, 112)
        driver.offer(*range(100))
        assert [await driver.used() for _ in range(100)] == [(at, 0) for at in range(100)]
        assert card.sink.statistics()[:2] == (100, 10_000)
        assert not card.sink.write_config(0, b"x")


@every_loop
async def test_what_is_not_answered_in_time_is_asked_again(tmp_path: Path) -> None:
    async with Card(tmp_path, answer_timeout=0.05) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = await transmit(qemu)
        qemu.map(DATA, 8 * PAGE)
        qemu.answering = False
        driver.send(b"late", iova=DATA, place=8 * PAGE)
        await qemu.wait_asked(2)
        qemu.answering = True
        for iova, _ in qemu.asked:
            qemu.update(iova)
            qemu.reply_to_miss()
        assert await driver.used() == (0, 0)
        assert card.sink.statistics().broken == 0


@every_loop
async def test_a_card_that_was_fenced_touches_nothing_and_says_so(tmp_path: Path) -> None:
    told: list[Told] = []
    async with Bus() as bus, anyio.create_task_group() as tasks:
        sink = Sink(bus, "vm", tell=told.append, name="card")
        bridge = VhostUserBackend(bus, listen=f"{tmp_path}/vhost.sock", space="vm", device=sink, tell=told.append)
        tasks.start_soon(is_fenced, sink)
        scope = anyio.CancelScope()
        await tasks.start(run_in, scope, bridge)
        async with guest(f"{tmp_path}/vhost.sock") as qemu:
            await qemu.begin()
            driver = await transmit(qemu)
            qemu.map(DATA, 8 * PAGE)
            driver.send(b"good", iova=DATA, place=8 * PAGE)
            assert await driver.used() == (0, 0)
            assert await bus.spaces()[0].fence("card")
            driver.send(b"late", iova=DATA, place=8 * PAGE, at=1)
            assert await driver.stop() == 1
            await driver.start(base=1)  # nobody serves it any more
            assert await driver.stop() == 1
        assert sink.statistics().packets == 1
        scope.cancel()


async def is_fenced(sink: Sink) -> None:
    with pytest.RaisesGroup(Fenced):
        await sink.run()


@every_loop
async def test_the_receive_ring_is_left_alone(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        receive = Driver(qemu, 0, place=16 * PAGE, iova=0x30_0000)
        await receive.start(base=5)
        assert await receive.stop() == 5
        assert card.sink.statistics().packets == 0
        assert qemu.asked == []


@pytest.mark.parametrize("what", ["a circle", "an address that is not mapped", "an index far ahead"])
@every_loop
async def test_a_ring_that_is_broken_is_left_alone_and_can_be_set_up_anew(tmp_path: Path, what: str) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        driver = await transmit(qemu)
        qemu.map(DATA, 8 * PAGE)
        driver.send(b"good", iova=DATA, place=8 * PAGE)
        assert await driver.used() == (0, 0)
        if what == "a circle":
            driver.describe(1, DATA, 1, 1, 1)
        elif what == "an address that is not mapped":
            driver.describe(1, 0x999_0000, 64)
        else:
            driver.put(PAGE + 2, "<H", 100)
            os.eventfd_write(driver.kick_fd, 1)
        if what != "an index far ahead":
            driver.offer(1)
        await card.until(lambda card: card.sink.statistics().broken == 1)
        assert "left alone" in card.lines[-1]
        assert await driver.stop() == 1

        driver.put(0, "<Q", 0)
        driver = Driver(qemu, 1, place=0, iova=RINGS)
        driver.put(PAGE, "<HH", 0, 0)
        driver.put(2 * PAGE, "<HH", 0, 0)
        await driver.start()
        driver.send(b"again", iova=DATA, place=8 * PAGE)
        assert await driver.used() == (0, 0)
        assert card.sink.statistics().packets == 2


@every_loop
async def test_the_next_front_end_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    """
    As QEMU does that connects again: its guest noticed nothing.
    """
    async with Card(tmp_path) as card:
        async with guest(card.path) as qemu:
            await qemu.begin()
            driver = await transmit(qemu)
            qemu.map(DATA, 8 * PAGE)
            driver.send(b"one", iova=DATA, place=8 * PAGE)
            await driver.used()
        async with guest(card.path) as qemu:
            await qemu.begin()
            driver = Driver(qemu, 1, place=0, iova=RINGS)
            driver.put(PAGE + 2, "<H", 1)
            driver.put(2 * PAGE + 2, "<H", 1)
            qemu.map(DATA, 8 * PAGE)
            await driver.start(base=1)
            driver.describe(0, DATA, 15)
            driver.put(PAGE + 4 + 2, "<H", 0)
            driver.put(PAGE + 2, "<H", 2)
            os.eventfd_write(driver.kick_fd, 1)
            await card.until(lambda card: card.sink.statistics().packets == 2)


@every_loop
async def test_a_ring_in_a_file_that_became_shorter_is_left_alone(tmp_path: Path) -> None:
    async with Card(tmp_path) as card, guest(card.path) as qemu:
        await qemu.begin()
        os.ftruncate(qemu.fd, (PAGES - 1) * PAGE)  # before anybody has looked at it
        driver = await transmit(qemu)
        await card.until(lambda card: card.sink.statistics().broken == 1)
        assert "ring 1 is left alone from now on" in card.lines[-1]
        assert await driver.stop() == 0
