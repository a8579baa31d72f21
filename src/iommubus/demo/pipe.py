"""What the player says to a process of the demo, and what that says.

The process is told once what it is to be, and says that it is, or why it cannot.
Then it is asked, one question at a time.  It ends when it has nothing more to do,
or when the pipe does: nobody needs it any more then, whatever became of the player.
"""

import socket
from typing import Any, Final

from anyio import BrokenResourceError, IncompleteRead
from anyio.abc import ByteStream, UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from msgspec import Struct, msgpack

from ..mapping import Mapping
from .pages import Target
from .result import Received

HEADER_SIZE: Final = 4
"""Bytes that say how long a message is."""


class Serve(Struct, frozen=True, tag="serve"):
    """Be the daemon.

    Attributes:
        address: Where to listen.
    """

    address: str


class Consume(Struct, frozen=True, tag="consume"):
    """Be a consumer.

    Attributes:
        address: Where the daemon is.
        module: Where its class is.
        kind: What the class is called there.
        arguments: What it is made of.
    """

    address: str
    module: str
    kind: str
    arguments: list[str | int]


Order = Serve | Consume


class Question(Struct, frozen=True, tag="question"):
    """Ask a consumer.

    Attributes:
        name: What; one of `QUESTIONS`.
        arguments: What else is to be known.
    """

    name: str
    arguments: list[int]


class Started(Struct, frozen=True, tag="started"):
    """The process is what it is to be."""


class Failed(Struct, frozen=True, tag="failed"):
    """The process cannot be it, or not any more.

    Attributes:
        reason: Why.
    """

    reason: str


QUESTIONS: Final[dict[str, Any]] = {
    "received": Received,
    "table": dict[int, Target],
    "miss": Mapping | None,
    "open_gate": None,
    "shut_gate": None,
}
"""What a consumer is asked, which is a method of its, and what it answers."""


class Ended(Exception):
    """The process at the other end has gone."""


class Pipe:
    """One end of a pipe.

    Args:
        stream: Its bytes.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._reading = BufferedByteReceiveStream(stream)

    @classmethod
    async def over(cls, end: socket.socket) -> "Pipe":
        """Return the end of a pipe that is a socket."""
        return cls(await UNIXSocketStream.from_socket(end))

    async def send(self, message: object) -> None:
        """Say something; raises as `receive`."""
        payload = msgpack.encode(message)
        try:
            await self._stream.send(len(payload).to_bytes(HEADER_SIZE, "little") + payload)
        except BrokenResourceError as end:
            raise Ended from end

    async def receive(self, kind: Any) -> Any:
        """Return what the other end says.

        Args:
            kind: Of what type that is.

        Raises:
            Ended: It has gone.
        """
        try:
            size = int.from_bytes(await self._reading.receive_exactly(HEADER_SIZE), "little")
            payload = await self._reading.receive_exactly(size)
        except (IncompleteRead, BrokenResourceError) as end:
            raise Ended from end

        return msgpack.decode(payload, type=kind)

    async def close(self) -> None:
        """Say and hear no more."""
        await self._stream.aclose()
