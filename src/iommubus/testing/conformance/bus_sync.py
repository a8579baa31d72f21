"""Cases for a bus: what `sync` promises, and that nothing else waits (laws 1, 2 and 10)."""

from typing import Final

import anyio

from ...caps import Cap, Perm
from ...completion import How
from ...errors import CapabilityRefused, NotOffered, UnknownName
from ...events import DevIotlbUnmap, Unmap
from .demands import breathe, demand, demand_raised, until
from .failures import failure_of, leave_unclean
from .scene import PAGE, Stage

MANY: Final = 300
"""Changes in one go: more than any mailbox of these cases holds."""


async def a_sync_waits_until_what_was_unmapped_is_out_of_use(stage: Stage) -> None:
    """Law 1: when sync returns, nobody uses what was unmapped before."""
    scene = await stage.scene()
    for dawdle in (0, 3, 20):
        await scene.join(dawdle=dawdle)
    for page in range(6):
        scene.map(page)
    await scene.settle()
    for page in range(0, 6, 2):
        scene.unmap(page)
        await scene.settle()


async def a_sync_that_fails_names_the_missing_and_the_old_targets(stage: Stage) -> None:
    """Law 1: who may still use what was unmapped is named, with the pieces and where they led."""
    scene = await stage.scene()
    follower = await scene.join(name="stuck")
    old = [scene.map(page, 2) for page in (0, 4)]
    scene.map(8)
    await scene.settle()
    follower.gate.shut()
    scene.unmap(0, 6)
    failure = await failure_of(scene.space.sync)
    failure.demand_missing("stuck", *old)
    demand("a sync that fails names the space", failure.missing[0].space, "space")
    follower.gate.open()
    await scene.settle()


async def a_sync_reports_who_counted(stage: Stage) -> None:
    """Law 1: a sync that succeeded says who counted, and how each was through."""
    scene = await stage.scene()
    await scene.join(name="vfio")
    await scene.join(Cap.UNMAP, name="vhost")
    scene.map(0)
    scene.unmap(0)
    report = await scene.sync()
    found = {(outcome.subscriber, outcome.space, outcome.how) for outcome in report.outcomes}
    wanted = {("vfio", "space", How.ACKNOWLEDGED), ("vhost", "space", How.ACKNOWLEDGED)}
    demand("a report names everybody", found, wanted)


async def a_manual_acknowledgement_is_the_only_one(stage: Stage) -> None:
    """Law 1: with ack="manual" nothing but `ack` says that a batch is out of use."""
    scene = await stage.scene()
    async with stage.bus.subscribe("space", Cap.UNMAP, ack="manual", name="slow") as events:
        stream = events.batches()
        old = scene.map(0)
        scene.unmap(0)
        batch = await anext(stream)
        (await failure_of(scene.space.sync)).demand_missing("slow", old)
        events.ack(batch)
        await scene.sync()


async def who_left_its_block_counts_no_longer(stage: Stage) -> None:
    """Law 1: leaving the block promises that everything was dropped, also to a sync that waits."""
    scene = await stage.scene()
    async with anyio.create_task_group() as tasks, stage.bus.subscribe("space", Cap.UNMAP) as events:
        scene.map(0)
        scene.unmap(0)
        await anext(aiter(events))
        tasks.start_soon(scene.sync)
        await breathe()
    report = await scene.sync()
    demand("who has left counts no longer", report.outcomes, ())


async def a_newcomer_in_its_replay_holds_up_no_sync(stage: Stage) -> None:
    """Law 1: nobody waits for the replay of one who has been given nothing yet."""
    scene = await stage.scene()
    for page in range(8):
        scene.map(page)
    async with stage.bus.subscribe("space", Cap.IOTLB):
        await scene.sync()


async def a_sync_over_patterns_is_over_every_space_that_matches(stage: Stage) -> None:
    """Law 1: `EventBus.sync` waits for the spaces that its patterns name, for all if it names none."""
    stuck, other = await stage.scene("vtd0/a"), await stage.scene("vtd1/a")
    follower = await stuck.join(name="stuck")
    await other.join()
    old = stuck.map(0)
    other.map(0)
    await stage.bus.sync(timeout=stage.patience / 2)
    follower.gate.shut()
    stuck.unmap(0)
    other.unmap(0)
    await stage.bus.sync("vtd1/*", timeout=stage.patience / 2)
    other.check(other.followers[0])
    for patterns in (("vtd0/*",), ("*",), ("vtd1/a", "vtd0/a"), ()):
        (await failure_of(stage.bus.sync, *patterns)).demand_missing("stuck", old)
    with demand_raised(UnknownName, name="vtd2/a"):
        await stage.bus.sync("vtd2/a")
    follower.gate.open()
    await stuck.settle()


async def device_invalidations_reach_who_asked_and_count(stage: Stage) -> None:
    """Law 1: a DEVIOTLB_UNMAP goes to those who asked for it, and sync waits for them."""
    scene = await stage.scene(offers=Cap.ALL)
    device = await scene.join(Cap.DEVIOTLB_UNMAP, name="ats")
    shadower = await scene.join()
    scene.space.invalidate_device(2 * PAGE, PAGE)
    await scene.sync()
    demand("who asked is told", len(device.told(DevIotlbUnmap, 2 * PAGE, 3 * PAGE - 1)), 1)
    demand("who did not ask is not told", shadower.seen, [])
    device.gate.shut()
    scene.space.invalidate_device(0, PAGE)
    failure = await failure_of(scene.space.sync)
    demand("a device that has not answered is missing", [entry.subscriber for entry in failure.missing], ["ats"])
    demand("where it led is not known", failure.missing[0].pieces.truncated, wanted=True)
    device.gate.open()
    await scene.sync()


async def a_space_invalidates_devices_only_if_it_offers_that(stage: Stage) -> None:
    """Law 1: what is not offered is refused, to the producer and to the subscriber."""
    scene = await stage.scene()
    with demand_raised(NotOffered, kind="DEVIOTLB_UNMAP"):
        scene.space.invalidate_device(0, PAGE)
    with demand_raised(CapabilityRefused, space="space"):
        await stage.enter(Cap.DEVIOTLB_UNMAP)


async def a_pull_space_publishes_unmaps_of_what_was_never_mapped(stage: Stage) -> None:
    """Law 1: a space without MAP keeps no table; each of its UNMAPs is told, and synced."""
    scene = await stage.scene(offers=Cap.UNMAP)
    cacher = await scene.join(Cap.UNMAP, name="cacher")
    demand("a pull space knows no pieces", list(scene.space.unmap(0, 4 * PAGE)), [])
    await scene.sync()
    demand("an UNMAP of a pull space is told", len(cacher.told(Unmap, 0, 4 * PAGE - 1)), 1)
    with demand_raised(NotOffered, kind="MAP"):
        scene.space.map(0, PAGE, 0, Perm.RW)
    with demand_raised(CapabilityRefused, space="space"):
        await stage.enter(Cap.IOTLB)
    cacher.gate.shut()
    scene.space.unmap(8 * PAGE, PAGE)
    failure = await failure_of(scene.space.sync)
    demand("a pull space names ranges", failure.missing[0].pieces.truncated, wanted=True)
    cacher.gate.open()
    await scene.sync()


async def publishing_waits_for_nobody(stage: Stage) -> None:
    """Law 2: changes are plain calls, however slow a subscriber is."""
    scene = await stage.scene()
    follower = await scene.join(capacity=1)
    follower.gate.shut()
    for number in range(MANY):
        scene.map(number % 60)
        scene.unmap(number % 60)
    scene.map(61)
    follower.gate.open()
    await scene.settle()


async def drain_ends_when_mailboxes_have_room(stage: Stage) -> None:
    """Law 2: drain waits until every mailbox is at most half full."""
    scene = await stage.scene()
    follower = await scene.join(capacity=8)
    await scene.space.drain()
    follower.gate.shut()
    for page in range(32):
        scene.map(page)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.space.drain)
        await breathe()
        follower.gate.open()
    await scene.settle()


async def a_slow_subscriber_is_its_own_problem(stage: Stage) -> None:
    """Law 10: one that does not move can make a sync fail, and nothing else."""
    scene = await stage.scene()
    slow, quick = await scene.join(name="slow", capacity=1), await scene.join(name="quick")
    old = scene.map(0)
    await scene.settle()
    slow.gate.shut()
    scene.unmap(0)
    for page in range(8, 40):
        scene.map(page)
    await until(lambda: quick.holds() == scene.pages.mappings())
    failure = await failure_of(scene.space.sync)
    while len(failure.missing) > 1:  # the quick one's last word may still be on its way
        failure = await failure_of(scene.space.sync)
    failure.demand_missing("slow", old)
    slow.gate.open()
    await scene.settle()


async def one_that_crashes_is_its_own_problem(stage: Stage) -> None:
    """Law 10: one that leaves by an exception disturbs nobody."""
    scene = await stage.scene()
    await scene.join()
    for page in range(4):
        scene.map(page)
    await leave_unclean(stage)
    scene.unmap(0, 4)
    scene.map(2, 3)
    await scene.settle()


CASES: Final = (
    a_sync_waits_until_what_was_unmapped_is_out_of_use,
    a_sync_that_fails_names_the_missing_and_the_old_targets,
    a_sync_reports_who_counted,
    a_manual_acknowledgement_is_the_only_one,
    who_left_its_block_counts_no_longer,
    a_newcomer_in_its_replay_holds_up_no_sync,
    a_sync_over_patterns_is_over_every_space_that_matches,
    device_invalidations_reach_who_asked_and_count,
    a_space_invalidates_devices_only_if_it_offers_that,
    a_pull_space_publishes_unmaps_of_what_was_never_mapped,
    publishing_waits_for_nobody,
    drain_ends_when_mailboxes_have_room,
    a_slow_subscriber_is_its_own_problem,
    one_that_crashes_is_its_own_problem,
)
