"""Tasks that callbacks of the event loop start.

A group of anyio cannot be used for that: which event loop runs it finds out from
the task that calls it, and a callback runs in none.
"""

import asyncio
from collections.abc import Callable, Coroutine
from logging import getLogger
from types import TracebackType
from typing import Any, Final, Self, TypeVarTuple

LOGGER: Final = getLogger("iommubus")

Args = TypeVarTuple("Args")


class Tasks:
    """Tasks that end with the block they were started in, at the latest.

    What one raises is logged, and the others go on.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._open = False

    def __len__(self) -> int:
        return len(self._running)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(self._running)

    def start_soon(self, work: Callable[[*Args], Coroutine[Any, Any, Any]], *args: *Args) -> asyncio.Task[Any] | None:
        """Start a task and return it; after the block has ended nothing is started any more."""
        if not self._open:
            return None
        task = asyncio.get_running_loop().create_task(work(*args))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            LOGGER.error("a task failed in a way that it should not", exc_info=failure)
