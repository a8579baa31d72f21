"""The example of a vhost-user device, with a guest that sends."""

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.daemons import environment
from tests.guests import PAGE, Driver, guest, status

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "vhost_user_device.py"


@contextmanager
def example(sock: Path, out: Path) -> Generator[None]:
    """Run the example as a user does, as long as the block lasts; it listens."""
    with out.open("wb") as lines:
        process = subprocess.Popen([sys.executable, EXAMPLE, str(sock)], stdout=lines, stderr=lines, env=environment())
    try:
        while not sock.exists():
            assert process.poll() is None, out.read_text()
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.asyncio
async def test_the_example_counts_what_a_guest_sends(tmp_path: Path) -> None:
    """
    And lets go of each page before the guest goes on.
    """
    sock, out = tmp_path / "vhost.sock", tmp_path / "out"
    with example(sock, out):
        async with guest(str(sock)) as qemu:
            await qemu.begin()
            driver = Driver(qemu, 1, place=0, iova=0x10_0000)
            await driver.start()
            for number in range(3):
                qemu.map(0x20_0000, 8 * PAGE)
                driver.send(bytes(60 + number), iova=0x20_0000, place=8 * PAGE, at=number)
                assert await driver.used() == (number, 0)
                assert await status(qemu.unmap(0x20_0000)) == 0
            assert await driver.stop() == 3
    packets = [line for line in out.read_text().splitlines() if line.startswith("packet")]
    assert packets == ["packet 1: 60 bytes", "packet 2: 61 bytes", "packet 3: 62 bytes"]


def test_it_is_as_short_as_an_example_has_to_be() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 80
