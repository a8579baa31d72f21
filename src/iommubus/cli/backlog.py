"""Events that wait for whoever reads a command's output, and how many it was too slow for."""

from collections import deque
from collections.abc import Iterable

import anyio

from ..events import Lost, Observed


class Backlog:
    """Keeps events until they are printed, up to a limit.

    Once one was lost, all that comes behind it is, until what was kept is gone;
    then it is told how many those were, in each space.  So the order is right.

    Args:
        limit: Most events that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Observed] = []
        self._lost: dict[str, Lost] = {}
        self._end: Exception | None = None
        self._ended = False
        self._change = anyio.Event()

    def take(self, events: Iterable[Observed]) -> None:
        """Take events, as far as there is room."""
        for event in events:
            if self._lost or len(self._kept) >= self._limit:
                self._lose(event)
            else:
                self._kept.append(event)
        self._change.set()

    def end(self, why: Exception | None = None) -> None:
        """Take it that no more will come.

        Args:
            why: What went wrong, if something did.
        """
        if not self._ended:
            self._ended, self._end = True, why
        self._change.set()

    async def give(self) -> list[Observed]:
        """Return what there is as soon as there is something, and nothing at the end.

        Raises:
            Exception: What went wrong, behind all that came before.
        """
        while not (self._kept or self._lost or self._ended):
            self._change = anyio.Event()
            await self._change.wait()
        events = [*self._kept, *self._lost.values()]
        self._kept, self._lost = [], {}
        if not events and self._end is not None:
            raise self._end
        return events

    def _lose(self, event: Observed) -> None:
        before = self._lost.get(event.space)
        count = event.count if isinstance(event, Lost) else 1
        self._lost[event.space] = Lost(event.space, event.seq, count + (0 if before is None else before.count))
