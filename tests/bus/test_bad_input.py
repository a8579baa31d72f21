"""Whatever is asked wrongly is refused at once, with the values, and changes nothing for anybody."""

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from operator import index
from typing import Any, Final, SupportsIndex

import anyio
import anyio.to_thread
import pytest

from iommubus import LAST, Batch, Bus, Cap, Event, IovaRange, Map, Mapping, Notifier, Perm
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import (
    AlreadyIterated,
    BadCapacity,
    BadContract,
    BadHolder,
    BadName,
    BadPermission,
    BadShape,
    BadTarget,
    BusClosed,
    CapabilityRefused,
    EmptyMask,
    EmptyRange,
    EndpointClosed,
    ForeignBatch,
    GranuleRefused,
    InReserved,
    InvertedRange,
    IommubusError,
    MapAlone,
    Misaligned,
    MustShare,
    NameTaken,
    NotEntered,
    NotOffered,
    OutsideRanges,
    OutsideSpace,
    Overlap,
    RangeWraps,
    SpaceClosed,
    Straddle,
    SubscriptionClosed,
    UnknownCapability,
    UnknownName,
    WrongMode,
    WrongThread,
)
from tests.actors import PAGE, ask, mappings
from tests.loops import every_loop

END: Final = 0xFFFF_FFFF
HELD: Final = Mapping(0x10000, 0x13FFF, 0x80000, Perm.R)


@dataclass
class World:
    """A bus with somebody of every kind, all of whom have seen everything."""

    bus: Bus
    table: LocalSpace
    pull: LocalSpace
    shadower: StreamSubscription
    manual: StreamSubscription
    batch: Batch
    told: list[Event] = field(default_factory=list[Event])

    def picture(self) -> tuple[object, ...]:
        """Return all that anybody could notice."""
        return self.bus.statistics(), mappings(self.table), mappings(self.pull), list(self.told)


Action = Callable[[World], Coroutine[Any, Any, object]]


async def with_world(case: Callable[[World], Awaitable[None]]) -> None:
    told: list[Event] = []
    async with Bus() as bus:
        table = await bus.create_space(
            "table", last=END, reserved=[IovaRange(0xFEE0_0000, 0xFEEF_FFFF)], offers=Cap.IOTLB
        )
        pull = await bus.create_space("pull", offers=Cap.UNMAP)
        table.map(HELD.first, HELD.size, HELD.target, HELD.perm)
        table.register(Notifier(told.append, Cap.IOTLB))
        async with (
            bus.observe("*"),
            bus.subscribe("table", Cap.IOTLB, name="shadower") as shadower,
            bus.subscribe("table", Cap.IOTLB, ack="manual", name="manual") as manual,
        ):
            assert len(await anext(shadower.batches())) == 1
            await ask(shadower.batches())
            batch = await anext(manual.batches())
            await case(World(bus, table, pull, shadower, manual, batch, told))


def calls(call: Callable[[World], object]) -> Action:
    """Make an action of a plain call."""

    async def action(world: World) -> None:
        call(world)

    return action


def in_thread(call: Callable[[World], object]) -> Action:
    """Make an action of a call from another thread; a coroutine takes its first step there."""

    def step(world: World) -> None:
        made = call(world)
        if inspect.iscoroutine(made):
            try:
                made.send(None)
            finally:
                made.close()

    async def action(world: World) -> None:
        await anyio.to_thread.run_sync(step, world)

    return action


async def enter_on_pull_space(world: World) -> None:
    async with world.bus.subscribe("pull", Cap.IOTLB):
        pass


async def iterate_twice(world: World) -> None:
    stream = aiter(world.shadower)
    try:
        world.shadower.batches()
    finally:
        del stream


async def ask_together(world: World) -> None:
    """Two tasks ask one iterator."""
    stream = aiter(world.shadower)
    caught: list[IommubusError] = []

    async def second() -> None:
        try:
            await anext(stream)
        except IommubusError as error:
            caught.append(error)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await anext(stream)
    raise caught[0]


async def use_before_entering(world: World) -> None:
    aiter(world.bus.subscribe("table", Cap.IOTLB, name="early"))


async def translate_before_entering(world: World) -> None:
    await world.bus.subscribe("table", Cap.UNMAP, name="early").translate(0)


async def use_after_leaving(world: World) -> None:
    async with world.bus.subscribe("table", Cap.IOTLB, name="late") as late:
        pass
    await late.wait_current()


async def enter_again(world: World) -> None:
    async with world.bus.subscribe("table", Cap.IOTLB, name="late") as late:
        pass
    async with late:
        pass


async def enter_in_two_tasks(world: World) -> None:
    """The one who comes second is refused, and nothing is registered twice."""
    subscription = world.bus.subscribe("table", Cap.UNMAP, name="twice")
    caught: list[IommubusError] = []

    async def enter() -> None:
        try:
            await subscription.__aenter__()
        except IommubusError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    await subscription.close()
    raise caught[0]


async def ack_foreign_batch(world: World) -> None:
    """Of its number there is one here too, which is not the one meant."""
    async with world.bus.subscribe("table", Cap.IOTLB, ack="manual") as other:
        foreign = await anext(other.batches())
    assert foreign.number == world.batch.number
    world.manual.ack(foreign)


async def publish_into_closed_space(world: World) -> None:
    space = await world.bus.create_space("brief")
    await space.close()
    space.map(0, PAGE, 0, Perm.R)


async def apply_what_closes_the_space(world: World) -> None:
    """Nothing is mapped in it after its end, which the subscriber was told of."""
    space = await world.bus.create_space("brief")

    def changes() -> Iterator[Mapping]:
        yield Mapping(0, 0xFFF, 0, Perm.R)
        space.shut()

    async with world.bus.subscribe("brief", Cap.IOTLB) as events:
        try:
            space.apply(changes())
        finally:
            assert [event async for event in events] == []


async def register_on_closed_space(world: World) -> None:
    space = await world.bus.create_space("brief")
    await space.close()
    space.register(Notifier(world.told.append, Cap.UNMAP))


async def attach_to_closed_space(world: World) -> None:
    space = await world.bus.create_space("brief")
    await space.close()
    endpoint = await world.bus.create_endpoint("device")
    try:
        endpoint.attach(space)
    finally:
        await endpoint.close()


async def move_closed_endpoint(world: World) -> None:
    endpoint = await world.bus.create_endpoint("brief")
    await endpoint.close()
    endpoint.detach()


async def attach_apart(world: World) -> None:
    """Move one of two endpoints that one subscription needs together."""
    one, two = [await world.bus.create_endpoint(name) for name in ("one", "two")]
    try:
        async with world.bus.subscribe(("one", "two"), Cap.UNMAP, name="container"):
            one.attach(world.table)
            two.attach(world.pull)
    finally:
        await one.close()
        await two.close()


async def subscribe_apart(world: World) -> None:
    async with world.bus.subscribe(("table", "pull"), Cap.UNMAP, name="container"):
        pass


async def enter_with_a_large_granule(world: World) -> None:
    async with world.bus.subscribe("table", Cap.IOTLB, granule=0x4000):
        pass


async def use_bus_never_entered(_: World) -> None:
    await Bus().create_space("space")


async def sync_bus_never_entered(_: World) -> None:
    await Bus().sync("*")


async def use_closed_bus(_: World) -> None:
    async with Bus() as bus:
        await bus.create_space("space")
    bus.subscribe("space", Cap.IOTLB)


async def observe_closed_bus(_: World) -> None:
    async with Bus() as bus:
        observer = bus.observe("*")
    async with observer:
        pass


async def await_space_of_closed_bus(_: World) -> None:
    async with Bus() as bus:
        pass
    await bus.wait_space("space")


async def close_notifier_in_thread(world: World) -> None:
    """It goes on: who was not taken off the list may not be silent."""
    registration = world.table.register(Notifier(world.told.append, Cap.UNMAP))
    try:
        await in_thread(lambda _: registration.close())(world)
    finally:
        assert registration.live
        registration.close()


CASES: Final[list[tuple[str, Action, type[IommubusError], dict[str, object]]]] = [
    # -- ranges
    ("map size 0", calls(lambda w: w.table.map(0x1000, 0, 0, Perm.R)), EmptyRange, {"iova": 0x1000, "size": 0}),
    ("map size -1", calls(lambda w: w.table.map(0x1000, -1, 0, Perm.R)), EmptyRange, {"size": -1}),
    ("unmap size 0", calls(lambda w: w.table.unmap(0x1000, 0)), EmptyRange, {"iova": 0x1000, "size": 0}),
    ("unmap size 0, pull", calls(lambda w: w.pull.unmap(0x1000, 0)), EmptyRange, {"iova": 0x1000, "size": 0}),
    ("invalidate size 0", calls(lambda w: w.table.invalidate_device(0, 0)), EmptyRange, {"iova": 0, "size": 0}),
    ("map wraps", calls(lambda w: w.table.map(LAST - 0xFFF, 0x2000, 0, Perm.R)), RangeWraps,
     {"iova": LAST - 0xFFF, "size": 0x2000}),
    ("unmap wraps", calls(lambda w: w.pull.unmap(LAST - 0xFFF, 0x2000)), RangeWraps, {"size": 0x2000}),
    ("map below 0", calls(lambda w: w.table.map(-0x1000, 0x1000, 0, Perm.R)), RangeWraps, {"iova": -0x1000}),
    ("map behind the space", calls(lambda w: w.table.map(END + 1, 0x1000, 0, Perm.R)), OutsideSpace,
     {"first": END + 1, "last": END + 0x1000, "space_last": END}),
    ("unmap across the end", calls(lambda w: w.table.unmap(END - 0xFFF, 0x2000)), OutsideSpace, {"space_last": END}),
    ("misaligned iova", calls(lambda w: w.table.map(0x1001, 0x1000, 0, Perm.R)), Misaligned,
     {"what": "iova", "value": 0x1001, "granule": 0x1000}),
    ("misaligned size", calls(lambda w: w.table.map(0x1000, 0x800, 0, Perm.R)), Misaligned,
     {"what": "size", "value": 0x800}),
    ("misaligned target", calls(lambda w: w.table.map(0x1000, 0x1000, 0x10, Perm.R)), Misaligned,
     {"what": "target", "value": 0x10}),
    ("unmap misaligned", calls(lambda w: w.table.unmap(0x800, 0x1000)), Misaligned, {"what": "iova", "value": 0x800}),
    ("reserved", calls(lambda w: w.table.map(0xFED0_0000, 0x20_0000, 0, Perm.R)), InReserved,
     {"first": 0xFED0_0000, "last": 0xFEEF_FFFF, "reserved_first": 0xFEE0_0000, "reserved_last": 0xFEEF_FFFF}),
    ("target wraps", calls(lambda w: w.table.map(0, 0x2000, LAST - 0xFFF, Perm.R)), BadTarget,
     {"target": LAST - 0xFFF, "size": 0x2000}),
    # -- permissions
    ("no permission", calls(lambda w: w.table.map(0, 0x1000, 0, Perm(0))), BadPermission, {"perm": 0}),
    ("unknown permission", calls(lambda w: w.table.map(0, 0x1000, 0, Perm(4))), BadPermission, {"perm": 4}),
    # -- what is mapped
    ("overlap", calls(lambda w: w.table.map(0x13000, 0x2000, 0, Perm.R)), Overlap,
     {"first": 0x13000, "last": 0x14FFF, "held_first": HELD.first, "held_last": HELD.last}),
    ("other permission", calls(lambda w: w.table.map(HELD.first, HELD.size, HELD.target, Perm.RW)), Overlap,
     {"first": HELD.first, "held_first": HELD.first}),
    ("straddle", calls(lambda w: w.table.unmap(0x12000, 0x4000)), Straddle,
     {"first": 0x12000, "last": 0x15FFF, "held_first": HELD.first, "held_last": HELD.last}),
    ("remap that cuts", calls(lambda w: w.table.remap(0x12000, 0x4000, 0, Perm.R)), Straddle, {"first": 0x12000}),
    ("apply, last one bad", calls(lambda w: w.table.apply(
        [IovaRange(HELD.first, HELD.last), Mapping(0, 0xFFF, 0, Perm.R), Mapping(0, 0x1FFF, 0, Perm.R)])), Overlap,
     {"first": 0, "last": 0x1FFF, "held_first": 0, "held_last": 0xFFF}),
    ("apply, inverted", calls(lambda w: w.table.apply([Mapping(0x2000, 0xFFF, 0, Perm.R)])), EmptyRange, {}),
    # -- what is offered
    ("map on a pull space", calls(lambda w: w.pull.map(0, 0x1000, 0, Perm.R)), NotOffered,
     {"kind": "MAP"}),
    ("remap on a pull space", calls(lambda w: w.pull.remap(0, 0x1000, 0, Perm.R)), NotOffered, {"kind": "MAP"}),
    ("apply a MAP on a pull space",
     calls(lambda w: w.pull.apply([IovaRange(0, 0xFFF), Mapping(0, 0xFFF, 0, Perm.R)])), NotOffered, {"kind": "MAP"}),
    ("subscribe MAP on a pull space", enter_on_pull_space, CapabilityRefused,
     {"space": "pull", "caps": 3, "offers": 1}),
    ("notify MAP on a pull space", calls(lambda w: w.pull.register(Notifier(w.told.append, Cap.IOTLB))),
     CapabilityRefused, {"space": "pull", "caps": 3, "offers": 1}),
    ("device invalidation not offered", calls(lambda w: w.table.invalidate_device(0, 0x1000)), NotOffered,
     {"kind": "DEVIOTLB_UNMAP"}),
    # -- names
    ("endpoint named as a pattern", calls(lambda w: w.bus.subscribe("vtd*", Cap.IOTLB)), BadName, {"name": "vtd*"}),
    ("no endpoint", calls(lambda w: w.bus.subscribe((), Cap.IOTLB)), BadName, {"name": ""}),
    ("duplicate endpoint", lambda w: w.bus.create_endpoint("pull"), NameTaken, {"name": "pull"}),
    ("sync of an unknown space", lambda w: w.bus.sync("nobody"), UnknownName, {"name": "nobody"}),
    ("observe an unknown space", calls(lambda w: w.bus.observe("nobody")), UnknownName, {"name": "nobody"}),
    ("fence an unknown subscriber", lambda w: w.table.fence("nobody"), UnknownName,
     {"name": "nobody", "known": ("shadower", "manual")}),
    ("duplicate space", lambda w: w.bus.create_space("pull"), NameTaken, {"name": "pull"}),
    ("space without a name", lambda w: w.bus.create_space(""), BadName, {"name": ""}),
    ("space named as a pattern", lambda w: w.bus.create_space("vtd*"), BadName, {"name": "vtd*"}),
    ("granule 3", lambda w: w.bus.create_space("odd", granule=3), BadShape, {"granule": 3}),
    ("end inside a granule", lambda w: w.bus.create_space("odd", last=0x1234), BadShape, {"last": 0x1234}),
    ("endpoints in two spaces", attach_apart, MustShare,
     {"subscription": "container", "endpoint": "two", "space": "pull", "other": "one", "other_space": "table"}),
    ("a subscription to two spaces", subscribe_apart, MustShare,
     {"subscription": "container", "endpoint": "pull", "space": "pull", "other": "table", "other_space": "table"}),
    # -- contracts
    ("granule of a shadower", enter_with_a_large_granule, GranuleRefused,
     {"space": "table", "granule": 0x4000, "space_granule": 0x1000}),
    ("granule 0", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, granule=0)), BadContract, {"what": "granule"}),
    ("granule 6", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, granule=6)), BadContract, {"value": 6}),
    ("range inside a granule", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, granule=0x4000, last=0x1FFF)),
     Misaligned, {"what": "size", "value": 0x2000, "granule": 0x4000}),
    ("exact without MAP", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, exact=True)), BadContract,
     {"what": "exact"}),
    ("limit without MAP", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, limit=5)), BadContract,
     {"what": "limit"}),
    ("limit 0", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, limit=0)), BadContract, {"value": 0}),
    # -- holders
    ("holder of a lease", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, holder=7)), BadHolder, {"holder": 7}),
    ("holder 0", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, stops="exit", holder=0)), BadHolder,
     {"holder": 0}),
    ("holder 2^31", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, stops="exit", holder=2**31)), BadHolder,
     {"holder": 2**31}),
    # -- masks, ranges, capacity
    ("mask 0", calls(lambda w: w.bus.subscribe("table", Cap(0))), EmptyMask, {"caps": 0}),
    ("mask of MAP alone", calls(lambda w: w.bus.subscribe("table", Cap.MAP)), MapAlone, {"caps": 2}),
    ("mask with unknown bits", calls(lambda w: w.bus.subscribe("table", Cap(9))), UnknownCapability,
     {"caps": 9, "known": 7}),
    ("notifier of MAP alone", calls(lambda w: w.table.register(Notifier(w.told.append, Cap.MAP))), MapAlone,
     {"caps": 2}),
    ("first behind last", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, first=2, last=1)), InvertedRange,
     {"first": 2, "last": 1}),
    ("notifier first behind last", calls(lambda w: w.table.register(Notifier(w.told.append, Cap.UNMAP, 2, 1))),
     InvertedRange, {"first": 2, "last": 1}),
    ("notifier below 0", calls(lambda w: w.table.register(Notifier(w.told.append, Cap.UNMAP, -1, 1))), RangeWraps, {}),
    ("notifier behind 2^64", calls(lambda w: w.table.register(Notifier(w.told.append, Cap.UNMAP, 0, LAST + 1))),
     RangeWraps, {}),
    ("ranges outside the space",
     calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, ranges=[(END + 1, END + 5), (LAST, LAST)])), OutsideRanges,
     {"space": "table", "ranges": ((END + 1, END + 5), (LAST, LAST))}),
    ("no ranges", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, ranges=[])), OutsideRanges, {"ranges": ()}),
    ("range behind 2^64", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, last=LAST + 1)), RangeWraps, {}),
    ("capacity 0", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, capacity=0)), BadCapacity, {"capacity": 0}),
    ("observer's capacity 0", calls(lambda w: w.bus.observe("*", capacity=0)), BadCapacity, {"capacity": 0}),
    # -- the wrong moment
    ("a bus never entered", use_bus_never_entered, BusClosed, {}),
    ("a sync of a bus never entered", sync_bus_never_entered, BusClosed, {}),
    ("a closed bus", use_closed_bus, BusClosed, {}),
    ("an observer of a closed bus", observe_closed_bus, BusClosed, {}),
    ("a space of a closed bus", await_space_of_closed_bus, BusClosed, {}),
    ("a closed space", publish_into_closed_space, SpaceClosed, {"space": "brief"}),
    ("a space that its changes close", apply_what_closes_the_space, SpaceClosed, {"space": "brief"}),
    ("a notifier of a closed space", register_on_closed_space, SpaceClosed, {"space": "brief"}),
    ("an endpoint in a closed space", attach_to_closed_space, SpaceClosed, {"space": "brief"}),
    ("a closed endpoint", move_closed_endpoint, EndpointClosed, {"endpoint": "brief"}),
    ("two iterators", iterate_twice, AlreadyIterated, {"subscription": "shadower"}),
    ("two tasks on an iterator", ask_together, AlreadyIterated, {"subscription": "shadower"}),
    ("before entering", use_before_entering, NotEntered, {"subscription": "early"}),
    ("translate before entering", translate_before_entering, NotEntered, {"subscription": "early"}),
    ("after leaving", use_after_leaving, SubscriptionClosed, {"subscription": "late"}),
    ("entered again", enter_again, SubscriptionClosed, {"subscription": "late"}),
    ("entered in two tasks", enter_in_two_tasks, SubscriptionClosed, {"subscription": "twice"}),
    ("iterating where batches are acknowledged", calls(lambda w: aiter(w.manual)), WrongMode,
     {"subscription": "manual", "mode": "manual"}),
    ("acknowledging where asking does it", calls(lambda w: w.shadower.ack(w.batch)), WrongMode,
     {"subscription": "shadower", "mode": "next"}),
    ("a foreign batch", ack_foreign_batch, ForeignBatch, {"subscription": "manual", "number": 1}),
    # -- another thread
    ("map in a thread", in_thread(lambda w: w.table.map(0, 0x1000, 0, Perm.R)), WrongThread, {}),
    ("unmap in a thread", in_thread(lambda w: w.table.unmap(HELD.first, HELD.size)), WrongThread, {}),
    ("unmap_all in a thread", in_thread(lambda w: w.table.unmap_all()), WrongThread, {}),
    ("remap in a thread", in_thread(lambda w: w.table.remap(0, 0x1000, 0, Perm.R)), WrongThread, {}),
    ("apply in a thread", in_thread(lambda w: w.table.apply([])), WrongThread, {}),
    ("unmap in a thread, pull", in_thread(lambda w: w.pull.unmap(0, 0x1000)), WrongThread, {}),
    ("invalidate in a thread", in_thread(lambda w: w.table.invalidate_device(0, 0x1000)), WrongThread, {}),
    ("register in a thread", in_thread(lambda w: w.table.register(Notifier(w.told.append, Cap.UNMAP))), WrongThread,
     {}),
    ("close a notifier in a thread", close_notifier_in_thread, WrongThread, {}),
    ("sync in a thread", in_thread(lambda w: w.table.sync()), WrongThread, {}),
    ("drain in a thread", in_thread(lambda w: w.table.drain()), WrongThread, {}),
    ("fence in a thread", in_thread(lambda w: w.table.fence("shadower")), WrongThread, {}),
    ("close a space in a thread", in_thread(lambda w: w.table.close()), WrongThread, {}),
    ("sync of the bus in a thread", in_thread(lambda w: w.bus.sync("*")), WrongThread, {}),
    ("close the bus in a thread", in_thread(lambda w: w.bus.close()), WrongThread, {}),
    ("subscribe in a thread", in_thread(lambda w: w.bus.subscribe("table", Cap.IOTLB)), WrongThread, {}),
    ("observe in a thread", in_thread(lambda w: w.bus.observe("*")), WrongThread, {}),
    ("create in a thread", in_thread(lambda w: w.bus.create_space("other")), WrongThread, {}),
    ("iterate in a thread", in_thread(lambda w: aiter(w.shadower)), WrongThread, {}),
    ("ack in a thread", in_thread(lambda w: w.manual.ack(w.batch)), WrongThread, {}),
    ("fail in a thread", in_thread(lambda w: w.manual.fail(w.batch[0], ValueError())), WrongThread, {}),
    ("translate in a thread", in_thread(lambda w: w.shadower.translate(HELD.first)), WrongThread, {}),
    ("wait_current in a thread", in_thread(lambda w: w.shadower.wait_current()), WrongThread, {}),
    ("close a subscription in a thread", in_thread(lambda w: w.shadower.close()), WrongThread, {}),
]  # fmt: skip


@pytest.mark.parametrize(("action", "kind", "values"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@every_loop
async def test_is_refused_and_changes_nothing(
    action: Action, kind: type[IommubusError], values: dict[str, object]
) -> None:
    """I11, T3, T42: the caller gets a documented error; the bus is as before, and nothing was delivered."""

    async def case(world: World) -> None:
        before = world.picture()

        with pytest.raises(IommubusError) as caught:
            await action(world)

        assert type(caught.value) is kind
        assert {name: vars(caught.value)[name] for name in values} == values
        assert world.picture() == before

    await with_world(case)


class Word:
    """An integer of 64 bits that wraps, as array libraries have them."""

    def __init__(self, value: int) -> None:
        self.value = value % 2**64

    def __index__(self) -> int:
        return self.value

    def __add__(self, other: SupportsIndex) -> "Word":
        return Word(self.value + index(other))

    def __sub__(self, other: SupportsIndex) -> "Word":
        return Word(self.value - index(other))

    def __or__(self, other: SupportsIndex) -> "Word":
        return Word(self.value | index(other))

    def __and__(self, other: SupportsIndex) -> "Word":
        return Word(self.value & index(other))

    def __lt__(self, other: SupportsIndex) -> bool:
        return self.value < index(other)

    def __le__(self, other: SupportsIndex) -> bool:
        return self.value <= index(other)

    def __gt__(self, other: SupportsIndex) -> bool:
        return self.value > index(other)

    def __ge__(self, other: SupportsIndex) -> bool:
        return self.value >= index(other)

    def __bool__(self) -> bool:
        return bool(self.value)

    __radd__ = __add__
    __ror__ = __or__
    __rand__ = __and__


def word(value: int) -> Any:
    return Word(value)


HALF_MORE: Final[Any] = 1.5
ENDLESS: Final[Any] = math.inf
NO_NUMBER: Final[Any] = math.nan
PAGES: Final[Any] = float(PAGE)
EVENT: Final[Any] = Map("table", 1, HELD.first, HELD.last, HELD.target, HELD.perm)
"""Values that no type checker would let pass."""


WRONG_TYPES: Final[list[tuple[str, Action]]] = [
    ("iova", calls(lambda w: w.table.map(PAGES, PAGE, 0, Perm.R))),
    ("size", calls(lambda w: w.table.map(0, PAGES, 0, Perm.R))),
    ("target", calls(lambda w: w.table.map(0, PAGE, PAGES, Perm.R))),
    ("permission", calls(lambda w: w.table.map(0, PAGE, 0, HALF_MORE))),
    ("unmapped size", calls(lambda w: w.table.unmap(0, PAGES))),
    ("unmapped size, pull", calls(lambda w: w.pull.unmap(0, PAGES))),
    ("remapped target", calls(lambda w: w.table.remap(0, PAGE, PAGES, Perm.R))),
    ("iova that wraps", calls(lambda w: w.table.map(word(END - 0xFFF), PAGE, 0, Perm.R))),
    ("size that wraps", calls(lambda w: w.table.map(0x2000, word(2**64 - PAGE), 0, Perm.R))),
    ("target that wraps", calls(lambda w: w.table.map(0, 0x2000, word(LAST - 0xFFF), Perm.R))),
    ("target of a word", calls(lambda w: w.table.map(0, 0x2000, word(0), Perm.R))),
    ("unmap that wraps", calls(lambda w: w.pull.unmap(word(LAST - 0xFFF), 0x2000))),
    ("unmap of a word", calls(lambda w: w.table.unmap(word(HELD.first), HELD.size))),
    ("unmap of nothing that wraps", calls(lambda w: w.pull.unmap(word(0), word(0)))),
    ("applied permission", calls(lambda w: w.table.apply([Mapping(0, 0xFFF, 0, HALF_MORE)]))),
    ("applied permission, whole", calls(lambda w: w.table.apply([Mapping(0, 0xFFF, 0, HALF_MORE * 2 - 1)]))),
    (
        "applied target",
        calls(lambda w: w.table.apply([IovaRange(HELD.first, HELD.last), Mapping(0, 0xFFF, PAGES, Perm.R)])),
    ),
    ("applied event", calls(lambda w: w.table.apply([EVENT]))),
    ("applied edge", calls(lambda w: w.table.apply([IovaRange(0, PAGES - 1)]))),
    ("last address", lambda w: w.bus.create_space("odd", last=PAGES - 1)),
    ("granule", lambda w: w.bus.create_space("odd", granule=PAGES)),
    ("subscribed edge", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, last=PAGES))),
    ("subscribed edges", calls(lambda w: w.bus.subscribe("table", Cap.UNMAP, ranges=[(0, 5), (HALF_MORE, PAGES)]))),
    ("capacity", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, capacity=HALF_MORE))),
    ("capacity without end", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, capacity=ENDLESS))),
    ("capacity that is no number", calls(lambda w: w.bus.subscribe("table", Cap.IOTLB, capacity=NO_NUMBER))),
    ("observer's capacity", calls(lambda w: w.bus.observe("*", capacity=NO_NUMBER))),
]


@pytest.mark.parametrize("action", [case[1] for case in WRONG_TYPES], ids=[case[0] for case in WRONG_TYPES])
@every_loop
async def test_a_value_of_another_type_changes_nothing(action: Action) -> None:
    """I11, law 9: what may wrap or round is no address, also where type checkers do not look."""

    async def case(world: World) -> None:
        before = world.picture()

        with pytest.raises(TypeError):
            await action(world)

        assert world.picture() == before
        world.table.map(0, 0x2000, 0x8000, Perm.R)
        assert mappings(world.table) == [Mapping(0, 0x1FFF, 0x8000, Perm.R), HELD]

    await with_world(case)


@every_loop
async def test_a_permission_is_told_of_as_one() -> None:
    """A plain number that means a permission becomes one, in every way to map."""

    async def case(world: World) -> None:
        plain: Any = 3
        world.table.map(0x1000, PAGE, 0, plain)
        world.table.remap(0x2000, PAGE, 0, plain)
        world.table.apply([Mapping(0x3000, 0x3FFF, 0, plain)])
        assert [repr(event.perm) for event in world.told[1:] if isinstance(event, Map)] == [repr(Perm.RW)] * 3

    await with_world(case)


def test_each_error_is_documented_and_reads_as_a_sentence() -> None:
    import iommubus.errors as module  # noqa: PLC0415 - its docstring is the subject

    for kind in {case[2] for case in CASES}:
        assert f"`{kind.__name__}`" in (module.__doc__ or "")
        assert kind.__doc__


@every_loop
async def test_addresses_are_said_in_hexadecimal() -> None:
    async def case(world: World) -> None:
        with pytest.raises(Overlap, match=r"0x13000\.\.0x14fff overlaps the live mapping 0x10000\.\.0x13fff"):
            world.table.map(0x13000, 0x2000, 0, Perm.R)

    await with_world(case)


@every_loop
async def test_a_bus_never_entered_may_be_closed() -> None:
    """Closing what is not open is no mistake."""
    bus = Bus()
    await bus.close()
    async with bus:
        await bus.close()
        await bus.close()
