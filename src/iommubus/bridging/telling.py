"""What a bridge says of itself: what it agreed upon with its peer, what it could not, and what happened since."""

from collections.abc import Callable
from logging import getLogger
from typing import Final

from msgspec import Struct

LOGGER: Final = getLogger("iommubus.bridges")


class Lack(Struct, frozen=True):
    """Something that could be had and is not.

    Attributes:
        what: Its name, as the interface's specification has it.
        why: Whose doing that is, and what follows.
    """

    what: str
    why: str

    def __str__(self) -> str:
        return f"no {self.what}: {self.why}"


class Negotiated(Struct, frozen=True):
    """What a bridge and its peer agreed upon; said once for each peer, before anything else is done with it.

    Attributes:
        peer: Who is at the other end.
        agreed: What both use, by the names of the specification.
        lacks: What they do not, and why.
    """

    peer: str
    agreed: tuple[str, ...]
    lacks: tuple[Lack, ...] = ()

    def __str__(self) -> str:
        return "; ".join((f"{self.peer}: agreed on {', '.join(self.agreed) or 'nothing'}", *map(str, self.lacks)))


class Notice(Struct, frozen=True):
    """Something that happened.

    Attributes:
        text: One line.
        trouble: Whether somebody should look at it.
    """

    text: str
    trouble: bool = False

    def __str__(self) -> str:
        return self.text


Told = Negotiated | Notice
"""What a bridge says."""

Tell = Callable[[Told], object]
"""Takes what a bridge says."""


def log(told: Told) -> None:
    """Log what a bridge says: what somebody should look at as a warning."""
    trouble = told.trouble if isinstance(told, Notice) else bool(told.lacks)
    (LOGGER.warning if trouble else LOGGER.info)("%s", told)
