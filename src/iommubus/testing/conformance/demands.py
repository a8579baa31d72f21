"""What a case demands, in a way that says what was found instead."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from anyio.lowlevel import checkpoint

from ...errors import PromiseBroken

BREATH: Final = 50
"""Turns of the loop in which everybody who could go on has; nothing is
concluded from what has not happened in them."""


def demand(promise: str, found: object, wanted: object) -> None:
    """Demand that two values are equal.

    Raises:
        PromiseBroken: They are not.
    """
    if found != wanted:
        raise PromiseBroken(promise, wanted, found)


@contextmanager
def demand_raised(kind: type[Exception], /, **values: object) -> Generator[None]:
    """Demand that the block raises, and that the error carries these values.

    Raises:
        PromiseBroken: It raises nothing, or it carries others.
    """
    promise = f"what cannot be is refused with {kind.__name__}"
    try:
        yield
    except kind as error:
        demand(f"{promise}, which carries the values", {name: getattr(error, name, None) for name in values}, values)
    else:
        raise PromiseBroken(promise, kind.__name__, "no error")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; the patience of the case bounds it."""
    while not condition():
        await checkpoint()


async def breathe() -> None:
    """Let others go on."""
    for _ in range(BREATH):
        await checkpoint()
