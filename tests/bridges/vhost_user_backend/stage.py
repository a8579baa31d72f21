"""A bridge that runs on a bus of its own, and what it tells."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from iommubus import Bus, EventBus
from iommubus.bridges.vhost_user_backend import VhostUserBackend
from iommubus.bridging.telling import Notice, Told
from tests.peers import open_descriptors


class Stage(Struct, frozen=True, eq=False):
    """A bridge that runs on a bus of its own.

    Attributes:
        bus: The bus.
        bridge: The bridge; its space is "vm".
        path: Where it listens.
        told: What it has told.
        scope: Ends it.
    """

    bus: EventBus
    bridge: VhostUserBackend
    path: str
    told: list[Told]
    scope: anyio.CancelScope

    @property
    def troubles(self) -> list[str]:
        """What somebody should look at."""
        return [told.text for told in self.told if isinstance(told, Notice) and told.trouble]

    async def until(self, seen: Callable[["Stage"], bool]) -> None:
        """Wait until something can be seen."""
        while not seen(self):  # noqa: ASYNC110 - whatever it is
            await anyio.sleep(0.001)


async def run_in(scope: anyio.CancelScope, bridge: VhostUserBackend, *, task_status: TaskStatus[None]) -> None:
    with scope:
        await bridge.run(task_status=task_status)


@asynccontextmanager
async def stage(directory: Path, **options: Any) -> AsyncGenerator[Stage]:
    """Give a bridge that somebody can connect to."""
    before = open_descriptors()
    told: list[Told] = []
    path = str(directory / "vhost.sock")
    async with Bus() as bus, anyio.create_task_group() as tasks:
        bridge = VhostUserBackend(bus, listen=path, space="vm", tell=told.append, **options)
        scope = anyio.CancelScope()
        await tasks.start(run_in, scope, bridge)
        yield Stage(bus, bridge, path, told, scope)
        scope.cancel()
    assert open_descriptors() == before
