"""Cases, and how what went wrong in them is said."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from iommubus.errors import CaseFailed, ConformanceFailed, PromiseBroken
from iommubus.testing import Case
from iommubus.testing.conformance.case import law_of, name_of, reason_of, run_cases
from tests.loops import every_loop


async def it_holds() -> None:
    """Law 0: nothing is wrong.

    What follows is for readers.
    """


async def it_breaks() -> None:
    """Law 0: something is wrong."""
    async with anyio.create_task_group():
        raise PromiseBroken("it is so", wanted=True, found=False)


async def it_hangs() -> None:
    """Law 0: nothing comes."""
    await anyio.sleep_forever()


def case(check: Callable[[], Awaitable[None]]) -> Case:
    return Case(name_of(check), law_of(check), check, 0.01)


@every_loop
async def test_every_case_is_run_and_every_failure_named() -> None:
    with pytest.raises(ConformanceFailed) as caught:
        await run_cases("thing", [case(it_breaks), case(it_holds), case(it_hangs)])

    assert caught.value.message == "2 of 3 cases for a thing failed"
    assert [str(failed) for failed in caught.value.exceptions] == [
        "it_breaks: PromiseBroken: it is so: expected True, found False [Law 0: something is wrong.]",
        "it_hangs: it did not end within 0.01 s [Law 0: nothing comes.]",
    ]


@every_loop
async def test_what_passes_is_reported() -> None:
    report = await run_cases("thing", [case(it_holds)])

    assert (report.role, report.cases) == ("thing", ("it_holds",))
    assert case(it_holds).law == "Law 0: nothing is wrong."


@every_loop
async def test_what_was_raised_is_the_cause() -> None:
    with pytest.raises(CaseFailed) as caught:
        await case(it_breaks).run()

    assert isinstance(caught.value.__cause__, ExceptionGroup)


@every_loop
async def test_a_case_can_be_cancelled() -> None:
    """Cancellation is no failure."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await case(it_hangs).run()

    assert scope.cancelled_caught


def test_groups_are_taken_apart() -> None:
    inner = ExceptionGroup("b", [ValueError("one"), TimeoutError()])

    assert reason_of(ExceptionGroup("a", [KeyError(1), inner]), 2.5) == (
        "KeyError: 1; ValueError: one; it did not end within 2.5 s"
    )
