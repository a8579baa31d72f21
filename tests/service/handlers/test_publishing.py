"""The producer's half of a connection: what it makes, changes, loses, and takes up again."""

import asyncio
from collections.abc import Sequence

import pytest

from iommubus import Cap, Perm
from iommubus.errors import NameTaken, NotProducer, TranslatorFailed
from iommubus.mapping import Mapping
from iommubus.service.daemon import Daemon
from iommubus.service.settings.config import Config, Limits
from iommubus.service.settings.rules import Rule
from iommubus.transport.credentials import Peer
from iommubus.wire.messages import ClientMessage
from iommubus.wire.messages.greeting import Bye, Ping, Pong
from iommubus.wire.messages.publishing import Answer, Ask, BeginResume, EndResume, Publish, Published, PublishFailed
from iommubus.wire.messages.replies import Done, Refused
from iommubus.wire.messages.rows import MapRow
from iommubus.wire.messages.spaces import (
    AddMemory,
    Attach,
    CloseEndpoint,
    CloseSpace,
    CreateEndpoint,
    Detach,
    MemoryAdded,
    SpaceCreated,
)
from iommubus.wire.messages.syncing import Sync, Synced, SyncRefused
from iommubus.wire.messages.values import MemoryName, Piece, Range
from tests.talkers import OWN, PAGE, STRANGER, Talker, creating, gone, greeted, page, publishing, settings, until
from tests.wire.packed import packed

pytestmark = pytest.mark.asyncio


def mapped(daemon: Daemon, name: str = "vtd0") -> list[int]:
    """Return the pages that are mapped in a space of a daemon."""
    space = daemon.spaces.open[name].space
    return [mapping.first // PAGE for mapping in space.walk(0, space.shape.last, 1 << 20)]


async def reply(talker: Talker, *kinds: type[object]) -> Refused:
    """Return the next message, which has to be a refusal with an error of one of these kinds."""
    refused = await talker.skip_to(Refused)
    assert refused.failure.kind in {kind.__name__ for kind in kinds}, refused
    return refused


async def broken(talker: Talker) -> str:
    """Return why the connection was ended as one that broke the protocol."""
    bye = await talker.ended()
    assert bye is not None
    assert bye.failure is not None
    assert bye.failure.kind == "BadMessage"
    return bye.reason


# -- spaces ---------------------------------------------------------------------


async def test_a_producer_makes_a_space_and_closes_it() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        await talker.say(creating(1, reserved=[Range(0xFEE00000, 0xFEEFFFFF)], offers=3))
        created = await talker.hear(SpaceCreated)
        space = daemon.spaces.open["vtd0"].space

        assert (created.request, created.resumed) == (1, False)
        assert (space.shape.granule, space.shape.last, int(space.offers)) == (PAGE, 2**32 - 1, 3)
        assert [(window.first, window.last) for window in space.shape.reserved] == [(0xFEE00000, 0xFEEFFFFF)]
        await talker.say(CloseSpace(2, "vtd0", created.epoch))
        await talker.hear(Done)
        assert daemon.spaces.open == {}
        assert daemon.bus.spaces() == ()


async def test_a_space_needs_a_rule_that_is_named_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rules = (Rule(uid=4242, publish=("vm*",)),)
    async with Daemon(settings(rules=rules)) as daemon, greeted(daemon, STRANGER) as talker:
        await talker.space("vm1")
        await talker.say(creating(11, "vtd0"), CreateEndpoint(12, "00:03.0"), CreateEndpoint(13, "vm1/0"))
        refused = [await talker.hear(Refused), await talker.hear(Refused)]
        await talker.hear(Done)

        assert [one.failure.kind for one in refused] == ["RuleMissing", "RuleMissing"]
        assert 'uid = 4242, publish = ["vtd0"]' in refused[0].failure.text
        assert refused[1].failure.text in caplog.text
        assert daemon.counts.refusals["publish"] == 2


async def test_spaces_and_endpoints_are_limited() -> None:
    async with Daemon(settings(limits=Limits(spaces=1, endpoints=1))) as daemon, greeted(daemon) as talker:
        epoch = await talker.space("a")
        await talker.say(creating(11, "b"), CreateEndpoint(12, "c"), CreateEndpoint(13, "d"))
        assert (await talker.hear(Refused)).failure.text == "the daemon's setting limits.spaces allows 1, and no more"
        await talker.hear(Done)
        assert (await talker.hear(Refused)).failure.kind == "LimitReached"
        await talker.say(CloseSpace(14, "a", epoch), CloseEndpoint(15, "c"), creating(16, "b"), CreateEndpoint(17, "d"))
        assert [type(await talker.next()) for _ in range(4)] == [Done, Done, SpaceCreated, Done]


async def test_a_name_is_taken_while_its_producer_is_there() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        epoch = await one.space()
        await one.say(CreateEndpoint(50, "nic"))
        await one.hear(Done)
        await other.say(creating(1), CreateEndpoint(2, "nic"), CreateEndpoint(3, "vtd0"))
        for _ in range(3):
            await reply(other, NameTaken)
        await one.say(creating(51, epoch=epoch))
        await reply(one, NameTaken)
        assert one.wire.state.value == "ready"


async def test_only_its_producer_changes_a_space_or_an_endpoint() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as one, greeted(daemon) as other:
        epoch = await one.space()
        await one.say(CreateEndpoint(50, "nic"))
        await one.hear(Done)
        mine = await other.space("vtd1")
        await other.say(CloseSpace(51, "vtd0", epoch), CloseEndpoint(52, "nic"), Detach(53, "nic"))
        for _ in range(3):
            await reply(other, NotProducer)
        await other.say(Attach(54, "nic", "vtd1", mine))
        await reply(other, NotProducer)
        await other.say(publishing("vtd0", epoch, 1, page(1)))
        assert "another producer's" in await broken(other)
        assert mapped(daemon) == []


async def test_an_epoch_that_is_over_is_refused() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(CloseSpace(50, "vtd0", epoch + 1), Attach(51, "vtd0", "vtd0", 1), CloseSpace(52, "x", epoch))
        assert [(await talker.hear(Refused)).failure.kind for _ in range(3)] == ["SpaceClosed"] * 3
        await talker.say(publishing("vtd0", epoch + 1, 1, page(1)))
        assert "is closed" in await broken(talker)


# -- changes --------------------------------------------------------------------


async def test_what_is_published_is_in_the_table_and_acknowledged_once_a_turn() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(
            publishing("vtd0", epoch, 1, page(1), page(2)),
            publishing("vtd0", epoch, 2, gone(1), page(3)),
            Publish("vtd0", epoch, 3, packed(page(4)), more=True),
        )
        assert await talker.hear(Published) == Published("vtd0", epoch, 2)
        assert mapped(daemon) == [2, 3, 4]
        await talker.say(publishing("vtd0", epoch, 3, gone(2)), publishing("vtd0", epoch, 7))
        assert await talker.hear(Published) == Published("vtd0", epoch, 7)
        assert mapped(daemon) == [3, 4]


async def test_what_cannot_be_mapped_is_told_by_its_place_and_the_rest_goes_on() -> None:
    async with Daemon(settings(limits=Limits(mappings=3))) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        unaligned = MapRow(1, 0x5001, 0x5FFF, 0, 3)
        await talker.say(
            Publish("vtd0", epoch, 1, packed(page(1), unaligned), more=True),
            publishing("vtd0", epoch, 1, page(1, target=9), page(2), page(3), page(4)),
        )
        failed = [await talker.hear(PublishFailed) for _ in range(3)]

        assert [(one.number, one.index, one.failure.kind) for one in failed] == [
            (1, 1, "Misaligned"),
            (1, 2, "Overlap"),
            (1, 5, "LimitReached"),
        ]
        await talker.hear(Published)
        assert mapped(daemon) == [1, 2, 3]
        await talker.say(publishing("vtd0", epoch, 2, unaligned))
        failed.append(await talker.hear(PublishFailed))
        assert (failed[-1].number, failed[-1].index) == (2, 0)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([(1, False), (1, False)], "1 was taken before"),
        ([(2, False), (1, False)], "2 was taken before"),
        ([(1, True), (2, False)], "hand-over 1 is not whole yet"),
    ],
)
async def test_hand_overs_are_numbered_in_order(messages: Sequence[tuple[int, bool]], reason: str) -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        for number, more in messages:
            await talker.say(Publish("vtd0", epoch, number, packed(), more=more))
        assert reason in await broken(talker)


async def test_nobody_leads_mappings_into_the_memory_of_another_user() -> None:
    rules = (Rule(uid=4242, publish=("*",)),)
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as owner,
        greeted(daemon, STRANGER) as stranger,
    ):
        await owner.say(AddMemory(1, "ram", 1 << 20))
        ram = MemoryName("ram", (await owner.hear(MemoryAdded)).generation, 1 << 20)
        row = MapRow(1, 0, PAGE - 1, 0, 3, 1)
        for talker, name in ((owner, "vtd0"), (stranger, "vtd1")):
            epoch = await talker.space(name)
            await talker.say(Publish(name, epoch, 1, packed(row), [ram]))
        await owner.hear(Published)
        assert (await stranger.hear(PublishFailed)).failure.kind == "NotProducer"
        assert (mapped(daemon, "vtd0"), mapped(daemon, "vtd1")) == ([0], [])


async def test_an_answer_leads_into_no_memory_of_another_user() -> None:
    rules = (Rule(uid=4242, publish=("*",)),)
    async with (
        Daemon(settings(rules=rules)) as daemon,
        greeted(daemon) as owner,
        greeted(daemon, STRANGER) as stranger,
    ):
        await owner.say(AddMemory(1, "ram", 1 << 20))
        ram = MemoryName("ram", (await owner.hear(MemoryAdded)).generation, 1 << 20)
        for talker, name in ((owner, "vtd0"), (stranger, "vtd1")):
            await talker.space(name, offers=1, answers=True)
            async with daemon.bus.subscribe(name, Cap.UNMAP) as subscription:
                asked = asyncio.ensure_future(subscription.translate(7))
                ask = await talker.skip_to(Ask)
                await talker.say(Answer(ask.request, Piece(0, PAGE - 1, 0, 3, ram)))
                await asyncio.wait([asked])
            if talker is owner:
                assert asked.result().mapping.memory == ram.memory
            else:
                assert isinstance(asked.exception(), TranslatorFailed)


async def test_an_unmap_of_what_no_space_has_breaks_the_protocol() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1), gone(0, 2**30)))
        assert "ends behind" in await broken(talker)
        await until(lambda: mapped(daemon) == [])


# -- endpoints -------------------------------------------------------------------


async def test_an_endpoint_is_moved_about() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        one, other = await talker.space("a"), await talker.space("b")
        await talker.say(CreateEndpoint(50, "nic"), Attach(51, "nic", "a", one))
        for _ in range(2):
            await talker.hear(Done)
        places: list[str | None] = []
        for message in (Attach(52, "nic", "b", other), Detach(53, "nic"), CloseEndpoint(54, "nic")):
            places.append(daemon.bus.statistics().endpoints["nic"].space)
            await talker.say(message)
            await talker.hear(Done)
        assert places == ["a", "b", None]
        assert "nic" not in daemon.bus.statistics().endpoints


async def test_an_attach_that_contradicts_a_container_fences_it() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker:
        one, other = await talker.space("a"), await talker.space("b")
        await talker.say(CreateEndpoint(50, "nic"), CreateEndpoint(51, "gpu"), Attach(52, "nic", "a", one))
        for _ in range(3):
            await talker.hear(Done)
        container = daemon.bus.subscribe(["nic", "gpu"], Cap.IOTLB)
        async with container:
            await talker.say(Attach(53, "gpu", "b", other))
            await talker.hear(Done)
            assert container.fenced
        assert daemon.bus.statistics().endpoints["gpu"].space == "b"


# -- a producer that is lost -----------------------------------------------------------


async def lose(daemon: Daemon, talker: Talker) -> None:
    """End a connection, and wait until the daemon knows."""
    assert talker.welcome is not None
    number = talker.welcome.client
    talker.sock.close()
    await until(lambda: number not in daemon.clients)


async def test_without_grace_a_lost_space_is_emptied_and_stays() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as talker, greeted(daemon) as other:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1), page(2)))
        await talker.hear(Published)
        async with daemon.bus.subscribe("vtd0", Cap.IOTLB) as subscription:
            stream = aiter(subscription)
            assert [(await anext(stream)).first for _ in range(2)] == [PAGE, 2 * PAGE]
            await lose(daemon, talker)
            assert type(await anext(stream)).__name__ == "Unmap"
            assert mapped(daemon) == []

            again = await other.space("vtd0", epoch=epoch)
            assert again != epoch
            await other.say(publishing("vtd0", again, 1, page(7)))
            assert (await anext(stream)).first == 7 * PAGE


async def test_within_its_grace_a_space_keeps_what_it_has_and_is_emptied_after_it() -> None:
    async with Daemon(settings(producer_grace=0.1)) as daemon:
        async with greeted(daemon) as talker:
            epoch = await talker.space()
            await talker.say(publishing("vtd0", epoch, 1, page(1)))
            await talker.hear(Published)
            await lose(daemon, talker)
        assert mapped(daemon) == [1]
        await until(lambda: mapped(daemon) == [])
        async with greeted(daemon) as talker:
            await talker.say(creating(1, epoch=epoch))
            assert not (await talker.hear(SpaceCreated)).resumed


async def test_a_producer_that_cannot_resume_has_no_grace() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon, features=0) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1)))
        await talker.hear(Published)
        await lose(daemon, talker)
        assert mapped(daemon) == []


async def resumable(daemon: Daemon, *pages: int) -> int:
    """Have a producer publish pages and be lost; return the epoch."""
    async with greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, *map(page, pages)))
        await talker.hear(Published)
        await lose(daemon, talker)
    return epoch


async def resume(talker: Talker, epoch: int) -> int:
    """Make a space again that is still there; return its new epoch."""
    request = talker.request
    await talker.say(creating(request, epoch=epoch))
    created = await talker.hear(SpaceCreated)
    assert created.resumed
    return created.epoch


async def test_a_producer_that_is_back_goes_on() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        old = await resumable(daemon, 1, 2, 3)
        seq = daemon.spaces.open["vtd0"].space.seq
        epoch = await resume(talker, old)
        await talker.say(
            BeginResume("vtd0", epoch),
            publishing("vtd0", epoch, 9, page(1), page(3), page(5)),
            EndResume(60, "vtd0", epoch),
        )
        await talker.skip_to(Done)

        assert mapped(daemon) == [1, 3, 5]
        assert daemon.spaces.open["vtd0"].space.seq == seq + 2
        await talker.say(publishing("vtd0", epoch, 10, gone(1)), Sync(61, 1_000_000, ["vtd0"]))
        await talker.skip_to(Synced)
        assert mapped(daemon) == [3, 5]


async def test_a_sync_waits_until_a_space_was_resumed() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        epoch = await resume(talker, await resumable(daemon, 1))
        await talker.say(Sync(60, 20_000, ["vtd0"]))
        refused = await talker.hear(SyncRefused)
        assert [(one.subscriber, one.reason) for one in refused.missing] == [
            ("the daemon", "waits for its producer to resume it")
        ]
        assert refused.missing[0].ranges == [Range(0, 2**32 - 1)]
        await talker.say(Sync(61, 60_000_000, ["vtd0"]), BeginResume("vtd0", epoch), EndResume(62, "vtd0", epoch))
        assert {type(await talker.next()) for _ in range(2)} == {Done, Synced}
        assert mapped(daemon) == []


async def test_a_producer_may_name_all_anew_at_any_time() -> None:
    async with Daemon(settings()) as daemon, greeted(daemon) as talker:
        epoch = await talker.space()
        await talker.say(publishing("vtd0", epoch, 1, page(1), page(2)))
        begin, end = BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch)
        await talker.say(begin, publishing("vtd0", epoch, 2, page(2), page(3)), end)
        await talker.skip_to(Done)
        assert mapped(daemon) == [2, 3]


async def test_what_is_published_while_a_space_is_swept_stays() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        epoch = await resume(talker, await resumable(daemon, 1, 2))
        begin, end = BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch)
        later = publishing("vtd0", epoch, 2, gone(1), page(5))
        await talker.say(begin, publishing("vtd0", epoch, 1, page(1)), end, later)
        await talker.skip_to(Done)
        assert mapped(daemon) == [5]


@pytest.mark.parametrize("what", ["publish", "end", "twice", "end of nothing"])
async def test_resuming_has_its_order(what: str) -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        if "nothing" in what:
            epoch = await talker.space()
        else:
            epoch = await resume(talker, await resumable(daemon, 1))
        begin, end = BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch)
        orders: dict[str, list[ClientMessage]] = {
            "publish": [publishing("vtd0", epoch, 1, page(1))],
            "end": [end],
            "twice": [begin, begin],
            "end of nothing": [end],
        }
        await talker.say(*orders[what])
        assert await broken(talker)


async def test_what_is_named_once_more_before_it_is_swept_counts() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        epoch = await resume(talker, await resumable(daemon, 1, 2))
        begin, end, again = BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch), EndResume(61, "vtd0", epoch)
        await talker.say(begin, end, begin)
        await talker.skip_to(Done)
        assert mapped(daemon) == [1, 2]
        await talker.say(publishing("vtd0", epoch, 1, page(2)), again)
        assert (await talker.skip_to(Done)).request == 61
        assert mapped(daemon) == [2]


async def test_what_is_named_once_more_while_it_is_swept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.applying.PIECE", 1)
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        epoch = await resume(talker, await resumable(daemon, *range(100)))
        again: list[ClientMessage] = [
            BeginResume("vtd0", epoch),
            publishing("vtd0", epoch, 1, page(99)),
            EndResume(61, "vtd0", epoch),
        ]
        await talker.say(BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch))
        await until(lambda: len(mapped(daemon)) < 100)
        await talker.say(*again, Sync(62, 60_000_000, ["vtd0"]))
        assert {(await talker.skip_to(Done)).request for _ in range(2)} == {60, 61}
        await talker.skip_to(Synced)
        assert mapped(daemon) == [99]


async def test_a_producer_that_is_lost_while_it_resumes_may_resume_again() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as second, greeted(daemon) as third:
        epoch = await resume(second, await resumable(daemon, 1, 2, 3))
        await second.say(BeginResume("vtd0", epoch), publishing("vtd0", epoch, 1, page(2)))
        await second.hear(Published)
        await lose(daemon, second)
        assert mapped(daemon) == [1, 2, 3]
        await third.say(Sync(60, 1_000_000, ["vtd0"]))
        await third.hear(Synced)
        epoch = await resume(third, epoch)
        await third.say(BeginResume("vtd0", epoch), EndResume(61, "vtd0", epoch))
        await third.skip_to(Done)
        assert mapped(daemon) == []


async def test_only_the_same_user_resumes() -> None:
    rules = (Rule(anybody=True, publish=("*",)),)
    async with Daemon(settings(producer_grace=60, rules=rules)) as daemon, greeted(daemon, STRANGER) as talker:
        old = await resumable(daemon, 1)
        await talker.say(creating(1, epoch=old))
        assert not (await talker.hear(SpaceCreated)).resumed
        assert mapped(daemon) == []


async def test_another_epoch_takes_the_space_over_empty() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        await resumable(daemon, 1)
        await talker.say(creating(1))
        assert not (await talker.hear(SpaceCreated)).resumed
        assert mapped(daemon) == []


async def test_another_kind_of_space_closes_the_one_that_was_and_its_sync_covers_both() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        old = await resumable(daemon, 1)
        subscription = daemon.bus.subscribe("vtd0", Cap.IOTLB, ack="manual", name="vfio")
        async with subscription:
            batches = subscription.batches()
            batch = await anext(batches)
            epoch = await talker.space("vtd0", epoch=old, offers=3)
            await talker.say(Sync(60, 20_000, ["vtd0"]))
            refused = await talker.skip_to(SyncRefused)
            assert [one.subscriber for one in refused.missing] == ["vfio"]
            assert refused.missing[0].pieces[0].mapping == Mapping(PAGE, 2 * PAGE - 1, 0, Perm.RW)
            subscription.ack(batch)
            subscription.ack(await anext(batches))
            await talker.say(Sync(61, 1_000_000, ["vtd0"]))
            await talker.skip_to(Synced)
        assert epoch != old


async def test_a_client_whose_old_connection_is_half_dead_takes_its_place() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as old, greeted(daemon) as new:
        epoch = await old.space()
        await old.say(
            publishing("vtd0", epoch, 1, page(1)), CreateEndpoint(50, "nic"), Attach(51, "nic", "vtd0", epoch)
        )
        await old.skip_to(Done)
        await old.skip_to(Done)
        await new.say(creating(1, epoch=epoch), CreateEndpoint(2, "nic", resume=True))
        created = await new.hear(SpaceCreated)
        await new.hear(Done)

        assert created.resumed
        assert mapped(daemon) == [1]
        assert daemon.bus.statistics().endpoints["nic"].space == "vtd0"
        bye = await old.ended()
        assert bye == Bye("its client is back on another connection")


async def test_another_process_does_not_take_the_place_of_one_that_is_there() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as old:
        epoch = await old.space()
        await old.say(CreateEndpoint(50, "nic"))
        await old.hear(Done)
        async with greeted(daemon, Peer(pid=1, uid=OWN.uid, gids=OWN.gids)) as new:
            await new.say(creating(1, epoch=epoch), CreateEndpoint(2, "nic", resume=True))
            await reply(new, NameTaken)
            await reply(new, NameTaken)
        await old.say(Ping(1))
        await old.hear(Pong)


async def test_endpoints_of_a_lost_producer_stay_and_are_taken_over() -> None:
    async with Daemon(Config()) as daemon, greeted(daemon) as second, greeted(daemon) as third:
        async with greeted(daemon) as first:
            epoch = await first.space()
            await first.say(CreateEndpoint(50, "nic"), Attach(51, "nic", "vtd0", epoch))
            await first.skip_to(Done)
            await first.skip_to(Done)
            await lose(daemon, first)
        assert daemon.bus.statistics().endpoints["nic"].space == "vtd0"
        await second.say(CreateEndpoint(1, "nic", resume=True))
        await second.hear(Done)
        assert daemon.bus.statistics().endpoints["nic"].space == "vtd0"
        await lose(daemon, second)
        await third.say(CreateEndpoint(1, "nic"))
        await third.hear(Done)
        assert daemon.bus.statistics().endpoints["nic"].space is None


async def test_what_lost_producers_leave_behind_is_limited() -> None:
    async with Daemon(settings(limits=Limits(spaces=2, endpoints=2))) as daemon:
        for turn in range(3):
            async with greeted(daemon) as talker:
                for name in range(2):
                    await talker.space(f"{turn}.{name}")
                    await talker.say(CreateEndpoint(50 + name, f"nic {turn}.{name}"))
                    await talker.hear(Done)
                await lose(daemon, talker)
        assert list(daemon.spaces.open) == ["2.0", "2.1"]
        assert list(daemon.spaces.endpoints) == ["nic 2.0", "nic 2.1"]


async def test_the_end_of_a_daemon_stops_the_clocks_of_lost_producers() -> None:
    async with Daemon(settings(producer_grace=60)) as daemon:
        await resumable(daemon, 1)
        held = daemon.spaces.open["vtd0"]
        assert held.timer is not None
        timer = held.timer
    assert timer.cancelled()


async def test_a_sweep_ends_with_its_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.service.spaces.applying.PIECE", 1)
    async with Daemon(settings(producer_grace=60)) as daemon, greeted(daemon) as talker:
        epoch = await resume(talker, await resumable(daemon, *range(100)))
        before = len(daemon.tasks)
        await talker.say(BeginResume("vtd0", epoch), EndResume(60, "vtd0", epoch))
        await until(lambda: len(mapped(daemon)) < 100)
        daemon.spaces.close(daemon.spaces.open["vtd0"])
        await until(lambda: len(daemon.tasks) == before)
        await talker.say(Ping(1))
        await talker.skip_to(Pong)
