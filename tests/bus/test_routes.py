"""The demand of a space: the OR of all masks, told to its producer, who may refuse."""

import logging

import pytest

from iommubus import Bus, Cap, Map, Notifier
from iommubus.errors import CapabilityRefused, DemandRefused, Fenced
from tests.actors import PAGE, BackendError, map_page, mappings, open_space, unmap_page
from tests.loops import every_loop


@every_loop
async def test_the_producer_is_told_when_the_demand_changes() -> None:
    """I19: called if and only if it changes, with the old and the new one."""
    calls: list[tuple[Cap, Cap]] = []

    def changed(old: Cap, new: Cap) -> None:
        calls.append((old, new))

    async with open_space(offers=Cap.ALL, demand_changed=changed) as (bus, space):
        async with bus.subscribe("space", Cap.UNMAP):
            async with bus.subscribe("space", Cap.IOTLB), bus.subscribe("space", Cap.UNMAP):
                registration = space.register(Notifier(print, Cap.DEVIOTLB_UNMAP))
                assert space.statistics().demand == Cap.ALL
            registration.close()
        assert calls == [
            (Cap(0), Cap.UNMAP),
            (Cap.UNMAP, Cap.IOTLB),
            (Cap.IOTLB, Cap.ALL),
            (Cap.ALL, Cap.UNMAP | Cap.DEVIOTLB_UNMAP),
            (Cap.UNMAP | Cap.DEVIOTLB_UNMAP, Cap.UNMAP),
            (Cap.UNMAP, Cap(0)),
        ]


def refuse_maps(_: Cap, new: Cap) -> None:
    if new & Cap.MAP:
        raise BackendError("caching mode is off")


@every_loop
async def test_the_producer_may_refuse() -> None:
    """I19: a refused registration leaves the demand and the list as they were; its reason is the cause."""
    async with open_space(demand_changed=refuse_maps) as (bus, space), bus.subscribe("space", Cap.UNMAP):
        refused = bus.subscribe("space", Cap.IOTLB, name="vfio")
        with pytest.raises(
            DemandRefused, match=r"refused the demand 0x3 \(it was 0x1\): caching mode is off"
        ) as caught:
            await refused.__aenter__()
        assert isinstance(caught.value.__cause__, BackendError)
        with pytest.raises(DemandRefused):
            space.register(Notifier(print, Cap.IOTLB))
        assert space.statistics().demand == Cap.UNMAP
        assert len(space.statistics().subscriptions) == 1
        await refused.close()
        map_page(space, 0)


@every_loop
async def test_a_smaller_demand_cannot_be_refused(caplog: pytest.LogCaptureFixture) -> None:
    """T25: removal cannot fail; what the callback raises is logged, not raised."""

    def refuse_less(old: Cap, new: Cap) -> None:
        if new < old:
            raise BackendError("no")

    async with open_space(demand_changed=refuse_less) as (bus, space):
        with caplog.at_level(logging.WARNING, "iommubus"):
            async with bus.subscribe("space", Cap.IOTLB):
                pass
        assert space.statistics().demand == Cap(0)
        assert "space: its demand callback raised BackendError('no')" in caplog.text


@pytest.mark.parametrize("caps", [Cap.UNMAP, Cap.IOTLB, Cap.DEVIOTLB_UNMAP, Cap.ALL])
@pytest.mark.parametrize("offers", [Cap.UNMAP, Cap.IOTLB, Cap.DEVIOTLB_UNMAP, Cap.UNMAP | Cap.DEVIOTLB_UNMAP, Cap.ALL])
@every_loop
async def test_what_is_not_offered_is_refused_with_the_reason(offers: Cap, caps: Cap) -> None:
    """Section 4, *offers*: a space delivers no kind that it did not offer, and says why."""
    async with Bus() as bus:
        space = await bus.create_space("space", offers=offers)
        subscription = bus.subscribe("space", caps)
        if int(caps) & ~int(offers):
            with pytest.raises(CapabilityRefused) as caught:
                await subscription.__aenter__()
            assert (caught.value.caps, caught.value.offers) == (caps, offers)
            assert space.statistics().subscriptions == {}
        else:
            async with subscription:
                assert space.statistics().demand == caps


@every_loop
async def test_nothing_is_kept_of_those_who_left() -> None:
    """I27: however many different ranges were asked for, what is remembered is bounded by who is there."""
    async with open_space() as (bus, space):
        for page in range(100):
            async with bus.subscribe("space", Cap.IOTLB, first=page * 0x1000):
                map_page(space, page)
        assert len(space.routes._feeds) == 0  # pyright: ignore[reportPrivateUsage] - nobody outside can see it


@every_loop
async def test_the_producer_may_have_others_come_when_it_is_asked() -> None:
    """I19: the demand is that of everybody who is there in the end."""
    calls: list[tuple[Cap, Cap]] = []

    async with Bus() as bus:

        def changed(old: Cap, new: Cap) -> None:
            calls.append((old, new))
            if len(calls) == 1:
                space.register(Notifier(print, Cap.IOTLB))

        space = await bus.create_space("space", offers=Cap.ALL, demand_changed=changed)
        async with bus.subscribe("space", Cap.DEVIOTLB_UNMAP):
            assert space.statistics().demand == Cap.ALL
        assert space.statistics().demand == Cap.IOTLB
    assert calls == [(Cap(0), Cap.DEVIOTLB_UNMAP), (Cap.DEVIOTLB_UNMAP, Cap.ALL), (Cap.ALL, Cap.IOTLB)]


@every_loop
async def test_the_producer_may_publish_when_it_is_asked() -> None:
    """Law 4: the one who comes is given what was mapped for it once, and the one who goes is told nothing more."""
    async with Bus() as bus:

        def changed(old: Cap, new: Cap) -> None:
            map_page(space, int(new) if new > old else 8)

        space = await bus.create_space("space", demand_changed=changed)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            stream = aiter(events)
            assert isinstance(event := await anext(stream), Map)
            assert event.first == 3 * PAGE
        assert events.statistics().lag == 0
        assert [mapping.first for mapping in mappings(space)] == [3 * PAGE, 8 * PAGE]


@every_loop
async def test_the_producer_may_close_the_space_when_it_is_asked() -> None:
    """Whoever comes then sees the end at once, and waits for nothing."""
    async with Bus() as bus:

        def close(_: Cap, new: Cap) -> None:
            if new:
                space.shut()

        space = await bus.create_space("space", demand_changed=close)
        async with bus.subscribe("space", Cap.IOTLB) as events:
            assert [event async for event in events] == []


@every_loop
async def test_an_interrupted_producer_leaves_nobody_behind() -> None:
    """Law 10: who left is gone, and nothing is put into its mailbox, whatever the producer raises about it."""

    def interrupted(_: Cap, new: Cap) -> None:
        if not new:
            raise KeyboardInterrupt

    for stops in ("lease", "exit"):
        async with open_space(demand_changed=interrupted) as (bus, space):
            map_page(space, 0)
            events = bus.subscribe("space", Cap.IOTLB, stops=stops)
            await events.__aenter__()
            await anext(aiter(events))
            unmap_page(space, 0)
            with pytest.raises(KeyboardInterrupt):
                await space.fence(events)
            assert space.statistics().subscriptions == {}
            assert (space.statistics().unproven == ()) == (stops == "lease")
            with pytest.raises(Fenced):
                await events.wait_current()
            map_page(space, 1)
            assert events.statistics().lag == 1
            await events.close()
            await space.sync(timeout=0)
