"""Right calls at the wrong moment, or in the wrong place."""

from .base import IommubusError, span


class StateError(IommubusError, RuntimeError):
    """Right call, wrong moment or wrong place."""


class BusClosed(StateError):
    """The bus is closed, or was never entered."""

    def __str__(self) -> str:
        return "the bus is not open; use it inside `async with Bus() as bus`"


class SpaceClosed(StateError):
    """The space is closed; its mappings are gone."""

    space: str

    def __str__(self) -> str:
        return f"the space {self.space!r} is closed"


class EndpointClosed(StateError):
    """The endpoint is closed, or its producer has not made it yet."""

    endpoint: str

    def __str__(self) -> str:
        return f"the endpoint {self.endpoint!r} is closed"


class SubscriptionClosed(StateError):
    """The subscription was left or closed; nothing more comes from it."""

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is closed"


class NotEntered(StateError):
    """The subscription is registered by `async with`, which was not done."""

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is not registered yet; enter it with `async with`"


class AlreadyIterated(StateError):
    """Somebody is iterating the subscription; it has one consumer.

    Asking for the next event acknowledges the one before, so a second asker
    would vouch for work it has not seen.
    """

    subscription: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is being iterated already; it has one consumer"


class WrongThread(StateError):
    """A call from another thread than the one that runs the bus."""

    owner: int
    caller: int

    def __str__(self) -> str:
        return f"the bus belongs to thread {self.owner}, it was called from thread {self.caller}"


class PublisherClosed(StateError):
    """A call by another thread, and the block that serves threads has ended, or was never entered."""

    def __str__(self) -> str:
        return "the publisher for threads is not open; threads can use it inside `async with bus.in_thread()`"


class LoopThread(StateError):
    """A call made for other threads, from the thread of the bus, which would wait for itself."""

    owner: int

    def __str__(self) -> str:
        return f"thread {self.owner} runs the bus and would wait for itself; call the space or the bus directly there"


class WrongMode(StateError):
    """A call that does not fit the way this subscription acknowledges."""

    subscription: str
    mode: str
    reason: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} acknowledges by {self.mode!r}: {self.reason}"


class ForeignBatch(StateError):
    """A batch that another subscription handed over.

    Attributes:
        number: Number of the batch, in the subscription that it came from.
    """

    subscription: str
    number: int

    def __str__(self) -> str:
        return f"batch {self.number} was handed over by another subscription than {self.subscription!r}"


class NotInHand(StateError):
    """An event that failed, it is said, and that was acknowledged already, or never handed over.

    Attributes:
        event: What it is, as people read it.
    """

    subscription: str
    event: str

    def __str__(self) -> str:
        return f"{self.event} is not in the hand of the subscription {self.subscription!r}, so it cannot fail any more"


class MemoryInUse(StateError):
    """A memory that a mapping leads into; unmap that first."""

    memory: str
    space: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.memory} is in use: the space {self.space!r} maps {span(self.first, self.last)} to it"
