"""Those who only count what is published in the demo.

* `Counter` stands for QEMU's own notifiers: called inside `map` and `unmap`.
* `Watcher` is an observer, a task of its own that delays nobody.
"""

from anyio.abc import TaskStatus

from ..bus.abc import EventBus
from ..bus.notifier import Notifier
from ..caps import Cap
from ..events import DevIotlbUnmap, Event, Lost, Map, Observed, Unmap
from .result import Received


class Counter:
    """Counts what a space publishes, inside the call that publishes it.

    Args:
        space: Name of the space.
        caps: What it is told of: all that the space offers.
    """

    name = "notifier"
    role = "is called inside map()"

    def __init__(self, space: str, caps: Cap) -> None:
        self.space = space
        self.maps = 0
        self.unmaps = 0
        self.notifier = Notifier(self.notify, caps)

    def notify(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, Map):
            self.maps += 1
        else:
            self.unmaps += 1

    @property
    def events(self) -> int:
        """Events so far."""
        return self.maps + self.unmaps

    def received(self) -> Received:
        """Return its counters."""
        maps = self.maps if self.notifier.caps & Cap.MAP else None
        return Received(self.space, self.name, self.role, maps, self.unmaps)


class Watcher:
    """Observes all spaces of a script, and may be told that it lost events.

    Args:
        spaces: Their names.
    """

    name = "observer"
    role = "watches, delays nobody"

    def __init__(self, *spaces: str) -> None:
        self.maps = 0
        self.unmaps = 0
        self.lost = 0
        self._spaces = spaces

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        """Count to the end."""
        async with bus.observe(*self._spaces) as events:
            task_status.started()
            async for event in events:
                self.count(event)

    def count(self, event: Observed) -> None:
        """Count one event."""
        match event:
            case Map():
                self.maps += 1
            case Unmap() | DevIotlbUnmap():
                self.unmaps += 1
            case Lost():
                self.lost += event.count

    async def received(self) -> Received:
        """Return its counters."""
        return Received("*", self.name, self.role, self.maps, self.unmaps, lost=self.lost)
