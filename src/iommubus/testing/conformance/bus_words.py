"""Cases for a bus: addresses, names, beginnings and ends, and what is refused (law 9)."""

from typing import Any, Final

from ...caps import Cap, Perm
from ...errors import (
    AlreadyIterated,
    BadCapacity,
    BadName,
    BadPermission,
    BadTarget,
    BusClosed,
    DemandRefused,
    EmptyMask,
    EmptyRange,
    ForeignBatch,
    InReserved,
    MapAlone,
    MappingError,
    Misaligned,
    NameTaken,
    NotEntered,
    OutsideRanges,
    OutsideSpace,
    RangeWraps,
    SpaceClosed,
    SubscriptionClosed,
    UnknownCapability,
    WrongMode,
)
from ...events import Event, Map, Unmap
from ...mapping import Mapping
from ...ranges import LAST, IovaRange
from .demands import breathe, demand, demand_raised, until
from .scene import PAGE, Stage

WINDOW: Final = IovaRange(32 * PAGE, 33 * PAGE - 1)
"""A reserved range."""

REFUSED: Final[tuple[tuple[tuple[int, int, int, int], type[MappingError], dict[str, Any]], ...]] = (
    ((0, 0, 0, 3), EmptyRange, {"iova": 0, "size": 0}),
    ((LAST - 0xFFF, 2 * PAGE, 0, 3), RangeWraps, {"iova": LAST - 0xFFF, "size": 2 * PAGE}),
    ((64 * PAGE, PAGE, 0, 3), OutsideSpace, {"first": 64 * PAGE, "last": 65 * PAGE - 1, "space_last": 64 * PAGE - 1}),
    ((1, PAGE, 0, 3), Misaligned, {"what": "iova", "value": 1, "granule": PAGE}),
    ((0, 1, 0, 3), Misaligned, {"what": "size", "value": 1, "granule": PAGE}),
    ((0, PAGE, 1, 3), Misaligned, {"what": "target", "value": 1, "granule": PAGE}),
    ((31 * PAGE, 4 * PAGE, 0, 3), InReserved, {"reserved_first": WINDOW.first, "reserved_last": WINDOW.last}),
    ((0, PAGE, 0, 0), BadPermission, {"perm": 0}),
    ((0, PAGE, 0, 4), BadPermission, {"perm": 4}),
    ((0, 2 * PAGE, LAST - 0xFFF, 3), BadTarget, {"target": LAST - 0xFFF, "size": 2 * PAGE}),
)
"""Arguments of a MAP that cannot be, and what it is refused with."""


async def the_last_byte_has_an_address(stage: Stage) -> None:
    """Law 9: ranges are inclusive, up to 2^64-1, and one of them is the whole space."""
    space = await stage.bus.create_space("space")
    async with stage.bus.subscribe("space", Cap.IOTLB) as events:
        stream = aiter(events)
        space.map(LAST - 0xFFF, PAGE, 0, Perm.R)
        space.map(0, PAGE, LAST - 0xFFF, Perm.RW)
        removed = space.unmap(0, LAST + 1)
        demand("an UNMAP of everything removes both", [piece.first for piece in removed], [0, LAST - 0xFFF])
        space.map(0, LAST + 1, 0, Perm.W)
        space.unmap_all()
        found = [edges(await anext(stream)) for _ in range(5)]
    wanted = [
        (Map, LAST - 0xFFF, LAST),
        (Map, 0, 0xFFF),
        (Unmap, 0, LAST),
        (Map, 0, LAST),
        (Unmap, 0, LAST),
    ]
    demand("events reach the last byte", found, wanted)


def edges(event: Event) -> tuple[type[Event], int, int]:
    """Return kind and range of an event."""
    return type(event), event.first, event.last


async def what_cannot_be_mapped_is_refused_with_its_values(stage: Stage) -> None:
    """Law 9: a change that cannot be is refused, with the values in the error, and changes nothing."""
    scene = await stage.scene(reserved=(WINDOW,))
    await scene.join()
    scene.map(10)
    await scene.settle()
    for (iova, size, target, perm), kind, values in REFUSED:
        with demand_raised(kind, **values):
            scene.space.map(iova, size, target, Perm(perm))
        if kind in {EmptyRange, RangeWraps, OutsideSpace} or values.get("what") in {"iova", "size"}:
            with demand_raised(kind, **values):
                scene.space.unmap(iova, size)
    demand("nothing was published", scene.space.statistics().seq, 1)
    await scene.settle()


async def a_subscription_that_cannot_be_is_refused(stage: Stage) -> None:
    """Law 9: a mask, range or capacity that cannot be is refused, with the values in the error."""
    await stage.scene()
    for caps, kind in ((0, EmptyMask), (2, MapAlone), (9, UnknownCapability)):
        with demand_raised(kind, caps=caps):
            await stage.enter(Cap(caps))
    with demand_raised(BadCapacity, capacity=0):
        await stage.enter(Cap.IOTLB, capacity=0)
    with demand_raised(OutsideRanges, ranges=((64 * PAGE, LAST),)):
        await stage.enter(Cap.IOTLB, first=64 * PAGE)


async def names_are_unique_while_they_are_used(stage: Stage) -> None:
    """Contract: a name is no pattern and belongs to one space, until that is closed."""
    for bad in ("", "vtd*", "vtd?", "vtd[0]"):
        with demand_raised(BadName, name=bad):
            await stage.bus.create_space(bad)
    scene = await stage.scene("vtd0")
    with demand_raised(NameTaken, name="vtd0"):
        await stage.bus.create_space("vtd0")
    await scene.space.close()
    await stage.scene("vtd0")


async def a_space_can_be_waited_for(stage: Stage) -> None:
    """Contract: `wait_space` returns a space that is there, or as soon as it is."""
    found: list[str] = []

    async def wait() -> None:
        found.append((await stage.bus.wait_space("late")).name)

    stage.tasks.start_soon(wait)
    await breathe()
    demand("nobody finds what is not there", found, [])
    await stage.scene("late")
    await until(lambda: bool(found))
    await wait()
    demand("who waits gets the space", found, ["late", "late"])
    demand("spaces() has it", [space.name for space in stage.bus.spaces()], ["late"])


async def closing_a_space_takes_everything_away(stage: Stage) -> None:
    """Law 3: when a space is closed, everybody is told the UNMAP, and then the end."""
    scene, other = await stage.scene("closed"), await stage.scene("open")
    follower, cacher, neighbour = await scene.join(), await scene.join(Cap.UNMAP), await other.join()
    scene.map(0)
    scene.map(8)
    other.map(0)
    await scene.settle()
    await scene.space.close()
    await scene.sync()
    demand("nothing is held", follower.holds(), [])
    await follower.wait_end()
    await cacher.wait_end()
    with demand_raised(SpaceClosed, space="closed"):
        scene.space.map(0, PAGE, 0, Perm.R)
    other.map(1)
    await other.settle()
    demand("other streams go on", neighbour.ended, wanted=False)


async def closing_a_bus_ends_every_stream(stage: Stage) -> None:
    """Law 3: when a bus is closed, everybody is told the UNMAP, and then the end."""
    scene = await stage.scene()
    follower = await scene.join()
    scene.map(0)
    await scene.settle()
    await stage.bus.close()
    await follower.wait_end()
    demand("nothing is held", follower.holds(), [])
    with demand_raised(BusClosed):
        await stage.bus.create_space("other")


async def a_subscription_has_one_consumer_in_one_block(stage: Stage) -> None:
    """Contract: a subscription is used inside its block, by one consumer, in one mode; else it says what is wrong."""
    scene = await stage.scene()
    scene.map(0)
    events = stage.bus.subscribe("space", Cap.IOTLB, name="one")
    with demand_raised(NotEntered, subscription="one"):
        await anext(aiter(events))
    async with events, stage.bus.subscribe("space", Cap.IOTLB, ack="manual", name="two") as manual:
        stream = aiter(events)
        with demand_raised(AlreadyIterated, subscription="one"):
            await anext(aiter(events))
        event = await anext(stream)
        demand("the one who iterates gets the event", edges(event), (Map, 0, PAGE - 1))
        batches = manual.batches()
        batch = await anext(batches)
        with demand_raised(WrongMode, subscription="one"):
            events.ack(batch)
        with demand_raised(WrongMode, subscription="two"):
            aiter(manual)
        async with stage.bus.subscribe("space", Cap.IOTLB, ack="manual", name="three") as third:
            with demand_raised(ForeignBatch, subscription="three"):
                third.ack(batch)
        manual.ack(batch)
    with demand_raised(SubscriptionClosed, subscription="one"):
        await anext(aiter(events))


async def the_producer_is_told_of_the_demand(stage: Stage) -> None:
    """Contract: the demand is the OR of all masks; the producer hears of each change, and may refuse a newcomer."""
    told: list[tuple[Cap, Cap]] = []

    def changed(old: Cap, new: Cap) -> None:
        if new & Cap.MAP and not old & Cap.MAP:
            raise ValueError("no shadowers here")
        told.append((old, new))

    await stage.bus.create_space("space", demand_changed=changed)
    async with stage.bus.subscribe("space", Cap.UNMAP):
        await until(lambda: bool(told))
        with demand_raised(DemandRefused, space="space"):
            await stage.enter(Cap.IOTLB)
    await until(lambda: len(told) > 1)
    demand("each change is told", told, [(Cap(0), Cap.UNMAP), (Cap.UNMAP, Cap(0))])


async def clipping_leaves_what_is_inside(stage: Stage) -> None:
    """Law 9: ranges that reach out of the space, or touch, are clipped and joined."""
    scene = await stage.scene()
    ranges = ((PAGE, 2 * PAGE - 1), (2 * PAGE, 3 * PAGE - 1), (62 * PAGE, LAST))
    async with stage.bus.subscribe("space", Cap.IOTLB, ranges=ranges) as events:
        stream = aiter(events)
        low, high = scene.map(0, 4), scene.map(60, 4)
        found = [as_mapping(await anext(stream)) for _ in range(2)]
    wanted = [low.clip(PAGE, 3 * PAGE - 1), high.clip(62 * PAGE, 64 * PAGE - 1)]
    demand("ranges that touch are one", found, wanted)


def as_mapping(event: Event) -> Mapping | None:
    """Return what a MAP says; of anything else nothing."""
    return Mapping(event.first, event.last, event.target, event.perm) if isinstance(event, Map) else None


CASES: Final = (
    the_last_byte_has_an_address,
    what_cannot_be_mapped_is_refused_with_its_values,
    a_subscription_that_cannot_be_is_refused,
    names_are_unique_while_they_are_used,
    a_space_can_be_waited_for,
    closing_a_space_takes_everything_away,
    closing_a_bus_ends_every_stream,
    a_subscription_has_one_consumer_in_one_block,
    the_producer_is_told_of_the_demand,
    clipping_leaves_what_is_inside,
)
