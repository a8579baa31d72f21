"""What becomes of a space whose name is asked for again: a table, and every case of it."""

import itertools
from typing import Any

import pytest

from iommubus.service.spaces.held import Fate, Held, alike, judge, surplus
from iommubus.transport.credentials import Peer
from iommubus.transport.tasks import Tasks
from iommubus.wire.messages.spaces import CreateSpace
from iommubus.wire.messages.values import Range
from tests.talkers import creating

QEMU = Peer(pid=7, uid=7, gids=(7,))
AGAIN = Peer(pid=8, uid=7, gids=(7,))
OTHER = Peer(pid=9, uid=9, gids=(9,))


class Producer:
    """A client, as far as a space knows it."""

    number, name, agreement, open = 1, "qemu", None, True
    peer = QEMU


def held(*, live: bool, emptied: bool = False) -> Held:
    """Return a space of epoch 5."""
    space = Held(creating(1), Producer(), 5, Tasks(), lambda *_: None)  # type: ignore[arg-type]
    space.emptied = emptied
    if not live:
        space.producer = None
    return space


def expected(wanted: CreateSpace, peer: Peer, *, live: bool, emptied: bool, resumes: bool) -> Fate:
    """Return what should become of it, said another way."""
    mine = wanted.epoch == 5
    if live:
        return Fate.DISPLACE if mine and peer is QEMU else Fate.REFUSE
    if wanted.offers != 7:
        return Fate.REPLACE
    return Fate.RESUME if mine and resumes and not emptied and peer is not OTHER else Fate.EMPTY


def test_every_case_is_decided() -> None:
    seen: set[Fate] = set()
    for live, emptied, resumes, epoch, offers, peer in itertools.product(
        (True, False), (True, False), (True, False), (0, 4, 5), (7, 3), (QEMU, AGAIN, OTHER)
    ):
        wanted = creating(2, epoch=epoch, offers=offers)
        fate = judge(held(live=live, emptied=emptied), wanted, peer, resumes=resumes)
        assert fate is expected(wanted, peer, live=live, emptied=emptied, resumes=resumes)
        seen.add(fate)
    assert seen == set(Fate)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"straddle": "split", "asks_demand": True, "answers": True, "answer_us": 7, "epoch": 9}, True),
        ({"granule": 0x2000}, False),
        ({"last": 2**31 - 1}, False),
        ({"offers": 3}, False),
        ({"reserved": [Range(0, 1), Range(4, 5)]}, False),
    ],
)
def test_spaces_are_alike_where_their_subscribers_cannot_tell(options: dict[str, Any], *, same: bool) -> None:
    assert alike(creating(1), creating(2, **options)) is same


def test_the_order_of_reserved_ranges_is_none() -> None:
    windows = [Range(0, 0xFFF), Range(0x4000, 0x4FFF)]
    assert alike(creating(1, reserved=windows), creating(2, reserved=windows[::-1]))


def test_what_is_too_much_is_the_oldest() -> None:
    assert list(surplus([1, 2, 3], 2)) == [1]
    assert list(surplus([1, 2], 2)) == []
