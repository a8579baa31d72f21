"""The conformance suites: what a bus, a consumer and a producer have to get right.

Each suite is a list of cases; a case is a function whose docstring names the law
it checks.  A case uses the public names of `iommubus.bus.abc` alone, makes a
bus of its own, and never takes it that something has happened which it has not
waited for: so the same cases hold for a bus in this process and elsewhere.
"""

from .bus import PATIENCE, MakeBus, bus_cases, check_bus
from .case import Case, ConformanceReport
from .consumer import check_consumer, consumer_cases
from .producer import Producer, check_producer, producer_cases
from .trial import Consumer, Holds, Usage

__all__ = [
    "PATIENCE",
    "Case",
    "ConformanceReport",
    "Consumer",
    "Holds",
    "MakeBus",
    "Producer",
    "Usage",
    "bus_cases",
    "check_bus",
    "check_consumer",
    "check_producer",
    "consumer_cases",
    "producer_cases",
]
