"""The same bridge between processes: a daemon, a cacher on a connection of its own, and a bridge that is killed."""

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from iommubus import Cap, Iotlb, Perm, connect
from iommubus.bridges.vhost_user_backend import VhostUserBackend
from iommubus.bridging.telling import Told
from iommubus.errors import NotMapped
from tests.bridges.vhost_user_backend.stage import run_in
from tests.daemons import command, daemon, environment, wait_for_line
from tests.guests import PAGE, Driver, Guest, guest, status

RINGS, DATA = 0x10_0000, 0x20_0000


@pytest.mark.asyncio
async def test_a_cacher_elsewhere_sees_the_guests_bytes_and_holds_the_acknowledgement_back(tmp_path: Path) -> None:
    path, told = str(tmp_path / "vhost.sock"), list[Told]()
    with daemon(tmp_path) as running:
        async with (
            connect(running.address) as bus,
            connect(running.address) as other,
            anyio.create_task_group() as tasks,
        ):
            scope = anyio.CancelScope()
            bridge = VhostUserBackend(bus, listen=path, space="vm", tell=told.append)
            await tasks.start(run_in, scope, bridge)
            async with guest(path) as qemu, other.subscribe("vm", Cap.UNMAP, ack="manual") as events:
                await qemu.begin()
                qemu.map(0x5000, 3 * PAGE)
                qemu.memory[3 * PAGE : 3 * PAGE + 5] = b"hello"
                iotlb = Iotlb(events)
                await iotlb.translate(0x5000, Perm.W)
                view = iotlb.view(0x5000, 5, Perm.W)
                assert bytes(view) == b"hello"
                view[:] = b"HELLO"
                assert qemu.memory[3 * PAGE : 3 * PAGE + 5] == b"HELLO"
                unmapped = qemu.unmap(0x5000)
                batch = await anext(events.batches())
                for event in batch:
                    iotlb.apply(event)
                with pytest.raises(NotMapped):
                    await iotlb.translate(0x5000)
                assert not unmapped.came.is_set()
                events.ack(batch)
                assert await status(unmapped) == 0
            scope.cancel()


@contextmanager
def bridge_process(address: str, path: Path, log: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Give the command, once it listens; it is killed at the end, if it has not ended."""
    words = ("bridge", "vhost-user-backend", "--listen", str(path), "--space", "vm", "--sink", "-a", address)
    with log.open("wb") as lines:
        process = subprocess.Popen(command(*words), stdout=lines, stderr=lines, env=environment())
    try:
        wait_for_line(process, log, "waiting for a front end")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_a_bridge_that_was_killed_is_started_again_and_packets_go_on(tmp_path: Path) -> None:
    path, log = tmp_path / "vhost.sock", tmp_path / "bridge"
    with daemon(tmp_path) as running:
        with bridge_process(running.address, path, log) as process:
            async with guest(str(path)) as qemu:
                await sent(qemu, b"one")
                process.kill()
                await qemu.left.wait()
        with bridge_process(running.address, path, log) as process:
            async with guest(str(path)) as qemu:
                await sent(qemu, b"two")
                assert await status(qemu.unmap(DATA)) == 0
                process.send_signal(signal.SIGTERM)
                await qemu.left.wait()
            assert process.wait() == 0, log.read_text()
        said = log.read_text().splitlines()
        assert said[0] == f"vm: waiting for a front end at {path}"
        assert "agreed on VHOST_USER_F_PROTOCOL_FEATURES" in said[1]
        assert said[2] == "ring 1 has stopped; 1 packets, 3 bytes taken so far"
        assert not path.exists()


async def sent(qemu: Guest, packet: bytes) -> None:
    """Have a guest begin, and send a packet."""
    await qemu.begin()
    driver = Driver(qemu, 1, place=0, iova=RINGS)
    await driver.start()
    qemu.map(DATA, 8 * PAGE)
    driver.send(packet, iova=DATA, place=8 * PAGE)
    assert await driver.used() == (0, 0)
