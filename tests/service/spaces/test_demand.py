"""What a producer is told of the demand, and how it refuses."""

import pytest
from anyio import create_task_group

from iommubus import Cap
from iommubus.errors import DemandRefused
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config
from iommubus.wire.failures import to_failure
from iommubus.wire.messages.greeting import Bye, Ping, Pong
from iommubus.wire.messages.publishing import DemandChanged
from iommubus.wire.messages.replies import Cancel, Done, Refused
from iommubus.wire.messages.spaces import Attach, CreateEndpoint, Detach, SpaceCreated
from iommubus.wire.messages.subscribing import Leave, Subscribe, Subscribed
from iommubus.wire.messages.values import Range
from tests.talkers import Talker, creating, greeted, until

pytestmark = pytest.mark.asyncio

WHOLE = [Range(0, 2**64 - 1)]


async def demand(talker: Talker) -> tuple[int, int]:
    """Return the next change of the demand that a producer is told of, which it accepts."""
    changed = await talker.skip_to(DemandChanged)
    await talker.say(Done(changed.request))
    return changed.old, changed.new


async def test_a_producer_is_told_of_its_demand() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer:
        epoch = await producer.space()
        async with daemon.bus.subscribe("vtd0", Cap.UNMAP):
            assert await demand(producer) == (0, 1)
            async with daemon.bus.subscribe("vtd0", Cap.IOTLB):
                assert await demand(producer) == (1, 3)
            assert await demand(producer) == (3, 1)
        changed = await producer.hear(DemandChanged)
        assert (changed.space, changed.epoch, changed.old, changed.new) == ("vtd0", epoch, 1, 0)


async def test_a_producer_is_told_of_those_who_waited_once_it_knows_the_epoch() -> None:
    async with (
        Daemon(Config()) as daemon,
        greeted(daemon) as producer,
        daemon.bus.subscribe("vtd0", Cap.UNMAP),
    ):
        await producer.say(creating(1))
        assert [type(await producer.next()) for _ in range(2)] == [SpaceCreated, DemandChanged]


async def test_whoever_subscribes_waits_until_the_producer_has_agreed() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as consumer:
        await producer.space(asks_demand=True)
        await consumer.say(Subscribe(1, ["vtd0"], 3, WHOLE), Ping(2))
        await consumer.hear(Pong)
        changed = await producer.hear(DemandChanged)
        assert daemon.spaces.open["vtd0"].space.routes.demand == Cap(0)
        await producer.say(Done(changed.request))
        subscribed = await consumer.hear(Subscribed)
        await consumer.say(Subscribe(3, ["vtd0"], 1, WHOLE))
        await consumer.skip_to(Subscribed)
        await consumer.say(Leave(4, subscribed.subscription, clean=True))
        await consumer.skip_to(Done)
        assert await demand(producer) == (3, 1)


async def test_a_refusal_of_the_producer_is_the_subscribers() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as consumer:
        await producer.space(asks_demand=True)
        for _ in range(2):
            await consumer.say(Subscribe(consumer.request, ["vtd0"], 3, WHOLE))
            changed = await producer.hear(DemandChanged)
            assert (changed.old, changed.new) == (0, 3)
            await producer.say(Refused(changed.request, to_failure(ValueError("no caching mode"))))
            refused = await consumer.hear(Refused)
            assert refused.failure.kind == DemandRefused.__name__
            assert "no caching mode" in refused.failure.text
        assert daemon.bus.statistics().spaces["vtd0"].subscriptions == {}


async def test_the_producer_is_asked_for_one_at_a_time() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as consumer:
        await producer.space(asks_demand=True)
        await consumer.say(Subscribe(1, ["vtd0"], 1, WHOLE), Subscribe(2, ["vtd0"], 3, WHOLE))
        first = await producer.hear(DemandChanged)
        await producer.say(Ping(1))
        await producer.hear(Pong)
        await producer.say(Done(first.request))
        assert (await consumer.hear(Subscribed)).request == 1
        assert await demand(producer) == (1, 3)
        assert (await consumer.skip_to(Subscribed)).request == 2


async def test_a_question_that_nobody_waits_for_is_taken_back() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as consumer:
        await producer.space(asks_demand=True)
        await consumer.say(Subscribe(1, ["vtd0"], 3, WHOLE))
        changed = await producer.hear(DemandChanged)
        await consumer.say(Cancel(1))
        assert (await producer.hear(Cancel)).request == changed.request
        assert await demand(producer) == (3, 0)


async def test_nobody_has_to_be_asked_once_the_producer_is_lost() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer, greeted(daemon) as consumer:
        await producer.space(asks_demand=True)
        await consumer.say(Subscribe(1, ["vtd0"], 3, WHOLE))
        await producer.hear(DemandChanged)
        await producer.say(Bye())
        await consumer.hear(Subscribed)

        async with greeted(daemon) as again:
            await again.space(asks_demand=True)
            changed = await again.hear(DemandChanged)
            assert (changed.old, changed.new) == (0, 3)
            await again.say(Refused(changed.request, to_failure(ValueError("not by me"))))
            await until(lambda: not daemon.bus.statistics().spaces["vtd0"].subscriptions)


async def test_a_subscriber_that_moves_is_fenced_if_the_producer_refuses_it() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer:
        epoch = await producer.space(asks_demand=True)
        await producer.say(CreateEndpoint(50, "nic"))
        await producer.hear(Done)
        moved, stays = daemon.bus.subscribe("nic", Cap.IOTLB), daemon.bus.subscribe("vtd0", Cap.UNMAP)
        async with moved, stays:
            assert await demand(producer) == (0, 1)
            await producer.say(Attach(51, "nic", "vtd0", epoch))
            changed = await producer.skip_to(DemandChanged)
            assert (changed.old, changed.new) == (1, 3)
            await producer.say(Refused(changed.request, to_failure(ValueError("no caching mode"))))
            await until(lambda: moved.fenced)
            assert not stays.fenced
            assert daemon.spaces.open["vtd0"].demand.told == Cap.UNMAP


async def test_a_subscriber_that_moves_and_is_accepted_stays() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer:
        epoch = await producer.space(asks_demand=True)
        await producer.say(CreateEndpoint(50, "nic"))
        await producer.hear(Done)
        async with daemon.bus.subscribe("nic", Cap.IOTLB) as moved:
            await producer.say(Attach(51, "nic", "vtd0", epoch))
            assert await demand(producer) == (0, 3)
            await producer.say(Detach(52, "nic"))
            assert await demand(producer) == (3, 0)
            assert not moved.fenced


async def test_somebody_who_leaves_while_another_is_asked_about_changes_nothing_yet() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as producer:
        await producer.space(asks_demand=True)
        held = daemon.spaces.open["vtd0"]
        async with create_task_group() as tasks:
            leaving = daemon.bus.subscribe("vtd0", Cap.UNMAP)
            await leaving.__aenter__()
            assert await demand(producer) == (0, 1)

            async def register() -> None:
                async with held.demand.widened(Cap.IOTLB):
                    assert held.demand.told == Cap.IOTLB

            tasks.start_soon(register)
            changed = await producer.skip_to(DemandChanged)
            assert (changed.old, changed.new) == (1, 3)
            await leaving.close()
            await producer.say(Ping(1))
            await producer.hear(Pong)
            await producer.say(Done(changed.request))
            assert await demand(producer) == (3, 0)
