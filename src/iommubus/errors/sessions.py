"""What the two ends of a connection owe each other, beyond the bytes: limits, epochs, presence."""

from .base import IommubusError


class LimitReached(IommubusError):
    """More of something than one peer may have.

    Attributes:
        what: What there would be too many of, in words.
        limit: How many there may be.
    """

    what: str
    limit: int

    def __str__(self) -> str:
        return f"there may be at most {self.limit} {self.what}"


class ConnectionLost(IommubusError):
    """The connection on which an answer was waited for is gone."""

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"the connection of {self.peer} is gone: {self.reason}"


class DaemonStopping(IommubusError):
    """The daemon is about to stop and begins nothing new."""

    reason: str

    def __str__(self) -> str:
        return f"the daemon stops and begins nothing new: {self.reason}"


class OldEpoch(IommubusError):
    """A space that is not the one meant: another was made under its name, or it is gone.

    Attributes:
        space: Its name.
        epoch: The epoch that was named.
        current: That of the space there is; 0 if there is none.
    """

    space: str
    epoch: int
    current: int

    def __str__(self) -> str:
        now = f"the one there is has epoch {self.current:#x}" if self.current else "there is none of this name"
        return f"the space {self.space!r} with epoch {self.epoch:#x} is over: {now}"


class NotYours(IommubusError):
    """A space or an endpoint that another client made."""

    name: str
    owner: str

    def __str__(self) -> str:
        return f"{self.name!r} was made by {self.owner or 'a client that is gone'}, not on this connection"
