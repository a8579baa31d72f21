"""For tests of what you build on iommubus, and of what you build it with.

A suite for *your* back end, emulated IOMMU or bus::

    async def vfio(bus, endpoint, *, task_status):  # what you have written
        async with bus.subscribe(endpoint, Cap.IOTLB) as events:
            mirror = Mirror(events)
            task_status.started(lambda: mirror)  # what it may use now
            await mirror.run()


    await check_consumer(vfio)  # raises ConformanceFailed, with each case that failed

or, each case a test of its own, ``pytest --iommubus-conformance=package.module:vfio``.
`check_producer` takes ``async def producer(bus)``, and `check_bus` whatever
makes a bus.  `PageArray` is what a table has to equal; `stream_pair` gives two
byte streams whose link cuts, crumbles and delays what they send.
"""

from ..errors import CaseFailed, ConformanceFailed, PromiseBroken
from .conformance import (
    PATIENCE,
    Case,
    ConformanceReport,
    Consumer,
    Holds,
    MakeBus,
    Producer,
    Usage,
    bus_cases,
    check_bus,
    check_consumer,
    check_producer,
    consumer_cases,
    producer_cases,
)
from .oracle import PageArray, joined
from .passing import PassingBus, PassingEndpoint, PassingSpace
from .streams import Plan, PlannedStream, stream_pair

__all__ = [
    "PATIENCE",
    "Case",
    "CaseFailed",
    "ConformanceFailed",
    "ConformanceReport",
    "Consumer",
    "Holds",
    "MakeBus",
    "PageArray",
    "PassingBus",
    "PassingEndpoint",
    "PassingSpace",
    "Plan",
    "PlannedStream",
    "Producer",
    "PromiseBroken",
    "Usage",
    "bus_cases",
    "check_bus",
    "check_consumer",
    "check_producer",
    "consumer_cases",
    "joined",
    "producer_cases",
    "stream_pair",
]
