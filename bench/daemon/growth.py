"""What it costs when there is more of something: subscribers, spaces, mappings."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from .fleet import Fleet, Throughput
from .notes import Key, Notes
from .plan import Plan

MATCHING: Final = 4
"""Subscribers that want what is published, of a crowd that does not."""

SOME: Final = f"{MATCHING} of so many subscribers match"
ALL: Final = "all of so many subscribers match"
SPACES: Final = "spaces"
MAPPINGS: Final = "mappings"

START: Final = 512
"""Mappings that there are before anything is measured."""

PIECE: Final = 50_000
"""Mappings made in one run: what takes long is not lost."""

Start = Callable[[int], AbstractAsyncContextManager[Fleet]]
"""Starts a subject with so many subscribers."""


def note(notes: Notes, case: str, fleet: Fleet, amount: int, measured: Throughput) -> None:
    """Note a speed, and what the server needed; ``amount`` is what there is more and more of."""
    name = fleet.subject.name
    notes.note(Key(case, name, "events/s", amount), measured.rate)
    notes.note(Key(f"{case}, processor time of the server", name, "us/event", amount), measured.cpu_each("server"))


def note_memory(notes: Notes, what: str, fleet: Fleet, role: str, more: int, before: int) -> None:
    """Note what one more of something takes in a process."""
    each = (fleet.memory(role) - before) / more
    notes.note(Key(f"memory of {what}, {role}", fleet.subject.name, "bytes", more), each)


async def some_match(start: Start, plan: Plan, notes: Notes) -> None:
    """Have more and more subscribers that want nothing of what is published."""
    async with start(MATCHING) as fleet:
        await fleet.publish("map", START, 64)
        await fleet.publish("mixed", plan.crowd_events)
        there, before = MATCHING, fleet.memory("server")
        for amount in plan.crowd:
            if amount > there:
                await fleet.add(amount - there, matching=False)
                await fleet.publish("mixed", plan.crowd_events)  # what their coming brings with it is over then
                there = amount
            note(notes, SOME, fleet, amount, await fleet.publish("mixed", plan.crowd_events))
        note_memory(notes, "a subscriber", fleet, "server", there - MATCHING, before)


async def all_match(start: Start, plan: Plan, notes: Notes) -> None:
    """Have more and more subscribers that want everything."""
    async with start(1) as fleet:
        await fleet.publish("map", START, 64)
        await fleet.publish("mixed", plan.crowd_events)
        there = 1
        for amount in (1, *plan.crowd):
            if amount > there:
                await fleet.add(amount - there)
                await fleet.meet()
                there = amount
            events = max(plan.crowd_events // amount, 2 * START)
            note(notes, ALL, fleet, amount, await fleet.publish("mixed", events))


async def spaces(start: Start, plan: Plan, notes: Notes) -> None:
    """Have more and more spaces, in all of which something happens by turns; new processes for each number."""
    before = 0
    for amount in plan.spaces:
        async with start(1) as fleet:
            await fleet.create(amount)
            each = plan.space_events // amount // 2 * 2
            await fleet.spread(each, amount)
            note(notes, SPACES, fleet, amount, await fleet.spread(each, amount))
            if amount == plan.spaces[0]:
                before = fleet.memory("server")
            elif amount == plan.spaces[-1]:
                note_memory(notes, "a space and its subscription", fleet, "server", amount - plan.spaces[0], before)


async def mappings(start: Start, plan: Plan, notes: Notes) -> None:
    """Have more and more mappings, and change some between them."""
    async with start(1) as fleet:
        there, before = 0, {}
        for amount in plan.live:
            while there < amount:
                more = min(amount - there, PIECE)
                await fleet.publish("fill", more)
                there += more
            for script in ("in order", "at random"):
                await fleet.publish(script, plan.live_events // 10 // 2 * 2)
                measured = await fleet.publish(script, plan.live_events)
                note(notes, f"{MAPPINGS}, {script}", fleet, amount, measured)
            if amount == plan.live[0]:
                before = {role: fleet.memory(role) for role in ("publisher", "server")}
        for role, bytes_before in before.items():
            note_memory(notes, "a mapping", fleet, role, there - plan.live[0], bytes_before)
