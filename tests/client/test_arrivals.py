"""Hand-overs as they arrive, and what a failure takes back of them."""

import pytest

from iommubus.caps import Perm
from iommubus.client.arrivals import Arrivals, TakenBack
from iommubus.errors import BadMessage
from iommubus.events import DevIotlbUnmap, Event, Map, Memory, Unmap
from iommubus.wire.messages.heard import DeliverHeard

SIZE = 50
"""Bytes of each message."""


def map_of(first: int, last: int, memory: Memory | None = None) -> Map:
    return Map("space", 1, first, last, 0x1000, Perm.RW, memory)


def unmap_of(first: int, last: int) -> Unmap:
    return Unmap("space", 1, first, last)


def device_of(first: int, last: int) -> DevIotlbUnmap:
    return DevIotlbUnmap("space", 1, first, last)


def deliver(number: int, *events: Event, more: bool = False, fails: int = 0) -> DeliverHeard:
    memories = tuple(dict.fromkeys(one.memory for one in events if isinstance(one, Map) and one.memory))
    return DeliverHeard(1, number, list(events), memories, SIZE, more, fails=fails)


def test_a_hand_over_is_whole_or_not_there() -> None:
    arrivals = Arrivals()
    assert arrivals.take_in(deliver(1, map_of(0, 9), more=True)) is None
    assert not arrivals.ready
    arrival = arrivals.take_in(deliver(1, unmap_of(0, 9), map_of(10, 19)))
    assert arrival is not None
    assert arrival.events == [map_of(0, 9), unmap_of(0, 9), map_of(10, 19)]
    assert arrival.place(arrival.events[2]) == 2
    assert arrival.place(map_of(10, 19)) is None
    assert (arrivals.ready, len(arrivals), arrivals.last, arrivals.newest) == (True, 1, 1, 1)


def test_one_that_gives_nothing_is_none() -> None:
    arrivals = Arrivals()
    arrivals.take_in(deliver(2, map_of(0, 9)))
    assert arrivals.take_in(deliver(3)) is None
    assert (len(arrivals), arrivals.last, arrivals.newest) == (1, 3, 2)


@pytest.mark.parametrize(
    "messages",
    [
        (deliver(2, map_of(0, 9)), deliver(1, map_of(0, 9))),
        (deliver(2, map_of(0, 9)), deliver(2, map_of(0, 9))),
        (deliver(2, map_of(0, 9), more=True), deliver(3, map_of(0, 9))),
    ],
)
def test_numbers_go_up(messages: tuple[DeliverHeard, DeliverHeard]) -> None:
    arrivals = Arrivals()
    arrivals.take_in(messages[0])
    with pytest.raises(BadMessage, match="number of Deliver"):
        arrivals.take_in(messages[1])


def test_a_failure_takes_back_what_overlaps_behind_it_and_what_overlaps_that() -> None:
    """Law 7: nothing may be handed out before a removal that failed there; a device invalidation widens nothing."""
    arrivals, failed = Arrivals(), unmap_of(0, 9)
    in_hand: list[Event] = [map_of(20, 29), map_of(5, 14)]
    arrivals.take_in(deliver(1, device_of(14, 30), map_of(10, 19), map_of(40, 49)))
    arrivals.taken_back.fail()
    arrivals.fail(failed, in_hand)
    assert in_hand == [map_of(20, 29)]
    assert arrivals.pop().events == [map_of(40, 49)]


def test_what_arrives_is_taken_back_until_the_daemon_knows() -> None:
    arrivals = Arrivals()
    arrivals.taken_back.fail()
    arrivals.fail(unmap_of(0, 9), [])
    arrivals.taken_back.fail()  # a MAP, which takes nothing back
    arrivals.take_in(deliver(1, map_of(5, 14), map_of(20, 29)))
    arrivals.take_in(deliver(2, map_of(14, 15), map_of(30, 39)))
    arrivals.take_in(deliver(3, map_of(0, 9), fails=1))
    assert [arrivals.pop().events for _ in range(3)] == [[map_of(20, 29)], [map_of(30, 39)], [map_of(0, 9)]]
    assert len(arrivals.taken_back) == 0


def test_each_failure_is_known_by_itself() -> None:
    taken_back = TakenBack()
    for first in (0, 10):
        taken_back.fail()
        taken_back.remove(unmap_of(first, first + 9), [])
    events: list[Event] = [map_of(0, 9), map_of(10, 19)]
    taken_back.filter(1, events)
    assert events == [map_of(0, 9)]
    assert len(taken_back) == 1


def test_a_device_invalidation_that_failed_takes_nothing_back() -> None:
    arrivals, in_hand = Arrivals(), [map_of(0, 9)]
    arrivals.taken_back.fail()
    arrivals.fail(device_of(0, 9), list(in_hand))
    arrivals.take_in(deliver(1, map_of(0, 9)))
    assert arrivals.pop().events == in_hand


def test_what_leads_into_a_memory_waits_for_it_in_order() -> None:
    ram, rom = Memory("ram", 1, 0x10000), Memory("rom", 1, 0x10000)
    arrivals = Arrivals()
    arrivals.take_in(deliver(1, map_of(0, 9, ram), map_of(10, 19, rom)))
    arrivals.take_in(deliver(2, unmap_of(0, 9)))
    for memory in (rom, ram):
        assert not arrivals.ready
        arrivals.known(memory)
    assert arrivals.ready


def test_a_hand_over_costs_what_all_its_messages_did() -> None:
    """The daemon waits for that much to be acknowledged; one that gives nothing is acknowledged with the next."""
    arrivals = Arrivals()
    arrivals.take_in(deliver(1))
    arrivals.take_in(deliver(2, map_of(0, 9), more=True))
    whole = arrivals.take_in(deliver(2, map_of(10, 19)))
    assert whole is not None
    assert whole.cost == 3 * SIZE
    alone = arrivals.take_in(deliver(3, map_of(20, 29)))
    assert alone is not None
    assert alone.cost == SIZE
