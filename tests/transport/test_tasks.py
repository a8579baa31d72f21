"""Tasks that callbacks start: they end with their block, and one that fails takes nobody with it."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from iommubus.transport.tasks import Tasks

pytestmark = pytest.mark.asyncio


async def test_a_callback_starts_a_task() -> None:
    done = asyncio.Event()

    async def work(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        assert text == "x"
        done.set()

    async with Tasks() as tasks:
        asyncio.get_running_loop().call_soon(tasks.start_soon, work, "x")
        await done.wait()
        await asyncio.sleep(0)
        assert len(tasks) == 0


async def test_the_block_ends_them_and_waits_for_them() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            ended.append(name)

    async with Tasks() as tasks:
        tasks.start_soon(work, "a")
        tasks.start_soon(work, "b")
        await asyncio.sleep(0)
    assert sorted(ended) == ["a", "b"]
    assert len(tasks) == 0


async def test_nothing_is_started_after_the_end() -> None:
    async with Tasks() as tasks:
        pass
    tasks.start_soon(anyio.sleep_forever)
    assert len(tasks) == 0


async def test_one_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with Tasks() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        tasks.start_soon(fail)
        while len(tasks) == 2:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        assert len(tasks) == 1
    assert "ZeroDivisionError" in caplog.text
