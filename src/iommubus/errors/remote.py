"""What cannot be had from a daemon: it is away, about to stop, full, or would have to see more than it can."""

from .base import IommubusError
from .daemon import RuleMissing
from .device import TranslationFault
from .moments import StateError
from .outcomes import Fenced
from .subscribing import SubscribeError


class Disconnected(IommubusError):
    """There is no connection to the daemon now; what waited for its answer will not get one.

    Attributes:
        address: Where the daemon is looked for.
        reason: Why there is no connection.
    """

    address: str
    reason: str

    def __str__(self) -> str:
        return f"there is no connection to the daemon at {self.address}: {self.reason}"


class ConnectionLost(IommubusError):
    """The client whom the daemon asked something is gone, and its answer with it.

    Attributes:
        client: What the client called itself.
        reason: Why it is gone.
    """

    client: str
    reason: str

    def __str__(self) -> str:
        return f"the client {self.client!r} is gone: {self.reason}"


class Unreachable(TranslationFault):
    """The daemon cannot be asked now where an address leads."""

    iova: int
    reason: str

    def __str__(self) -> str:
        return f"nobody can be asked where {self.iova:#x} leads: {self.reason}"


class LeaseRunOut(Fenced):
    """The lease has run out: nothing that is held may be used until it was dropped and the daemon is back."""

    def __str__(self) -> str:
        return f"the lease of the subscription {self.subscription!r} has run out: {self.reason}"


class NotProducer(StateError):
    """The space, or endpoint, is another producer's: it can be waited for, and not changed."""

    name: str

    def __str__(self) -> str:
        return f"{self.name!r} is another producer's, who alone can change it"


class WrongLoop(StateError):
    """A connection to a daemon needs an event loop of asyncio, and this is another one."""

    def __str__(self) -> str:
        return "a connection to a daemon needs asyncio, or uvloop; this is another event loop"


class LimitReached(IommubusError):
    """A peer asked for more of something than the daemon gives to one.

    Attributes:
        what: The setting that says how much it gives.
        limit: Its value.
    """

    what: str
    limit: int

    def __str__(self) -> str:
        return f"the daemon's setting {self.what} allows {self.limit}, and no more"


class Stopping(IommubusError):
    """The daemon is about to stop, and begins nothing new."""

    reason: str

    def __str__(self) -> str:
        return f"the daemon is about to stop: {self.reason}"


class ExitRefused(SubscribeError):
    """A subscriber that is to be stopped by the end of its process, which the daemon cannot see."""

    subscription: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subscription} cannot be proven stopped by the end of its process: {self.reason}"


class MayNotSubscribe(RuleMissing, SubscribeError):
    """No rule allows a peer to subscribe to an endpoint, or to the space that it is attached to."""


class StopUnproven(IommubusError):
    """A subscriber that was fenced, and that nothing proves stopped but the end of its process, which has not come.

    Attributes:
        subscription: Name of the subscription.
        pid: Number of its process, or of the one that keeps what it was given, once its own has
            ended; 0 if it cannot be seen.
        reason: Why nothing else stops it.
    """

    subscription: str
    pid: int
    reason: str

    def __str__(self) -> str:
        process = f"process {self.pid}" if self.pid else "its process"
        return f"{self.subscription} is not proven stopped before {process} has ended: {self.reason}"
