"""The endpoints of a script: moved as the trace says, each with a shadower that goes along.

What QEMU does for a device whose domain changes: its mappings of the old one go,
those of the new one come.  The recordings that are shipped attach and never
detach, so in the end every endpoint is detached, and attached again.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from msgspec import Struct

from ..bus.abc import Endpoint
from .casting import Cast, Crew
from .house import Copy, House
from .judge import EndpointJudge, Violation
from .result import Moves, Received
from .script import MoveStep, Script

DETACHED: Final = " (the endpoint was detached after the last line)"
RETURNED: Final = " (the endpoint was attached again after the last line)"


class Device(Struct, frozen=True):
    """One endpoint, who follows it, and who judges what that one holds."""

    endpoint: Endpoint
    follower: Copy
    judge: EndpointJudge

    def move(self, cast: Cast | None, line: int, note: str = "") -> None:
        """Move it to a space, or out of all."""
        if cast is None:
            self.endpoint.detach()
            self.judge.move(None, line, note)
        else:
            self.endpoint.attach(cast.space)
            self.judge.move(cast.space.name, line, note)

    def check(self, line: int) -> Violation | None:
        """Return what the judge says of it, after a `sync` behind ``line``."""
        return self.judge.check(self.follower.targets, line)


class Endpoints:
    """All endpoints of a script.

    Args:
        casts: The spaces that they move between, by name.
    """

    def __init__(self, casts: Mapping[str, Cast]) -> None:
        self._casts = casts
        self._devices: dict[str, Device] = {}
        self._places: dict[str, str | None] = {}
        self._moves = 0
        self._left: int | None = None
        self._returned: int | None = None

    async def gather(self, house: House, script: Script, crew: Crew) -> None:
        """Make the endpoints, attached to nothing yet, and start those who follow them."""
        judges = {name: cast.judge for name, cast in self._casts.items()}
        for name in script.endpoints:
            endpoint = await house.bus.create_endpoint(name)
            follower = await house.copy(crew.follower, name, script.granule)
            self._devices[name] = Device(endpoint, follower, EndpointJudge(name, script.granule, judges))

    def move(self, step: MoveStep) -> None:
        """Move one as the trace says."""
        self._moves += 1
        self._places[step.endpoint] = step.space
        self._devices[step.endpoint].move(self._cast(step.space), step.line)

    def leave_and_return(self, line: int) -> Iterator[None]:
        """Detach all, and then attach each where it was; whoever iterates looks after each.

        Args:
            line: The last line.
        """
        if not self._devices:
            return

        for device in self._devices.values():
            device.move(None, line, DETACHED)

        yield
        self._left = self._pages
        for name, device in self._devices.items():
            device.move(self._cast(self._places[name]), line, RETURNED)

        yield
        self._returned = self._pages

    def check(self, line: int) -> Iterator[Violation | None]:
        """Yield what the judges say of each, after a `sync`."""
        for device in self._devices.values():
            yield device.check(line)

    def check_empty(self) -> Iterator[Violation | None]:
        """Yield what somebody still holds although the bus was closed."""
        for device in self._devices.values():
            yield device.judge.check_empty(len(device.follower.targets))

    async def received(self) -> AsyncIterator[Received]:
        """Yield what each who follows was given."""
        for device in self._devices.values():
            yield await device.follower.received()

    @property
    def moves(self) -> Moves:
        """How much was moved, and what was held at the end of it."""
        return Moves(len(self._devices), self._moves, self._left, self._returned)

    # -- inside ----------------------------------------------------------------

    @property
    def _pages(self) -> int:
        return sum(len(device.follower.targets) for device in self._devices.values())

    def _cast(self, space: str | None) -> Cast | None:
        return None if space is None else self._casts[space]
