"""The virtual loop: time costs nothing, runs repeat, processes stop and die."""

import asyncio
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from tests.virtual import START, Deadlock, VirtualLoop, VirtualProcess, run


def test_time_jumps_to_the_next_timer() -> None:
    async def case(loop: VirtualLoop) -> list[float]:
        times: list[float] = []
        for delay in (3600.0, 10.0, 86_400.0 * 3):
            loop.call_later(delay, lambda: times.append(loop.time() - START))
        await anyio.sleep(86_400.0 * 4)
        return times

    assert run(case) == [10.0, 3600.0, 86_400.0 * 3]


def test_time_stands_still_while_something_is_ready() -> None:
    async def case(loop: VirtualLoop) -> float:
        timer = loop.call_later(0.001, lambda: None)
        for _ in range(100):
            await asyncio.sleep(0)
        timer.cancel()
        return loop.time()

    assert run(case) == START


def test_what_can_never_go_on_fails() -> None:
    async def case(_: VirtualLoop) -> None:
        await anyio.Event().wait()

    with pytest.raises(Deadlock):
        run(case)


def test_what_goes_on_for_ever_fails() -> None:
    async def case(_: VirtualLoop) -> None:
        while True:
            await checkpoint()

    with pytest.raises(AssertionError, match="does not end"):
        run(case)


def test_a_deadline_of_anyio_is_virtual() -> None:
    async def case(loop: VirtualLoop) -> float:
        with anyio.move_on_after(1000):
            await anyio.sleep_forever()
        return loop.time()

    assert run(case) == START + 1000


def test_the_work_of_threads_is_done_in_between() -> None:
    done: list[float] = []

    async def case(loop: VirtualLoop) -> tuple[int, float]:
        loop.thread_time = lambda: 5.0
        with anyio.CancelScope() as scope:
            loop.call_later(1, scope.cancel)
            assert await anyio.to_thread.run_sync(partial(divmod, 7), 2) == (3, 1)
            done.append(loop.time())
            await anyio.sleep_forever()
        return await asyncio.to_thread(int, "7"), loop.time()

    assert run(case) == (7, START + 5)
    assert done == [START + 5]


def test_what_work_of_threads_raises_arrives() -> None:
    async def case(_: VirtualLoop) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await anyio.to_thread.run_sync(int, "seven")
        with pytest.raises(ValueError, match="invalid literal"):
            await asyncio.to_thread(int, "seven")

    run(case)


def test_an_error_nobody_could_catch_fails_the_run() -> None:
    async def case(loop: VirtualLoop) -> None:
        loop.call_soon(lambda: 1 // 0)
        await anyio.sleep(1)

    with pytest.raises(ZeroDivisionError):
        run(case)


async def endless() -> None:
    await anyio.Event().wait()


def leave_timer(loop: VirtualLoop) -> object:
    return loop.call_later(60, endless)


def leave_task(loop: VirtualLoop) -> object:
    return loop.create_task(endless())


@pytest.mark.parametrize("leave", [leave_timer, leave_task])
def test_what_is_left_behind_fails_the_run(leave: Callable[[VirtualLoop], object]) -> None:
    async def case(loop: VirtualLoop) -> None:
        leave(loop)
        await anyio.sleep(1)

    with pytest.raises(AssertionError, match="left behind"):
        run(case)


# -- processes -----------------------------------------------------------------


async def count(loop: VirtualLoop, seen: list[float]) -> None:
    while True:
        seen.append(loop.time() - START)
        await anyio.sleep(1)


def test_a_stopped_process_does_nothing_until_it_goes_on() -> None:
    async def case(loop: VirtualLoop) -> list[float]:
        process, seen = VirtualProcess(loop, "counter", 7), list[float]()
        task = process.start(partial(count, loop, seen))
        await anyio.sleep(2.5)
        process.stop()
        await anyio.sleep(10)
        process.go_on()
        await anyio.sleep(1.4)
        task.cancel()
        return seen

    assert run(case) == [0, 1, 2, 12.5, 13.5]


def test_what_a_stopped_process_has_missed_comes_in_its_order() -> None:
    async def case(loop: VirtualLoop) -> list[int]:
        process, seen = VirtualProcess(loop, "late", 7), list[int]()
        process.stop()
        for number in range(3):
            loop.call_later(number, seen.append, number, context=process.context)
        await anyio.sleep(5)
        loop.call_soon(seen.append, 3, context=process.context)
        process.go_on()
        loop.call_soon(seen.append, 4, context=process.context)
        await anyio.sleep(1)
        return seen

    assert run(case) == [0, 1, 2, 3, 4]


def test_of_a_killed_process_nothing_runs_not_even_what_cleans_up() -> None:
    seen: list[str] = []

    async def careful() -> None:
        try:
            await anyio.sleep(3)
        finally:
            seen.append("cleaned up")

    async def case(loop: VirtualLoop) -> None:
        process = VirtualProcess(loop, "careful", 7)
        process.at_end.append(lambda: seen.append("the kernel closed its files"))
        _ = process.start(careful)
        await anyio.sleep(1)
        process.kill()
        await process.ended.wait()
        await anyio.sleep(10)
        assert seen == ["the kernel closed its files"]
        assert len(process.unfinished()) == 1
        await process.bury()
        assert process.unfinished() == []

    run(case)

    assert seen == ["the kernel closed its files", "cleaned up"]


def test_tasks_of_tasks_belong_to_the_process() -> None:
    async def family(loop: VirtualLoop, seen: list[float]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count, loop, seen)
            tasks.start_soon(count, loop, seen)

    async def case(loop: VirtualLoop) -> int:
        process, seen = VirtualProcess(loop, "family", 7), list[float]()
        _ = process.start(partial(family, loop, seen))
        await anyio.sleep(0.5)
        process.kill()
        await anyio.sleep(5)
        left = len(process.unfinished())
        await process.bury()
        assert seen == [0, 0]
        return left

    assert run(case) == 3
