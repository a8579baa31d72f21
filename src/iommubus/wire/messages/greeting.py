"""Beginning and ending a connection, its heartbeats, and the second connection for descriptors."""

from enum import IntFlag
from typing import Annotated, Final

from msgspec import Meta, Struct

from .replies import Failure
from .values import U64, MemoryName, Name, Text

TOKEN_LIMIT: Final = 64
"""Most bytes of a one-time token: four times what cannot be guessed."""

Token = Annotated[bytes, Meta(max_length=TOKEN_LIMIT)]


class Feature(IntFlag):
    """What not every end can do, one bit each; bits that nobody knows yet may follow."""

    DESCRIPTORS = 1
    """Descriptors of memories travel, on a second connection over a Unix socket."""

    RESUME = 2
    """A producer may come back and go on with its spaces (`BeginResume`)."""


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """Greet the daemon; the first words of a connection.

    Attributes:
        least: Oldest version of the protocol that the client speaks.
        most: Newest version that it speaks.
        name: What the client is called in lists and logs.
        required: Features (`Feature`) without which it cannot go on.
        optional: Features that it would use.
    """

    least: U64
    most: U64
    name: Name = ""
    required: U64 = 0
    optional: U64 = 0


class Welcome(Struct, frozen=True, array_like=True, tag=2):
    """Let a client in.

    Attributes:
        version: Version of the protocol that is spoken from here on.
        features: Features that both ends have, and use.
        daemon: Incarnation of the daemon; another one has other spaces and subscriptions.
        client: Number of the client, by which lists and logs tell it from others.
        heartbeat_us: Longest time that either end may say nothing, in microseconds;
            who has nothing to say sends a `Ping`.  0 for no limit.
        token: Opens the second connection, once; empty where there is none.
        lease_us: Length of a lease, in microseconds: a connection on which nothing
            has renewed it for so long counts as lost.  0 for no limit.
    """

    version: U64
    features: U64
    daemon: U64
    client: U64
    heartbeat_us: U64 = 0
    token: Token = b""
    lease_us: U64 = 0


class Ping(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Show that this end is alive, and ask the other one.

    The `Pong` to a client's `Ping` renews its leases: by the daemon's clock from
    when the `Ping` arrived, by the client's from when it was sent, which is earlier.
    So do `Welcome`, and `Subscribed`, by what they answer.

    Attributes:
        number: Repeated in the `Pong`.
    """

    number: U64


class Pong(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Answer a `Ping`.

    Attributes:
        number: That of the `Ping`.
    """

    number: U64


class Bye(Struct, frozen=True, array_like=True, tag=5):
    """End the connection: this end says nothing more.

    Subscriptions that were not left, and spaces that were not closed, are lost by
    it as they are when the connection breaks.

    Attributes:
        reason: Why, for people.
        failure: What the other end did wrong, if it did; nil otherwise.
    """

    reason: Text = ""
    failure: Failure | None = None


class Draining(Struct, frozen=True, array_like=True, tag=6):
    """Tell the clients that the daemon stops soon: nothing new is begun, what is open should be ended.

    Attributes:
        reason: Why, for people.
        left_us: Time until it says `Bye`, in microseconds.
    """

    reason: Text
    left_us: U64


class Bind(Struct, frozen=True, array_like=True, tag=7):
    """Make this connection the second one of a client: the first and last words of a client on it, but for descriptors.

    Attributes:
        token: That of the `Welcome` on the first connection.
    """

    token: Token


class Bound(Struct, frozen=True, array_like=True, tag=8):
    """Take a second connection; from here on it carries `Descriptor` alone."""


class Descriptor(Struct, frozen=True, array_like=True, tag=9):
    """Hand over the descriptor of one memory, as SCM_RIGHTS beside the first byte of this frame.

    A client sends one after the `MemoryAdded` that answers its `AddMemory`; the
    daemon, before or after the first event that names a memory: who reads such a MAP waits.

    Attributes:
        memory: Which memory.
    """

    memory: MemoryName
