"""A million mappings: what each takes, and what an operation costs beside them.

Costs at a million are compared with costs at a thousand, both measured in each
round, in turn.  Live pages have gaps between them: the operations fill some,
look them up, and empty them again.  Seconds are processor time of the thread.
"""

import gc
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median
from typing import Final

from iommubus import Bus, Cap

from ..rows import Row, ratio_of
from .workload import PAGE, RW, SPACE

MILLION: Final = 1_000_000
THOUSAND: Final = 1_000

OPERATIONS: Final = 500
"""Operations timed at once: half as many as the small space has gaps."""

BYTES: Final = 64
COLLECTION_MS: Final = 10.0
MOST: Final = {"in order": 2.0, "at random": 5.0}
"""Times the cost at a thousand."""

Costs = dict[tuple[str, str], list[float]]
"""Microseconds an operation, by operation and order, one value a round."""


async def measure(rounds: int) -> list[Row]:
    """Measure memory, garbage collection and costs."""
    rows = [await memory()]
    gc.collect()
    gc.freeze()  # what is there already is not looked at
    async with filled(THOUSAND) as small, filled(MILLION) as large:
        mappings = collection(rounds)
        gc.unfreeze()
        rows += collection_rows(mappings, collection(rounds))
        rows += await costs(small, large, rounds)
    return rows


@asynccontextmanager
async def filled(live: int) -> AsyncIterator[Bus]:
    """Return a bus whose space has so many pages mapped, a gap behind each."""
    async with Bus() as bus:
        space = await bus.create_space(SPACE)
        for number in range(live):
            space.map(2 * number * PAGE, PAGE, number * PAGE, RW)
        yield bus


# -- memory ------------------------------------------------------------------


async def memory() -> Row:
    """Measure what a mapping takes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        async with filled(MILLION):
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / MILLION
    return Row(
        case="memory of 1,000,000 mappings",
        subject="tracemalloc",
        value=round(each, 1),
        unit="bytes each",
        target=f"<= {BYTES}",
        met=each <= BYTES,
    )


def collection(rounds: int) -> float:
    """Return the milliseconds that a full garbage collection takes now."""
    return median(1e3 * timed(gc.collect) for _ in range(rounds))


def collection_rows(mappings: float, everything: float) -> list[Row]:
    """Return what a collection takes over the mappings alone, and over the whole process."""
    case = "full collection over 1,000,000 mappings"
    return [
        Row(
            case=case,
            subject="the mappings alone",
            value=round(mappings, 2),
            unit="ms",
            target=f"<= {COLLECTION_MS:g}",
            met=mappings <= COLLECTION_MS,
        ),
        Row(case=case, subject="and all else in this process", value=round(everything, 2), unit="ms"),
    ]


# -- costs -------------------------------------------------------------------


async def costs(small: Bus, large: Bus, rounds: int) -> list[Row]:
    """Compare the costs of operations in both spaces."""
    at_small: Costs = {}
    at_large: Costs = {}
    for _ in range(rounds):
        await one_round(small, THOUSAND, at_small)
        await one_round(large, MILLION, at_large)
    return [cost_row(key, taken, at_small[key]) for key, taken in at_large.items()]


async def one_round(bus: Bus, live: int, taken: Costs) -> None:
    """Time each operation, in order somewhere and at random everywhere."""
    start = random.randrange(live - OPERATIONS)
    await one_order(bus, "in order", [gap(start + step) for step in range(OPERATIONS)], taken)
    await one_order(bus, "at random", [gap(at) for at in random.sample(range(live), OPERATIONS)], taken)


async def one_order(bus: Bus, order: str, addresses: list[int], taken: Costs) -> None:
    """Time each operation over the same addresses."""
    space = bus.space(SPACE)

    def map_them() -> None:
        for iova in addresses:
            space.map(iova, PAGE, iova, RW)

    def look_them_up() -> None:
        for iova in addresses:
            space.lookup(iova)

    def unmap_them() -> None:
        for iova in addresses:
            space.unmap(iova, PAGE)

    seconds = {"map": timed(map_them), "lookup": timed(look_them_up)}
    seconds["translate"] = await translating(bus, addresses)
    seconds["unmap"] = timed(unmap_them)
    for operation, spent in seconds.items():
        taken.setdefault((operation, order), []).append(1e6 * spent / OPERATIONS)


async def translating(bus: Bus, addresses: list[int]) -> float:
    """Return the seconds it takes a subscriber to ask for each address."""
    async with bus.subscribe(SPACE, Cap.UNMAP) as events:
        start = time.thread_time()
        for iova in addresses:
            await events.translate(iova)
        return time.thread_time() - start


def gap(number: int) -> int:
    """Return the address of the gap behind a live page."""
    return (2 * number + 1) * PAGE


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


def cost_row(key: tuple[str, str], taken: list[float], reference: list[float]) -> Row:
    """Return what an operation costs beside a million mappings."""
    operation, order = key
    ratio = ratio_of(taken, reference)
    return Row(
        case=f"{operation} beside 1,000,000 mappings, {order}",
        subject="iommubus",
        value=round(median(taken), 3),
        unit="us",
        ratio=round(ratio, 2),
        reference="beside 1,000",
        target=f"<= {MOST[order]:g} times",
        met=ratio <= MOST[order],
    )
