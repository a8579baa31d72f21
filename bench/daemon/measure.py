"""A run: every subject in every repetition, and all that comes of it."""

import tempfile
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from ..rows import Row
from . import beside, growth, targets
from .debian import program
from .fleet import Fleet, fleet
from .notes import Key, Notes
from .plan import Plan
from .subject import Missing, Subject
from .subjects import HUB, IOMMUBUS, SUBJECTS, load

Say = Callable[[str], object]
"""Tells whoever waits how far it is."""

NOT_HAD: Final = "could not be had"


class Field(Struct, frozen=True):
    """Who takes part.

    Attributes:
        subjects: By what they are called on command lines.
        missing: Why others do not.
    """

    subjects: dict[str, Subject]
    missing: dict[str, str]

    @property
    def peers(self) -> list[str]:
        """Names of those with a server that iommubus is to be ahead of."""
        return [one.name for key, one in self.subjects.items() if key not in {HUB, IOMMUBUS} and one.has_server]

    @property
    def programs(self) -> dict[str, str]:
        """Versions of the servers of Debian."""
        named = [subject.program for subject in self.subjects.values() if subject.program is not None]
        return {name: program(name, package).version() for name, package in named}

    @property
    def libraries(self) -> list[str]:
        """Distributions whose versions matter."""
        return [library for subject in self.subjects.values() for library in subject.libraries]


def gather(keys: Collection[str], say: Say) -> Field:
    """See who can be had."""
    field = Field({}, {})
    for key in SUBJECTS:
        if key not in keys:
            continue
        try:
            subject = load(key)
            with tempfile.TemporaryDirectory() as place:
                subject.server(Path(place))
        except Missing as missing:
            say(f"{key}: {missing}")
            field.missing[key] = str(missing)
        else:
            field.subjects[key] = subject
    return field


async def measure(field: Field, plan: Plan, say: Say) -> list[Row]:
    """Measure all, and return the rows.

    Raises:
        Disorder: An event was lost, or came out of order, or a process failed.
        NoServer: A server did not come up.
    """
    notes = Notes()
    for repetition in range(plan.repetitions):
        notes.repetition = repetition
        for subscribers in beside.SUBSCRIBERS:
            say(f"{repetition + 1} of {plan.repetitions}: side by side, {subscribers} subscribers")
            async with fleets(field.subjects, subscribers) as started:
                await beside.measure(started, plan, notes, subscribers)
        await grow(field, plan, notes, partial(say_more, say, f"{repetition + 1} of {plan.repetitions}"))
    return rows(notes, field)


def say_more(say: Say, where: str, what: str) -> None:
    """Say how far it is, in this repetition."""
    say(f"{where}: {what}")


async def grow(field: Field, plan: Plan, notes: Notes, say: Say) -> None:
    """Measure what it costs when there is more of something, of iommubus and the bare hub."""
    for key in (IOMMUBUS, HUB):
        if key in field.subjects:
            start = starting(field.subjects, key)
            say(f"more subscribers, {key}")
            await growth.some_match(start, plan, notes)
            await growth.all_match(start, plan, notes)
    if IOMMUBUS in field.subjects:
        start = starting(field.subjects, IOMMUBUS)
        say("more spaces")
        await growth.spaces(start, plan, notes)
        say("more mappings")
        await growth.mappings(start, plan, notes)


def starting(subjects: dict[str, Subject], key: str) -> growth.Start:
    """Return what starts a subject with so many subscribers."""

    def start(subscribers: int) -> AbstractAsyncContextManager[Fleet]:
        return fleet(subjects[key], key, subscribers)

    return start


@asynccontextmanager
async def fleets(subjects: dict[str, Subject], subscribers: int) -> AsyncGenerator[dict[str, Fleet]]:
    """Start all subjects, one after the other."""
    async with AsyncExitStack() as stack:
        yield {
            key: await stack.enter_async_context(fleet(subject, key, subscribers)) for key, subject in subjects.items()
        }


def rows(notes: Notes, field: Field) -> list[Row]:
    """Return what was measured, what is aimed at, and who is missing."""
    return [
        *notes.rows(compared_with),
        *targets.rows(notes, field.peers),
        *(Row(case=NOT_HAD, subject=key, value=None, unit="", note=why) for key, why in field.missing.items()),
    ]


def compared_with(key: Key) -> tuple[Key, str] | None:
    """Return what a measurement is compared with: with less of the same where something grows, else the bare hub."""
    least = LEAST.get(key.case.partition(",")[0])
    if least is not None:
        return key._replace(subscribers=least), f"with {least:,}"
    if key.case.startswith("memory"):
        return None
    return key._replace(subject=targets.FLOOR), targets.FLOOR


LEAST: Final = {growth.SOME: growth.MATCHING, growth.ALL: 1, growth.SPACES: 1, growth.MAPPINGS: 1_000}
"""How much there is at least, of what grows."""


def missing_rows(rows_: Sequence[Row]) -> list[Row]:
    """Return those who are missing."""
    return [row for row in rows_ if row.case == NOT_HAD]
