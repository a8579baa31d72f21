"""iommubus as a subject: its table and its acknowledgements are on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress

from iommubus import AddressSpace, Bus, Cap, Notifier, Subscription
from iommubus.errors import SubscriptionClosed

from .workload import LIVE, PAGE, RW, SPACE, Change, Check, Disorder, Rig, Subject, nothing, page, target

Consume = Callable[[Subscription, Check], Coroutine[None, None, None]]


async def by_batch(events: Subscription, check: Check) -> None:
    """Consume hand-over by hand-over."""
    expected, step = check.expected, check.step
    async for batch in events.batches():
        for event in batch:
            if event.seq != expected:
                raise Disorder(event, expected)
            expected += step
        check.expected = expected


async def by_event(events: Subscription, check: Check) -> None:
    """Consume event by event."""
    step = check.step
    async for event in events:
        if event.seq != check.expected:
            raise Disorder(event, check.expected)
        check.expected += step


def bus(consume: Consume) -> Subject:
    """Return the bus with subscribers that consume in this way."""

    @asynccontextmanager
    async def subject(checks: Sequence[Check]) -> AsyncIterator[Rig]:
        async with Bus() as bus, asyncio.TaskGroup() as tasks:
            space = await bus.create_space(SPACE)
            expect_filling(checks)
            subscriptions = [bus.subscribe(SPACE, wants(check)) for check in checks]
            for events, check in zip(subscriptions, checks, strict=True):
                await events.__aenter__()
                tasks.create_task(until_closed(consume, events, check))
            fill(space)
            await space.sync()
            yield Rig(publisher(space), space.sync)
            for events in subscriptions:
                await events.close()

    return subject


@asynccontextmanager
async def notifiers(checks: Sequence[Check]) -> AsyncIterator[Rig]:
    """Register callbacks that run inside the publishing call."""
    async with Bus() as bus:
        space = await bus.create_space(SPACE)
        expect_filling(checks)
        registrations = [space.register(Notifier(check.see, wants(check))) for check in checks]
        fill(space)
        yield Rig(publisher(space), nothing)
        for registration in registrations:
            registration.close()


def wants(check: Check) -> Cap:
    """Return the mask of the subscriber behind a check."""
    return Cap.IOTLB if check.step == 1 else Cap.UNMAP


def expect_filling(checks: Sequence[Check]) -> None:
    """Have whoever wants everything see the mappings that are there before the run."""
    for check in checks:
        if check.step == 1:
            check.expected = 1


def fill(space: AddressSpace) -> None:
    """Map what is there before the run."""
    for turn in range(LIVE):
        space.map(page(turn), PAGE, target(turn), RW)


async def until_closed(consume: Consume, events: Subscription, check: Check) -> None:
    """Consume until the subscription is closed from outside."""
    with suppress(SubscriptionClosed):
        await consume(events, check)


def publisher(space: AddressSpace) -> Callable[[Sequence[Change]], Coroutine[None, None, None]]:
    """Return what publishes a burst."""

    async def publish(burst: Sequence[Change]) -> None:
        for first, leads_to, oldest in burst:
            space.map(first, PAGE, leads_to, RW)
            space.unmap(oldest, PAGE)

    return publish
