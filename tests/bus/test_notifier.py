"""Notifiers run inside `map` and `unmap`, in the producer's own call."""

import pytest

from iommubus import LAST, Cap, DevIotlbUnmap, Event, IovaRange, Map, Mapping, Notifier, Perm, Unmap
from iommubus.bus.space import LocalSpace
from iommubus.errors import EmptyMask, InvertedRange, MapAlone, NotifierFailed, SpaceClosed, UnknownCapability
from iommubus.mailbox import PIECE
from tests.actors import PAGE, BackendError, map_page, open_space, take, unmap_page
from tests.loops import every_loop


def numbers(events: list[Event]) -> list[tuple[str, int]]:
    return [(type(event).__name__, event.seq) for event in events]


@every_loop
async def test_it_is_called_before_map_returns() -> None:
    """The table has changed before anybody is told (law 5); the callback sees the event in the caller's stack."""
    async with open_space(offers=Cap.ALL) as (_, space):
        seen: list[tuple[Event, int]] = []
        space.register(Notifier(lambda event: seen.append((event, space.statistics().mappings)), Cap.ALL))
        space.map(0, PAGE, 0x5000, Perm.R)
        space.unmap(0, PAGE)
        space.invalidate_device(0, PAGE)
        assert seen == [
            (Map("space", 1, 0, 0xFFF, 0x5000, Perm.R), 1),
            (Unmap("space", 2, 0, 0xFFF), 0),
            (DevIotlbUnmap("space", 3, 0, 0xFFF), 0),
        ]


@every_loop
async def test_it_gets_its_kinds_and_its_range() -> None:
    """I4, I5: the kind is in the mask, the range inside what was asked for, the target moved along."""
    async with open_space(offers=Cap.ALL) as (_, space):
        unmaps: list[Event] = []
        middle: list[Event] = []
        devices: list[Event] = []
        space.register(Notifier(unmaps.append, Cap.UNMAP))
        space.register(Notifier(middle.append, Cap.IOTLB, 0x1000, 0x1FFF))
        space.register(Notifier(devices.append, Cap.DEVIOTLB_UNMAP))
        space.map(0, 0x4000, 0x8000, Perm.RW)
        space.map(0x4000, 0x1000, 0, Perm.R)
        space.unmap_all()
        assert unmaps == [Unmap("space", 3, 0, LAST)]
        assert middle == [Map("space", 1, 0x1000, 0x1FFF, 0x9000, Perm.RW), Unmap("space", 3, 0x1000, 0x1FFF)]
        assert devices == []


def test_a_notifier_is_checked_when_it_is_made() -> None:
    for kind, mask in (EmptyMask, Cap(0)), (MapAlone, Cap.MAP), (UnknownCapability, Cap(8)):
        with pytest.raises(kind):
            Notifier(print, mask)
    with pytest.raises(InvertedRange):
        Notifier(print, Cap.UNMAP, 2, 1)


@every_loop
async def test_registering_replays_what_is_there() -> None:
    """T19, T20: the replay is for the new one alone, cropped like the live events, and every mapping comes once."""
    async with open_space() as (_, space):
        old: list[Event] = []
        space.register(Notifier(old.append, Cap.IOTLB))
        for page in range(PIECE + 5):
            map_page(space, 2 * page)
        before = len(old)
        new: list[Event] = []
        space.register(Notifier(new.append, Cap.IOTLB, 0, (PIECE * 2 + 2) * PAGE - 1))
        unmap_only: list[Event] = []
        space.register(Notifier(unmap_only.append, Cap.UNMAP))
        assert [event.first // PAGE for event in new] == list(range(0, PIECE * 2 + 2, 2))
        assert {event.seq for event in new} == {PIECE + 5}
        assert len(old) == before
        assert unmap_only == []


@every_loop
async def test_a_replay_that_fails_registers_nothing() -> None:
    """I19: nothing changes for a registration that failed."""

    def refuse(event: Event) -> None:
        raise BackendError(event)

    async with open_space() as (_, space):
        map_page(space, 0)
        with pytest.raises(NotifierFailed):
            space.register(Notifier(refuse, Cap.IOTLB))
        assert space.statistics().demand == Cap(0)
        map_page(space, 1)


@every_loop
async def test_one_that_raises_stops_nobody() -> None:
    """The event is published, the others have run, and the producer gets every exception."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        seen: list[Event] = []

        def fail(event: Event) -> None:
            raise BackendError(event.seq)

        failing = [space.register(Notifier(fail, Cap.IOTLB))]
        space.register(Notifier(seen.append, Cap.IOTLB))
        failing += [space.register(Notifier(fail, Cap.IOTLB))]
        with pytest.raises(NotifierFailed) as caught:
            map_page(space, 0)
        assert [type(failure) for failure in caught.value.exceptions] == [BackendError, BackendError]
        assert "2 notifiers raised" in str(caught.value)
        with pytest.raises(NotifierFailed):
            unmap_page(space, 0)
        assert numbers(seen) == [("Map", 1), ("Unmap", 2)]
        assert numbers(await take(aiter(events), 2)) == numbers(seen)
        with pytest.raises(NotifierFailed) as caught:
            space.apply([Mapping(0, 0xFFF, 0, Perm.R), Mapping(0x1000, 0x1FFF, 0, Perm.R)])
        assert len(caught.value.exceptions) == 4
        for registration in failing:
            registration.close()


@every_loop
async def test_one_that_publishes_is_served_afterwards() -> None:
    """Everybody sees the same order, that of the numbers: what one causes comes after what it was told of."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events, bus.observe("*") as observer:

        def answer(event: Event) -> None:
            if event.first == 0 and isinstance(event, Map):
                map_page(space, 1)
                map_page(space, 2)
                unmap_page(space, 1)

        first: list[Event] = []
        last: list[Event] = []
        space.register(Notifier(first.append, Cap.IOTLB))
        space.register(Notifier(answer, Cap.IOTLB))
        space.register(Notifier(last.append, Cap.IOTLB))
        map_page(space, 0)
        order = [("Map", 1), ("Map", 2), ("Map", 3), ("Unmap", 4)]
        assert numbers(first) == order
        assert numbers(last) == order
        assert numbers(await take(aiter(events), 4)) == order
        assert [event.seq for event in await take(aiter(observer), 4)] == [1, 2, 3, 4]


@every_loop
async def test_one_that_publishes_inside_an_apply_comes_after_all_of_it() -> None:
    """The order of the numbers holds also where several changes are published at once."""
    async with open_space() as (_, space):

        def answer(event: Event) -> None:
            if isinstance(event, Map) and event.first == 0:
                unmap_page(space, 1)

        seen: list[Event] = []
        space.register(Notifier(answer, Cap.IOTLB))
        space.register(Notifier(seen.append, Cap.IOTLB))
        space.apply([Mapping(0, 0xFFF, 0, Perm.R), Mapping(0x1000, 0x1FFF, 0, Perm.R)])
        assert numbers(seen) == [("Map", 1), ("Map", 2), ("Unmap", 3)]


@every_loop
async def test_what_a_caused_event_raises_goes_to_the_outer_call() -> None:
    async with open_space() as (_, space):
        outcomes: list[str] = []

        def answer(event: Event) -> None:
            if event.seq == 1:
                map_page(space, 1)
                outcomes.append("inner call returned")

        def fail(event: Event) -> None:
            if event.seq == 2:
                raise BackendError

        space.register(Notifier(answer, Cap.IOTLB))
        space.register(Notifier(fail, Cap.IOTLB))
        with pytest.raises(NotifierFailed):
            map_page(space, 0)
        assert outcomes == ["inner call returned"]


@every_loop
async def test_unregistering_inside_itself() -> None:
    """T24: it is allowed, and neither skips nor repeats an event for the others (I20)."""
    async with open_space() as (_, space):
        before: list[Event] = []
        after: list[Event] = []
        once: list[Event] = []

        def leave(event: Event) -> None:
            once.append(event)
            registration.close()
            registration.close()

        space.register(Notifier(before.append, Cap.IOTLB))
        registration = space.register(Notifier(leave, Cap.IOTLB))
        space.register(Notifier(after.append, Cap.IOTLB))
        space.apply([Mapping(0, 0xFFF, 0, Perm.R), Mapping(0x1000, 0x1FFF, 0, Perm.R)])
        assert numbers(once) == [("Map", 1)]
        assert numbers(before) == numbers(after) == [("Map", 1), ("Map", 2)]


@every_loop
async def test_one_that_was_closed_by_another_is_called_no_more() -> None:
    """`close`: not even for the event that is being told, whichever stands first."""
    async with open_space() as (_, space):
        seen: list[Event] = []
        with space.register(Notifier(lambda _: registration.close(), Cap.IOTLB)):
            registration = space.register(Notifier(seen.append, Cap.IOTLB))
            map_page(space, 0)
        map_page(space, 1)
        assert seen == []
        assert space.statistics().demand == Cap(0)


@every_loop
async def test_one_that_registers_another_in_an_apply_gives_it_each_mapping_once() -> None:
    """Law 4: replay and follow, without gap or duplicate."""
    async with open_space() as (_, space):
        new: list[Event] = []

        def register(event: Event) -> None:
            if event.seq == 1:
                space.register(Notifier(new.append, Cap.IOTLB))

        space.register(Notifier(register, Cap.IOTLB))
        space.apply([Mapping(page * PAGE, page * PAGE + 0xFFF, 0, Perm.R) for page in range(3)])
        map_page(space, 7)
        assert sorted(event.first // PAGE for event in new) == [0, 1, 2, 7]


@every_loop
async def test_a_replay_is_of_one_moment() -> None:
    """Law 4: one that unmaps while it is replayed is not told afterwards of a mapping that is gone."""
    async with open_space() as (_, space):
        for page in range(4):
            map_page(space, page)
        held: set[int] = set()

        def follow(event: Event) -> None:
            if isinstance(event, Map):
                held.add(event.first // PAGE)
                if event.first == 0:
                    unmap_page(space, 2)
            else:
                held.discard(event.first // PAGE)

        space.register(Notifier(follow, Cap.IOTLB))
        assert held == {0, 1, 3}


@every_loop
async def test_a_replay_that_fails_leaves_no_event_behind() -> None:
    """One that raised is not registered: the rest of its replay and later events are not for it."""
    async with open_space() as (_, space):
        for page in range(3):
            map_page(space, page)
        calls: list[int] = []

        def fail(event: Event) -> None:
            calls.append(event.first // PAGE)
            raise BackendError

        with pytest.raises(NotifierFailed):
            space.register(Notifier(fail, Cap.IOTLB))
        del calls[:]
        map_page(space, 9)
        assert calls == []


@every_loop
async def test_an_interrupt_passes_and_loses_nothing() -> None:
    """What is no `Exception` is raised as it is, once everybody was told of everything."""
    async with open_space() as (_, space):
        seen: list[Event] = []

        def interrupt(event: Event) -> None:
            if event.seq == 1:
                raise KeyboardInterrupt

        space.register(Notifier(interrupt, Cap.IOTLB))
        space.register(Notifier(seen.append, Cap.IOTLB))
        with pytest.raises(KeyboardInterrupt):
            space.apply([Mapping(0, 0xFFF, 0, Perm.R), Mapping(0x1000, 0x1FFF, 0, Perm.R)])
        assert numbers(seen) == [("Map", 1), ("Map", 2)]
        map_page(space, 2)
        assert numbers(seen) == [("Map", 1), ("Map", 2), ("Map", 3)]


@every_loop
async def test_closing_the_space_tells_it_and_lets_it_map_nothing() -> None:
    """`close`: everything is gone afterwards, whatever a notifier tries or raises."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB) as events:
        map_page(space, 0)
        seen: list[Event] = []

        def cling(event: Event) -> None:
            seen.append(event)
            if isinstance(event, Unmap):
                map_page(space, 1)

        space.register(Notifier(cling, Cap.IOTLB))
        stream = aiter(events)
        await anext(stream)
        with pytest.raises(NotifierFailed) as caught:
            await space.close()
        assert [type(failure) for failure in caught.value.exceptions] == [SpaceClosed]
        assert numbers(seen) == [("Map", 1), ("Unmap", 2)]
        assert bus.spaces() == ()
        assert type(await anext(stream)) is Unmap
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@every_loop
async def test_a_bus_closes_every_space_though_notifiers_raise() -> None:
    """`close`: one space's callback does not keep another open."""

    def fail(event: Event) -> None:
        raise BackendError(event)

    spaces: list[LocalSpace] = []
    with pytest.raises(NotifierFailed) as caught:  # noqa: PT012 - leaving the block is what raises
        async with open_space("a") as (bus, first):
            spaces += [first, await bus.create_space("b")]
            for space in spaces:
                space.register(Notifier(fail, Cap.UNMAP))
                map_page(space, 0)
    assert len(caught.value.exceptions) == 2
    for space in spaces:
        with pytest.raises(SpaceClosed):
            map_page(space, 1)


@every_loop
async def test_splitting_tells_unmap_and_survivors() -> None:
    """Law 6: a cut is an UNMAP of the whole mapping and a MAP of each part that survives."""
    async with open_space(straddle="split") as (_, space):
        space.map(0, 0x4000, 0x10000, Perm.R)
        seen: list[Event] = []
        space.register(Notifier(seen.append, Cap.UNMAP))
        both: list[Event] = []
        space.register(Notifier(both.append, Cap.IOTLB))
        del both[:]
        space.apply([IovaRange(0x1000, 0x1FFF)])
        assert seen == [Unmap("space", 2, 0, 0x3FFF)]
        assert both == [
            Unmap("space", 2, 0, 0x3FFF),
            Map("space", 3, 0, 0xFFF, 0x10000, Perm.R),
            Map("space", 4, 0x2000, 0x3FFF, 0x12000, Perm.R),
        ]
