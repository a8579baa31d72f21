"""`sync`, `drain` and `fence` by clients: what they cover, who may ask, and what stands in the way."""

import asyncio
from typing import Final

import anyio
import pytest

from iommubus import Cap
from iommubus.bus.subscription import StreamSubscription
from iommubus.completion import How
from iommubus.errors import SyncFailed
from iommubus.service.daemon import Daemon
from iommubus.service.handlers import syncing
from iommubus.service.handlers.outcomes import refused
from iommubus.service.settings.config import Config
from iommubus.service.settings.rules import Rule
from iommubus.transport.credentials import Peer
from iommubus.wire.messages import ClientMessage
from iommubus.wire.messages.greeting import Ping, Pong
from iommubus.wire.messages.publishing import Published
from iommubus.wire.messages.replies import Cancel, Done, Refused
from iommubus.wire.messages.spaces import CloseSpace
from iommubus.wire.messages.syncing import Drain, Fence, FenceJudged, SpaceEpoch, Sync, Synced, SyncRefused
from iommubus.wire.messages.values import Range
from tests.talkers import PAGE, STRANGER, Talker, gone, greeted, page, publishing, settings, until

pytestmark = pytest.mark.asyncio

SOON = 20_000
LATE = 60_000_000


def manual(daemon: Daemon, name: str, *, space: str = "vtd0") -> StreamSubscription:
    """Return a subscription that acknowledges when it is told to."""
    return daemon.bus.subscribe(space, Cap.IOTLB, ack="manual", name=name)


async def unmapped(talker: Talker, name: str = "vtd0") -> int:
    """Make a space, and map and unmap a page in it; return its epoch."""
    epoch = await talker.space(name)
    await talker.say(publishing(name, epoch, 1, page(1), gone(1)))
    await talker.skip_to(Published)
    return epoch


async def kind_of_refusal(talker: Talker) -> str:
    return (await talker.skip_to(Refused)).failure.kind


# -- what it covers ---------------------------------------------------------------


async def test_a_sync_waits_for_acknowledgements_and_counts() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        async with manual(daemon, "vfio") as subscription:
            batches = subscription.batches()
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            subscription.ack(await anext(batches))
            await talker.say(publishing("vtd0", epoch, 2, gone(1)), Sync(60, LATE, ["vtd0"]), Ping(1))
            await talker.skip_to(Pong)
            subscription.ack(await anext(batches))
            synced = await talker.skip_to(Synced)

        assert synced.request == 60
        assert [(one.subscriber, one.space, one.how) for one in synced.outcomes] == [("vfio", "vtd0", How.ACKNOWLEDGED)]
        assert daemon.counts.sync_seconds.buckets()[-1] == ("+Inf", 1)


async def test_a_sync_that_fails_names_who_and_what() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        async with manual(daemon, "vfio") as subscription:
            await talker.say(publishing("vtd0", epoch, 1, page(1, target=5)))
            await anext(subscription.batches())
            await talker.say(publishing("vtd0", epoch, 2, gone(1)), Sync(60, SOON, ["vtd0"]))
            refused = await talker.skip_to(SyncRefused)
            (missing,) = refused.missing
            assert (missing.subscriber, missing.space) == ("vfio", "vtd0")
            assert missing.reason == "did not acknowledge within 0.02 s"
            assert [(piece.first, piece.target) for piece in missing.pieces] == [(PAGE, 5 * PAGE)]
            assert not refused.truncated


async def test_a_map_that_failed_is_told_once_and_counted() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        async with daemon.bus.subscribe("vtd0", Cap.IOTLB, name="vfio") as subscription, anyio.create_task_group() as t:

            async def consume() -> None:
                async for event in subscription:
                    if event.first == PAGE:
                        subscription.fail(event, OSError(28, "no space"))

            t.start_soon(consume)
            await subscription.wait_current()
            await talker.say(publishing("vtd0", epoch, 1, page(1)), Sync(60, LATE, ["vtd0"]))
            refused = await talker.skip_to(SyncRefused)
            assert [(one.subscriber, one.first, one.cause.kind) for one in refused.failures] == [
                ("vfio", PAGE, "OSError")
            ]
            await talker.say(Sync(61, LATE, ["vtd0"]))
            await talker.skip_to(Synced)
            t.cancel_scope.cancel()

        assert daemon.counts.map_failures == 1


SELECTIONS: Final[list[tuple[list[str], set[str]]]] = [
    ([], {"vtd0", "vtd1", "smmu0"}),
    (["vtd*"], {"vtd0", "vtd1"}),
    (["vtd1"], {"vtd1"}),
    (["vtd1", "vtd?", "smmu0"], {"vtd0", "vtd1", "smmu0"}),
    (["none*"], set()),
]


@pytest.mark.parametrize(("patterns", "covered"), SELECTIONS)
async def test_patterns_select_open_spaces(patterns: list[str], covered: set[str]) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker, anyio.create_task_group():
        for name in ("vtd0", "vtd1", "smmu0"):
            await talker.space(name)
        async with (
            manual(daemon, "a"),
            manual(daemon, "b", space="vtd1"),
            manual(daemon, "c", space="smmu0"),
        ):
            await talker.say(Sync(60, LATE, patterns))
            synced = await talker.skip_to(Synced)
        assert {one.space for one in synced.outcomes} == covered
        assert len(synced.outcomes) == len(covered)


async def test_a_certain_space_alone_covers_nothing_else() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        one, _ = await talker.space("a"), await talker.space("b")
        async with manual(daemon, "x", space="a"), manual(daemon, "y", space="b"):
            await talker.say(Sync(60, LATE, [], [SpaceEpoch("a", one)]))
            assert [each.space for each in (await talker.skip_to(Synced)).outcomes] == ["a"]
            await talker.say(Sync(61, LATE, ["b"], [SpaceEpoch("a", one)]))
            assert {each.space for each in (await talker.skip_to(Synced)).outcomes} == {"a", "b"}


async def test_what_is_not_there_is_refused() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        messages: list[ClientMessage] = [
            Sync(60, LATE, ["vtd1"]),
            Sync(61, LATE, [], [SpaceEpoch("vtd0", epoch + 1)]),
            Sync(62, LATE, [], [SpaceEpoch("vtd1", epoch)]),
            Drain(63, "vtd0", epoch + 1),
            Fence(64, "vtd1", "vfio"),
            Fence(65, "vtd0", "vfio"),
        ]
        for request, message in enumerate(messages, start=60):
            await talker.say(message)
            refused = await talker.hear(Refused)
            assert refused.request == request
            assert refused.failure.kind in {"UnknownName", "SpaceClosed"}


async def test_a_closed_space_is_synced_until_all_have_let_go_and_after() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1)))
        async with manual(daemon, "vfio") as subscription:
            batches = subscription.batches()
            subscription.ack(await anext(batches))
            await talker.say(CloseSpace(59, "vtd0", epoch), Sync(60, SOON, [], [SpaceEpoch("vtd0", epoch)]))
            refused = await talker.skip_to(SyncRefused)
            assert [one.subscriber for one in refused.missing] == ["vfio"]
            again = await talker.space()
            await talker.say(Sync(61, SOON, ["vtd0"]))
            await talker.skip_to(Synced)
            subscription.ack(await anext(batches))
        for _ in range(2):
            await talker.say(Sync(62, LATE, [], [SpaceEpoch("vtd0", epoch)]))
            await talker.skip_to(Synced)
        assert again != epoch


async def test_a_space_of_a_daemon_before_is_settled_with_that() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(Sync(60, LATE, [], [SpaceEpoch("vtd0", 7)]))
        assert (await talker.hear(Synced)).outcomes == []


# -- what stands in the way -----------------------------------------------------------


async def test_a_sync_waits_for_what_is_of_before_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await unmapped(talker)
        over = anyio.Event()

        def reasons(now: float) -> list[str]:
            assert now > 0
            return [] if over.is_set() else ["7 is not back", "8 is not"]

        monkeypatch.setattr(daemon.proof, "wait_recovered", over.wait)
        monkeypatch.setattr(daemon.proof, "reasons", reasons)
        monkeypatch.setattr(type(daemon.proof), "recovered", property(lambda _: over.is_set()))
        await talker.say(Sync(60, SOON, ["vtd0"], [SpaceEpoch("old", 7)]))
        refused = await talker.hear(SyncRefused)
        assert [(one.subscriber, one.space, one.reason, one.ranges) for one in refused.missing] == [
            ("the daemon", "vtd0", "7 is not back; 8 is not", [Range(0, 2**32 - 1)]),
            ("the daemon", "old", "7 is not back; 8 is not", [Range(0, 2**64 - 1)]),
        ]
        await talker.say(Sync(61, LATE, [], [SpaceEpoch("vtd0", epoch)]), Ping(1))
        await talker.hear(Pong)
        over.set()
        assert (await talker.hear(Synced)).request == 61


async def test_a_sync_that_nobody_waits_for_is_ended() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        async with manual(daemon, "vfio") as subscription:
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            await anext(subscription.batches())
            await talker.say(publishing("vtd0", epoch, 2, gone(1)), Sync(60, 2**64 - 1, ["vtd0"]), Ping(1))
            await talker.skip_to(Pong)
            (member,) = (one.member for space in daemon.spaces.open["vtd0"].synced for one in space.counting())
            assert member.completion.waits
            await talker.say(Cancel(60))
            await until(lambda: not member.completion.waits)


@pytest.mark.parametrize("again", ["sync", "drain"])
async def test_no_two_requests_that_wait_have_one_number_even_if_one_is_answered_at_once(again: str) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch, idle = await talker.space(), await talker.space("idle")
        async with manual(daemon, "vfio") as subscription:
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            await anext(subscription.batches())
            await talker.say(publishing("vtd0", epoch, 2, gone(1)), Sync(60, LATE, ["vtd0"]), Ping(1))
            await talker.skip_to(Pong)
            await talker.say(Sync(60, LATE, ["idle"]) if again == "sync" else Drain(60, "idle", idle))
            bye = await talker.ended()
            assert bye is not None
            assert bye.failure is not None
            assert bye.failure.kind == "BadMessage"


async def test_syncs_that_fail_at_one_acknowledgement_are_told_of_one_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer may take milliseconds; all of them in one turn would keep everybody else waiting."""
    turn, made = 0, list[int]()

    def count() -> None:
        nonlocal turn
        turn += 1
        asyncio.get_running_loop().call_soon(count)

    def refused_now(request: int, failed: SyncFailed) -> SyncRefused:
        made.append(turn)
        return refused(request, failed)

    monkeypatch.setattr(syncing, "refused", refused_now)
    count()
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        async with manual(daemon, "vfio") as subscription:
            batches = subscription.batches()
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            subscription.ack(await anext(batches))
            await talker.say(publishing("vtd0", epoch, 2, gone(1)))
            await talker.say(*(Sync(60 + at, LATE, ["vtd0"]) for at in range(5)), Ping(1))
            await talker.skip_to(Pong)
            batch = await anext(batches)
            subscription.fail(batch[0], OSError(5, "stuck"))
            subscription.ack(batch)
            assert sorted([(await talker.skip_to(SyncRefused)).request for _ in range(5)]) == [60, 61, 62, 63, 64]
            assert len(set(made)) == 5


# -- drain and fence -------------------------------------------------------------------


async def test_a_producer_paces_itself() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        subscription = daemon.bus.subscribe("vtd0", Cap.IOTLB, capacity=4)
        async with subscription:
            events = aiter(subscription)
            await talker.say(publishing("vtd0", epoch, 1, *(page(at) for at in range(4))))
            await talker.say(Drain(60, "vtd0", epoch), Ping(1))
            await talker.skip_to(Pong)
            for _ in range(4):
                await anext(events)
            assert (await talker.skip_to(Done)).request == 60


async def test_a_producer_fences_a_subscriber() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.space()
        async with manual(daemon, "vfio") as subscription:
            await talker.say(Fence(60, "vtd0", "vfio"))
            assert await talker.skip_to(FenceJudged) == FenceJudged(60, proven=True)
            assert subscription.fenced


# -- who may -----------------------------------------------------------------------------


async def test_a_client_syncs_its_own_spaces_and_those_that_it_is_in_charge_of() -> None:
    rules = (
        Rule(uid=4242, publish=("vm1",), observe=("seen",)),
        Rule(uid=7, admin=("vm*",)),
    )
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as owner,
        greeted(daemon, STRANGER) as stranger,
        greeted(daemon, Peer(uid=7)) as admin,
    ):
        foreign, _ = await unmapped(owner, "vm2"), await unmapped(owner, "hidden")
        own = await unmapped(stranger, "vm1")

        await stranger.say(Sync(60, LATE, []))
        await stranger.hear(Synced)
        await stranger.say(Sync(61, LATE, ["vm2"]), Sync(62, LATE, [], [SpaceEpoch("vm2", foreign)]))
        assert [await kind_of_refusal(stranger) for _ in range(2)] == ["RuleMissing"] * 2
        await stranger.say(Drain(63, "vm2", foreign), Fence(64, "vm2", "x"))
        assert [await kind_of_refusal(stranger) for _ in range(2)] == ["RuleMissing"] * 2
        await admin.say(Sync(60, LATE, []), Drain(61, "vm1", own))
        assert {type(await admin.next()) for _ in range(2)} == {Synced, Done}

        await unmapped(owner, "seen")
        await stranger.say(Sync(65, LATE, []))
        assert await kind_of_refusal(stranger) == "RuleMissing"
        assert daemon.counts.refusals["admin"] == 5


async def test_a_closed_space_is_its_producers() -> None:
    rules = (Rule(uid=4242, publish=("*",)), Rule(uid=7, publish=("*",)))
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon, STRANGER) as owner,
        greeted(daemon, Peer(uid=7)) as other,
    ):
        epoch = await unmapped(owner)
        await owner.say(CloseSpace(59, "vtd0", epoch))
        await owner.hear(Done)
        message = Sync(60, LATE, [], [SpaceEpoch("vtd0", epoch)])
        await owner.say(message)
        await owner.hear(Synced)
        await other.say(message)
        assert await kind_of_refusal(other) == "RuleMissing"
