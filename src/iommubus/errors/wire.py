"""What the other end of a connection did wrong."""

from .base import IommubusError


class ProtocolError(IommubusError):
    """Bytes that the wire protocol does not have; nothing of the message was applied.

    Receiving blames the peer, and nothing more is read from it; sending, who made
    the message, and nothing was sent.
    """


class FrameTooLarge(ProtocolError):
    """A frame longer than its reader takes; none of it was waited for.

    Attributes:
        size: Length of the payload, in bytes.
        limit: Most that is taken.
    """

    size: int
    limit: int

    def __str__(self) -> str:
        return f"a frame of {self.size} bytes, at most {self.limit} are taken"


class BadMessage(ProtocolError):
    """A message that cannot be.

    Attributes:
        message: What it is, as far as that is known.
        field: Which of its fields is wrong, with the place inside it.
        value: What the field holds, as people read it.
    """

    message: str
    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field} of {self.message} is {self.value}: {self.reason}"


class OutOfPlace(ProtocolError):
    """A message that may not be said now, or not by this side."""

    message: str
    side: str
    state: str

    def __str__(self) -> str:
        return f"the {self.side} may not say {self.message} while the connection is {self.state}"


class VersionRefused(ProtocolError):
    """Two ends that have no version of the protocol in common.

    Attributes:
        least: Oldest version that the other end speaks.
        most: Newest version that it speaks.
        known_least: Oldest version that is spoken here.
        known_most: Newest version that is spoken here.
    """

    least: int
    most: int
    known_least: int
    known_most: int

    def __str__(self) -> str:
        theirs, ours = f"{self.least} to {self.most}", f"{self.known_least} to {self.known_most}"
        return f"the other end speaks versions {theirs} of the protocol, this one {ours}"


class FeatureRefused(ProtocolError):
    """Features that one end requires and the other does not offer.

    Attributes:
        required: The features that one requires, as bits.
        offered: The features that the other offers.
    """

    required: int
    offered: int

    def __str__(self) -> str:
        missing = self.required & ~self.offered
        return f"the features {self.required:#x} are required, {self.offered:#x} are offered: {missing:#x} are missing"


class RemoteError(IommubusError):
    """What went wrong at the other end of a connection, where its class is not known here.

    Attributes:
        kind: Name of the class there.
        text: Its sentence.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
