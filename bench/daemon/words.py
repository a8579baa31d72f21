"""What is said between the runner and the processes that it starts: JSON, a line each."""

import asyncio
import socket
from typing import Any, Final

from msgspec import Struct, json

from .check import Run
from .events import Script

LINE: Final = 1 << 26
"""Most bytes of one line: the times of a long run."""


class Publish(Struct, frozen=True, tag=True):
    """Publish a script, to the publisher; `Published` answers.

    Attributes:
        script: What.
        count: How many changes.
        batch: How many of them in a call or a message.
        spread: Whether each is published in every space.
    """

    script: Script
    count: int
    batch: int = 1
    spread: bool = False


class Rounds(Struct, frozen=True, tag=True):
    """Unmap, and wait until all have acknowledged it, again and again; `Times` answers.

    Attributes:
        count: How often.
        each: How many pages at once.
    """

    count: int
    each: int


class Pace(Struct, frozen=True, tag=True):
    """Publish one event after the other, slowly; `Times` answers, with when each was published.

    Attributes:
        count: How many.
        interval: Seconds between two.
    """

    count: int
    interval: float


class Create(Struct, frozen=True, tag=True):
    """Have so many spaces, to a producer or a subscriber of iommubus; `Done` answers."""

    spaces: int


class Join(Struct, frozen=True, tag=True):
    """Have more subscribers in this process; `Done` answers.

    Attributes:
        count: How many more.
        number: Number of the first.
        matching: Whether they want what is published.
    """

    count: int
    number: int
    matching: bool


class Meet(Struct, frozen=True, tag=True):
    """Wait until each of so many subscribers gets what is published; `Done` answers."""

    subscribers: int


class Expect(Struct, frozen=True, tag=True):
    """Expect a run, to a subscriber; `Done` answers when it is ready, and `Seen` in the end."""

    run: Run


class Done(Struct, frozen=True, tag=True):
    """Answer that it is done."""


class Published(Struct, frozen=True, tag=True):
    """Answer when it began, by the monotonic clock, and how many changes there were."""

    began: float
    count: int


class Times(Struct, frozen=True, tag=True):
    """Answer with seconds."""

    seconds: list[float]


class Seen(Struct, frozen=True, tag=True):
    """Say when the last event was seen, and each, if that was asked for."""

    at: float
    stamps: list[float]


class Failed(Struct, frozen=True, tag=True):
    """Say why the process cannot go on."""

    reason: str


Order = Publish | Rounds | Pace | Create | Join | Meet | Expect
Answer = Done | Published | Times | Seen | Failed


class Pipe:
    """One end of a pair of sockets.

    Args:
        reader: Its stream of bytes.
        writer: The same, the other way.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Pipe":
        """Return the end of a pair."""
        return cls(*await asyncio.open_connection(sock=end, limit=LINE))

    async def send(self, words: Order | Answer) -> None:
        """Say something."""
        self._writer.write(json.encode(words) + b"\n")
        await self._writer.drain()

    async def receive(self, kind: Any) -> Any:
        """Return what was said, which is of a kind.

        Raises:
            EOFError: The other end is closed.
        """
        line = await self._reader.readline()
        if not line:
            raise EOFError("the other process has ended")
        return json.decode(line, type=kind)

    def close(self) -> None:
        """Let the other end know that this is all."""
        self._writer.close()
