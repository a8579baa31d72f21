"""A connection to a front end: what works on it, and how it ends."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from ...abi.vhost_user import DESCRIPTOR_LIMIT, splitter
from ...bridging.barrier import Barrier
from ...bridging.messages import MessageSocket
from ...bridging.telling import Tell
from ...bus.abc import AddressSpace, EventBus
from ...errors import AbiError, IommubusError, PeerBroke, PeerLeft
from .device import Device

Work = Callable[[], Awaitable[object]]


class Surroundings(Struct, frozen=True):
    """What all front ends of a bridge share.

    Attributes:
        bus: The bus.
        space: The space.
        granule: Its granule.
        barrier: What settles INVALIDATEs.
        deadline: Seconds after which a subscriber that does not let go is fenced.
        device: What serves rings.
        tell: Is told what happens.
        counts: What happened, by name.
        numbers: What their memories are numbered by.
    """

    bus: EventBus
    space: AddressSpace
    granule: int
    barrier: Barrier
    deadline: float
    device: Device
    tell: Tell
    counts: Counter[str]
    numbers: Iterator[int]


class Line:
    """One connection.

    Args:
        sock: Its main channel; this object closes it.
        name: What the front end is called.

    Attributes:
        name: The same.
        main: The main channel.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self.main = MessageSocket(sock, splitter(), descriptor_limit=DESCRIPTOR_LIMIT, peer=name)
        self._tasks: TaskGroup | None = None
        self._why: Exception | None = None

    @property
    def there(self) -> bool:
        """Whether the front end is served."""
        return self._tasks is not None and self._why is None

    async def run(self, *works: Work) -> Exception:
        """Do several things, and what is started meanwhile, until one of them says that it is over; return why."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for work in (self.main.pump, *works):
                self.start(work)
        self._tasks = None
        return self._why or PeerLeft(self.name, "nothing is done for it any more")

    def start(self, work: Work) -> None:
        """Do one thing more, as long as the front end is there."""
        if self._tasks is not None:
            self._tasks.start_soon(self._while_there, work)

    def give_up(self, why: Exception) -> None:
        """End it."""
        if self._why is None:
            self._why = why
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def put(self, data: bytes) -> None:
        """Send a message on the main channel, if anybody is there who reads it."""
        if self.there:
            self.put_on(self.main, data)

    def put_on(self, channel: MessageSocket, data: bytes) -> None:
        """Send a message on one of the channels, or give the front end up that does not read it."""
        try:
            channel.put(data)
        except PeerLeft as left:
            self.give_up(left)

    def broke(self, reason: str) -> PeerBroke:
        """Return the error that says that the front end broke its protocol."""
        return PeerBroke(self.name, reason)

    async def _while_there(self, work: Work) -> None:
        try:
            await work()
        except AbiError as wrong:
            self.give_up(self.broke(str(wrong)))
        except IommubusError as error:
            self.give_up(error)
