"""A daemon in a process of its own, and clients of it in a thread of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Final, cast

from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec import Struct

from iommubus.bus.abc import AddressSpace, EventBus
from iommubus.client.remote import connect
from iommubus.errors import SyncFailed
from iommubus.wire.connection import ServerConnection
from iommubus.wire.messages import ClientMessage, DaemonMessage
from iommubus.wire.messages.greeting import Bye, Welcome

SOURCE: Final = Path(__file__).parents[1] / "src"

PATIENCE: Final = 30.0
"""Seconds after which what a test waits for will not come any more."""


class Daemon(Struct, frozen=True):
    """A daemon that runs.

    Attributes:
        address: Where.
        process: Its process.
        log: The file of its log lines.
    """

    address: str
    process: subprocess.Popen[bytes]
    log: Path


def environment(**variables: str) -> dict[str, str]:
    """Return the environment for a process of this package; nothing of it is set but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IOMMUBUS_")}
    return {**kept, "PYTHONPATH": str(SOURCE), "COLUMNS": "120", "PYTHONIOENCODING": "utf-8", **variables}


def command(*words: str) -> list[str]:
    """Return a command line of this package; Ctrl-C interrupts it, also where tests run in the background."""
    return ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "iommubus", *words]


@contextmanager
def daemon(directory: Path, *flags: str, **variables: str) -> Generator[Daemon]:
    """Give a daemon that takes connections at a socket in a directory; in the end it has to end well."""
    address, log = f"unix:{directory}/bus.sock", directory / "log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command("serve", "--listen", address, *flags), stderr=lines, env=environment(**variables)
        )
    try:
        wait_for_line(process, log, "serving at")
        yield Daemon(address, process, log)
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_for_line(process: subprocess.Popen[bytes], log: Path, part: str) -> None:
    """Wait until a process has written a line that has this part."""
    end = time.monotonic() + PATIENCE
    while part not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"{part!r} is not in {log.read_text()!r}"
        time.sleep(0.01)


@contextmanager
def bus_at(address: str, name: str = "test") -> Generator[tuple[BlockingPortal, EventBus]]:
    """Give the bus of a daemon, and what calls it in the thread that it belongs to."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(connect(address, name=name)) as bus,
    ):
        yield portal, bus


def said_by_failure(portal: BlockingPortal, space: AddressSpace) -> str:
    """Return what a sync says that fails, and why each one is missing."""
    try:
        portal.call(space.sync, 0.1)
    except SyncFailed as failed:
        return " ".join([str(failed), *(str(getattr(one, "cause", "")) for one in failed.missing)])
    raise AssertionError("it did not fail")


def wait_failure(portal: BlockingPortal, space: AddressSpace, part: str) -> None:
    """Wait until a sync fails for this reason; until then each fails for another."""
    end = time.monotonic() + PATIENCE
    while part not in (said := said_by_failure(portal, space)):
        assert time.monotonic() < end, said


def wait_synced(portal: BlockingPortal, space: AddressSpace) -> None:
    """Wait until a sync completes: one that is asked for before the daemon knows better fails at once."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            portal.call(space.sync, PATIENCE)
        except SyncFailed:
            if time.monotonic() > end:
                raise
        else:
            return


Answers = Callable[[ClientMessage], list[DaemonMessage]]
"""Says what a scripted daemon answers to a message."""

WELCOME: Final = Welcome(1, 0, 0xDAE, 1)


@contextmanager
def scripted(directory: Path, answers: Answers) -> Generator[str]:
    """Give the address of what serves one client, as a test has it; it hangs up when it has said `Bye`."""
    path = directory / "scripted.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = Thread(target=_serve_one, args=(listening, answers))
        thread.start()
        yield f"unix:{path}"
        with suppress(OSError):  # nobody came
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def _serve_one(listening: socket.socket, answers: Answers) -> None:
    with suppress(OSError):
        connection, _ = listening.accept()
        wire = ServerConnection()
        with connection:
            while data := connection.recv(1 << 16):
                wire.receive_data(data)
                while (message := wire.next_message()) is not None:
                    said = answers(cast("ClientMessage", message))  # none of these commands publishes
                    connection.sendall(b"".join(map(wire.send, said)))
                    if any(isinstance(each, Bye) for each in said):
                        return
