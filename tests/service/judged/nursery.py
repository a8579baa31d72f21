"""Where processes come from: one that has everything loaded, and forks when it is told to.

It is told a line for each: who it is to be, where it is told what to do, where it
writes what it has to say, and its settings.  It answers with the number of the process.
"""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

import msgspec

ROOT: Final = Path(__file__).parents[3]

PATIENCE: Final = 30.0
"""Seconds within which somebody answers who is not stopped, however busy the machine is."""

LINE: Final = 1 << 16


class Gone(Exception):
    """Somebody has ended, or does not answer."""


class Someone:
    """A process, to who tells it what to do.

    Attributes:
        pid: Its number.
        name: What it is called.
    """

    def __init__(self, name: str, pid: int, told: socket.socket, said: Path) -> None:
        self.name = name
        self.pid = pid
        self._told = told
        self._said = said
        self._fd = os.pidfd_open(pid)
        self._rest = b""

    def tell(self, do: str, **arguments: Any) -> None:
        """Have it do something, and do not wait."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._told.sendall(msgspec.json.encode({"do": do, **arguments}) + b"\n")

    def answer(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the answer to what it was told first and has not answered.

        Raises:
            Gone: There is none.
        """
        self._told.settimeout(patience)
        try:
            while b"\n" not in self._rest:
                data = self._told.recv(LINE)
                if not data:
                    self.wait_end()  # it says why at the very end
                    raise Gone(f"{self.name} has ended: {self.said}")
                self._rest += data
        except (TimeoutError, ConnectionResetError) as late:
            raise Gone(f"{self.name} does not answer: {self.said}") from late
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something, and wait until it was done."""
        self.tell(do, **arguments)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def wait_end(self) -> None:
        """Wait until it has ended.

        Raises:
            Gone: It does not.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise Gone(f"{self.name} does not end: {self.said}")

    def close(self) -> None:
        """Kill it, if it still lives."""
        self.signal(signal.SIGKILL)
        self.wait_end()
        os.close(self._fd)
        self._told.close()

    @property
    def said(self) -> str:
        """What it has written."""
        return self._said.read_text(encoding="utf-8", errors="replace") if self._said.exists() else ""


class Nursery:
    """The process that forks, to who wants processes, in any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._lock = Lock()

    def __enter__(self) -> Self:
        paths = [str(ROOT / "src"), str(ROOT), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.judged.nursery"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def bear(self, role: str, settings: dict[str, Any] | None = None) -> Someone:
        """Return a new process."""
        with self._lock:
            return self._bear(role, settings or {})

    def _bear(self, role: str, settings: dict[str, Any]) -> Someone:
        self._count += 1
        name = f"{role}-{self._count}"
        path, said = str(self._directory / f"{name}.told"), self._directory / f"{name}.said"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(1)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            line = {"role": role, "path": path, "said": str(said), "settings": settings}
            self._process.stdin.write(msgspec.json.encode(line) + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            listening.settimeout(PATIENCE)
            told, _ = listening.accept()
        return Someone(name, pid, told, said)


def fork(line: bytes) -> int:
    """Fork a process as a line says; return its number, in the parent."""
    from tests.service.judged.actors import play  # noqa: PLC0415 - who only asks for processes needs it not

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        told = msgspec.json.decode(line)
        said = os.open(told["said"], os.O_WRONLY | os.O_CREAT, 0o600)
        for fd in (1, 2):
            os.dup2(said, fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(told["path"])
            asyncio.run(play(told["role"], control, told["settings"]))
        status = 0
    except BaseException:  # noqa: BLE001 - all that there is to say of it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(_: Sequence[str] = ()) -> None:
    """Fork whoever is asked for, until nobody asks any more."""
    import_module("tests.service.judged.actors")  # once for all
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody is waited for here
    for line in sys.stdin.buffer:
        print(fork(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
