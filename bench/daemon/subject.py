"""What every subject of the measurements is: a server, and clients of two kinds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from .check import Check
from .events import Change


class Missing(Exception):
    """A subject cannot be had here; why."""


class Server(Struct, frozen=True):
    """How a server is started.

    Attributes:
        command: Its command line.
        ready: The Unix socket at which it takes connections, or the port on loopback.
        environment: Variables that it needs.
    """

    command: Sequence[str]
    ready: Path | int
    environment: Mapping[str, str] = {}


class Publisher(Protocol):
    """The client that publishes."""

    async def meet(self, subscribers: int) -> None:
        """Wait until each of so many subscribers gets what is published."""
        ...

    async def publish(self, changes: Sequence[Change], batch: int) -> None:
        """Publish changes, ``batch`` of them in a call or a message, no faster than they are taken."""
        ...

    async def settle(self) -> None:
        """Wait until all subscribers have acknowledged what was published."""
        ...


class Follower(Protocol):
    """The client of one subscriber.

    Attributes:
        checks: See everything that it gets.
    """

    checks: list[Check]

    async def wait(self) -> None:
        """Wait until its checks are done, or one has found a fault."""
        ...


class Subject(ABC):
    """Something that takes events from one process to others.

    Attributes:
        name: What it is called in the results.
        lacks: What it does not do, in words.
        has_server: Whether it comes with a server; what is a library alone is not what
            iommubus has to be ahead of, though a process of ours stands between its clients.
        libraries: Distributions whose versions matter.
        program: Its server, if that is Debian's: the program, and its package.
    """

    name: str
    lacks: str
    has_server: bool = True
    libraries: Sequence[str] = ()
    program: tuple[str, str] | None = None

    def ahead(self, batch: int) -> int:  # noqa: ARG002 - for others it matters
        """Return how many messages, of so many events each, may be on their way; 0 if something else sees to that."""
        return 0

    @abstractmethod
    def server(self, place: Path) -> Server:
        """Return how its server is started.

        Args:
            place: A directory for its sockets and files, the same for its clients.

        Raises:
            Missing: It cannot be had.
        """

    @abstractmethod
    def publisher(self, place: Path) -> AbstractAsyncContextManager[Publisher]:
        """Connect the publisher; subscribers come after it."""

    @abstractmethod
    def subscriber(self, place: Path, number: int, *, matching: bool) -> AbstractAsyncContextManager[Follower]:
        """Connect a subscriber to everything that is published, or to nothing of it; they are numbered from 0."""
