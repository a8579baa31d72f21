"""Servers: the ports that they use, their start and their end."""

import asyncio
import os
import socket
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final

from .subject import Server

PATIENCE: Final = 20.0
"""Seconds within which a server takes connections, on a busy machine."""

AGAIN: Final = 0.02
"""Seconds between two tries."""


def free_port(place: Path) -> int:
    """Return a port on loopback that nobody uses, and remember it for the clients of a place."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    (place / "port").write_text(str(port))
    return port


def port_of(place: Path) -> int:
    """Return the port of a place."""
    return int((place / "port").read_text())


class NoServer(Exception):
    """A server did not come up; what it said."""


async def start(server: Server, place: Path) -> Process:
    """Start a server, and wait until it takes connections.

    Raises:
        NoServer: It does not.
    """
    log = place / "server.log"
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(
            *server.command, stdout=lines, stderr=lines, env={**os.environ, **server.environment}
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await takes_connections(server.ready):
                if process.returncode is not None:
                    raise NoServer(f"{server.command[0]} ended: {log.read_text().strip()}")
                await asyncio.sleep(AGAIN)
    except TimeoutError:
        await stop(process)
        raise NoServer(f"{server.command[0]} takes no connections: {log.read_text().strip()}") from None
    return process


async def takes_connections(ready: Path | int) -> bool:
    """Say whether somebody does at a Unix socket, or at a port on loopback."""
    family, address = (
        (socket.AF_UNIX, str(ready)) if isinstance(ready, Path) else (socket.AF_INET, ("127.0.0.1", ready))
    )
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(probe, address)
        except OSError:
            return False
    return True


async def stop(process: Process) -> None:
    """End a process: at once, for nothing of it is wanted any more."""
    if process.returncode is None:
        process.kill()
    await process.wait()
