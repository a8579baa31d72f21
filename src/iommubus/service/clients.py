"""A client that is connected, to everything that is not its connection."""

from collections.abc import Callable
from typing import Protocol

from ..transport.credentials import Peer
from ..wire.messages import Message
from ..wire.negotiation import Agreement


class Connection(Protocol):
    """A connection, whether or not its client was let in.

    Attributes:
        peer: Who is at its other end, as far as that is known yet.
    """

    peer: Peer

    def close(self, reason: str, /) -> None:
        """Say `Bye`, and close the connection; its client is lost at once."""
        ...

    def abort(self) -> None:
        """Close it without waiting for what was said to be sent."""
        ...


class Client(Connection, Protocol):
    """A client that was let in.

    Attributes:
        number: Its number.
        name: What it calls itself.
        peer: Who it is.
        agreement: What both ends use, once it was let in.
        open: Whether it was let in, and is not lost.
    """

    number: int
    name: str
    peer: Peer
    agreement: Agreement | None
    open: bool

    def send(self, message: Message, /) -> int:
        """Say something."""
        ...

    def tell(self, make: Callable[[int], Message], /) -> None:
        """Ask it something whose answer does not matter."""
        ...

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer."""
        ...

    async def ask(self, make: Callable[[int], Message], /) -> Message:
        """Ask it something; raises `ConnectionLost`, or what it refused it with."""
        ...


def same_user(one: Peer, other: Peer) -> bool:
    """Say whether two peers are one user, as far as that is proven."""
    return (one.uid, one.names) == (other.uid, other.names)
