"""Endpoints: ranges clipped to a space, moving from one to another, and those that share."""

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import anyio
import pytest

from iommubus import LAST, Bus, Cap, DevIotlbUnmap, Event, Iotlb, Map, Mapping, Mirror, Perm, Unmap
from iommubus.bus.abc import Stops
from iommubus.bus.attachment import clip
from iommubus.bus.endpoint import LocalEndpoint, join_ranges
from iommubus.bus.space import LocalSpace
from iommubus.bus.subscription import StreamSubscription
from iommubus.errors import Fenced, InvertedRange, MustShare, NotMapped, OutsideRanges, RangeWraps, SyncFailed
from tests.actors import (
    PAGE,
    SOON,
    TARGET,
    BackendError,
    apply_all,
    ask,
    failing_sync,
    map_page,
    mappings,
    open_space,
    settle,
    take,
    unmap_page,
    verdict,
)
from tests.loops import every_loop

HELD: Final = (PAGE, 2 * PAGE - 1, TARGET + PAGE, Perm.RW)
"""What is mapped in the space that the endpoint is in at first."""


@asynccontextmanager
async def moving_world(**options: Any) -> AsyncGenerator[tuple[Bus, LocalSpace, LocalSpace, LocalEndpoint], None]:
    """Give a bus, two spaces with a page each, and an endpoint in the first."""
    async with Bus() as bus:
        old, new = [await bus.create_space(name, **options) for name in ("old", "new")]
        map_page(old, 1)
        map_page(new, 5)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        yield bus, old, new, endpoint


@asynccontextmanager
async def two_streams(bus: Bus) -> AsyncGenerator[tuple[AsyncIterator[Event], AsyncIterator[Event]], None]:
    """Give streams of the endpoint and of the space's own."""
    async with bus.subscribe("device", Cap.IOTLB) as mine, bus.subscribe("old", Cap.IOTLB) as other:
        yield aiter(mine), aiter(other)


Ranges = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("wanted", "clipped"),
    [
        ([(0, LAST)], ((0, 0xFFFF),)),
        ([(0x100, 0x1FF)], ((0x100, 0x1FF),)),
        ([(0xFFFF, LAST)], ((0xFFFF, 0xFFFF),)),
        ([(0x200, 0x2FF), (0, 0xFF)], ((0, 0xFF), (0x200, 0x2FF))),
        ([(0, 0xFF), (0x100, 0x1FF)], ((0, 0x1FF),)),
        ([(0, 0xFF), (0x101, 0x1FF)], ((0, 0xFF), (0x101, 0x1FF))),
        ([(0, 0x1FF), (0x80, 0xFF)], ((0, 0x1FF),)),
        ([(0, 0xFF), (0x1_0000, LAST)], ((0, 0xFF),)),
    ],
)
def test_clipping(wanted: Ranges, clipped: tuple[tuple[int, int], ...]) -> None:
    """Law 9: inclusive at both ends."""
    assert clip(join_ranges(wanted, "space"), 0xFFFF) == clipped


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ([], OutsideRanges),
        ([(0x1_0000, LAST)], OutsideRanges),
        ([(1, 0)], InvertedRange),
        ([(0, LAST + 1)], RangeWraps),
        ([(-1, 5)], RangeWraps),
    ],
)
@every_loop
async def test_what_cannot_be_clipped(wanted: Ranges, kind: type[Exception]) -> None:
    async with open_space(last=0xFFFF) as (bus, _):
        with pytest.raises(kind):
            bus.subscribe("space", Cap.IOTLB, ranges=wanted)


# -- moving ------------------------------------------------------------------------------


@every_loop
async def test_a_subscriber_sees_the_old_mappings_go_and_the_new_ones_come() -> None:
    """Law 4 over an attach; each event names the space it is about."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        stream = aiter(events)
        assert [str(event) for event in await take(stream, 1)] == [str(Map("old", 1, *HELD))]
        endpoint.attach(new)
        gone, *come = await take(stream, 2)
        assert (type(gone), gone.space, gone.seq) == (Unmap, "old", 1)
        assert gone.first <= HELD[0] <= HELD[1] <= gone.last
        assert [(event.space, event.first) for event in come] == [("new", 5 * PAGE)]
        map_page(old, 9)
        map_page(new, 6)
        event = await anext(stream)
        assert (event.space, event.first) == ("new", 6 * PAGE)
        assert endpoint.space is new


@every_loop
async def test_a_moved_subscriber_counts_in_the_old_space_until_it_let_go() -> None:
    """Law 1: the old space's `sync` names what it left behind, with the targets."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB, name="vfio") as events:
        stream = aiter(events)
        await take(stream, 1)
        await ask(stream)
        endpoint.attach(new)
        failed = await failing_sync(old)
        assert [(missing.subscriber, missing.space) for missing in failed.missing] == [("vfio", "old")]
        assert list(failed.missing[0].pieces) == [Mapping(*HELD)]
        assert old.statistics().leaving == ("vfio",)
        await take(stream, 2)
        await failing_sync(old)
        await ask(stream)
        assert (await old.sync(timeout=0)).outcomes == ()
        assert old.statistics().leaving == ()
        assert [outcome.space for outcome in (await new.sync(timeout=0)).outcomes] == ["new"]


@every_loop
async def test_a_moved_subscriber_counts_in_the_new_space_from_the_move() -> None:
    """Law 1, for MAP too: a `sync` after the attach means that the device can be started."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB, name="vfio") as events:
        stream = aiter(events)
        await take(stream, 1)
        await ask(stream)
        endpoint.attach(new)
        failed = await failing_sync(new)
        assert [missing.subscriber for missing in failed.missing] == ["vfio"]
        await take(stream, 2)
        await ask(stream)
        await new.sync(timeout=0)
        await old.sync(timeout=0)


@every_loop
async def test_who_let_go_of_everything_before_does_not_count() -> None:
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        stream = aiter(events)
        await take(stream, 1)
        unmap_page(old, 1)
        await take(stream, 1)
        await ask(stream)
        endpoint.attach(new)
        assert (await old.sync(timeout=0)).outcomes == ()
        assert [type(event) for event in await take(stream, 1)] == [Map]


@every_loop
async def test_several_endpoints_of_a_space_share_its_table() -> None:
    """Detaching one takes nothing from the other."""
    async with moving_world() as (bus, old, _, endpoint), two_streams(bus) as (mine, other):
        await take(mine, 1)
        await take(other, 1)
        endpoint.detach()
        assert [type(event) for event in await take(mine, 1)] == [Unmap]
        map_page(old, 7)
        assert [event.first for event in await take(other, 1)] == [7 * PAGE]
        await ask(mine)
        await ask(other)
        await old.sync(timeout=0)


@pytest.mark.parametrize("caps", [Cap.UNMAP, Cap.DEVIOTLB_UNMAP, Cap.UNMAP | Cap.DEVIOTLB_UNMAP])
@every_loop
async def test_a_cacher_is_told_to_forget_everything(caps: Cap) -> None:
    """What the bus takes away reaches who hears of device invalidations alone, too."""
    async with moving_world(offers=Cap.ALL) as (bus, old, _, endpoint), bus.subscribe("device", caps) as events:
        answer = await events.translate(PAGE)
        assert answer.mapping == Mapping(*HELD)
        endpoint.detach()
        (event,) = await take(aiter(events), 1)
        assert type(event) is (Unmap if caps & Cap.UNMAP else DevIotlbUnmap)
        assert (event.first, event.last) == (0, old.shape.last)
        assert not answer.valid
        with pytest.raises(NotMapped):
            await events.translate(PAGE)


@every_loop
async def test_a_move_that_overflows_ends_equal() -> None:
    """Laws 3 and 4: with room for one event, too, the copy is the new table in the end."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB, capacity=1) as events:
        mirror = Mirror(events)
        stream = aiter(events)
        mirror.apply(await anext(stream))
        for page in (20, 21, 22):
            map_page(old, page)
        endpoint.attach(new)
        unmap_page(new, 5)
        map_page(new, 4, 2)
        endpoint.attach(old)
        endpoint.attach(new)
        await apply_all(stream, mirror.apply)
        assert list(mirror) == mappings(new)
        await bus.sync(timeout=0)


@every_loop
async def test_a_removal_that_fails_is_held_against_the_old_space_too() -> None:
    """Law 7: until the UNMAP of the move was applied, the old space's `sync` raises."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        stream = aiter(events)
        await take(stream, 1)
        endpoint.attach(new)
        events.fail(await anext(stream), BackendError())
        await ask(stream)
        for _ in range(2):
            failed = await failing_sync(old)
            assert list(failed.missing[0].pieces) == [Mapping(*HELD)]
        assert [type(event) for event in await take(stream, 2)] == [Unmap, Map]
        await ask(stream)
        await old.sync(timeout=0)
        await new.sync(timeout=0)


@pytest.mark.parametrize("stops", ["lease", "exit"])
@every_loop
async def test_who_leaves_unclean_after_a_move_is_unproven_in_both_spaces(stops: Stops) -> None:
    """Law 8: what it had in the old space may be in use as well."""
    async with moving_world() as (bus, old, new, endpoint):
        events = bus.subscribe("device", Cap.IOTLB, stops=stops)
        await events.__aenter__()
        await take(aiter(events), 1)
        endpoint.attach(new)
        await events.__aexit__(BackendError, BackendError(), None)
        for space in (old, new):
            if stops == "exit":
                await failing_sync(space)
            else:
                await space.sync(timeout=0)
        await events.close()
        await bus.sync(timeout=0)


@every_loop
async def test_both_sides_of_a_move_in_one_sync() -> None:
    async with moving_world() as (bus, _, new, endpoint), bus.subscribe("device", Cap.IOTLB, name="vfio") as events:
        stream = aiter(events)
        await take(stream, 1)
        endpoint.attach(new)
        with pytest.raises(SyncFailed) as caught:
            await bus.sync(timeout=SOON)
        assert sorted(missing.space for missing in verdict(caught.value).missing) == ["new", "old"]


@every_loop
async def test_a_pull_space_takes_everything_away() -> None:
    """Nobody knows what was asked for there, so all of it goes, and all of it is an old piece."""
    async with moving_world() as (bus, old, _, endpoint):
        pull = await bus.create_space("pull", offers=Cap.UNMAP, last=0xFFFF)
        async with bus.subscribe("device", Cap.UNMAP) as events:
            endpoint.attach(pull)
            await apply_all(stream := aiter(events), lambda _: None)
            endpoint.attach(old)
            failed = await failing_sync(pull)
            assert failed.missing[0].pieces.ranges == [(0, 0xFFFF)]
            assert [(event.space, event.first, event.last) for event in await take(stream, 1)] == [("pull", 0, 0xFFFF)]
            await ask(stream)
            await pull.sync(timeout=0)


@every_loop
async def test_a_sync_of_the_old_space_waits_for_what_is_handed_over_again() -> None:
    """Law 7: the one that has it tried again succeeds if that does."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        stream = aiter(events)
        await take(stream, 1)
        endpoint.attach(new)
        events.fail(await anext(stream), BackendError())
        await ask(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(old.sync)
            await settle()
            await apply_all(stream, lambda _: None)


@every_loop
async def test_a_joiner_that_is_moved_is_current_when_it_has_seen_the_new_space() -> None:
    """Law 4: the first replay is through when what is mapped now was given, not what was mapped then."""
    async with Bus() as bus:
        old, new = [await bus.create_space(name, granule=1) for name in ("old", "new")]
        for page in range(3000):
            old.map(page, 1, page, Perm.R)
            new.map(page, 1, page, Perm.R)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            stream, mirror = events.batches(), Mirror(events)
            for _ in range(2):
                for event in await anext(stream):
                    mirror.apply(event)
            endpoint.attach(new)
            while not events.statistics().current:
                for event in await anext(stream):
                    mirror.apply(event)
                await ask(stream)
            assert list(mirror) == mappings(new)


# -- endpoints that do not exist -----------------------------------------------------------


@every_loop
async def test_a_subscription_waits_for_its_endpoint() -> None:
    """Nothing is mapped until it appears; then it follows, and counts."""
    async with Bus() as bus, bus.subscribe("late", Cap.IOTLB) as events:
        await events.wait_current()
        with pytest.raises(NotMapped):
            await events.translate(0)
        space = await bus.create_space("late")
        map_page(space, 3)
        stream = aiter(events)
        assert [event.first for event in await take(stream, 1)] == [3 * PAGE]
        await failing_sync(space)
        await ask(stream)
        await space.sync(timeout=0)


@every_loop
async def test_a_space_that_cannot_serve_who_waited_refuses_it_alone() -> None:
    """Law 10: the producer makes its space, and the subscriber learns why it is not served."""
    async with Bus() as bus, bus.subscribe("late", Cap.IOTLB) as events, bus.subscribe("late", Cap.UNMAP) as cacher:
        space = await bus.create_space("late", offers=Cap.UNMAP)
        with pytest.raises(Fenced, match="it is a pull space"):
            await anext(aiter(events))
        space.unmap(0, PAGE)
        assert [type(event) for event in await take(aiter(cacher), 1)] == [Unmap]
        await events.close()


@every_loop
async def test_closing_an_endpoint_ends_its_streams_and_frees_its_name() -> None:
    async with moving_world() as (bus, old, _, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        await take(aiter(events), 1)
        await endpoint.close()
        assert [type(event) async for event in events] == [Unmap]
        again = await bus.create_endpoint("device")
        again.attach(old)
        assert [event async for event in events] == []


@every_loop
async def test_closing_a_space_detaches_the_endpoints_of_other_names() -> None:
    """Their streams stay open, and follow when the endpoint is attached again."""
    async with moving_world() as (bus, old, new, endpoint), bus.subscribe("device", Cap.IOTLB) as events:
        stream = aiter(events)
        await take(stream, 1)
        await old.close()
        assert [type(event) for event in await take(stream, 1)] == [Unmap]
        assert endpoint.space is None
        endpoint.attach(new)
        assert [event.space for event in await take(stream, 1)] == ["new"]
        await old.sync(timeout=0)


@every_loop
async def test_nothing_is_kept_of_endpoints_that_were_waited_for_in_vain() -> None:
    """I27"""
    async with Bus() as bus:
        for number in range(10):
            async with bus.subscribe(f"never/{number}", Cap.UNMAP):
                pass
        assert bus._endpoints == {}  # pyright: ignore[reportPrivateUsage] - nobody outside can see it
        assert bus._joined == {}  # pyright: ignore[reportPrivateUsage]


@every_loop
async def test_who_waits_for_what_can_be_seen() -> None:
    """A misspelt name is no error; it is there to be looked at."""
    async with (
        moving_world() as (bus, _, _, endpoint),
        bus.subscribe("elsewhere", Cap.UNMAP, name="vhost"),
        bus.subscribe("device", Cap.UNMAP, name="vfio"),
    ):
        assert {name: tuple(each) for name, each in bus.statistics().endpoints.items()} == {
            "old": (True, "old", ()),
            "new": (True, "new", ()),
            "device": (True, "old", ("vfio",)),
            "elsewhere": (False, None, ("vhost",)),
        }
        endpoint.detach()
        assert bus.statistics().endpoints["device"].space is None


# -- containers ------------------------------------------------------------------------------


@every_loop
async def test_a_container_sees_a_space_while_all_its_endpoints_are_in_it() -> None:
    """T47: with one of them outside, nothing may be mapped, for the device of that one would reach it."""
    async with moving_world() as (bus, old, _, endpoint):
        other = await bus.create_endpoint("other")
        async with bus.subscribe(("device", "other"), Cap.IOTLB) as events:
            stream = aiter(events)
            await ask(stream)
            assert events.statistics().lag == 0
            other.attach(old)
            assert [type(event) for event in await take(stream, 1)] == [Map]
            endpoint.detach()
            assert [type(event) for event in await take(stream, 1)] == [Unmap]
            endpoint.attach(old)
            assert [type(event) for event in await take(stream, 1)] == [Map]
            await endpoint.close()
            assert [type(event) for event in await take(stream, 1)] == [Unmap]
            await other.close()
            assert [event async for event in stream] == []


@every_loop
async def test_a_contradicting_attach_is_refused_and_moves_nobody() -> None:
    """T47"""
    async with moving_world() as (bus, old, new, endpoint):
        other = await bus.create_endpoint("other")
        other.attach(old)
        async with bus.subscribe(("device", "other"), Cap.IOTLB) as events, bus.subscribe("other", Cap.IOTLB) as alone:
            await take(aiter(events), 1)
            await take(aiter(alone), 1)
            with pytest.raises(MustShare):
                other.attach(new)
            assert other.space is old
            assert events.statistics().lag == alone.statistics().lag == 0
            for each in (endpoint, other):
                each.detach()
            other.attach(new)
            endpoint.attach(new)
            assert [event.space for event in await take(aiter(alone), 2)] == ["old", "new"]


# -- identity ----------------------------------------------------------------------------------


@every_loop
async def test_identity_is_a_space_with_one_mapping() -> None:
    """Bypass: the whole of 2^64 leads to itself, and an endpoint moves in and out of it."""
    async with moving_world() as (bus, _, _, endpoint):
        identity = await bus.create_space("identity")
        identity.map(0, 2**64, 0, Perm.RW)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            mirror = Mirror(events)
            stream = aiter(events)
            mirror.apply(await anext(stream))
            endpoint.attach(identity)
            for event in await take(stream, 2):
                mirror.apply(event)
            assert mirror.lookup(LAST).target == 0
            endpoint.detach()
            mirror.apply(await anext(stream))
            assert len(mirror) == 0


# -- producers that are asked ----------------------------------------------------------------


@every_loop
async def test_the_demand_of_both_spaces_follows() -> None:
    """I19: the new space's producer is asked before, the old one's told after everybody moved."""
    calls: list[tuple[str, Cap, Cap]] = []
    async with Bus() as bus:
        old = await bus.create_space("old", demand_changed=lambda was, now: calls.append(("old", was, now)))
        new = await bus.create_space("new", demand_changed=lambda was, now: calls.append(("new", was, now)))
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        async with bus.subscribe("device", Cap.IOTLB), bus.subscribe("device", Cap.UNMAP):
            calls.clear()
            endpoint.attach(new)
            assert calls == [("new", Cap(0), Cap.IOTLB), ("old", Cap.IOTLB, Cap(0))]


# -- everything at once ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_moves_end_equal_and_every_sync_tells_the_truth(seed: int) -> None:
    """Laws 1, 3, 4: two spaces, three devices of every kind, moved about at random, with tiny mailboxes."""

    async def play() -> None:
        dice = random.Random(seed)  # noqa: S311 - the same every time
        async with Bus() as bus, AsyncExitStack() as stack:
            spaces = [await bus.create_space(name, granule=1, last=31) for name in "ab"]
            endpoint = await bus.create_endpoint("device")
            devices = [await stack.enter_async_context(Device.on(bus, dice)) for _ in range(3)]
            for _ in range(120):
                move(dice, spaces, endpoint)
                await dice.choice(devices).step()
                if dice.random() < 0.15:
                    await sync_and_check(bus, dice, spaces, endpoint, devices)
            await sync_and_check(bus, dice, spaces, endpoint, devices)

    anyio.run(play)


def move(dice: random.Random, spaces: list[LocalSpace], endpoint: LocalEndpoint) -> None:
    """Change a table, or where the endpoint is."""
    space, first = dice.choice(spaces), dice.randrange(32)
    verb = dice.choices(("remap", "unmap", "attach", "detach"), (6, 4, 3, 1))[0]
    if verb == "attach":
        endpoint.attach(space)
    elif verb == "detach":
        endpoint.detach()
    else:
        touched = space.walk(first, min(31, first + dice.randrange(4)), 32)
        first = min([first, *(piece.first for piece in touched)])
        last = max([first, *(piece.last for piece in touched)])
        if verb == "remap":
            space.remap(first, last - first + 1, dice.randrange(1000) * 100, Perm.RW)
        else:
            space.unmap(first, last - first + 1)


async def sync_and_check(
    bus: Bus, dice: random.Random, spaces: list[LocalSpace], endpoint: LocalEndpoint, devices: "list[Device]"
) -> None:
    """Sync while everybody works, then compare all copies with where the endpoint is."""
    async with anyio.create_task_group() as tasks:
        for device in dice.sample(devices, 3):
            tasks.start_soon(device.work)
        await bus.sync()
        tasks.cancel_scope.cancel()
    assert endpoint.space is None or endpoint.space in spaces
    table = mappings(endpoint.space) if endpoint.space is not None else []
    for device in devices:
        device.check(table)


class Device:
    """A shadower or a cacher that does one thing at a time."""

    def __init__(self, events: StreamSubscription, *, shadows: bool) -> None:
        self.events = events
        self.stream = aiter(events)
        self.mirror = Mirror(events) if shadows else None
        self.cache = Iotlb(events)

    @classmethod
    @asynccontextmanager
    async def on(cls, bus: Bus, dice: random.Random) -> AsyncGenerator["Device", None]:
        shadows = dice.random() < 0.7
        capacity = dice.choice((1, 2, 50))
        async with bus.subscribe("device", Cap.IOTLB if shadows else Cap.UNMAP, capacity=capacity) as events:
            yield cls(events, shadows=shadows)

    async def step(self) -> None:
        """Apply what is there by now, or fill the cache."""
        if self.mirror is None:
            with suppress(NotMapped):
                await self.cache.translate(self.events.statistics().handed % 32)
        await apply_all(self.stream, self.apply)

    async def work(self) -> None:
        """Apply everything that comes."""
        while True:
            self.apply(await anext(self.stream))

    def apply(self, event: Event) -> None:
        """Follow one event."""
        (self.cache if self.mirror is None else self.mirror).apply(event)

    def check(self, table: list[Mapping]) -> None:
        """A copy equals the table; a cache has nothing that is not in it."""
        if self.mirror is not None:
            assert list(self.mirror) == table
        assert set(map(str, self.cache)) <= set(map(str, table))
