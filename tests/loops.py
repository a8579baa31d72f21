"""Run one test on every event loop that iommubus supports."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
import pytest
import trio

LOOPS: Final[dict[str, dict[str, Any]]] = {
    "asyncio": {"backend": "asyncio", "backend_options": {"use_uvloop": False}},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
"""How `anyio.run` is told about each loop."""


def every_loop(case: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a plain test of a coroutine function, run once on each of `LOOPS`.

    Its fixtures and parameters stay what they were, and marks may stand above
    or below.  The loop's name is one more parameter, ``loop``, of the test.
    """

    @functools.wraps(case)
    def run(loop: str, **arguments: object) -> None:
        async def checked() -> None:
            assert running_loop() == loop
            await case(**arguments)

        anyio.run(checked, **LOOPS[loop])

    own = inspect.signature(case)
    loop_parameter = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    vars(run)["__signature__"] = own.replace(parameters=[*own.parameters.values(), loop_parameter])
    on_each: Callable[[Callable[..., None]], Callable[..., None]] = pytest.mark.parametrize("loop", LOOPS)
    return on_each(run)


def running_loop() -> str:
    """Return which of `LOOPS` this code runs on, by looking at the loop itself."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
