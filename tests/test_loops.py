"""Each loop is the one that was asked for."""

import asyncio

import pytest

from tests.loops import LOOPS, every_loop, running_loop


@pytest.fixture
def word() -> str:
    return "word"


@every_loop
@pytest.mark.parametrize("number", [1, 2])
async def test_marks_may_stand_below(number: int, word: str) -> None:
    assert number in {1, 2}
    assert word == "word"


@pytest.mark.parametrize("number", [1, 2])
@every_loop
async def test_marks_may_stand_above(number: int, word: str) -> None:
    assert number in {1, 2}
    assert word == "word"


def test_each_loop_is_the_one_asked_for() -> None:
    found: list[str] = []

    async def look() -> None:
        found.append(running_loop())

    case = every_loop(look)
    for loop in LOOPS:
        case(loop=loop)

    assert found == ["asyncio", "uvloop", "trio"]


def test_a_failure_inside_is_a_failure_outside() -> None:
    async def fail() -> None:
        raise LookupError

    case = every_loop(fail)

    for loop in LOOPS:
        with pytest.raises(LookupError):
            case(loop=loop)


@pytest.mark.asyncio
async def test_marked_tests_run_on_both_asyncio_loops(request: pytest.FixtureRequest) -> None:
    assert running_loop() in request.node.name
    assert asyncio.get_running_loop().is_running()
