"""The suite for a bus: what an `EventBus` has to get right, whatever it is made of."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import anyio

from ...bus.abc import EventBus
from .bus_contracts import CASES as CONTRACTS
from .bus_endpoints import CASES as ENDPOINTS
from .bus_failures import CASES as FAILURES
from .bus_memory import CASES as MEMORIES
from .bus_moves import CASES as MOVES
from .bus_pins import CASES as PINS
from .bus_questions import CASES as QUESTIONS
from .bus_scripts import CASES as SCRIPTS
from .bus_streams import CASES as STREAMS
from .bus_sync import CASES as SYNCS
from .bus_words import CASES as WORDS
from .case import Case, ConformanceReport, law_of, name_of, run_cases
from .scene import Stage

PATIENCE: Final = 30.0
"""Seconds that a case gets: a hundred times what the slowest takes, so that only
what never comes is missed; a remote bus waits for leases in some of them."""

MakeBus = Callable[[], AbstractAsyncContextManager[EventBus]]
"""Makes a bus without spaces: an async context manager that gives it, open."""

BusCase = Callable[[Stage], Awaitable[None]]

CASES: Final[tuple[BusCase, ...]] = (
    *SYNCS,
    *STREAMS,
    *FAILURES,
    *WORDS,
    *MOVES,
    *ENDPOINTS,
    *MEMORIES,
    *QUESTIONS,
    *CONTRACTS,
    *PINS,
    *SCRIPTS,
)


def bus_cases(make_bus: MakeBus, *, patience: float = PATIENCE) -> tuple[Case, ...]:
    """Return the cases for a bus.

    Args:
        make_bus: Makes a bus; called for each case.
        patience: Seconds that a case gets.
    """
    return tuple(Case(name_of(case), law_of(case), partial(play, make_bus, case, patience), patience) for case in CASES)


async def check_bus(make_bus: MakeBus, *, patience: float = PATIENCE) -> ConformanceReport:
    """Run every case for a bus; takes what `bus_cases` takes.

    Raises:
        ConformanceFailed: Some cases failed.
    """
    return await run_cases("bus", bus_cases(make_bus, patience=patience))


async def play(make_bus: MakeBus, case: BusCase, patience: float) -> None:
    """Run one case on a bus of its own."""
    async with make_bus() as bus, anyio.create_task_group() as tasks:
        await case(Stage(bus, tasks, patience))
        tasks.cancel_scope.cancel()
