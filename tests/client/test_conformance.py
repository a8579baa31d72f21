"""The suite for a bus, over the bus of a daemon: client and daemon in one process, a Unix socket between them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import iommubus
from iommubus.bus.abc import EventBus
from iommubus.service.accepting import Acceptor
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config, Leases
from iommubus.testing import bus_cases
from iommubus.transport.address import UnixAddress
from iommubus.transport.listeners import listen

PATIENCE = 10.0
"""Seconds that a case gets; one of them waits half of that."""

LEASES = Leases(seconds=4.0)
"""Short enough for a case that waits for the end of one, and long enough for a machine that is busy."""


@asynccontextmanager
async def served(directory: Path) -> AsyncGenerator[EventBus]:
    address = UnixAddress(str(directory / "bus.sock"))
    async with Daemon(Config(leases=LEASES)) as daemon:
        with listen(address) as listener:
            daemon.tasks.start_soon(Acceptor(daemon, listener, None).run)
            async with iommubus.connect(str(address)) as bus:
                yield bus


CASES = {case.name: number for number, case in enumerate(bus_cases(lambda: served(Path())))}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", CASES)
async def test_the_bus_of_a_daemon_is_a_bus(name: str, tmp_path: Path) -> None:
    case = bus_cases(lambda: served(tmp_path), patience=PATIENCE)[CASES[name]]

    await case.run()
