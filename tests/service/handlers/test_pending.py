"""A `sync` that waits in callbacks: when its owner is told of what."""

from contextlib import suppress
from typing import Final

import pytest

from iommubus import Bus, Cap, Perm
from iommubus.bus.sync import Sync
from iommubus.service.handlers.pending import Pending
from iommubus.transport.deadlines import Deadlines

pytestmark = pytest.mark.asyncio

PAGE: Final = 0x1000


class Quarrel(Exception):
    """Why somebody left."""


class Told:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def over(self, pending: Pending) -> None:
        assert pending.sync.over
        self.words.append("over")

    def go_on(self, pending: Pending, left: float) -> None:
        assert 0 <= left <= pending.timeout
        self.words.append("go on")

    def drop(self, pending: Pending) -> None:
        assert pending.request == 7
        self.words.append("drop")


async def test_the_last_acknowledgement_is_told_once_and_nothing_after_it() -> None:
    async with Bus() as bus:
        space, told, deadlines = await bus.create_space("s"), Told(), Deadlines()
        async with bus.subscribe("s", Cap.IOTLB, ack="manual") as one, bus.subscribe("s", Cap.IOTLB) as other:
            space.map(0, PAGE, 0, Perm.R)
            first = await anext(one.batches())
            async for _ in other:
                break
            pending = Pending(7, Sync((space,)), 60.0, deadlines, told)
            pending.begin()
            one.ack(first)
            assert told.words == []
        assert told.words == ["over"]
        assert len(deadlines) == 0
        deadlines.stop()


async def test_who_has_to_be_proven_stopped_is_left_to_a_task_now_or_later() -> None:
    async with Bus() as bus:
        space, told, deadlines = await bus.create_space("s"), Told(), Deadlines()
        with suppress(Quarrel):
            async with bus.subscribe("s", Cap.IOTLB, stops="exit") as subscription:
                space.map(0, PAGE, 0, Perm.R)
                await anext(aiter(subscription))
                pending = Pending(7, Sync((space,)), 60.0, deadlines, told)
                pending.begin()
                assert told.words == []
                raise Quarrel
        assert told.words == ["go on"]
        Pending(7, Sync((space,)), 60.0, deadlines, told).begin()
        assert told.words == ["go on", "go on"]
        deadlines.stop()


async def test_what_nobody_wants_the_answer_of_leaves_nothing() -> None:
    async with Bus() as bus:
        space, told, deadlines = await bus.create_space("s"), Told(), Deadlines()
        async with bus.subscribe("s", Cap.IOTLB, ack="manual") as subscription:
            space.map(0, PAGE, 0, Perm.R)
            batch = await anext(subscription.batches())
            pending = Pending(7, Sync((space,)), 60.0, deadlines, told)
            pending.begin()
            pending.cancel()
            subscription.ack(batch)
            assert told.words == ["drop"]
            assert len(deadlines) == 0
        deadlines.stop()
