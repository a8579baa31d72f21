"""What is waited for on one connection, by either end."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from iommubus.errors import BadMessage, ConnectionLost, LimitReached, UnknownName
from iommubus.service.requests import Asked, Running
from iommubus.transport.tasks import Tasks
from iommubus.wire.messages.replies import Done

pytestmark = pytest.mark.asyncio


class Refusals:
    """Notes what is refused."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str]] = []

    def __call__(self, request: int, error: BaseException) -> None:
        self.all.append((request, type(error).__name__))


async def fail(error: Exception) -> None:
    await anyio.lowlevel.checkpoint()
    raise error


async def over(running: Running) -> None:
    """Wait until nothing waits."""
    with anyio.fail_after(5):
        while len(running):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)


async def test_what_is_raised_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    async with Tasks() as tasks:
        running = Running(tasks, refusals)
        running.start(1, fail, UnknownName("x", ()))
        running.start(2, fail, ZeroDivisionError())
        await over(running)
    assert refusals.all == [(1, "UnknownName"), (2, "ZeroDivisionError")]
    assert "ZeroDivisionError" in caplog.text
    assert "UnknownName" not in caplog.text


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_one_is_cancelled_whenever_that_is(turns: int) -> None:
    refusals = Refusals()
    async with Tasks() as tasks:
        running = Running(tasks, refusals)
        running.start(1, anyio.sleep_forever)
        running.start(2, anyio.sleep_forever)
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel(1)
        running.cancel(3)
        while len(running) > 1:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        running.end()
        await over(running)
    assert refusals.all == []


async def test_numbers_and_their_count_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.requests.LIMIT", 2)
    async with Tasks() as tasks:
        running = Running(tasks, Refusals())
        running.start(1, anyio.sleep_forever)
        with pytest.raises(BadMessage):
            running.start(1, anyio.sleep_forever)
        running.start(2, anyio.sleep_forever)
        with pytest.raises(LimitReached):
            running.start(3, anyio.sleep_forever)
        running.cancel(1)
        while len(running) > 1:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        running.start(3, anyio.sleep_forever)
        running.end()
        await over(running)


async def test_an_answer_finds_its_question() -> None:
    asked = Asked()
    one, first = asked.begin()
    other, second = asked.begin()
    asked.answer(other, Done(other))
    asked.answer(other, Done(other))

    assert await second == Done(other)
    assert not first.done()
    assert asked.forget(one)
    assert not asked.forget(one)
    asked.answer(one, Done(one))
    for number in (0, other + 1):
        with pytest.raises(BadMessage):
            asked.answer(number, Done(number))


async def test_what_nobody_will_answer_fails() -> None:
    asked = Asked()
    _, first = asked.begin()
    _, second = asked.begin()
    second.cancel()
    asked.lose(lambda: ConnectionLost("qemu", "gone"))

    with pytest.raises(ConnectionLost):
        await first
