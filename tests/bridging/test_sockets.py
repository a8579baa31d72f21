"""Connections are accepted one by one, whatever happens to others."""

import socket
from pathlib import Path

import anyio
import pytest

from iommubus.bridging.sockets import accept
from iommubus.transport.address import UnixAddress
from iommubus.transport.listeners import listen
from tests.loops import every_loop


@every_loop
async def test_the_next_connection_is_waited_for(tmp_path: Path) -> None:
    accepted: list[socket.socket] = []
    with listen(UnixAddress(str(tmp_path / "sock"))) as listener, socket.socket(socket.AF_UNIX) as client:

        async def wait() -> None:
            accepted.append(await accept(listener.sock))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert accepted == []
            client.connect(str(tmp_path / "sock"))
        with accepted[0] as end:
            end.sendall(b"hello")
            assert client.recv(5) == b"hello"


class Reluctant:
    """A listening socket whose first connections cannot be accepted."""

    def __init__(self, sock: socket.socket, *failures: OSError) -> None:
        self._sock = sock
        self._failures = list(failures)

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        if self._failures:
            raise self._failures.pop(0)
        return self._sock.accept()


@every_loop
async def test_one_that_is_gone_or_finds_no_room_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iommubus.bridging.sockets.AGAIN", 0.001)
    with listen(UnixAddress(str(tmp_path / "sock"))) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
        failures = BlockingIOError(), OSError(24, "too many open files"), ConnectionAbortedError(103, "aborted")
        (await accept(Reluctant(listener.sock, *failures))).close()  # type: ignore[arg-type]


@every_loop
async def test_a_socket_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with listen(UnixAddress(str(tmp_path / "sock"))) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
        with pytest.raises(OSError, match="not a socket"):
            await accept(Reluctant(listener.sock, OSError(88, "not a socket")))  # type: ignore[arg-type]
