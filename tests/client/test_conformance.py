"""The suite for a bus, over the bus of a daemon in this process, at a Unix socket."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

import iommubus
from iommubus.client.remote import RemoteBus, connect
from iommubus.service.config import Config, Leases
from iommubus.service.daemon import Daemon
from iommubus.service.session import Session
from iommubus.testing import bus_cases
from iommubus.transport.credentials import Peer, Process, peer_of, process_of, ticks_now

PATIENCE = 15.0


@asynccontextmanager
async def at_socket(path: Path) -> AsyncGenerator[RemoteBus]:
    loop = asyncio.get_running_loop()
    config = Config(leases=Leases(seconds=1.0))
    async with Daemon(config) as daemon:
        server = await loop.create_unix_server(lambda: accepted(daemon), str(path))
        async with server, connect(f"unix:{path}") as bus:
            yield bus


def accepted(daemon: Daemon) -> Session:
    def who(transport: asyncio.Transport) -> tuple[Peer, Process | None]:
        sock = transport.get_extra_info("socket")
        own = socket.socket(fileno=os.dup(sock.fileno()))
        with own:
            return peer_of(own), process_of(own, ticks_now())

    return Session(daemon, who, __import__("iommubus.service.daemon", fromlist=["PARTS"]).PARTS)


NAMES = [case.name for case in bus_cases(lambda: at_socket(Path()))]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_the_bus_of_a_daemon_keeps(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bus"
    (case,) = (one for one in bus_cases(lambda: at_socket(path), patience=PATIENCE) if one.name == name)
    await case.run()
