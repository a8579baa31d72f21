"""The suite for a consumer: what a back end has to get right, be it a shadower or a cacher."""

from functools import partial

import anyio

from ...bus.bus import Bus
from ...caps import Cap
from .bus import PATIENCE, MakeBus
from .case import Case, ConformanceReport, law_of, name_of, run_cases
from .consumer_laws import CASES, ConsumerCase, Court
from .scene import Stage
from .trial import Consumer


def consumer_cases(
    consumer: Consumer, caps: Cap = Cap.IOTLB, *, make_bus: MakeBus = Bus, patience: float = PATIENCE
) -> tuple[Case, ...]:
    """Return the cases for a consumer.

    Args:
        consumer: What is looked at; started anew for each case, in some twice.
        caps: The mask it subscribes with: with MAP it is a shadower, without a cacher.
        make_bus: Makes the bus that it is given.
        patience: Seconds that a case gets.
    """
    return tuple(
        Case(name_of(case), law_of(case), partial(run, make_bus, case, consumer, caps, patience), patience)
        for case in CASES
    )


async def check_consumer(
    consumer: Consumer, caps: Cap = Cap.IOTLB, *, make_bus: MakeBus = Bus, patience: float = PATIENCE
) -> ConformanceReport:
    """Run every case for a consumer; takes what `consumer_cases` takes.

    Raises:
        ConformanceFailed: Some cases failed.
    """
    return await run_cases("consumer", consumer_cases(consumer, caps, make_bus=make_bus, patience=patience))


async def run(make_bus: MakeBus, case: ConsumerCase, consumer: Consumer, caps: Cap, patience: float) -> None:
    """Run one case on a bus of its own."""
    async with make_bus() as bus, anyio.create_task_group() as tasks:
        await case(Court(Stage(bus, tasks, patience), consumer, caps))
        tasks.cancel_scope.cancel()
