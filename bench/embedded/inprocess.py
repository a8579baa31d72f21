"""One process, one loop: how many changes a second reach everybody.

Half of the subscribers want UNMAP alone; a single one wants everything.

Seconds are processor time of the thread.  Nobody sleeps in these runs, so on an
idle machine that is the time on the wall; on a busy one it leaves the neighbours
out.
"""

import asyncio
import gc
import random
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from ..rows import Row, ratio_of
from .peers import aioreactive_subjects, blinker_signals, callbacks, pyee_emitter, queues, streams
from .subjects import bus, by_batch, by_event, notifiers
from .workload import BURST, LIVE, Change, Check, Subject, bursts

CASE: Final = "publish and consume"
UNIT: Final = "events/s"

BATCHES: Final = "iommubus, batches()"
EVENTS: Final = "iommubus, async for event"
NOTIFIER: Final = "iommubus, notifier"
QUEUE: Final = "asyncio.Queue"
BLINKER: Final = "blinker"
PYEE: Final = "pyee"

SUBJECTS: Final[Mapping[str, Subject]] = {
    BATCHES: bus(by_batch),
    EVENTS: bus(by_event),
    NOTIFIER: notifiers,
    "callbacks in a list": callbacks,
    QUEUE: queues,
    "anyio memory stream": streams,
    BLINKER: blinker_signals,
    PYEE: pyee_emitter,
    "aioreactive": aioreactive_subjects,
}

BURSTS: Final = {1: 120, 4: 60, 16: 24, 64: 8}
"""Bursts in a run, by subscribers: some ten milliseconds for most subjects."""

Speeds = dict[tuple[int, str], list[float]]


class Target(NamedTuple):
    """What is aimed at: ``subject`` beside ``reference``."""

    subscribers: int
    subject: str
    reference: str
    least: float


TARGETS: Final = (
    Target(1, BATCHES, QUEUE, 0.4),
    Target(4, BATCHES, QUEUE, 0.75),
    Target(16, BATCHES, QUEUE, 1.0),
    Target(64, BATCHES, QUEUE, 1.0),
    Target(16, BATCHES, BLINKER, 1.0),
    Target(64, BATCHES, BLINKER, 1.0),
    Target(16, BATCHES, PYEE, 1.0),
    Target(64, BATCHES, PYEE, 1.0),
    Target(1, NOTIFIER, BLINKER, 1.0),
)


async def measure(rounds: int) -> list[Row]:
    """Run every subject with every number of subscribers once a round."""
    speeds: Speeds = {(count, name): [] for count in BURSTS for name in SUBJECTS}
    work = {count: bursts(length) for count, length in BURSTS.items()}
    for _ in range(rounds):
        for count, name in random.sample(list(speeds), len(speeds)):
            speeds[count, name].append(await run(SUBJECTS[name], count, work[count]))
    return [speed_row(speeds, count, name) for count, name in speeds] + [
        target_row(speeds, target) for target in TARGETS
    ]


async def run(subject: Subject, subscribers: int, work: Sequence[Sequence[Change]]) -> float:
    """Return the events a second of one run; raise if one was lost or came out of order."""
    checks = [Check(everything=number % 2 == 0) for number in range(subscribers)]
    published = LIVE
    async with subject(checks) as rig:
        gc.collect()
        start = time.thread_time()
        for burst in work:
            await rig.publish(burst)
            published += BURST
            for check in checks:
                while check.expected <= published:  # noqa: ASYNC110 - a pass of the loop is what is paid for
                    await asyncio.sleep(0)
        await rig.finish()
        return (published - LIVE) / (time.thread_time() - start)


def speed_row(speeds: Speeds, count: int, name: str) -> Row:
    """Return how fast a subject was, beside a queue a subscriber."""
    own = speeds[count, name]
    return Row(
        case=CASE,
        subject=name,
        subscribers=count,
        batch=BURST,
        value=round(median(own)),
        unit=UNIT,
        ratio=round(ratio_of(own, speeds[count, QUEUE]), 3),
        reference=QUEUE,
    )


def target_row(speeds: Speeds, target: Target) -> Row:
    """Return whether a target was met."""
    own = speeds[target.subscribers, target.subject]
    ratio = ratio_of(own, speeds[target.subscribers, target.reference])
    ahead = target.least == 1.0 and target.subscribers > 1
    return Row(
        case=CASE,
        subject=target.subject,
        subscribers=target.subscribers,
        batch=BURST,
        value=round(median(own)),
        unit=UNIT,
        ratio=round(ratio, 3),
        reference=target.reference,
        target=f"{'>' if ahead else '>='} {target.least:g} of {target.reference}",
        met=ratio > target.least if ahead else ratio >= target.least,
    )
