"""Answers to IOTLB misses, and how long they may be believed."""

import pytest

from iommubus import LAST, Cap, Mapping, Perm, Unmap
from iommubus.bus.translation import RECENT, RecentRemovals
from iommubus.errors import AccessDenied, NotMapped
from tests.actors import PAGE, map_page, open_space, unmap_page
from tests.loops import every_loop


@every_loop
async def test_a_translation_is_the_mapping_cropped_to_the_ranges() -> None:
    """Section 3: cropped to what was subscribed, with the target moved; outside of it nothing is mapped."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP, first=0x1000, last=0x1FFF) as events:
        space.map(0, 0x4000, 0x10_0000, Perm.R)
        answer = await events.translate(0x1234)
        assert answer.mapping == Mapping(0x1000, 0x1FFF, 0x10_1000, Perm.R)
        assert answer.seq == 1
        assert repr(answer) == "<translation 0x1000..0x1fff -> 0x101000 <Perm.R: 1> at 1, valid>"
        for outside in (0xFFF, 0x2000):
            with pytest.raises(NotMapped):
                await events.translate(outside)
        with pytest.raises(AccessDenied) as caught:
            await events.translate(0x1234, Perm.RW)
        assert (caught.value.iova, caught.value.wanted, caught.value.granted) == (0x1234, 3, 1)


@every_loop
async def test_it_is_valid_until_an_overlapping_unmap_is_handed_over() -> None:
    """Law 5, I22: the moment of the hand-over counts; what does not overlap is no matter."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP) as events:
        stream = aiter(events)
        for page in (0, 1, 2):
            map_page(space, page)
        first, second = await events.translate(0), await events.translate(PAGE)
        unmap_page(space, 0)
        with pytest.raises(NotMapped):
            await events.translate(0)
        assert (first.valid, second.valid) == (True, True)
        unmap_page(space, 2)
        await anext(stream)
        assert first.valid is False
        assert "stale" in repr(first)
        assert second.valid
        map_page(space, 0)
        again = await events.translate(0)
        await anext(stream)
        assert (again.valid, first.valid) == (True, False)


@every_loop
async def test_the_unmap_of_a_conflated_hand_over_counts() -> None:
    """Law 5: a merged UNMAP ends what lies in its gaps too."""
    async with open_space() as (bus, space), bus.subscribe("space", Cap.UNMAP, capacity=1) as events:
        for page in range(4):
            map_page(space, page)
        answers = [await events.translate(page * PAGE) for page in range(4)]
        for page in (0, 1, 3):
            unmap_page(space, page)
        seen = await anext(events.batches())
        assert [answer.valid for answer in answers] == [
            not any(event.first <= page * PAGE <= event.last for event in seen) for page in range(4)
        ]
        assert not answers[0].valid
        assert not answers[3].valid


@every_loop
async def test_a_device_invalidation_ends_it_too() -> None:
    async with open_space(offers=Cap.ALL) as (bus, space), bus.subscribe("space", Cap.DEVIOTLB_UNMAP) as events:
        map_page(space, 0)
        answer = await events.translate(0)
        space.invalidate_device(0, PAGE)
        assert answer.valid
        await anext(aiter(events))
        assert not answer.valid


def test_what_is_no_longer_remembered_counts_as_invalid() -> None:
    """Section 3: forgetting costs one more miss, never a stale entry."""
    removals = RecentRemovals()
    removals.watch()
    removals.note(1, [Unmap("space", 1, 0, LAST)])
    assert not removals.any_since(1, 0, 0xFFF)
    for number in range(2, RECENT + 2):
        removals.note(number, [Unmap("space", number, 0x1000, 0x1FFF)])
    assert not removals.any_since(1, 0, 0xFFF)
    assert removals.any_since(1, 0, 0x1000)
    removals.note(RECENT + 2, [Unmap("space", 0, 0x1000, 0x1FFF)])
    assert removals.any_since(1, 0, 0xFFF)
    assert not removals.any_since(RECENT + 2, 0x1000, 0x1FFF)


def test_removals_of_one_hand_over_count_as_one() -> None:
    """Section 3: an answer is as old as the last hand-over before the question."""
    removals = RecentRemovals()
    removals.watch()
    removals.note(7, [Unmap("space", 1, 0, 0xFFF), Unmap("space", 2, 0x1000, 0x1FFF)])
    assert removals.any_since(6, 0, 0)
    assert removals.any_since(6, 0x1000, 0x1000)
    assert not removals.any_since(7, 0, LAST)


def test_a_fence_ends_every_answer() -> None:
    removals = RecentRemovals()
    removals.stop()
    assert removals.any_since(0, 0, 0)
