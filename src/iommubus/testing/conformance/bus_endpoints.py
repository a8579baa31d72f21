"""Cases for a bus: endpoints that come and go, and several that one consumer needs (laws 3, 4 and 10)."""

from typing import Final

from ...caps import Cap
from ...errors import EndpointClosed, MustShare, NameTaken, NotMapped, SpaceClosed
from ...events import Map, Unmap
from ...ranges import LAST
from .demands import demand, demand_raised
from .failures import failure_of
from .moving import demand_holds, demand_place, endpoint_in, join, two_spaces
from .scene import PAGE, Stage


async def a_subscriber_waits_for_its_endpoint(stage: Stage) -> None:
    """Law 4: until an endpoint exists nothing is mapped there; then its subscribers follow, and count."""
    old, new = await two_spaces(stage)
    follower = await join(stage, name="early")
    with demand_raised(NotMapped, iova=0):
        await follower.events.translate(0)
    endpoint = await endpoint_in(stage, None)
    demand_place(endpoint, None)
    await demand_holds(stage, follower, None)
    follower.gate.shut()
    endpoint.attach(old.space)
    (await failure_of(old.space.sync)).demand_missing("early")
    follower.gate.open()
    await demand_holds(stage, follower, old)
    own = await stage.follow("late", Cap.IOTLB, ("late",))
    late = await stage.scene("late")
    late.map(3)
    await late.sync()
    late.check(own)
    await demand_holds(stage, follower, old)
    demand("who waits for another is told nothing", follower.told(Unmap, 0, LAST), [])
    endpoint.attach(new.space)
    await demand_holds(stage, follower, new)


async def closing_an_endpoint_ends_its_streams(stage: Stage) -> None:
    """Law 3: its subscribers are told that everything is gone, and then the end; its name is free again."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower, own = await join(stage), await join(stage, "old")
    await endpoint.close()
    await follower.wait_end()
    demand("nothing is held at the end", follower.holds(), [])
    demand_place(endpoint, None)
    with demand_raised(EndpointClosed, endpoint="device"):
        endpoint.attach(new.space)
    with demand_raised(EndpointClosed, endpoint="device"):
        endpoint.detach()
    await endpoint.close()
    await endpoint_in(stage, new.space)
    await demand_holds(stage, await join(stage), new)
    await demand_holds(stage, own, old)
    demand("other streams go on", own.ended, wanted=False)


async def closing_a_space_detaches_the_endpoints_of_other_names(stage: Stage) -> None:
    """Law 3: they are told that everything is gone, and their streams go on elsewhere."""
    old, new = await two_spaces(stage)
    endpoint = await endpoint_in(stage, old.space)
    follower, own = await join(stage), await join(stage, "old")
    await old.space.close()
    await own.wait_end()
    await old.sync()
    demand("nothing of a closed space is held", follower.holds(), [])
    demand_place(endpoint, None)
    with demand_raised(SpaceClosed, space="old"):
        endpoint.attach(old.space)
    endpoint.attach(new.space)
    await demand_holds(stage, follower, new)
    demand("the stream of an endpoint goes on", follower.ended, wanted=False)


async def spaces_and_endpoints_share_their_names(stage: Stage) -> None:
    """Contract: an endpoint is never called as a space or another one is."""
    await stage.scene()
    endpoint = await endpoint_in(stage, None)
    with demand_raised(NameTaken, name="space"):
        await stage.bus.create_endpoint("space")
    for make in (stage.bus.create_endpoint, stage.bus.create_space):
        with demand_raised(NameTaken, name="device"):
            await make("device")
    await endpoint.close()
    await stage.scene("device")


async def a_container_sees_nothing_until_all_its_endpoints_are_there(stage: Stage) -> None:
    """Law 4: a subscription to several endpoints sees a space while all of them are in it."""
    old, new = await two_spaces(stage)
    one, two = [await endpoint_in(stage, None, name) for name in ("one", "two")]
    container = await join(stage, ("one", "two"))
    for scene in (old, new):
        one.attach(scene.space)
        await demand_holds(stage, container, None)
        two.attach(scene.space)
        await demand_holds(stage, container, scene)
        two.detach()
        await demand_holds(stage, container, None)
        one.detach()
    demand("a container is told of nothing twice", len(container.told(Map, 0, PAGE - 1)), 2)


async def a_contradicting_attach_moves_nobody(stage: Stage) -> None:
    """Law 10: an attach that would tear a container apart is refused, and everybody stays where it is."""
    old, new = await two_spaces(stage)
    one, two = [await endpoint_in(stage, old.space, name) for name in ("one", "two")]
    container, alone = await join(stage, ("one", "two"), name="group"), await join(stage, "two")
    before = list(container.seen), list(alone.seen)
    values = {"subscription": "group", "endpoint": "two", "space": "new", "other": "one", "other_space": "old"}
    with demand_raised(MustShare, **values):
        two.attach(new.space)
    demand_place(two, "old")
    for follower in (container, alone):
        await demand_holds(stage, follower, old)
    demand("nobody is told of what was refused", (container.seen, alone.seen), before)
    with demand_raised(MustShare):
        await stage.enter(Cap.IOTLB, ("two", "new"))
    one.detach()
    for endpoint in (two, one):
        endpoint.attach(new.space)
    for follower in (container, alone):
        await demand_holds(stage, follower, new)


CASES: Final = (
    a_subscriber_waits_for_its_endpoint,
    closing_an_endpoint_ends_its_streams,
    closing_a_space_detaches_the_endpoints_of_other_names,
    spaces_and_endpoints_share_their_names,
    a_container_sees_nothing_until_all_its_endpoints_are_there,
    a_contradicting_attach_moves_nobody,
)
