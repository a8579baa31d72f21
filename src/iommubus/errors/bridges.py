"""What keeps a bridge from its work: the program or the kernel at its other end."""

import os
from errno import errorcode

from .base import IommubusError


def said(errno: int) -> str:
    """Return an error number as people read it; a number that is none stays what it is."""
    return f"{errorcode[errno]}, {os.strerror(errno)}" if errno in errorcode else str(errno)


class BridgeError(IommubusError):
    """Something at the other end of a bridge, which is another project's program or the kernel."""


class PeerCannot(BridgeError):
    """The peer does not offer what the bridge cannot do without, or does not take what was offered.

    Attributes:
        peer: Who it is.
        what: What is missing, as the interface's specification names it.
        why: Why it is needed.
    """

    peer: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.peer} has no {self.what}: {self.why}"


class PeerBroke(BridgeError):
    """The peer said what its interface does not allow; the connection was closed."""

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.peer} broke its protocol: {self.reason}"


class PeerLeft(BridgeError):
    """The connection to the peer has ended.

    Attributes:
        reason: What is known of why.
    """

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.peer} is gone: {self.reason}"


class PeerRefused(BridgeError):
    """The peer could not do what it was asked.

    Attributes:
        what: What it was asked, with the values.
        status: What it answered: an errno, or a number that is not 0.
    """

    peer: str
    what: str
    status: int

    def __str__(self) -> str:
        return f"{self.peer} refused {self.what}: {said(self.status)}"


class KernelRefused(BridgeError):
    """The kernel refused a call.

    Attributes:
        what: The call, with the values.
        errno: Its error number.
        hint: What that means here, or "".
    """

    what: str
    errno: int
    hint: str

    def __str__(self) -> str:
        return f"{self.what}: {said(self.errno)}{f' ({self.hint})' if self.hint else ''}"


class RingBroken(BridgeError):
    """The driver of a guest put into a virtqueue what cannot be; the device leaves it alone until it is set up anew.

    Attributes:
        ring: Which of the device's.
    """

    ring: int
    reason: str

    def __str__(self) -> str:
        return f"ring {self.ring} is broken: {self.reason}"
