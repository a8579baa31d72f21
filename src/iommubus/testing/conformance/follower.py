"""A shadower that believes nothing: it checks each event before it applies it."""

from collections.abc import Collection, Sequence
from typing import Final

import anyio
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from ...bus.abc import Subscription
from ...caps import Cap
from ...errors import PromiseBroken
from ...events import KINDS, Event, Map, Unmap
from ...mapping import Mapping
from ..oracle import Ranges
from .demands import demand, until

NO_ROOM: Final = "no room in the back end"
"""What a follower says of an event that it cannot apply."""


class BackEndFailed(Exception):
    """What stands for the failure of a back end in these cases."""


class Gate:
    """Where a follower stands with an event in hand while it is shut."""

    def __init__(self) -> None:
        self._open: anyio.Event | None = None

    def shut(self) -> None:
        """Let nobody pass."""
        self._open = anyio.Event()

    def open(self) -> None:
        """Let everybody pass."""
        if self._open is not None:
            self._open.set()
            self._open = None

    async def wait_open(self) -> None:
        """Wait until it is open."""
        if self._open is not None:
            await self._open.wait()


class Follower:
    """What one subscription was told, applied event by event.

    Args:
        subscription: What is followed; entered by `run`.
        spaces: Names of the spaces that events may come from.
        caps: The kinds it asked for.
        ranges: The ranges it asked for.
        dawdle: Turns of the loop between receiving an event and applying it.
        failing: Kinds of event that it says it cannot apply.
    """

    def __init__(
        self,
        subscription: Subscription,
        spaces: Collection[str],
        caps: Cap,
        ranges: Ranges,
        *,
        dawdle: int = 0,
        failing: Collection[type[Event]] = (),
    ) -> None:
        self.events = subscription
        self.ranges = ranges
        self.seen: list[Event] = []
        self.gate = Gate()
        self.failing = failing
        self.ended = False
        self._spaces = spaces
        self._caps = caps
        self._dawdle = dawdle
        self._held: dict[int, Mapping] = {}

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Follow to the end of the stream."""
        async with self.events:
            task_status.started()
            async for event in self.events:
                self.seen.append(event)
                await self.gate.wait_open()
                for _ in range(self._dawdle):
                    await checkpoint()
                if type(event) in self.failing:
                    self.events.fail(event, BackEndFailed(NO_ROOM))
                else:
                    self.apply(event)
            self.ended = True

    def apply(self, event: Event) -> None:
        """Apply an event.

        Raises:
            PromiseBroken: It should never have come.
        """
        demand("events name their space", event.space in self._spaces, wanted=True)
        demand(f"{event} is of a kind that was asked for", bool(KINDS[type(event)] & self._caps), wanted=True)
        inside = any(first <= event.first and event.last <= last for first, last in self.ranges)
        demand(f"{event} lies in a range that was asked for", inside, wanted=True)
        if isinstance(event, Map):
            self._map(event)
        elif isinstance(event, Unmap):
            self._unmap(event)

    async def wait_end(self) -> None:
        """Wait until the stream has ended."""
        await until(lambda: self.ended)

    def holds(self) -> list[Mapping]:
        """Return what it may use now, in order."""
        return sorted(self._held.values())

    def told(self, kind: type[Event], first: int, last: int) -> list[Event]:
        """Return the events of a kind that it was told of and that touch a range."""
        return [event for event in self.seen if type(event) is kind and event.first <= last and event.last >= first]

    # -- inside ----------------------------------------------------------------

    def _map(self, event: Map) -> None:
        there = self._touching(event)
        if there:
            raise PromiseBroken(f"no MAP comes over a live mapping, as {event} does", "nothing there", there)
        self._held[event.first] = Mapping(event.first, event.last, event.target, event.perm, event.memory)

    def _unmap(self, event: Unmap) -> None:
        for held in self._touching(event):
            if held.first < event.first or held.last > event.last:
                raise PromiseBroken(f"no UNMAP cuts a mapping, as {event} does", "whole mappings", held)
            del self._held[held.first]

    def _touching(self, event: Event) -> Sequence[Mapping]:
        return [held for held in self._held.values() if held.first <= event.last and held.last >= event.first]
