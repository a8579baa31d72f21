"""Cases for a bus: endpoints that move from space to space, and those who follow them (laws 1, 3, 4 and 10)."""

from typing import Any, Final

from ...caps import Cap, Perm
from ...errors import Fenced, NotMapped
from ...events import DevIotlbUnmap, Map, Unmap
from ...mapping import Mapping
from ...ranges import LAST
from .demands import demand, demand_raised
from .failures import failure_of
from .moving import demand_holds, demand_place, endpoint_in, join, two_spaces
from .scene import PAGE, Stage


async def a_moved_subscriber_sees_the_old_go_and_the_new_come(stage: Stage) -> None:
    """Law 4: an attach takes away what the old space had, then gives what the new one has, and nothing else."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower = await join(stage)
    await demand_holds(stage, follower, old)
    endpoint.attach(new.space)
    demand_place(endpoint, "new")
    old.map(20)
    new.map(21)
    await demand_holds(stage, follower, new)
    demand("what is mapped elsewhere now is not told", follower.told(Map, 20 * PAGE, 21 * PAGE - 1), [])
    spaces = {(type(event), event.space) for event in follower.seen}
    demand("each event names the space it is about", spaces, {(Map, "old"), (Unmap, "old"), (Map, "new")})
    endpoint.detach()
    demand_place(endpoint, None)
    await demand_holds(stage, follower, None)


async def attaching_where_it_is_already_is_nothing(stage: Stage) -> None:
    """Law 4: who is in a space already is told nothing when it is attached there."""
    old, _ = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower = await join(stage)
    before = list(follower.seen)
    endpoint.attach(old.space)
    await demand_holds(stage, follower, old)
    demand("nobody is told of what did not change", follower.seen, before)


async def many_moves_with_little_room_end_equal(stage: Stage) -> None:
    """Law 3: however often an endpoint moves under a slow subscriber, what that holds in the end is right."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower = await join(stage, capacity=1)
    follower.gate.shut()
    for page in range(20, 40):
        new.map(page)
        endpoint.attach(new.space)
        old.map(page)
        endpoint.attach(old.space)
        old.unmap(page - page % 2)
    endpoint.attach(new.space)
    new.unmap(0)
    follower.gate.open()
    await demand_holds(stage, follower, new)


async def a_moved_subscriber_counts_in_the_old_space_until_it_let_go(stage: Stage) -> None:
    """Law 1: a sync of the space that was left names who has not let go, with the targets."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower = await join(stage, name="vfio")
    follower.gate.shut()
    endpoint.attach(new.space)
    failure = await failure_of(old.space.sync)
    failure.demand_missing("vfio", *old.pages.mappings())
    demand("the space that was left is named", failure.missing[0].space, "old")
    follower.gate.open()
    await old.sync()
    report = await old.sync()
    demand("who has let go counts no longer", report.outcomes, ())


async def a_moved_subscriber_counts_in_the_new_space_from_the_move(stage: Stage) -> None:
    """Law 1: a sync of the new space waits until what is mapped there was given, so that a device can be started."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower = await join(stage, name="vfio")
    follower.gate.shut()
    endpoint.attach(new.space)
    (await failure_of(new.space.sync)).demand_missing("vfio")
    follower.gate.open()
    report = await new.sync()
    demand("a report of the new space names it", [outcome.subscriber for outcome in report.outcomes], ["vfio"])
    demand("after a sync of the new space its mappings are there", follower.holds(), new.pages.mappings())


async def endpoints_of_one_space_share_its_table(stage: Stage) -> None:
    """Law 4: all endpoints of a space are given what is mapped there, and one that goes takes nothing from others."""
    old, _ = await two_spaces(stage)
    endpoints = [await endpoint_in(stage, old.space, name) for name in ("one", "two")]
    leaving, staying = [await join(stage, name) for name in ("one", "two")]
    own = await join(stage, "old")
    old.map(20)
    for follower in (leaving, staying, own):
        await demand_holds(stage, follower, old)
    endpoints[0].detach()
    await demand_holds(stage, leaving, None)
    for follower in (staying, own):
        await demand_holds(stage, follower, old)
        demand("an endpoint that goes takes nothing from others", follower.told(Unmap, 0, LAST), [])
    demand("a detach unmaps nothing", old.space.statistics().mappings, len(old.pages.mappings()))


async def caches_hear_of_a_detach(stage: Stage) -> None:
    """Law 1: who asked for UNMAP or DEVIOTLB_UNMAP alone is told in that kind that all of it is gone, and counts."""
    old, _ = await two_spaces(stage, offers=Cap.ALL)
    for caps, kind in ((Cap.UNMAP, Unmap), (Cap.DEVIOTLB_UNMAP, DevIotlbUnmap)):
        endpoint = await endpoint_in(stage, old.space)
        cache = await join(stage, caps=caps, name="cache")
        answer = await cache.events.translate(0)
        cache.gate.shut()
        endpoint.detach()
        (await failure_of(old.space.sync)).demand_missing("cache", *old.pages.mappings())
        cache.gate.open()
        await old.sync()
        told = cache.told(kind, 0, LAST)
        demand(f"{kind.__name__} is all that is told", cache.seen, told)
        for piece in old.pages.mappings():
            over = [event for event in told if event.first <= piece.first and piece.last <= event.last]
            demand(f"everything is told by {kind.__name__}", bool(over), wanted=True)
        demand("an answer ends with the detach", answer.valid, wanted=False)
        with demand_raised(NotMapped, iova=0):
            await cache.events.translate(0)
        await endpoint.close()


async def one_that_the_new_space_cannot_serve_is_fenced(stage: Stage) -> None:
    """Law 10: the producer moves its endpoint, and the subscriber that cannot follow is fenced, alone."""

    def refuse(_: Cap, new: Cap) -> None:
        if new & Cap.MAP:
            raise ValueError("no shadowers here")

    kinds: tuple[dict[str, Any], ...] = ({"offers": Cap.UNMAP}, {"granule": 0x100}, {"demand_changed": refuse})
    old, _ = await two_spaces(stage)
    for number, options in enumerate(kinds):
        space = await stage.bus.create_space(f"strange{number}", **options)
        endpoint = await endpoint_in(stage, old.space)
        async with (
            stage.bus.subscribe("device", Cap.IOTLB, granule=PAGE) as events,
            stage.bus.subscribe("device", Cap.UNMAP) as cacher,
        ):
            stream, other = aiter(events), aiter(cacher)
            await anext(stream)
            endpoint.attach(space)
            demand_place(endpoint, space.name)
            with demand_raised(Fenced, subscription=events.name):
                async for _ in stream:
                    pass  # what it had in the old space
            demand("who cannot follow is fenced", (events.fenced, cacher.fenced), (True, False))
            demand("who can is told what to forget", (await anext(other)).space, "old")
            await endpoint.close()


async def identity_is_a_space_with_one_mapping(stage: Stage) -> None:
    """Law 9: every address can lead to itself, and endpoints move in and out of that."""
    old, _ = await two_spaces(stage)
    identity = await stage.bus.create_space("identity")
    identity.map(0, LAST + 1, 0, Perm.RW)
    endpoint = await endpoint_in(stage, old.space)
    follower = await stage.follow("device", Cap.IOTLB, ("old", "identity"))
    for _ in range(2):
        endpoint.attach(identity)
        await stage.sync()
        demand("every address leads to itself", follower.holds(), [Mapping(0, LAST, 0, Perm.RW)])
        endpoint.attach(old.space)
        await demand_holds(stage, follower, old)


CASES: Final = (
    a_moved_subscriber_sees_the_old_go_and_the_new_come,
    attaching_where_it_is_already_is_nothing,
    many_moves_with_little_room_end_equal,
    a_moved_subscriber_counts_in_the_old_space_until_it_let_go,
    a_moved_subscriber_counts_in_the_new_space_from_the_move,
    endpoints_of_one_space_share_its_table,
    caches_hear_of_a_detach,
    one_that_the_new_space_cannot_serve_is_fenced,
    identity_is_a_space_with_one_mapping,
)
