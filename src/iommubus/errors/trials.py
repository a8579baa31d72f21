"""Implementations under test that are not as they have to be."""

from collections.abc import Sequence
from typing import cast

from .base import IommubusError


class PromiseBroken(IommubusError, AssertionError):
    """Something is not as it has to be.

    Attributes:
        promise: What has to be so, in words.
        wanted: What was expected.
        found: What there is instead.
    """

    promise: str
    wanted: object
    found: object

    def __str__(self) -> str:
        return f"{self.promise}: expected {listed(self.wanted)}, found {listed(self.found)}"


def listed(value: object) -> str:
    """Return a value as people read it, a sequence by what it contains."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("Sequence[object]", value))) or "nothing"
    return str(value)


class CaseFailed(IommubusError):
    """A case of a conformance suite that failed; the cause has the details.

    Attributes:
        case: Name of the case.
        law: What it checks, in one sentence.
        reason: What was found.
    """

    case: str
    law: str
    reason: str

    def __str__(self) -> str:
        return f"{self.case}: {self.reason} [{self.law}]"


class ConformanceFailed(IommubusError, ExceptionGroup[CaseFailed]):
    """Cases of a conformance suite failed; all have run."""

    def __init__(self, message: str, excs: Sequence[CaseFailed], /) -> None:
        super().__init__(message, excs)

    def derive(self, excs: Sequence[CaseFailed], /) -> "ConformanceFailed":  # type: ignore[override]
        """Return a group of the same kind around ``excs``, which `split` takes from this one."""
        return ConformanceFailed(self.message, excs)

    @property
    def cases(self) -> tuple[str, ...]:
        """Return the names of the cases that failed."""
        return tuple(failed.case for failed in self.exceptions if isinstance(failed, CaseFailed))

    def __str__(self) -> str:
        return "; ".join([self.message, *map(str, self.exceptions)])
