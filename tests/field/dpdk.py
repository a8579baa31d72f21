"""DPDK's testpmd as a vhost-user back end with an IOTLB, without huge pages and without hardware."""

import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from tests.field.debian import dependencies, install, unpacked
from tests.field.parts import Failed
from tests.field.qemu import end

DRIVERS: Final = ("librte-net-vhost23", "librte-mempool-ring23")
"""What testpmd loads when it is asked for: its packages are no dependencies."""


def program() -> Path:
    """Return where testpmd is; what it needs is installed.

    Its package would bring a compiler's worth of headers with it, so it is unpacked beside the system.

    Raises:
        NotRoot: Packages are missing, and only root can install them.
        Skip: Debian does not have it, or cannot be reached.
    """
    found = unpacked("dpdk-dev") / "usr" / "bin" / "dpdk-testpmd"
    needs = dependencies("dpdk-dev", "librte-")
    install(*needs, *DRIVERS, "libfdt1", "libpcap0.8", "libbsd0", "libjansson4", "libibverbs1", "ibverbs-providers")
    return found


class Testpmd:
    """A back end that runs.

    Args:
        process: testpmd.
        log: The file that it writes to.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    def said(self) -> str:
        """Return all that it has said."""
        return self._log.read_text(errors="replace")

    def order(self, words: str) -> None:
        """Give it an order, as somebody at its prompt would."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n".encode())
        self.process.stdin.flush()

    async def received(self) -> int:
        """Ask how many packets it has received."""
        before = self.said().count("RX-packets:")
        self.order("show port stats 0")
        with anyio.move_on_after(10):
            while self.said().count("RX-packets:") == before:
                await anyio.sleep(0.02)
            return int(self.said().rpartition("RX-packets:")[2].split()[0])
        raise Failed(f"testpmd says nothing any more; last: {self.said()[-2000:]}")


@asynccontextmanager
async def testpmd(sock: Path, work: Path, *others: Path) -> AsyncGenerator[Testpmd]:
    """Start a back end that listens at a socket, and at others with a device for each; end it with the block."""
    log = work / f"testpmd-{sock.stem}.txt"
    command = [
        "stdbuf", "-oL", str(program()),
        "-l", "0-1", "--no-huge", "-m", "512", "--no-pci", f"--file-prefix=iommubus-{os.getpid()}",
        *(word for number, path in enumerate((sock, *others))
          for word in ("--vdev", f"net_vhost{number},iface={path},iommu-support=1,queues=1")),
        "--", "-i", "--total-num-mbufs=4096", "--forward-mode=rxonly", "--auto-start",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
    pmd = Testpmd(process, log)
    try:
        with anyio.move_on_after(30):
            while not all(path.exists() for path in (sock, *others)):
                if process.poll() is not None:
                    raise Failed(f"testpmd ended with {process.returncode}: {pmd.said()[-2000:]}")
                await anyio.sleep(0.05)
        yield pmd
    finally:
        end(process)
