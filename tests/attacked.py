"""Daemons in processes of their own, to be attacked over real sockets."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from tests.talkers import ALL, Talker, until

MIB: Final = 1 << 20


class DaemonProcess:
    """A daemon, ``python -m iommubus serve``.

    Attributes:
        path: Its Unix socket.
    """

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
        self.path = path
        self._process = process
        self._log = log

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(encoding="utf-8")

    @property
    def troubles(self) -> list[str]:
        """The lines that no peer should be able to bring about."""
        bad = ("in a way that it should not", "Traceback", " error ", "never retrieved", "Task was destroyed")
        return [line for line in self.log.splitlines() if any(word in line for word in bad)]

    @property
    def resident(self) -> int:
        """Bytes of memory that it has now."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """Bytes of memory that it had at most."""
        return self._status("VmHWM")

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def _status(self, key: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))

    # -- clients -----------------------------------------------------------------

    async def connect(self) -> Talker:
        """Return a connection that has not been greeted yet."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(self.path))
        return Talker(sock)

    @asynccontextmanager
    async def greeted(self, name: str = "qemu", features: int = ALL) -> AsyncGenerator[Talker]:
        """Give a connection that was let in."""
        talker = await self.connect()
        try:
            await talker.greet(name, features)
            yield talker
        finally:
            talker.sock.close()


@contextmanager
def serving(directory: Path, *settings: str, rules: str = "", listen: str = "") -> Generator[DaemonProcess]:
    """Give a daemon with these settings, ``KEY=VALUE`` each; it ends with the block.

    Args:
        directory: Where its socket is.
        settings: Beyond the defaults.
        rules: Further lines of its file.
        listen: Where it listens, too.
    """
    path, log, file = directory / "bus.sock", directory / "daemon.log", directory / "daemon.toml"
    file.write_text(rules, encoding="utf-8")
    command = [sys.executable, "-m", "iommubus", "serve", "--config", str(file), "--listen", f"unix:{path}"]
    command += ["--listen", listen] if listen else []
    command += [part for setting in settings for part in ("--set", setting)]
    with log.open("wb") as lines, subprocess.Popen(command, stderr=lines) as process:
        daemon = DaemonProcess(process, path, log)
        try:
            asyncio.run(until(lambda: "serving at" in daemon.log or not daemon.alive, 20_000))
            assert daemon.alive, daemon.log
            yield daemon
        finally:
            if daemon.alive:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
