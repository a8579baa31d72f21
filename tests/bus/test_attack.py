"""Attacks on the laws: by callbacks that do what nobody expects, and at the moments nobody thinks of."""

import gc
import warnings
from threading import Thread, get_ident

import anyio
import anyio.to_thread
import pytest

from iommubus import Bus, Cap, Iotlb, Map, Mapping, Mirror, Notifier, Perm
from iommubus.bus.endpoint import LocalEndpoint
from iommubus.consumers.pins import Pin
from iommubus.errors import (
    BadShape,
    Fenced,
    MustShare,
    SubscriptionClosed,
    TranslationFault,
    WrongThread,
)
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
)
from tests.loops import every_loop

# -- law 1 -------------------------------------------------------------------------------


@every_loop
async def test_a_device_cache_is_emptied_by_a_move_out_of_an_empty_table() -> None:
    """What was unmapped and not device-invalidated is still in a device TLB when the endpoint moves."""
    async with Bus() as bus:
        old, new = [await bus.create_space(name, offers=Cap.ALL) for name in ("old", "new")]
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        map_page(old, 1)
        async with bus.subscribe("device", Cap.DEVIOTLB_UNMAP) as events:
            cache = Iotlb(events)
            await cache.translate(PAGE)
            unmap_page(old, 1)
            endpoint.attach(new)
            await apply_all(aiter(events), cache.apply)
            await bus.sync(timeout=0)
            assert cache.lookup(PAGE) is None


@every_loop
async def test_a_closed_pull_space_answers_no_question() -> None:
    """After the close and its sync nobody can get a translation there."""

    async def translate(iova: int, _: Perm) -> Mapping:
        return Mapping(iova, iova + PAGE - 1, TARGET, Perm.RW)

    async with (
        open_space(offers=Cap.UNMAP, translate=translate) as (bus, space),
        bus.subscribe("space", Cap.UNMAP) as events,
    ):
        cache = Iotlb(events)
        await space.close()
        await apply_all(aiter(events), cache.apply)
        await space.sync(timeout=0)
        with pytest.raises(TranslationFault):
            await cache.translate(PAGE)


@pytest.mark.parametrize("kind", [Iotlb, Mirror])
@every_loop
async def test_what_was_left_clean_is_used_no_more(kind: type[Iotlb] | type[Mirror]) -> None:
    """Leaving promises that everything was dropped; the copy goes on answering."""
    async with open_space() as (bus, space):
        map_page(space, 1)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            copy = kind(events)
            await apply_all(aiter(events), copy.apply)
            if isinstance(copy, Iotlb):
                await copy.translate(PAGE)
        unmap_page(space, 1)
        await space.sync(timeout=0)
        with pytest.raises((SubscriptionClosed, TranslationFault)):
            assert copy.lookup(PAGE) is None


# -- callbacks of the producer that move endpoints ---------------------------------------


@every_loop
async def test_a_demand_callback_may_move_the_endpoint_that_is_being_moved() -> None:
    """Wherever it ends up, its subscriber is there, and nowhere else."""
    endpoints: list[LocalEndpoint] = []

    def moved_on(_: Cap, new: Cap) -> None:
        if new and endpoints:
            endpoints[0].attach(last)

    async with Bus() as bus:
        last = await bus.create_space("last")
        middle = await bus.create_space("middle", demand_changed=moved_on)
        map_page(middle, 1)
        endpoint = await bus.create_endpoint("device")
        endpoints.append(endpoint)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            mirror = Mirror(events)
            endpoint.attach(middle)
            assert endpoint.space is last
            map_page(last, 5)
            await apply_all(aiter(events), mirror.apply)
            assert list(mirror) == mappings(last)


@every_loop
async def test_a_demand_callback_may_move_the_endpoint_of_who_joins() -> None:
    """The joiner is where its endpoint is."""
    endpoints: list[LocalEndpoint] = []

    def moved_on(_: Cap, new: Cap) -> None:
        if new:
            endpoints[0].attach(last)

    async with Bus() as bus:
        last = await bus.create_space("last")
        middle = await bus.create_space("middle", demand_changed=moved_on)
        map_page(middle, 1)
        map_page(last, 5)
        endpoint = await bus.create_endpoint("device")
        endpoints.append(endpoint)
        endpoint.attach(middle)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            mirror = Mirror(events)
            await apply_all(aiter(events), mirror.apply)
            assert endpoint.space is last
            assert list(mirror) == mappings(last)


@every_loop
async def test_a_demand_callback_that_sends_others_away_is_told_the_last_demand() -> None:
    endpoints: list[LocalEndpoint] = []
    told: list[Cap] = []

    def changed(_: Cap, new: Cap) -> None:
        told.append(new)
        if new & Cap.MAP and endpoints:
            endpoints.pop().detach()

    async with Bus() as bus:
        space = await bus.create_space("space", demand_changed=changed)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(space)
        async with bus.subscribe("device", Cap.UNMAP):
            endpoints.append(endpoint)
            async with bus.subscribe("space", Cap.IOTLB):
                assert told[-1] == space.statistics().demand == Cap.IOTLB


@every_loop
async def test_who_is_fenced_in_the_middle_of_a_move_holds_up_no_sync() -> None:
    """A handle was lost, its endpoint moves, and the producer publishes when it hears of the demand."""

    def publish(_: Cap, new: Cap) -> None:
        if new:
            map_page(old, 7)

    async with Bus() as bus:
        old = await bus.create_space("old")
        new = await bus.create_space("new", demand_changed=publish)
        map_page(old, 1)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        lost = bus.subscribe("device", Cap.IOTLB)
        await lost.__aenter__()
        await take(aiter(lost), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del lost
            gc.collect()
        endpoint.attach(new)
        await settle()
        assert (await bus.sync(timeout=SOON)).outcomes == ()


@every_loop
async def test_a_demand_callback_that_is_interrupted_leaves_nobody_behind() -> None:
    """All subscribers of an endpoint are where it is, whatever went through the move."""

    class Interrupt(BaseException):
        pass

    def interrupted(_: Cap, new: Cap) -> None:
        if new:
            raise Interrupt

    async with Bus() as bus:
        old = await bus.create_space("old")
        new = await bus.create_space("new", demand_changed=interrupted)
        map_page(old, 1)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        async with bus.subscribe("device", Cap.IOTLB), bus.subscribe("device", Cap.IOTLB, name="second") as events:
            mirror = Mirror(events)
            with pytest.raises(Interrupt):
                endpoint.attach(new)
            await apply_all(aiter(events), mirror.apply)
            place = endpoint.space
            assert list(mirror) == (mappings(old) if place is old else mappings(new))


# -- law 10 ------------------------------------------------------------------------------


@every_loop
async def test_a_container_cannot_keep_a_space_from_being_made() -> None:
    """Who names a space that does not exist yet beside another is no reason to refuse it."""
    async with open_space() as (bus, _), bus.subscribe(["space", "later"], Cap.IOTLB):
        later = await bus.create_space("later")
        assert bus.spaces()[-1] is later


@every_loop
async def test_a_space_that_is_refused_is_not_half_made() -> None:
    async with open_space() as (bus, _), bus.subscribe(["space", "later"], Cap.IOTLB):
        try:
            await bus.create_space("later")
        except MustShare:
            assert [space.name for space in bus.spaces()] == ["space"]


@every_loop
async def test_a_collected_container_keeps_nobody_from_moving() -> None:
    async with Bus() as bus:
        old, new = [await bus.create_space(name) for name in ("old", "new")]
        first, second = [await bus.create_endpoint(name) for name in ("first", "second")]
        first.attach(old)
        second.attach(old)
        lost = bus.subscribe(["first", "second"], Cap.IOTLB)
        await lost.__aenter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del lost
            gc.collect()
        first.attach(new)


# -- law 7 -------------------------------------------------------------------------------


@every_loop
async def test_a_map_that_failed_is_told_to_the_producer_of_its_space() -> None:
    """The sync of the space that the device left takes nothing from that of the one where it is."""
    async with Bus() as bus:
        old, new = [await bus.create_space(name) for name in ("old", "new")]
        map_page(old, 1)
        map_page(new, 5)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(old)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            stream = aiter(events)
            await take(stream, 1)
            await ask(stream)
            endpoint.attach(new)
            _, event = await take(stream, 2)
            assert isinstance(event, Map)
            events.fail(event, BackendError())
            await failing_sync(old)
            await ask(stream)
            failed = await failing_sync(new)
            assert [failure.space for failure in failed.failures] == ["new"]


# -- law 3 -------------------------------------------------------------------------------


@every_loop
async def test_moves_that_nobody_acknowledges_do_not_pile_up() -> None:
    async with Bus() as bus:
        one, two = [await bus.create_space(name) for name in ("one", "two")]
        map_page(one, 1)
        map_page(two, 1)
        endpoint = await bus.create_endpoint("device")
        endpoint.attach(one)
        async with bus.subscribe("device", Cap.IOTLB) as events:
            await take(aiter(events), 1)
            for _ in range(50):
                endpoint.attach(two)
                endpoint.attach(one)
            assert len(one.statistics().leaving) <= 2


@every_loop
async def test_a_space_that_cannot_be_made_leaves_no_endpoint() -> None:
    async with Bus() as bus:
        for number in range(10):
            with pytest.raises(BadShape):
                await bus.create_space(f"space{number}", granule=3)
        assert bus.statistics().endpoints == {}


# -- threads, and other buses ------------------------------------------------------------


@every_loop
async def test_a_use_that_ends_in_another_thread_is_refused_or_served() -> None:
    """Who copies in a thread of its own unpins there; what the bus does then belongs into the bus's thread."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.IOTLB, name="vfio") as events:
        map_page(space, 1)
        mirror, stream = Mirror(events), aiter(events)
        mirror.apply(await anext(stream))
        pin = mirror.pin(PAGE)
        unmap_page(space, 1)
        mirror.apply(await anext(stream))
        await ask(stream)
        ran_in: list[int] = []
        space.routes.present[0].member.completion.expect_number(2, lambda _: ran_in.append(get_ident()))
        outcome: list[BaseException] = []

        def release() -> None:
            try:
                pin.release()
            except WrongThread as refused:
                outcome.append(refused)

        thread = Thread(target=release)
        thread.start()
        thread.join()
        await settle()
        assert outcome or ran_in == [get_ident()]


@every_loop
async def test_a_thread_is_told_when_a_notifier_interrupts_its_call() -> None:
    """It neither waits for ever nor hears that nothing was changed."""

    class Interrupt(BaseException):
        pass

    def interrupt(_: object) -> None:
        raise Interrupt

    told: list[str] = []
    async with open_space() as (bus, space):
        with space.register(Notifier(interrupt, Cap.IOTLB)):
            async with bus.in_thread() as publisher:
                inside = publisher.space("space")

                def call() -> None:
                    try:
                        inside.map(PAGE, PAGE, TARGET, Perm.RW)
                    except BaseException as error:  # noqa: BLE001 - that is what is asked
                        told.append(type(error).__name__)

                thread = Thread(target=call)
                thread.start()
                await anyio.to_thread.run_sync(thread.join)
    assert told == ["Interrupt"]


@every_loop
async def test_an_endpoint_is_not_attached_to_a_space_of_another_bus() -> None:
    async with Bus() as mine, Bus() as other:
        endpoint = await mine.create_endpoint("device")
        foreign = await other.create_space("space")
        with pytest.raises(TypeError):
            endpoint.attach(foreign)


# -- the end -----------------------------------------------------------------------------


@every_loop
async def test_a_notifier_that_interrupts_the_end_keeps_no_stream_open() -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(_: object) -> None:
        raise Interrupt

    bus = Bus()
    await bus.__aenter__()
    first = await bus.create_space("first")
    await bus.create_space("second")
    map_page(first, 1)
    first.register(Notifier(interrupt, Cap.UNMAP))
    async with bus.subscribe("second", Cap.IOTLB) as events:
        with pytest.raises(Interrupt):
            await bus.close()
        ended: list[bool] = []

        async def follow() -> None:
            async for _ in events:
                pass
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await settle()
            tasks.cancel_scope.cancel()
        assert ended


@every_loop
async def test_a_fence_revokes_pins() -> None:
    """Who holds one is told to finish: each sync waits for it."""
    async with open_space() as (bus, space):
        map_page(space, 1)
        events = bus.subscribe("space", Cap.IOTLB, name="vfio")
        await events.__aenter__()
        mirror = Mirror(events)
        pins: list[Pin] = []

        async def follow() -> None:
            with pytest.raises(Fenced):
                await mirror.run()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await settle()
            pins.append(mirror.pin(PAGE))
            await space.fence("vfio")
        assert [pin.revoked for pin in pins] == [True]


class Interrupt(BaseException):
    """What nobody catches."""


def interrupt_growth(old: Cap, new: Cap) -> None:
    """Be interrupted when more is wanted."""
    if new > old:
        raise Interrupt


@every_loop
async def test_who_is_interrupted_while_joining_does_not_count() -> None:
    """Law 10: its block was never entered, so no sync waits for it, and the demand is what it was."""
    async with open_space(demand_changed=interrupt_growth) as (bus, space):
        map_page(space, 1)
        with pytest.raises(Interrupt):
            await bus.subscribe("space", Cap.IOTLB).__aenter__()
        assert space.statistics().subscriptions == {}
        assert space.statistics().demand == Cap(0)
        unmap_page(space, 1)
        assert (await space.sync(timeout=0)).outcomes == ()


@every_loop
async def test_a_notifier_whose_registration_is_interrupted_leaves_no_demand() -> None:
    async with open_space(demand_changed=interrupt_growth) as (_, space):
        with pytest.raises(Interrupt):
            space.register(Notifier(print, Cap.IOTLB))
        assert space.statistics().demand == Cap(0)
