"""Questions about the daemon, and who may ask them."""

import pytest

from iommubus import Cap
from iommubus.caps import Perm
from iommubus.mapping import Mapping
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config, Leases
from iommubus.service.settings.rules import Rule
from iommubus.transport.credentials import Peer
from iommubus.wire.messages.greeting import Bye, Ping, Pong
from iommubus.wire.messages.publishing import Published
from iommubus.wire.messages.queries import (
    Counters,
    Found,
    ListSpaces,
    ListSubscribers,
    Lookup,
    SpaceFound,
    SpaceGone,
    SpaceInfo,
    SpaceOpened,
    Spaces,
    Statistics,
    Subscribers,
    WaitSpace,
)
from iommubus.wire.messages.replies import Refused
from iommubus.wire.messages.spaces import CloseSpace
from iommubus.wire.messages.subscribing import Subscribe, Subscribed
from iommubus.wire.messages.syncing import Sync, Synced
from iommubus.wire.messages.values import Range
from iommubus.wire.messages.watching import Observe, Observing
from tests.talkers import LAST, PAGE, STRANGER, Talker, gone, greeted, page, publishing, settings, until

pytestmark = pytest.mark.asyncio


async def names(talker: Talker, *patterns: str) -> list[str]:
    """Return the names of the spaces that a client is told of."""
    await talker.say(ListSpaces(talker.request, list(patterns)))
    return [info.space for info in (await talker.skip_to(Spaces)).spaces]


async def kind_of_refusal(talker: Talker) -> str:
    return (await talker.skip_to(Refused)).failure.kind


# -- spaces ----------------------------------------------------------------------


async def test_spaces_are_listed_in_the_order_they_were_made() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space("vtd1", offers=3)
        await talker.space("smmu0")
        await talker.space("vtd0")
        await talker.say(publishing("vtd1", epoch, 1, page(1), gone(1), page(2)))
        await talker.skip_to(Published)
        await talker.say(ListSpaces(60, ["vtd*"]))
        spaces = await talker.skip_to(Spaces)

        assert await names(talker) == ["vtd1", "smmu0", "vtd0"]
        assert [info.space for info in spaces.spaces] == ["vtd1", "vtd0"]
        assert spaces.spaces[0] == SpaceInfo("vtd1", epoch, PAGE, LAST, 3, 0, 1, 3, "qemu")


async def test_a_long_list_is_cut() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        for at in range(130):
            await talker.space(f"vtd{at}")
        await talker.say(ListSpaces(990))
        first, second = await talker.skip_to(Spaces), await talker.hear(Spaces)
        assert (len(first.spaces), first.more, len(second.spaces), second.more) == (128, True, 2, False)


async def test_whoever_follows_is_told_of_spaces_that_come_and_go() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(ListSpaces(60, ["vtd*"], follow=True))
        assert (await talker.hear(Spaces)).spaces == []
        async with greeted(daemon, name="vmm") as producer:
            epoch = await producer.space("vtd0")
            await producer.space("smmu0")
            opened = await talker.hear(SpaceOpened)
            assert (opened.space.space, opened.space.epoch, opened.space.producer) == ("vtd0", epoch, "vmm")
            await producer.say(Bye())
        async with greeted(daemon, name="vmm") as producer:
            again = await producer.space("vtd0")
            assert await talker.hear(SpaceGone) == SpaceGone("vtd0", epoch)
            assert (await talker.hear(SpaceOpened)).space.epoch == again
            await producer.say(CloseSpace(60, "vtd0", again))
            assert await talker.hear(SpaceGone) == SpaceGone("vtd0", again)
        await talker.say(Bye())
        await talker.ended()
        await until(lambda: not daemon.spaces.followers)


async def test_a_space_is_waited_for() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker, greeted(daemon) as producer:
        await talker.say(WaitSpace(60, "vtd0"), Ping(1))
        await talker.hear(Pong)
        await producer.space("vtd1")
        epoch = await producer.space("vtd0")
        assert (await talker.hear(SpaceFound)).space.epoch == epoch
        await talker.say(WaitSpace(61, "vtd0"))
        assert (await talker.hear(SpaceFound)).request == 61


async def test_only_what_a_rule_names_is_seen() -> None:
    rules = (Rule(uid=4242, subscribe=("vm1*",), admin=("vm2",)),)
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as producer,
        greeted(daemon, STRANGER) as talker,
    ):
        for name in ("vm1", "vm2", "vm3"):
            await producer.space(name)
        assert await names(talker) == ["vm1", "vm2"]
        await talker.say(ListSpaces(60, follow=True), WaitSpace(61, "vm3"), WaitSpace(62, "vm10"))
        await talker.hear(Spaces)
        refused = await talker.hear(Refused)
        assert (refused.request, refused.failure.kind) == (61, "RuleMissing")
        await producer.space("vm30")
        await producer.space("vm10")
        assert {type(await talker.next()) for _ in range(2)} == {SpaceOpened, SpaceFound}


# -- state -----------------------------------------------------------------------


async def test_an_address_is_looked_up() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1, target=5)))
        await talker.say(Lookup(60, "vtd0", PAGE + 7), Lookup(61, "vtd0", 0), Lookup(62, "x", 0))
        found, nothing, unknown = (
            await talker.skip_to(Found),
            await talker.skip_to(Found),
            await talker.skip_to(Refused),
        )

        assert found.piece is not None
        assert found.piece.mapping == Mapping(PAGE, 2 * PAGE - 1, 5 * PAGE, Perm.RW)
        assert (found.seq, nothing.piece, nothing.seq, unknown.failure.kind) == (1, None, 1, "UnknownName")


async def test_subscribers_are_listed() -> None:
    now = 100.0
    async with (
        Daemon(settings(leases=Leases(seconds=10)), clock=lambda: now) as daemon,
        greeted(daemon) as producer,
        greeted(daemon, name="vmm") as consumer,
    ):
        await producer.space()
        await consumer.say(
            Subscribe(60, ["vtd0"], 3, [Range(0, 2**40)], name="vfio"),
            Subscribe(61, ["later", "on"], 1, [Range(0, 7)], name="vhost"),
        )
        numbers = {(await consumer.skip_to(Subscribed)).subscription for _ in range(2)}
        now = 104.0
        await producer.say(ListSubscribers(62))
        vfio, vhost = sorted((await producer.skip_to(Subscribers)).subscribers, key=lambda info: info.name)

        assert {vfio.subscription, vhost.subscription} == numbers
        assert (vfio.name, vfio.client, vfio.space, vfio.endpoints) == ("vfio", "vmm", "vtd0", ["vtd0"])
        assert (vfio.caps, vfio.ranges, vfio.stops, vfio.fenced) == (3, [Range(0, 2**40)], "lease", "")
        assert vfio.lease_us == 6_000_000
        assert (vhost.space, vhost.endpoints) == ("", ["later", "on"])
        await producer.say(ListSubscribers(63, ["vtd0"]))
        assert [info.name for info in (await producer.skip_to(Subscribers)).subscribers] == ["vfio"]


async def test_counters_are_told() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.space("vtd1")
        async with daemon.bus.subscribe("vtd0", Cap.IOTLB, name="vfio", ack="manual") as subscription:
            await talker.say(publishing("vtd0", epoch, 1, page(1), gone(1)))
            subscription.ack(await anext(subscription.batches()))
            await talker.say(Sync(60, 1_000_000, ["vtd0"]))
            await talker.skip_to(Synced)
            await talker.say(Observe(61), Statistics(62, ["vtd0"]))
            await talker.skip_to(Observing)
            counters, observers = await talker.hear(Counters), await talker.hear(Counters)

        (space,) = counters.spaces
        assert (space.space, space.epoch, space.seq, space.maps, space.unmaps) == ("vtd0", epoch, 2, 1, 1)
        assert (space.demand, list(space.subscribers)) == (3, ["vfio"])
        assert space.subscribers["vfio"].maps == 1
        assert (counters.more, observers.more) == (True, False)
        assert len(observers.observers) == 1


async def test_state_is_for_the_producer_and_those_in_charge() -> None:
    rules = (Rule(uid=4242, publish=("own",)), Rule(uid=7, admin=("vtd*",)))
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as producer,
        greeted(daemon, STRANGER) as stranger,
        greeted(daemon, Peer(uid=7)) as admin,
    ):
        await producer.space("vtd0")
        await stranger.space("own")
        async with daemon.bus.subscribe("vtd0", Cap.IOTLB):
            questions = (Lookup(60, "vtd0", 0), Statistics(61, ["vtd0"]), ListSubscribers(62, ["vtd0"]))
            await stranger.say(*questions)
            assert [await kind_of_refusal(stranger) for _ in range(3)] == ["RuleMissing"] * 3
            await admin.say(*questions)
            assert [type(await admin.next()) for _ in range(3)] == [Found, Counters, Subscribers]
            await stranger.say(Statistics(63), ListSubscribers(64), Statistics(65, ["x"]))
            assert [space.space for space in (await stranger.hear(Counters)).spaces] == ["own"]
            assert (await stranger.hear(Subscribers)).subscribers == []
            assert await kind_of_refusal(stranger) == "UnknownName"
        await admin.say(Statistics(66))
        counters = await admin.hear(Counters)
        assert ([space.space for space in counters.spaces], counters.observers) == (["vtd0"], [])
