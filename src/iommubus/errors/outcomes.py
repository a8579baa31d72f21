"""What happened to a subscriber, to a `sync`, or to the producer's own callbacks."""

from collections.abc import Sequence
from typing import Final

from .base import IommubusError

NAMED: Final = 16
"""Most entries that the text of a failed `sync` repeats: it stands in one line of a log, and
there may be thousands.  The error itself has all of them."""


class Fenced(IommubusError):
    """The subscription was fenced: nothing it holds may be used any more."""

    subscription: str
    reason: str

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} is fenced: {self.reason}"


class MappingFailed(IommubusError):
    """Mappings of the first replay that the subscriber itself could not apply."""

    failures: Sequence[object]

    def __str__(self) -> str:
        return "; ".join(map(str, self.failures))


class TooManyMappings(IommubusError):
    """A MAP past the number of mappings that a subscriber can hold."""

    subscription: str
    limit: int

    def __str__(self) -> str:
        return f"the subscription {self.subscription!r} can hold {self.limit} mappings and has no room for another"


class SyncFailed(IommubusError):
    """A `sync` that cannot promise that old translations are out of use.

    Attributes:
        missing: The subscribers that may still use what was unmapped, each with
            the removed pieces and their old targets.  Keep those pages out of use.
        failures: MAPs that a subscriber could not apply, with the cause.
    """

    missing: Sequence[object]
    failures: Sequence[object]

    def __str__(self) -> str:
        entries = (*self.missing, *self.failures)
        parts = [str(entry) for entry in entries[:NAMED]]
        if len(entries) > NAMED:
            parts.append(f"and {len(entries) - NAMED} more")
        return "sync failed: " + "; ".join(parts)


class NotifierFailed(IommubusError, ExceptionGroup[Exception]):
    """Notifiers raised; the event is published and the others have run."""

    def __init__(self, message: str, excs: Sequence[Exception], /) -> None:
        super().__init__(message, excs)

    def derive(self, excs: Sequence[Exception], /) -> "NotifierFailed":  # type: ignore[override]
        """Return a group of the same kind around ``excs``, which `split` takes from this one."""
        return NotifierFailed(self.message, excs)
