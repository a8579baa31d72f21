"""The others.  None has a table, numbers, or acknowledgements.

Each makes the same event that iommubus makes, inside the loop that publishes
it.  A subscriber that wants UNMAP alone is on the UNMAP list, or channel, or
signal, and on no other: peers pay nothing for filtering.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from math import inf

import aioreactive
import anyio
import blinker
import pyee
from anyio.streams.memory import MemoryObjectReceiveStream

from iommubus import Event, Map, Unmap

from .workload import LIVE, PAGE, RW, SPACE, Change, Check, Disorder, Rig, nothing

Put = Callable[[Event], object]
Publish = Callable[[Sequence[Change]], Coroutine[None, None, None]]

PRODUCER = object()
"""Who sends, for those who want to know."""


@asynccontextmanager
async def callbacks(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Call plain functions in a list: the floor."""
    yield Rig(fan_out([check.see for check in everything(checks)], [check.see for check in checks]), nothing)


@asynccontextmanager
async def queues(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Use an `asyncio.Queue` a subscriber."""
    inboxes: list[asyncio.Queue[Event]] = [asyncio.Queue() for _ in checks]
    maps = [inbox.put_nowait for inbox, check in zip(inboxes, checks, strict=True) if check.step == 1]
    async with consumers(drain_queue(inbox, check) for inbox, check in zip(inboxes, checks, strict=True)):
        yield Rig(fan_out(maps, [inbox.put_nowait for inbox in inboxes]), nothing)


@asynccontextmanager
async def streams(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Use an anyio memory object stream a subscriber."""
    ends = [anyio.create_memory_object_stream[Event](inf) for _ in checks]
    maps = [send.send_nowait for (send, _), check in zip(ends, checks, strict=True) if check.step == 1]
    async with consumers(drain_stream(end, check) for (_, end), check in zip(ends, checks, strict=True)):
        yield Rig(fan_out(maps, [send.send_nowait for send, _ in ends]), nothing)
    for send, receive in ends:
        send.close()
        receive.close()


@asynccontextmanager
async def blinker_signals(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Use a blinker signal a kind."""
    mapped, unmapped = blinker.Signal(), blinker.Signal()
    for check in checks:
        receive = receiver(check)
        unmapped.connect(receive, weak=False)
        if check.step == 1:
            mapped.connect(receive, weak=False)

    seq = LIVE

    async def publish(burst: Sequence[Change]) -> None:
        nonlocal seq
        for first, leads_to, oldest in burst:
            seq += 1
            mapped.send(PRODUCER, event=Map(SPACE, seq, first, first + PAGE - 1, leads_to, RW))
            seq += 1
            unmapped.send(PRODUCER, event=Unmap(SPACE, seq, oldest, oldest + PAGE - 1))

    yield Rig(publish, nothing)


@asynccontextmanager
async def pyee_emitter(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Use a pyee emitter with an event name a kind."""
    emitter = pyee.EventEmitter()
    for check in checks:
        emitter.add_listener("unmap", check.see)
        if check.step == 1:
            emitter.add_listener("map", check.see)

    seq = LIVE

    async def publish(burst: Sequence[Change]) -> None:
        nonlocal seq
        for first, leads_to, oldest in burst:
            seq += 1
            emitter.emit("map", Map(SPACE, seq, first, first + PAGE - 1, leads_to, RW))
            seq += 1
            emitter.emit("unmap", Unmap(SPACE, seq, oldest, oldest + PAGE - 1))

    yield Rig(publish, nothing)


@asynccontextmanager
async def aioreactive_subjects(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Use an aioreactive subject a kind."""
    mapped: aioreactive.AsyncSubject[Event] = aioreactive.AsyncSubject()
    unmapped: aioreactive.AsyncSubject[Event] = aioreactive.AsyncSubject()
    for check in checks:
        send = async_receiver(check)
        await unmapped.subscribe_async(send)
        if check.step == 1:
            await mapped.subscribe_async(send)

    seq = LIVE

    async def publish(burst: Sequence[Change]) -> None:
        nonlocal seq
        for first, leads_to, oldest in burst:
            seq += 1
            await mapped.asend(Map(SPACE, seq, first, first + PAGE - 1, leads_to, RW))
            seq += 1
            await unmapped.asend(Unmap(SPACE, seq, oldest, oldest + PAGE - 1))

    yield Rig(publish, nothing)


# -- publishing --------------------------------------------------------------


def fan_out(maps: Sequence[Put], unmaps: Sequence[Put]) -> Publish:
    """Return what makes the events of a burst and gives them to everybody."""
    seq = LIVE

    async def publish(burst: Sequence[Change]) -> None:
        nonlocal seq
        for first, leads_to, oldest in burst:
            seq += 1
            mapped = Map(SPACE, seq, first, first + PAGE - 1, leads_to, RW)
            for put in maps:
                put(mapped)
            seq += 1
            unmapped = Unmap(SPACE, seq, oldest, oldest + PAGE - 1)
            for put in unmaps:
                put(unmapped)

    return publish


def everything(checks: Sequence[Check]) -> list[Check]:
    """Return those that want MAP too."""
    return [check for check in checks if check.step == 1]


# -- consuming ---------------------------------------------------------------


@asynccontextmanager
async def consumers(coroutines: Iterable[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run consumers that never end by themselves."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        await asyncio.sleep(0)
        yield
        for task in tasks:
            task.cancel()


async def drain_queue(inbox: "asyncio.Queue[Event]", check: Check) -> None:
    """Wait for an event, then take all that are there."""
    expected, step = check.expected, check.step
    while True:
        event = await inbox.get()
        try:
            while True:
                if event.seq != expected:
                    raise Disorder(event, expected)
                expected += step
                event = inbox.get_nowait()
        except asyncio.QueueEmpty:
            check.expected = expected


async def drain_stream(inbox: MemoryObjectReceiveStream[Event], check: Check) -> None:
    """Wait for an event, then take all that are there."""
    expected, step = check.expected, check.step
    while True:
        event = await inbox.receive()
        try:
            while True:
                if event.seq != expected:
                    raise Disorder(event, expected)
                expected += step
                event = inbox.receive_nowait()
        except anyio.WouldBlock:
            check.expected = expected


def receiver(check: Check) -> Callable[..., None]:
    """Return a blinker receiver: a plain function, which blinker calls fastest."""

    def receive(sender: object, event: Event) -> None:  # noqa: ARG001 - blinker passes it
        if event.seq != check.expected:
            raise Disorder(event, check.expected)
        check.expected += check.step

    return receive


def async_receiver(check: Check) -> Callable[[Event], Awaitable[None]]:
    """Return an asynchronous callback."""

    async def receive(event: Event) -> None:
        if event.seq != check.expected:
            raise Disorder(event, check.expected)
        check.expected += check.step

    return receive
