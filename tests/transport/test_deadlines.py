"""One timer for many deadlines."""

import asyncio
from functools import partial

from iommubus.transport.deadlines import Deadlines
from tests.virtual import VirtualLoop, run


def test_who_is_late_is_called_back_at_its_time_and_once() -> None:
    async def case(loop: VirtualLoop) -> None:
        deadlines, called = Deadlines(), list[tuple[str, float]]()
        start = loop.time()

        def call(name: str) -> None:
            called.append((name, loop.time() - start))

        for name, seconds in (("b", 2.0), ("a", 1.0), ("c", 3.0), ("also b", 2.0)):
            deadlines.add(seconds, partial(call, name))
        await asyncio.sleep(10)
        assert called == [("a", 1.0), ("b", 2.0), ("also b", 2.0), ("c", 3.0)]
        assert not len(deadlines)

    run(case)


def test_what_is_met_is_not_called_back_and_sets_no_timer_of_its_own() -> None:
    async def case(loop: VirtualLoop) -> None:
        deadlines, called = Deadlines(), list[int]()
        for number in range(100):
            deadlines.met(deadlines.add(30.0 + number, partial(called.append, number)))
        assert len(loop.timers) == 1
        last = deadlines.add(31.0, partial(called.append, 100))
        await asyncio.sleep(30.5)
        assert len(deadlines) == 1
        assert deadlines.left(last) == 0.5
        await asyncio.sleep(1)
        assert called == [100]
        assert deadlines.left(last) == 0
        deadlines.met(last)  # it was late
        assert not loop.timers

    run(case)


def test_one_called_back_may_set_another_and_meet_another() -> None:
    async def case(loop: VirtualLoop) -> None:
        deadlines, called = Deadlines(), list[str]()

        def first() -> None:
            called.append("first")
            deadlines.met(third)
            deadlines.add(1.0, partial(called.append, "second"))

        deadlines.add(1.0, first)
        third = deadlines.add(5.0, partial(called.append, "third"))
        await asyncio.sleep(20)
        assert called == ["first", "second"]
        assert not loop.timers

    run(case)


def test_after_the_end_nobody_is_called_back() -> None:
    async def case(loop: VirtualLoop) -> None:
        deadlines, called = Deadlines(), list[int]()
        deadlines.add(1.0, partial(called.append, 1))
        deadlines.stop()
        assert not loop.timers
        await asyncio.sleep(2)
        assert not called

    run(case)
