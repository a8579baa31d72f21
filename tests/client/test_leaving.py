"""How a subscription at a daemon is left, fenced and proven stopped, with and without a connection."""

import gc
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from iommubus.bus.abc import Stops
from iommubus.bus.attachment import State
from iommubus.bus.bus import Bus
from iommubus.bus.memory import Backing
from iommubus.caps import Cap, Perm
from iommubus.client.seats import RemoteSubscription
from iommubus.errors import (
    BusClosed,
    DemandRefused,
    Fenced,
    LeaseRunOut,
    MappingFailed,
    NotInHand,
    RuleMissing,
    Stopping,
    SubscriptionClosed,
    TooManyMappings,
    Unreachable,
)
from iommubus.events import Map, Unmap
from iommubus.wire.failures import to_failure
from iommubus.wire.messages.heard import DeliverHeard
from iommubus.wire.messages.replies import Refused
from iommubus.wire.messages.subscribing import Ack, ReplayFailed, Subscribe
from iommubus.wire.messages.syncing import MapFailure
from tests.client.model import HOLDER, PAGE, World

LEASE: Final = 5.0
"""Seconds after which the lease of these connections has run out."""


@asynccontextmanager
async def world_of(caps: Cap = Cap.IOTLB, **terms: Any) -> AsyncGenerator[World]:
    async with Bus() as bus:
        space = await bus.create_space("space", last=2**40 - 1, offers=Cap.ALL)
        world = World(bus, space, caps, **terms)
        seat = world.seat
        yield world
        seat.leave()


def rest(world: World) -> None:
    """Have everything carried over, and the consumer do nothing."""
    while any([world.send(), world.down(), world.up()]):
        pass


def consume(world: World) -> None:
    """Have everything carried over and applied."""
    rest(world)
    while world.work():
        rest(world)


def holding(world: World) -> World:
    """Let the consumer have a mapping."""
    world.map(0, 1)
    consume(world)
    assert world.held
    return world


def away(world: World) -> World:
    """Let the connection of a consumer be lost that has a mapping."""
    holding(world).lose()
    return world


def member_of(world: World) -> State:
    """Return how far the daemon trusts the only subscription that counts; gone if there is none."""
    states = [member.state for member in world.daemon.members if member.state is not State.GONE]
    assert len(states) < 2
    return states[0] if states else State.GONE


def handle_of(world: World) -> RemoteSubscription:
    return RemoteSubscription(world.seat, lambda: None, "next", lambda memory: Backing(memory, None))


# -- what is lost ------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_second_loss_changes_nothing_before_the_consumer_has_asked() -> None:
    async with world_of() as world:
        away(world)
        for _ in range(2):
            world.back()
            rest(world)
            world.lose()
        world.back()
        assert world.seat.take() == [Unmap("space", 1, 0, PAGE - 1)]
        assert not world.seat.ready
        world.held.clear()
        world.seat.acknowledge(world.seat.handed)
        rest(world)
        assert world.seat.take() == [Map("space", 1, 0, PAGE - 1, world.space.walk(0, 0, 1)[0].target, Perm.R)]


@pytest.mark.asyncio
async def test_what_holds_nothing_is_told_nothing() -> None:
    async with world_of() as world:
        consume(world)
        for _ in range(2):
            world.lose()
            assert not world.seat.ready
            world.back()
            consume(world)
        assert world.seat.first_turn.is_set()


@pytest.mark.asyncio
async def test_a_hand_over_of_which_a_part_is_lost_was_none() -> None:
    async with world_of() as world:
        consume(world)
        for page in range(3):
            world.map(page, 1)
        world.send()
        world.down()
        assert world.seat.statistics().lag == 0
        world.lose()
        assert not world.seat.ready
        world.settle()


@pytest.mark.asyncio
async def test_current_means_current_again() -> None:
    """Contract: whoever waits across a lost connection waits until the replay behind it is in use."""
    async with world_of() as world:
        subscription = handle_of(holding(world))
        await subscription.wait_current()
        assert subscription.statistics().current
        world.lose()
        assert not subscription.statistics().current
        over: list[bool] = []

        async def wait() -> None:
            await subscription.wait_current()
            over.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            for step in (world.back, lambda: rest(world)):
                step()
                await anyio.wait_all_tasks_blocked()
                assert not over
            consume(world)
        assert over


@pytest.mark.asyncio
async def test_nothing_is_said_to_be_dropped_while_it_is_pinned() -> None:
    """Law 8: the old subscription is replaced once nothing of it is in use, and not before."""
    async with world_of() as world:
        holding(world).pin()
        world.lose()
        world.back()
        consume(world)
        assert not world.held
        assert member_of(world) is State.UNPROVEN
        world.unpin()
        consume(world)
        assert member_of(world) is State.JOINED
        assert world.held


@pytest.mark.asyncio
async def test_a_consumer_that_cannot_forget_is_told_again_later() -> None:
    async with world_of() as world:
        away(world)
        world.back()
        for _ in range(2):
            assert world.work(fails=True)
            world.work()
            consume(world)
            assert (member_of(world), world.seat.ready) == (State.UNPROVEN, False)
            world.place.run_timers()
        consume(world)
        assert member_of(world) is State.JOINED


@pytest.mark.asyncio
async def test_what_was_taken_back_whole_is_as_good_as_acknowledged() -> None:
    """Nobody will speak of it: a consumer that acknowledges by hand is given nothing."""
    async with world_of() as world:
        holding(world)
        world.unmap(0, 1)
        rest(world)
        failed = world.seat.take()[0]
        world.map(0, 1)
        world.send()
        world.seat.fail(failed, OSError(12, "no room"))
        rest(world)
        assert world.seat.take() == []
        number = world.seat.handed
        world.seat.acknowledge(number - 1)
        assert world.seat.statistics().acked == number
        consume(world)


@pytest.mark.asyncio
async def test_that_it_is_current_is_said_before_it_is() -> None:
    """What fails later is the producer's to know, at both ends; whether or not anybody waits for the daemon."""
    async with world_of() as world:
        world.up()
        world.down()
        assert world.line is not None
        world.seat.take_in(DeliverHeard(1, 1, [Map("space", 1, 0, PAGE - 1, 0, Perm.R)], (), 0))
        world.seat.take()
        world.seat.take_in(DeliverHeard(1, 1, [], (), 0, current=True))
        world.seat.acknowledge(world.seat.handed)
        assert (list(world.line.up), world.seat.first_turn.is_set()) == ([Ack(1, 1)], True)
        world.line.up.clear()


@pytest.mark.asyncio
async def test_what_is_not_in_hand_cannot_fail() -> None:
    """Law 7: what was acknowledged is out of use; somebody may have relied on that."""
    async with world_of() as world:
        event = next(iter(holding(world).held.values()))
        with pytest.raises(NotInHand, match=r"MAP 0x0\.\.0xfff"):
            world.seat.fail(event, OSError(12, "no room"))


@pytest.mark.asyncio
async def test_what_of_the_replay_has_no_room_is_the_newcomers_own() -> None:
    async with world_of() as world:
        rest(world)
        cause = to_failure(TooManyMappings("model", 1))
        world.seat.take_failures(ReplayFailed(1, [MapFailure("model", "space", 0, 9, cause, 3)]))
        consume(world)
        with pytest.raises(MappingFailed) as caught:
            await handle_of(world).wait_current()
        assert [(one.first, one.last, one.count) for one in caught.value.failures] == [(0, 9, 3)]  # type: ignore[attr-defined]


# -- answers -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_answer_that_an_unmap_overtook_is_not_valid() -> None:
    """Law 5: it is looked at when it is installed, and the UNMAP was handed out between question and that."""
    async with world_of(Cap.UNMAP) as world:
        world.map(0, 1)
        world.map(1, 1)
        consume(world)
        world.miss(0)
        world.miss(1)
        rest(world)
        world.unmap(0, 1)
        consume(world)
        world.wake()
        assert [one.first for one in world.held.values()] == [PAGE]


@pytest.mark.asyncio
async def test_an_unmap_of_before_the_question_ends_no_answer() -> None:
    """Law 5: what was handed over by then, and is on its way, is older than the answer."""
    async with world_of(Cap.UNMAP) as world:
        consume(world)
        world.map(0, 1)
        world.miss(1)
        rest(world)
        world.wake()  # from now on removals are remembered
        world.unmap(0, 1)
        world.map(0, 1)
        rest(world)
        world.miss(0)
        rest(world)
        world.seat.take()
        world.wake()
        assert [one.first for one in world.held.values()] == [0]


@pytest.mark.asyncio
async def test_no_answer_outlives_its_connection() -> None:
    async with world_of(Cap.UNMAP) as world:
        world.map(0, 1)
        consume(world)
        asked = world.seat.translate(0, 1)
        asked.send(None)
        rest(world)
        with pytest.raises(StopIteration) as given:
            asked.send(None)
        assert given.value.value.valid
        late = world.seat.translate(0, 1)
        late.send(None)
        rest(world)
        world.lose()
        assert not given.value.value.valid
        with pytest.raises(Unreachable, match="it was cut"):
            late.send(None)
        with pytest.raises(Unreachable, match="it was cut"):
            await world.seat.translate(0, 1)
        assert world.seat.take() == [Unmap("space", 0, 0, PAGE - 1)]


# -- leaving -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_left_is_left_at_the_daemon_too() -> None:
    async with world_of() as world:
        holding(world).seat.leave()
        rest(world)
        assert (member_of(world), world.place.seats) == (State.GONE, [])


@pytest.mark.asyncio
async def test_left_with_a_pin_is_clean_once_that_has_ended() -> None:
    async with world_of() as world:
        holding(world).pin()
        world.seat.leave()
        rest(world)
        assert (world.seat.fenced, member_of(world)) == (True, State.UNPROVEN)
        world.unpin()
        rest(world)
        assert world.place.seats == []


@pytest.mark.asyncio
async def test_who_was_handed_nothing_live_leaves_clean_however_it_does() -> None:
    """Law 8: what has arrived here and was not handed out is in nobody's use."""
    async with world_of() as world:
        world.map(0, 1)
        rest(world)
        assert world.seat.ready
        world.seat.abandon("it crashed")
        rest(world)
        assert (world.seat.fenced, member_of(world), world.place.seats) == (True, State.GONE, [])


@pytest.mark.parametrize("end", ["leave", "abandon", "lose"])
@pytest.mark.asyncio
async def test_what_is_left_without_a_connection_is_told_when_there_is_one(end: str) -> None:
    async with world_of(stops="lease") as world:
        away(world)
        getattr(world.seat, end)(*["it crashed"] * (end != "leave"))
        world.back()
        rest(world)
        assert (member_of(world), world.place.seats) == (State.GONE, [])
        assert world.seat.fenced == (end != "leave")


@pytest.mark.asyncio
async def test_words_that_were_lost_are_said_again() -> None:
    async with world_of() as world:
        holding(world).seat.leave()
        world.lose()
        assert member_of(world) is State.UNPROVEN
        world.back()
        rest(world)
        assert (member_of(world), world.place.seats) == (State.GONE, [])


@pytest.mark.asyncio
async def test_hardware_that_is_left_unclean_without_a_connection_is_stopped_here() -> None:
    """Law 8: nobody at the daemon can ask for its on_fence any more."""
    stopped: list[str] = []

    async def stop() -> None:
        stopped.append("device")

    async with world_of(on_fence=stop) as world:
        away(world).seat.abandon("it crashed")
        assert world.seat.state is State.UNPROVEN
        world.back()
        assert member_of(world) is State.UNPROVEN
        await world.place.run_works()
        rest(world)
        assert (stopped, member_of(world), world.place.seats) == (["device"], State.GONE, [])


@pytest.mark.asyncio
async def test_hardware_without_on_fence_stays_until_somebody_vouches_for_it() -> None:
    async with world_of() as world:
        away(world).seat.abandon("it crashed")
        world.back()
        rest(world)
        assert (world.place.works, member_of(world)) == ([], State.UNPROVEN)
        world.seat.leave()
        rest(world)
        assert member_of(world) is State.GONE


@pytest.mark.asyncio
async def test_a_handle_that_is_forgotten_is_fenced() -> None:
    async with world_of() as world:
        subscription = handle_of(holding(world))
        del world.seat
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del subscription
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        seat = world.place.seats[0]
        assert (seat.fenced, seat.state) == (True, State.UNPROVEN)


@pytest.mark.asyncio
async def test_the_end_of_the_stream_is_the_end_across_a_lost_connection() -> None:
    for lost in ("never", "before", "after"):
        async with world_of() as world:
            holding(world)
            await world.space.close()
            rest(world)
            if lost == "before":
                world.lose()
                world.back()
            consume(world)
            assert (world.seat.ended, world.held) == (True, {})
            if lost == "after":
                world.lose()
                assert world.seat.ended
                world.back()
                rest(world)
                assert (world.seat.ended, world.seat.ready, member_of(world)) == (True, False, State.GONE)
            world.seat.leave()
            rest(world)
            assert (member_of(world), world.place.seats) == (State.GONE, [])


# -- fences --------------------------------------------------------------------------------


def fence(world: World) -> list[Exception | None]:
    """Have the daemon want a proof; return the list to which the answer will come."""
    answers: list[Exception | None] = []
    world.seat.run_fence(answers.append)
    return answers


@pytest.mark.asyncio
async def test_software_is_stopped_once_it_is_fenced_and_nothing_is_pinned() -> None:
    async with world_of(stops="lease") as world:
        subscription = handle_of(holding(world))
        world.pin()
        world.seat.take_fence("it was slow")
        with pytest.raises(Fenced, match="it was slow"):
            subscription.check_use()
        answers = fence(world)
        assert answers == []
        world.unpin()
        assert (answers, world.place.seats) == ([None], [world.seat])
        rest(world)
        assert world.place.seats == []  # once the daemon has heard that nothing is in use
        assert world.daemon.line is not None


@pytest.mark.asyncio
async def test_hardware_is_stopped_by_its_on_fence_once_for_all_who_ask() -> None:
    stopped: list[str] = []

    async def stop() -> None:
        stopped.append("begun")
        await anyio.lowlevel.checkpoint()
        stopped.append("stopped")

    async with world_of(on_fence=stop) as world:
        both = [fence(holding(world)), fence(world)]
        await world.place.run_works()
        assert (stopped, both) == (["begun", "stopped"], [[None], [None]])
        assert (world.seat.state, world.place.seats) == (State.GONE, [])


@pytest.mark.asyncio
async def test_an_on_fence_that_fails_proves_nothing_and_is_run_again() -> None:
    failing = [OSError(5, "stuck")]

    async def stop() -> None:
        if failing:
            raise failing.pop()

    async with world_of(on_fence=stop) as world:
        first = fence(holding(world))
        await world.place.run_works()
        assert (str(first[0]), world.seat.state) == ("[Errno 5] stuck", State.UNPROVEN)
        second = fence(world)
        await world.place.run_works()
        assert (second, world.seat.state) == ([None], State.GONE)


@pytest.mark.asyncio
async def test_hardware_without_on_fence_cannot_be_stopped_here() -> None:
    async with world_of() as world:
        answers = fence(holding(world))
        await world.place.run_works()
        assert isinstance(answers[0], Fenced)


# -- registering ---------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_who_is_refused_is_told_why() -> None:
    async with world_of() as world:
        refusal = DemandRefused("space", 0, 3, "no")
        refuse_next(world, refusal)
        with pytest.raises(DemandRefused):
            await world.seat.register()
        assert (world.seat.state, world.place.seats[1:]) == (State.GONE, [])


@pytest.mark.asyncio
async def test_who_is_refused_later_is_fenced_and_holds_nothing() -> None:
    async with world_of() as world:
        away(world)
        world.back()
        while world.work():
            pass
        assert not world.held
        refuse_next(world, DemandRefused("space", 0, 3, "no"))
        assert (world.seat.fenced, "refused the demand" in world.seat.reason) == (True, True)
        assert world.place.seats == []


@pytest.mark.asyncio
async def test_a_daemon_that_is_about_to_stop_refuses_nobody_for_good() -> None:
    async with world_of() as world:
        refuse_next(world, Stopping("an update"))
        states = [world.seat.state]
        world.lose()
        world.back()
        consume(world)
        assert [*states, world.seat.state] == [State.NEW, State.JOINED]


@pytest.mark.asyncio
@pytest.mark.parametrize(("stops", "holder"), [("exit", HOLDER), ("lease", 0)])
async def test_who_is_registered_again_names_its_holder_again(stops: Stops, holder: int) -> None:
    async with world_of(stops=stops) as world:
        for replaces in 0, 1:
            assert world.line is not None
            (asked,) = world.line.up
            assert isinstance(asked, Subscribe)
            assert (asked.replaces, asked.holder) == (replaces, holder)
            consume(world)
            world.lose()
            consume(world)
            world.back()


def refuse_next(world: World, error: Exception) -> None:
    """Have the daemon refuse the registration that was asked for."""
    assert world.line is not None
    asked = world.line.up.popleft()
    assert isinstance(asked, Subscribe)
    world.line.down.append(Refused(asked.request, to_failure(error)))
    world.down()


@pytest.mark.asyncio
async def test_nobody_is_left_behind_whose_registration_was_interrupted() -> None:
    """Whether or not the daemon has heard of it, or is there at all."""
    for heard in (None, False, True):
        async with world_of() as world:
            if heard is None:
                world.lose()
            world.place.seats.clear()
            with anyio.move_on_after(0) as scope:
                scope.cancel()
                await world.seat.register()
            if heard:
                rest(world)
            assert world.seat.state is State.GONE
            world.lose()
            world.back()
            rest(world)
            assert (member_of(world), world.place.seats) == (State.GONE, [])


@pytest.mark.asyncio
async def test_uses_go_on_in_the_new_registration() -> None:
    async with world_of() as world:
        use = holding(world).seat.begin_use()  # of something that was not taken away
        world.lose()
        world.back()
        consume(world)
        assert world.daemon.now is not None
        assert world.daemon.now.uses == 1
        use.end()
        rest(world)
        assert world.daemon.now.uses == 0


# -- no connection any more ------------------------------------------------------------------


@pytest.mark.asyncio
async def test_when_the_bus_is_closed_everything_is_taken_away_and_the_stream_ends() -> None:
    async with world_of() as world:
        subscription = handle_of(holding(world))
        world.seat.end(BusClosed())
        assert [type(event) async for event in subscription] == [Unmap]
        assert (world.seat.fenced, world.place.seats) == (False, [])
        await subscription.wait_current()


@pytest.mark.asyncio
async def test_a_client_that_is_not_let_in_again_is_fenced() -> None:
    stopped: list[str] = []

    async def stop() -> None:
        stopped.append("device")

    async with world_of(on_fence=stop) as world:
        subscription = handle_of(holding(world))
        world.seat.end(RuleMissing("uid 7", "connect", "", "[[rules]]"))
        with pytest.raises(Fenced, match="may not connect"):
            subscription.check_use()
        await world.place.run_works()
        assert (stopped, world.seat.state) == (["device"], State.GONE)


@pytest.mark.asyncio
async def test_who_registers_when_there_will_be_no_connection_is_told() -> None:
    async with world_of() as world:
        world.seat.end(BusClosed())
        with pytest.raises(BusClosed):
            await world.seat.register()


# -- leases --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_lease_ends_by_the_clock_at_the_moment_of_use() -> None:
    """Law 8: a process that was stopped has not been told that its lease ran out."""
    async with world_of(stops="lease") as world:
        assert world.line is not None
        world.line.lease_end = LEASE
        subscription = handle_of(holding(world))
        world.place.time = LEASE - 0.001
        subscription.check_use()
        fenced = [subscription.fenced]
        world.place.time = LEASE
        assert [*fenced, subscription.fenced] == [False, True]
        with pytest.raises(LeaseRunOut, match="'model' has run out"):
            subscription.check_use()
        world.line.lease_end += 1  # the answer had come meanwhile
        subscription.check_use()


@pytest.mark.asyncio
async def test_a_lease_that_has_run_out_is_over_until_all_is_dropped_and_the_daemon_is_back() -> None:
    async with world_of(stops="lease") as world:
        assert world.line is not None
        world.line.lease_end = LEASE
        subscription = handle_of(holding(world))
        world.lose()
        subscription.check_use()
        world.place.time = LEASE
        world.back()
        assert world.line is not None
        world.line.lease_end = 2 * LEASE
        steps: tuple[Callable[[World], object], ...] = (rest, World.work, World.work)
        for step in steps:
            with pytest.raises(LeaseRunOut, match="it was cut"):
                subscription.check_use()
            step(world)
        rest(world)
        subscription.check_use()


@pytest.mark.asyncio
async def test_hardware_has_no_lease() -> None:
    async with world_of() as world:
        assert world.line is not None
        world.line.lease_end = LEASE
        subscription = handle_of(holding(world))
        world.place.time = 2 * LEASE
        subscription.check_use()
        world.lose()
        subscription.check_use()
        world.seat.leave()
        with pytest.raises(SubscriptionClosed):
            subscription.check_use()
