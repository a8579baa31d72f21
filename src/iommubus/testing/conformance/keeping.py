"""Consumers that ship with the bus, each kept up to date by a task of its own."""

from contextlib import suppress
from typing import Any, TypeVar

from anyio.abc import TaskStatus

from ...caps import Cap
from ...consumers.iotlb import Iotlb
from ...consumers.mirror import Mirror
from ...errors import Fenced
from .scene import Stage

K = TypeVar("K", Mirror, Iotlb)


async def keep(stage: Stage, kind: type[K], caps: Cap, **options: Any) -> K:
    """Return a copy or a cache that follows the space, until that ends or it is fenced."""
    subscription = stage.bus.subscribe("space", caps, **options)
    keeper = kind(subscription)

    async def run(*, task_status: TaskStatus[None]) -> None:
        with suppress(Fenced):
            async with subscription:
                task_status.started()
                await keeper.run()

    await stage.tasks.start(run)
    return keeper
