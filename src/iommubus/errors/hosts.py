"""Addresses, listeners, and who is at the other end."""

from .base import IommubusError


class AddressError(IommubusError, ValueError):
    """A text that is no address of a daemon, or an address that cannot be used so."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.address!r} cannot be used: {self.reason}"


class ListenError(IommubusError):
    """A place at which this host lets no daemon listen."""


class AddressTaken(ListenError):
    """Somebody answers there already.

    Attributes:
        pid: Who, 0 if that cannot be seen.
    """

    path: str
    pid: int

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "somebody"
        return f"{who} answers at {self.path}; stop that first, or listen elsewhere"


class LockTaken(ListenError):
    """Another process holds the lock of something that only one may use.

    Attributes:
        pid: Who, 0 if it did not say.
    """

    path: str
    pid: int

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "another process"
        return f"{who} holds the lock {self.path}; two daemons cannot share what it guards"


class NotSocket(ListenError):
    """A file that is in the way, and is no socket that could be stale."""

    path: str

    def __str__(self) -> str:
        return f"{self.path} is there and is no socket; it was left as it is"


class CannotListen(ListenError):
    """An address at which the system refuses to listen, and why."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}"


class BadActivation(ListenError):
    """Sockets handed over by the service manager that cannot be used."""

    reason: str

    def __str__(self) -> str:
        return f"the service manager handed over sockets that cannot be used: {self.reason}"


class BadCertificate(ListenError):
    """A certificate, key or authority that cannot be loaded."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be loaded: {self.reason}"


class PeerError(IommubusError):
    """Something about the other end of a connection."""


class NoCredentials(PeerError):
    """The system does not say who the peer is."""

    reason: str

    def __str__(self) -> str:
        return f"it cannot be known who the peer is: {self.reason}"


class PeerGone(PeerError):
    """The process that connected has ended; its number may be another's by now."""

    pid: int

    def __str__(self) -> str:
        return f"process {self.pid}, which connected, has ended"


class DescriptorsRefused(PeerError):
    """A message with descriptors that was cut, or has more than are taken; none were kept."""

    reason: str

    def __str__(self) -> str:
        return f"a message with descriptors was refused: {self.reason}"


class TokenRefused(PeerError):
    """A token that was not given out, was used, or was given to somebody else."""

    def __str__(self) -> str:
        return "the token is none that was given to this peer and not used yet"
