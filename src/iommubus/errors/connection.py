"""What keeps a client from its daemon."""

from .base import IommubusError
from .device import TranslationFault
from .moments import StateError


class Disconnected(StateError, TranslationFault):
    """There is no connection to the daemon at the moment; what was asked may be asked again."""

    reason: str

    def __str__(self) -> str:
        return f"there is no connection to the daemon: {self.reason}"


class CannotConnect(IommubusError):
    """A daemon that could not be reached, or did not let the client in.

    Attributes:
        address: Where it was looked for.
    """

    address: str
    reason: str

    def __str__(self) -> str:
        return f"cannot connect to the daemon at {self.address}: {self.reason}"
