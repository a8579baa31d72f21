"""Terminals that a tutorial's reader has beside one another: real ones, with somebody who types."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.daemons import PATIENCE, SOURCE

PROMPT: Final = "> "
"""What a program prints before it reads a line."""

KEYS: Final = {"^C": b"\x03", "^\\": b"\x1c"}
"""Keys that interrupt a program, as a terminal shows them."""

STOPS: Final = {"^Z": signal.SIGSTOP, "fg": signal.SIGCONT}
"""What a shell does with its program; there is no shell here that could."""

HIDDEN: Final = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\^[C\\]")
"""What makes text bold, and the like; and keys, which are shown wherever the program's output is by then."""

ANYTHING: Final = "..."
"""Whatever differs from one machine to another; as a line of its own, any lines."""

LOOP: Final = "; do "
"""What only a shell can do, which then is the program."""

ROWS, COLUMNS = 40, 140


class Terminal:
    """One terminal, with at most one program in it.

    Args:
        folder: Where programs are started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._screen = -1
        self._unread = b""
        self._skipping = False

    def start(self, command: str) -> None:
        """Start a program; the one before has ended and has shown nothing more."""
        if self._process is not None:
            assert self._skipping or not self._read_line(), f"before {command}"
            self._close()
        self._skipping = False
        self._screen, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            ["/usr/bin/env", "--default-signal", "/bin/sh", "-c", command if LOOP in command else f"exec {command}"],
            cwd=self._folder,
            env=environment(self._folder),
            preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - there is one thread
        )
        os.close(theirs)

    def show(self, line: str) -> None:
        """Type what a line of a page says that is typed, and see the rest of it come."""
        if line == ANYTHING:
            self._skipping = True
            return

        if line in STOPS:
            assert self._process is not None
            os.kill(self._process.pid, STOPS[line])
            return

        typed = line.removeprefix(PROMPT)
        if line.startswith(PROMPT):
            self._read_to(PROMPT.encode())
        if typed[:2] in KEYS:
            self._type(KEYS[typed[:2]])
            typed = typed[2:]
            if not typed:
                return
        elif typed is not line:
            self._type(typed.encode() + b"\n")

        self._see(typed)

    def end(self) -> None:
        """Kill what still runs."""
        if self._process is not None:
            self._process.kill()
            self._close()

    # -- inside ----------------------------------------------------------------------

    def _see(self, line: str) -> None:
        """See a line come: the next one, or one of those that follow."""
        others = list[str]()
        while not re.fullmatch(pattern(line), in_short(seen := self._read_line())):
            others.append(seen)
            assert self._skipping, f"{seen!r} instead of {line!r}"
            assert seen or self._unread, f"{line!r} is not among {others}"
        self._skipping = False

    def _type(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def _read_line(self) -> str:
        """Return the next line; what is left, at the end of the program."""
        while b"\n" not in self._unread and self._read():
            pass
        line, _, self._unread = self._unread.partition(b"\n")
        return HIDDEN.sub("", line.decode()).rstrip()

    def _read_to(self, prompt: bytes) -> None:
        while not self._unread.startswith(prompt) and self._read():
            pass
        assert self._unread.startswith(prompt), self._unread
        self._unread = self._unread.removeprefix(prompt)

    def _read(self) -> bool:
        """Read more; say whether there was some."""
        ready, _, _ = select.select([self._screen], [], [], PATIENCE)
        assert ready, f"nothing comes after {self._unread!r}"
        with suppress(OSError):  # nobody has it open any more
            read = os.read(self._screen, 1 << 16)
            self._unread += read
            return bool(read)
        return False

    def _close(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None
        self._unread = b""
        os.close(self._screen)


class Desk:
    """All terminals of a reader, by name; what runs in one ends with the block.

    Args:
        folder: Where programs are started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminals: dict[str, Terminal] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for terminal in self._terminals.values():
            terminal.end()

    def follow(self, name: str, command: str | None, lines: list[str]) -> None:
        """Do what a block of a page says.

        Args:
            name: Of the terminal.
            command: What is started there; `None` if what runs there goes on.
            lines: What is typed and shown.
        """
        terminal = self._terminals.setdefault(name, Terminal(self._folder))
        if command is not None:
            terminal.start(command)
        for line in lines:
            terminal.show(line)


def environment(folder: Path) -> dict[str, str]:
    """Return what programs find in their environment: the commands of this Python, and no colours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    sizes = ("COLUMNS", "LINES")  # of another terminal
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOMMUBUS_") and name not in sizes}
    ours = {"PATH": path, "PYTHONPATH": str(SOURCE)}
    return {**kept, **ours, "XDG_RUNTIME_DIR": str(folder / "run"), "TERM": "xterm", "NO_COLOR": "1"}


def pattern(line: str) -> str:
    """Return what a line of a page stands for: ``...`` in it is whatever differs from one machine to another."""
    return ".*".join(map(re.escape, in_short(line).split(ANYTHING)))


def in_short(line: str) -> str:
    """Return a line without what makes a table as wide as its contents: these may differ."""
    return re.sub("─+", "─", " ".join(line.split()))
