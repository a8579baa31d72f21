"""The cases in which iommubus stands beside its peers: throughput, round trips, latency."""

import os
import random
from collections.abc import Awaitable, Callable, Mapping
from statistics import quantiles
from typing import Final

from .fleet import ROLES, Fleet
from .notes import Key, Notes
from .plan import Plan

SUBSCRIBERS: Final = (1, 4)
BATCHES: Final = (1, 64)

LIVE: Final = 1024
"""Mappings that there are at any time."""

WARM: Final = 4096
"""Events published before anything is measured, to see how fast it goes."""

WARM_ROUNDS: Final = 20
"""Round trips before those that are measured."""

INTERVAL: Final = 1 / 500
"""Seconds between two events whose latency is measured."""

LEAST_EVENTS: Final = 4096
MOST_EVENTS: Final = 1 << 20
LEAST_ROUNDS: Final = 60
MOST_ROUNDS: Final = 1500

THROUGHPUT: Final = "throughput"
CPU: Final = "processor time of the "
ONE_WAY: Final = "one way at 500 events/s"

Case = Callable[[Fleet, Plan, Notes, int], Awaitable[None]]
"""Measures one subject with so many subscribers."""


def round_trip(*, pinned: bool) -> str:
    """Return the case of a round trip."""
    return f"unmap and sync, {'one CPU' if pinned else 'free'}"


def percentiles(case: str) -> tuple[str, str]:
    """Return the cases of the half and of the 99th percentile."""
    return f"{case}, p50", f"{case}, p99"


async def warm_up(fleet: Fleet) -> None:
    """Map what is there at any time, and have every process do its work once."""
    await fleet.publish("map", LIVE, 64)
    for batch in BATCHES:
        await fleet.publish("mixed", WARM, batch)


def throughput(batch: int) -> Case:
    """Return the case of publishing so much in a call."""

    async def case(fleet: Fleet, plan: Plan, notes: Notes, subscribers: int) -> None:
        estimate = await fleet.publish("mixed", WARM, batch)
        count = clamp(estimate.rate * plan.seconds, LEAST_EVENTS, MOST_EVENTS)
        measured = await fleet.publish("mixed", count // 64 * 64, batch)
        name = fleet.subject.name
        notes.note(Key(THROUGHPUT, name, "events/s", subscribers, batch), measured.rate)
        for role in ROLES:
            notes.note(Key(CPU + role, name, "us/event", subscribers, batch), measured.cpu_each(role))

    return case


def rounds(each: int, *, pinned: bool) -> Case:
    """Return the case of so many UNMAPs and one acknowledgement of all."""

    async def case(fleet: Fleet, plan: Plan, notes: Notes, subscribers: int) -> None:
        everywhere = os.sched_getaffinity(0)
        if pinned:
            fleet.pin({max(everywhere)})
        try:
            estimate = await fleet.rounds(WARM_ROUNDS, each)
            count = clamp(plan.seconds * WARM_ROUNDS / sum(estimate), LEAST_ROUNDS, MOST_ROUNDS)
            times = await fleet.rounds(count, each)
        finally:
            fleet.pin(everywhere)
        note_percentiles(notes, Key(round_trip(pinned=pinned), fleet.subject.name, "us", subscribers, each), times)

    return case


async def one_way(fleet: Fleet, plan: Plan, notes: Notes, subscribers: int) -> None:
    """Measure how long an event takes when there is nothing else to do."""
    times = await fleet.latencies(plan.paced, INTERVAL)
    note_percentiles(notes, Key(ONE_WAY, fleet.subject.name, "us", subscribers, 1), times)


CASES: Final[tuple[Case, ...]] = (
    *(throughput(batch) for batch in BATCHES),
    *(rounds(each, pinned=pinned) for each in BATCHES for pinned in (True, False)),
    one_way,
)


async def measure(fleets: Mapping[str, Fleet], plan: Plan, notes: Notes, subscribers: int) -> None:
    """Measure every case of every subject once, those of one case one after the other in any order."""
    for fleet in fleets.values():
        await warm_up(fleet)
    for case in CASES:
        for key in random.sample(list(fleets), len(fleets)):
            await case(fleets[key], plan, notes, subscribers)


def note_percentiles(notes: Notes, key: Key, seconds: list[float]) -> None:
    """Note the half and the 99th percentile, in microseconds."""
    cuts = quantiles(seconds, n=100)
    for case, at in zip(percentiles(key.case), (49, 98), strict=True):
        notes.note(key._replace(case=case), 1e6 * cuts[at])


def clamp(value: float, least: int, most: int) -> int:
    """Return a whole number between two others."""
    return int(min(max(value, least), most))
