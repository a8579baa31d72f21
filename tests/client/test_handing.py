"""The hand-overs of one subscription, counted by the consumer."""

from iommubus.bus.member import Terms
from iommubus.caps import Cap, Perm
from iommubus.client.handing import HandOvers
from iommubus.contract import Contract
from iommubus.events import Event, Map, Unmap
from iommubus.wire.messages.heard import DeliverHeard

TERMS = Terms("", Cap.IOTLB, ((0, 999),), 8, Contract(), "lease", None)


def map_of(first: int, last: int) -> Map:
    return Map("space", 1, first, last, 0x1000, Perm.RW)


def arrive(out: HandOvers, number: int, *events: Event) -> None:
    out.take_in(DeliverHeard(1, number, list(events), (), 0), lambda _: True)


def take(out: HandOvers) -> list[Event]:
    events, _ = out.take()
    out.hand.rest += reversed(events)
    return events


def test_acknowledgements_are_told_in_the_numbers_of_the_daemon() -> None:
    out = HandOvers(TERMS, "endpoint")
    arrive(out, 3, map_of(0, 9))
    arrive(out, 5, map_of(10, 19))
    take(out)
    take(out)
    assert out.acknowledge(1)[0] == 3
    assert not out.settled
    assert out.acknowledge(2)[0] == 5
    assert out.acknowledge(2) == (0, 0)
    assert out.settled


def test_what_is_of_a_lost_connection_is_nothing_to_the_next_one() -> None:
    out = HandOvers(TERMS, "endpoint")
    arrive(out, 3, map_of(0, 9))
    arrive(out, 4, map_of(20, 29))
    given = take(out)[0]
    out.lose()
    assert (out.hand.rest, len(out.arrivals), out.place(given)) == ([], 0, (0, 0))
    assert take(out) == [Unmap("space", 1, 0, 9)]
    assert out.acknowledge(2) == (0, 0)
    assert out.dropped()
    out.lose()
    assert out.drop.over


def test_what_failed_of_a_lost_connection_takes_back_nothing_of_the_next_one() -> None:
    """A cacher that holds nothing is registered again at once, with an invalidation in its hand."""
    out = HandOvers(TERMS, "endpoint")
    arrive(out, 1, Unmap("space", 1, 0, 9))
    failed = take(out)[0]
    out.lose()
    assert out.drop.over
    arrive(out, 1, map_of(0, 9))
    out.put_back(failed, told=False)
    assert take(out) == [map_of(0, 9)]


def test_what_could_not_be_forgotten_is_taken_away_again() -> None:
    out = HandOvers(TERMS, "endpoint")
    arrive(out, 1, map_of(0, 9))
    take(out)
    out.lose()
    failed = take(out)[0]
    out.put_back(failed, told=False)
    out.acknowledge(2)
    assert not out.dropped()
    assert not out.drop.over
