"""Processes at the other end of a socket, which do as they are told."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop

uvloop.new_event_loop().close()  # the first one opens a pipe that stays, which is not to be counted as left behind

CONNECT = """
import os, socket, sys
path, uid, *gids = sys.argv[1:]
gid, *groups = map(int, gids)
connection = socket.socket(socket.AF_UNIX)
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(int(uid), int(uid), int(uid))
try:
    connection.connect(path)
except OSError as failure:
    print(type(failure).__name__, flush=True)
else:
    print("connected", flush=True)
sys.stdin.read()
"""


@contextmanager
def peer(path: str, uid: int = 0, gids: Sequence[int] = (0,)) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Give a process of this user that tried to connect, and what came of it; it ends when its input does."""
    assert os.geteuid() == 0, "to be another user, this test has to run as root"
    command = [sys.executable, "-c", CONNECT, path, str(uid), *map(str, gids)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


@contextmanager
def connected(
    listening: socket.socket, uid: int = 0, gids: Sequence[int] = (0,)
) -> Generator[tuple[subprocess.Popen[str], socket.socket]]:
    """Give a process of this user, and the connection that it made."""
    with peer(listening.getsockname(), uid, gids) as (process, outcome):
        assert outcome == "connected"
        connection, _ = listening.accept()
        with connection:
            yield process, connection


def open_to_all(directory: Path) -> None:
    """Let every user into a directory of a test, and into those that it is in."""
    for each in (directory, *directory.parents):
        if each.stat().st_mode & 0o055 != 0o055:
            each.chmod(0o755)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process, and wait until it is gone."""
    process.kill()
    process.wait()


def open_descriptors() -> dict[str, str]:
    """Return the descriptors of this process, and what each leads to."""
    found: dict[str, str] = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory itself, while it was read
            found[link.name] = str(link.readlink())
    return found
