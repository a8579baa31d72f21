"""A device and its rings, as a front end sets them up, stops them, and leaves them."""

import os
from pathlib import Path

import anyio
import pytest

from iommubus.abi.vhost_user import (
    Config,
    ConfigFlags,
    Features,
    ProtocolFeatures,
    Request,
    VringFd,
    VringState,
)
from iommubus.bridges.vhost_user_backend import LiveRing
from iommubus.errors import PeerBroke
from tests.bridges.vhost_user_backend.stage import stage
from tests.guests import FEATURES, PAGE, PROTOCOL, Driver, guest
from tests.loops import every_loop


class Recorder:
    """A device that writes down what it is told, and stops when it may.

    Attributes:
        story: What it was told.
        may_stop: What a stop waits for.
        base: Where it says that it was.
    """

    features = 1 << 9
    queues = 1
    rings = 2

    def __init__(self) -> None:
        self.story: list[str] = []
        self.live: dict[int, LiveRing] = {}
        self.may_stop = anyio.Event()
        self.may_stop.set()
        self.base = 7
        self.config = bytes(range(16))

    def write_config(self, offset: int, data: bytes) -> bool:
        if offset < 8:
            return False
        self.config = self.config[:offset] + data + self.config[offset + len(data) :]
        return True

    def ring_started(self, live: LiveRing) -> None:
        assert live.ring.index not in self.live, "it is served already"
        os.fstat(live.kick)
        self.live[live.ring.index] = live
        self.story.append(f"{live.ring.index} from {live.ring.base}")

    async def ring_stopped(self, index: int) -> int:
        await self.may_stop.wait()
        os.fstat(self.live.pop(index).kick)
        self.story.append(f"{index} stopped")
        return self.base


@every_loop
async def test_a_ring_is_served_from_its_kick_descriptor_to_the_question_for_its_base(tmp_path: Path) -> None:
    device = Recorder()
    async with stage(tmp_path, device=device) as _, guest(f"{tmp_path}/vhost.sock") as qemu:
        await qemu.begin(features=FEATURES | 1 << 9)
        driver = Driver(qemu, 1, place=0, iova=0x10_0000)
        await driver.start(base=3)
        assert device.story == ["1 from 3"]
        live = device.live[1]
        assert (live.ring.desc, live.ring.avail, live.ring.used) == (0x10_0000, 0x10_1000, 0x10_2000)
        assert live.features == FEATURES | 1 << 9
        live.call.notify()
        assert os.eventfd_read(driver.call_fd) == 1

        assert await driver.stop() == 7
        assert await driver.stop() == 7

        await driver.start(base=7)
        assert device.story == ["1 from 3", "1 stopped", "1 from 7"]


@every_loop
async def test_a_ring_that_is_disabled_is_not_served(tmp_path: Path) -> None:
    device = Recorder()
    async with stage(tmp_path, device=device) as _, guest(f"{tmp_path}/vhost.sock") as qemu:
        await qemu.begin()
        driver = Driver(qemu, 0, place=0, iova=0x10_0000)
        await driver.start()
        await qemu.told(Request.SET_VRING_ENABLE, VringState(0, 0))
        await qemu.told(Request.SET_VRING_ENABLE, VringState(0, 1))
        await qemu.ask(Request.GET_FEATURES)
        assert device.story == ["0 from 0", "0 stopped", "0 from 7"]


@every_loop
async def test_while_a_device_takes_its_time_to_stop_messages_are_handled(tmp_path: Path) -> None:
    """
    What is said meanwhile is done once it has stopped; the descriptors that it uses stay open until then.
    """
    device = Recorder()
    async with stage(tmp_path, device=device) as here, guest(f"{tmp_path}/vhost.sock") as qemu:
        await qemu.begin()
        driver = Driver(qemu, 0, place=0, iova=0x10_0000)
        await driver.start()
        device.may_stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(driver.stop)
            await anyio.wait_all_tasks_blocked()
            qemu.say(Request.SET_VRING_KICK, VringFd(0), [driver.kick_fd])
            invalidated = qemu.invalidate(0x5000, PAGE)
            await here.until(lambda here: here.bridge.statistics().syncs == 1)
            assert not invalidated.came.is_set()  # it waits for its turn
            assert device.story == ["0 from 0"]
            device.may_stop.set()
        await qemu.ask(Request.GET_FEATURES)
        assert device.story == ["0 from 0", "0 stopped", "0 from 7"]


@every_loop
async def test_all_rings_are_stopped_when_the_front_end_is_gone(tmp_path: Path) -> None:
    device = Recorder()
    async with stage(tmp_path, device=device) as here:
        for _ in range(2):
            async with guest(here.path) as qemu:
                await qemu.begin()
                drivers = [Driver(qemu, index, place=4 * PAGE * index, iova=index << 20) for index in range(2)]
                for driver in drivers:
                    await driver.start()
            await here.until(lambda _: not device.live)
        assert device.story == ["0 from 0", "1 from 0", "0 stopped", "1 stopped"] * 2


@every_loop
async def test_without_an_iommu_rings_are_not_served(tmp_path: Path) -> None:
    """
    Their addresses are the front end's own then.
    """
    device = Recorder()
    async with stage(tmp_path, device=device) as _, guest(f"{tmp_path}/vhost.sock") as qemu:
        await qemu.begin(features=FEATURES & ~int(Features.ACCESS_PLATFORM))
        driver = Driver(qemu, 0, place=0, iova=0x10_0000)
        await driver.start()
        assert await driver.stop() == 0
        assert device.story == []


@every_loop
async def test_a_ring_that_is_polled_is_not_served_and_that_is_said(tmp_path: Path) -> None:
    device = Recorder()
    async with stage(tmp_path, device=device) as here, guest(here.path) as qemu:
        await qemu.begin()
        driver = Driver(qemu, 0, place=0, iova=0x10_0000)
        await driver.start()
        assert await qemu.told(Request.SET_VRING_KICK, VringFd(0x100)) == 0
        await qemu.ask(Request.GET_FEATURES)
        assert device.story == ["0 from 0", "0 stopped"]
        assert "no kick descriptor" in str(here.told[-1])


@every_loop
async def test_the_configuration_space_is_read_and_written_inside_of_it(tmp_path: Path) -> None:
    device = Recorder()
    async with stage(tmp_path, device=device) as _, guest(f"{tmp_path}/vhost.sock") as qemu:
        await qemu.begin(protocol=PROTOCOL | int(ProtocolFeatures.CONFIG))
        flags = ConfigFlags.WRITABLE
        found = await qemu.ask(Request.GET_CONFIG, Config(2, flags, bytes(4)))
        assert found == Config(2, flags, bytes([2, 3, 4, 5]))
        nothing = await qemu.ask(Request.GET_CONFIG, Config(13, flags, bytes(4)))
        assert not getattr(nothing, "data", b"")
        written = [
            await qemu.told(Request.SET_CONFIG, Config(offset, flags, b"ab")) for offset in (0, 8, 14, 15, 2**32 - 1)
        ]
        assert written == [1, 0, 0, 1, 1]
        assert device.config[8:10] == device.config[14:] == b"ab"


@pytest.mark.parametrize("index", [2, 64, 255])
@every_loop
async def test_the_device_has_no_more_rings_than_it_says(tmp_path: Path, index: int) -> None:
    async with stage(tmp_path, device=Recorder()) as here:
        async with guest(here.path) as qemu:
            await qemu.begin()
            assert (await qemu.ask(Request.GET_QUEUE_NUM)).value == 1
            fd = os.eventfd(0)
            qemu.say(Request.SET_VRING_KICK, VringFd(index), [fd])
            os.close(fd)
            await qemu.left.wait()
        assert str(PeerBroke("", ""))[:6] in here.troubles[0]
