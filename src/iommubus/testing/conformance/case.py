"""Cases of a suite: named, each with the law it checks, and run one by one."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, cast

import anyio
from msgspec import Struct

from ...errors import CaseFailed, ConformanceFailed


class Case(NamedTuple):
    """One thing that an implementation has to get right."""

    #: what it is called in reports
    name: str
    #: what it checks, in one sentence
    law: str
    #: runs it; raises if the implementation is wrong
    check: Callable[[], Awaitable[None]]
    #: seconds after which it has failed: something that had to come did not
    patience: float

    async def run(self) -> None:
        """Run it.

        Raises:
            CaseFailed: The implementation is wrong.
        """
        try:
            with anyio.fail_after(self.patience):
                await self.check()
        except Exception as error:
            raise CaseFailed(self.name, self.law, reason_of(error, self.patience)) from error


class ConformanceReport(Struct, frozen=True):
    """A suite that passed.

    Attributes:
        role: What was looked at: a bus, a consumer or a producer.
        cases: Names of the cases that were run.
    """

    role: str
    cases: tuple[str, ...]


async def run_cases(role: str, cases: Iterable[Case]) -> ConformanceReport:
    """Run every case, also after one has failed.

    Raises:
        ConformanceFailed: Some failed; it has a `CaseFailed` for each.
    """
    failures: list[CaseFailed] = []
    names: list[str] = []
    for case in cases:
        names.append(case.name)
        try:
            await case.run()
        except CaseFailed as failed:
            failures.append(failed)
    if failures:
        raise ConformanceFailed(f"{len(failures)} of {len(names)} cases for a {role} failed", failures)
    return ConformanceReport(role, tuple(names))


def name_of(function: Callable[..., object]) -> str:
    """Return what a case made of a function is called."""
    return function.__name__


def law_of(function: Callable[..., object]) -> str:
    """Return what a case made of a function checks: the first line of its docstring."""
    return (function.__doc__ or "").strip().partition("\n")[0]


def reason_of(error: BaseException, patience: float) -> str:
    """Return what went wrong, without the groups that tasks wrap around it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(reason_of(one, patience) for one in group.exceptions)
    if isinstance(error, TimeoutError):
        return f"it did not end within {patience:g} s"
    return f"{type(error).__name__}: {error}"
