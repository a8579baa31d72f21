"""What the front-end bridge decides without a socket: what is agreed, what a table holds, what an INVALIDATE covers."""

from itertools import pairwise
from random import Random

import pytest

from iommubus import LAST, IovaRange, Memory, Unmap
from iommubus.abi.vhost_user import Features, ProtocolFeatures, Region
from iommubus.bridges.vhost_user_frontend.agreement import agree
from iommubus.bridges.vhost_user_frontend.revoking import WINDOW, covering
from iommubus.bridges.vhost_user_frontend.rings import Ring, resumed
from iommubus.bridges.vhost_user_frontend.table import Table
from iommubus.errors import PeerCannot
from tests.bridges.vhost_user_backends import OFFERED, PROTOCOL

PAGE = 0x1000


# -- what is agreed -----------------------------------------------------------------


def test_only_what_is_used_is_agreed() -> None:
    agreement = agree("it", OFFERED | Features.LOG_ALL | 1 << 15, PROTOCOL | ProtocolFeatures.STATUS | 1 << 60)

    assert agreement.features == OFFERED
    assert int(agreement.protocol) == PROTOCOL
    assert not agreement.slots


def test_memories_go_one_by_one_where_that_can_be() -> None:
    agreement = agree("it", OFFERED, PROTOCOL | ProtocolFeatures.CONFIGURE_MEM_SLOTS)

    assert agreement.slots
    assert agreement.lacks == ()


def test_features_of_the_device_are_used_if_they_are_offered_and_said_if_not() -> None:
    agreement = agree("it", OFFERED | 1 << 15, PROTOCOL, wanted=1 << 15 | 1 << 5)

    assert agreement.features == OFFERED | 1 << 15
    assert "feature 15" in agreement.names
    assert [lack.what for lack in agreement.lacks] == ["CONFIGURE_MEM_SLOTS", "feature 5"]


def test_rings_of_the_time_before_are_a_lack() -> None:
    agreement = agree("it", OFFERED & ~int(Features.VERSION_1), PROTOCOL)

    assert not agreement.features & Features.VERSION_1
    assert agreement.lacks[0].what == "VERSION_1"


@pytest.mark.parametrize("bit", [Features.PROTOCOL_FEATURES, Features.ACCESS_PLATFORM])
def test_what_is_needed_is_named_with_its_reason(bit: Features) -> None:
    with pytest.raises(PeerCannot, match=f"it has no {bit.name}: "):
        agree("it", OFFERED & ~int(bit), PROTOCOL)


# -- memories -----------------------------------------------------------------------


def memory(number: int, size: int = PAGE) -> Memory:
    return Memory(f"m{number}", 1, size)


def add(table: Table, one: Memory) -> Region:
    region = table.draw(one)
    assert region is not None
    table.add(one, region)
    return region


def test_no_two_memories_share_an_address_ever() -> None:
    random = Random(3)  # noqa: S311 - sizes, no secrets
    table = Table(4)
    seen: list[tuple[int, int]] = []
    for number in range(100):
        one = memory(number, random.choice([1, PAGE, 1 << 30, (1 << 30) + 1, 1 << 40]))
        table.make_room([])
        region = add(table, one)
        seen.append((region.user_address, region.user_address + region.size))
    seen.sort()

    assert all(end <= begin for (_, end), (begin, _) in pairwise(seen))
    assert len(table.memories) == 4


def test_a_memory_that_is_larger_than_all_addresses_gets_none() -> None:
    table = Table(2)
    add(table, memory(1, 1 << 63))

    assert table.draw(memory(2, 1 << 63)) is None
    assert table.draw(memory(3)) is not None


def test_what_was_not_used_for_longest_makes_room() -> None:
    table = Table(2)
    add(table, memory(1))
    add(table, memory(2))
    assert table.find(memory(1)) is not None

    out = table.make_room([])

    assert [region.size for region in out] == [PAGE]
    assert table.memories == (memory(1),)
    assert table.find(memory(2)) is None


def test_what_is_gone_goes_first() -> None:
    table = Table(2)
    add(table, memory(1))
    add(table, memory(2))

    table.make_room([memory(2)])

    assert table.memories == (memory(1),)


def test_another_generation_is_another_memory() -> None:
    table = Table(2)
    add(table, memory(1))

    assert table.find(Memory("m1", 2, PAGE)) is None


# -- what is taken away ---------------------------------------------------------------


def unmap(first: int, last: int) -> Unmap:
    return Unmap("space", 1, first, last)


def test_few_ranges_are_covered_exactly() -> None:
    assert covering([unmap(0x3000, 0x3FFF), unmap(0x1000, 0x1FFF), unmap(0x1000, 0x1FFF)]) == [
        IovaRange(0x1000, 0x1FFF),
        IovaRange(0x3000, 0x3FFF),
    ]


def test_neighbours_are_one() -> None:
    assert covering([unmap(0x2000, 0x2FFF), unmap(0x1000, 0x1FFF)]) == [IovaRange(0x1000, 0x2FFF)]


def test_many_ranges_are_covered_whatever_they_are() -> None:
    random = Random(7)  # noqa: S311 - addresses, no secrets
    for _ in range(50):
        events = [
            unmap(first, min(first + random.randrange(1 << 16), LAST))
            for first in random.choices(range(1 << 24), k=900)
        ]

        ranges = covering(events)

        assert len(ranges) <= WINDOW
        assert all(any(one.first <= event.first and event.last <= one.last for one in ranges) for event in events)
        assert all(one.last < other.first for one, other in pairwise(ranges))


# -- rings ----------------------------------------------------------------------------


def test_rings_go_on_where_they_were_left() -> None:
    rings = (Ring(0, 1, 0, 0, 0, base=3), Ring(1, 1, 0, 0, 0, base=4), Ring(2, 1, 0, 0, 0, base=5))

    assert [ring.base for ring in resumed(rings, {0: 17, 1: None})] == [17, None, 5]
