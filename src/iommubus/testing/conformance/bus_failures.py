"""Cases for a bus: what becomes of failures, and of those who leave unclean (laws 7 and 8)."""

from typing import Any, Final

from ...bus.abc import Subscription
from ...caps import Cap
from ...completion import How
from ...errors import Fenced, MappingFailed, PromiseBroken, UnknownName
from ...events import Map, Unmap
from .demands import demand, demand_raised
from .failures import failure_of, leave_unclean
from .follower import NO_ROOM, BackEndFailed
from .scene import PAGE, Scene, Stage


async def a_map_that_failed_is_raised_once(stage: Stage) -> None:
    """Law 7: the next sync raises a MAP that could not be applied, once; the subscriber goes on."""
    scene = await stage.scene()
    follower = await scene.join(name="full", failing=(Map,))
    scene.map(0)
    failure = await failure_of(scene.space.sync, within=stage.patience / 2)
    found = [(entry.subscriber, entry.space, entry.first, entry.last) for entry in failure.failures]
    demand("a MAP that failed is raised with its range", found, [("full", "space", 0, PAGE - 1)])
    demand("the cause is given", NO_ROOM in str(failure.failures[0].cause), wanted=True)
    demand("a MAP that failed leaves nobody missing", failure.missing, [])
    follower.failing = ()
    await scene.sync()
    scene.map(4)
    scene.unmap(0)
    await scene.settle()


async def a_map_that_failed_in_the_first_replay_is_the_newcomers_own(stage: Stage) -> None:
    """Law 7: what fails in a first replay is raised by `wait_current`, and by no sync."""
    scene = await stage.scene()
    scene.map(0)
    newcomer = await scene.enter(failing=(Map,))
    try:
        await newcomer.events.wait_current()
    except MappingFailed as failed:
        demand("every failure is named", len(failed.failures), 1)
    else:
        raise PromiseBroken("wait_current raises what failed in the replay", "MappingFailed", "no error")
    newcomer.failing = ()
    await scene.sync()


async def an_unmap_that_failed_is_raised_until_it_is_applied(stage: Stage) -> None:
    """Law 7: until an UNMAP is applied, it comes again and every sync raises with the old targets."""
    scene = await stage.scene()
    follower = await scene.join(name="stubborn")
    old = scene.map(0, 2)
    scene.map(4)
    await scene.settle()
    follower.failing = (Unmap,)
    scene.unmap(0, 2)
    for _ in range(2):
        failure = await failure_of(scene.space.sync, within=stage.patience / 2)
        failure.demand_missing("stubborn", old)
        demand("the cause is given", NO_ROOM in str(failure.missing[0].cause), wanted=True)
    scene.map(1)
    follower.failing = ()
    await scene.settle()


async def one_that_left_unclean_is_stopped_by_its_lease(stage: Stage) -> None:
    """Law 8: software that looks at `fenced` before each use is stopped by the fence."""
    scene = await stage.scene()
    scene.map(0)
    events = await leave_unclean(stage)
    demand("who left unclean is fenced", events.fenced, wanted=True)
    scene.unmap(0)
    await scene.sync()
    await demand_fenced(events)


async def one_that_left_unclean_is_stopped_by_its_on_fence(stage: Stage) -> None:
    """Law 8: a device that keeps what it holds is stopped by its on_fence, which sync runs."""
    scene = await stage.scene()
    scene.map(0)
    stopped: list[str] = []

    async def stop() -> None:
        stopped.append("device")

    await leave_unclean(stage, stops="exit", on_fence=stop)
    scene.unmap(0)
    report = await scene.sync()
    demand("on_fence is run, once", stopped, ["device"])
    demand("its stop is reported", [outcome.how for outcome in report.outcomes], [How.STOPPED])
    await scene.sync()
    demand("on_fence is run no more", stopped, ["device"])


async def one_that_is_not_proven_stopped_is_missing(stage: Stage) -> None:
    """Law 8: without proof that it stopped, every sync raises, until somebody vouches for it."""
    scene = await stage.scene()
    old = scene.map(0)
    events = await leave_unclean(stage, stops="exit", name="device")
    scene.unmap(0)
    for _ in range(2):
        (await failure_of(scene.space.sync)).demand_missing("device", old)
    await events.close()
    await scene.sync()


async def an_on_fence_that_fails_proves_nothing(stage: Stage) -> None:
    """Law 8: a sync whose on_fence raises fails with that cause, and the next one tries again."""
    scene = await stage.scene()
    old = scene.map(0)
    failing = [BackEndFailed(NO_ROOM)]

    async def stop() -> None:
        if failing:
            raise failing.pop()

    await leave_unclean(stage, stops="exit", on_fence=stop, name="device")
    scene.unmap(0)
    failure = await failure_of(scene.space.sync, within=stage.patience / 2)
    failure.demand_missing("device", old)
    demand("the cause is given", NO_ROOM in str(failure.missing[0].cause), wanted=True)
    await scene.sync()


async def one_that_was_given_nothing_leaves_nothing_behind(stage: Stage) -> None:
    """Law 8: who left unclean and never held anything need not be stopped."""
    scene = await stage.scene()
    try:
        async with stage.bus.subscribe("space", Cap.IOTLB, stops="exit"):
            raise BackEndFailed  # noqa: TRY301 - this is how the block is left
    except BackEndFailed:
        pass
    scene.map(0)
    scene.unmap(0)
    await scene.sync()


async def a_fence_stops_a_subscriber_for_good(stage: Stage) -> None:
    """Law 8: `fence` takes a subscriber by name or handle, and says whether it is proven stopped."""
    scene = await stage.scene()
    scene.map(0)
    await fence_one(scene, by_name=True, proven=True)
    await fence_one(scene, by_name=False, proven=True)
    await scene.sync()
    await fence_one(scene, by_name=True, proven=False, stops="exit")
    await scene.sync()
    with demand_raised(UnknownName, name="nobody"):
        await scene.space.fence("nobody")


async def fence_one(scene: Scene, *, by_name: bool, proven: bool, **options: Any) -> None:
    """Fence one who holds something; it leaves its block, and so vouches that it dropped that."""
    async with scene.bus.subscribe("space", Cap.IOTLB, **options) as events:
        stream = aiter(events)
        await anext(stream)
        del stream
        found = await scene.space.fence(events.name if by_name else events)
        demand("fence says whether it is proven", found, proven)
        demand("who was fenced knows", events.fenced, wanted=True)
        await demand_fenced(events)
        if not proven:
            await failure_of(scene.space.sync)


async def demand_fenced(events: Subscription) -> None:
    """Demand that nothing more comes from a subscription that was fenced."""
    with demand_raised(Fenced, subscription=events.name):
        await anext(aiter(events))


CASES: Final = (
    a_map_that_failed_is_raised_once,
    a_map_that_failed_in_the_first_replay_is_the_newcomers_own,
    an_unmap_that_failed_is_raised_until_it_is_applied,
    one_that_left_unclean_is_stopped_by_its_lease,
    one_that_left_unclean_is_stopped_by_its_on_fence,
    one_that_is_not_proven_stopped_is_missing,
    an_on_fence_that_fails_proves_nothing,
    one_that_was_given_nothing_leaves_nothing_behind,
    a_fence_stops_a_subscriber_for_good,
)
