"""What messages mean for the translations of a device; nothing else does."""

import pytest

from iommubus import Perm
from iommubus.abi.vhost_user import Channel, Features, MemRegion, ProtocolFeatures, Region, decode
from iommubus.bridges.vhost_user_tap.reading import (
    Act,
    Dropped,
    Emptied,
    Entry,
    Plugged,
    Reader,
    Table,
    Unplugged,
    agreed,
    lacks,
)
from iommubus.ranges import LAST, IovaRange
from tests.vhost_user_talk import (
    BASE,
    GET_BASE,
    KICK,
    RAM,
    Said,
    features,
    invalidate,
    iotlb,
    message,
    miss,
    protocol_features,
    ram_table,
    reply,
    ring,
    update,
)


def read(*said: Said | bytes) -> list[Act | None]:
    reader = Reader()
    return [reader.read(decode(each.data if isinstance(each, Said) else each)) for each in said]


REGION = bytes(8) + b"".join(value.to_bytes(8, "little") for value in (0x1000, RAM, BASE, 0))


@pytest.mark.parametrize(
    ("said", "act"),
    [
        (update(0x1000, 0x2000, BASE + 1, 1), Entry(IovaRange(0x1000, 0x2FFF), BASE + 1, Perm.R)),
        (update(0x1000, perm=0), Entry(IovaRange(0x1000, 0x1FFF), BASE, Perm(0))),
        (invalidate(0x1000, 0x3000), Dropped(IovaRange(0x1000, 0x3FFF))),
        (invalidate(0x1000, 0), Dropped(IovaRange(0, LAST))),
        (iotlb(5, 0, flags=1), None),
        (ram_table(), Table((Region(0, RAM, BASE, 0),))),
        (message(37, REGION, files=1), Plugged(MemRegion(0x1000, RAM, BASE, 0))),
        (message(38, REGION), Unplugged(MemRegion(0x1000, RAM, BASE, 0))),
        (reply(22), None),
        (reply(5), None),
        (message(15), None),
        (message(99, b"whatever"), None),
    ],
)
def test_what_a_message_means(said: Said | bytes, act: Act | None) -> None:
    assert read(said) == [act]


def test_what_the_back_end_asks_means_nothing() -> None:
    assert Reader().read(decode(miss(0x1000).data, Channel.BACK_END)) is None


def test_the_end_of_the_last_ring_takes_everything_away() -> None:
    start = [ring(KICK, 0, files=1), ring(KICK, 0x101)]

    assert read(ring(GET_BASE, 0), *start, ring(GET_BASE, 0), ring(GET_BASE, 0), ring(GET_BASE, 1)) == [
        None, None, None, None, None, Emptied(),
    ]  # fmt: skip


@pytest.mark.parametrize("reset", [message(4), message(34)])
def test_a_reset_takes_everything_away_from_rings_that_are_served(reset: Said) -> None:
    assert read(reset, ring(KICK, 0, files=1), reset, reset) == [None, None, Emptied(), None]


def test_what_was_agreed_upon_is_remembered() -> None:
    reader = Reader()
    for said in (protocol_features(0x28), features(0x3_4000_0000)):
        assert reader.read(decode(said.data)) is None

    assert reader.protocol == ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ
    assert agreed(reader.features | Features(1 << 5), reader.protocol) == (
        "VHOST_USER_F_PROTOCOL_FEATURES",
        "VIRTIO_F_VERSION_1",
        "VIRTIO_F_ACCESS_PLATFORM",
        "feature 5",
        "VHOST_USER_PROTOCOL_F_REPLY_ACK",
        "VHOST_USER_PROTOCOL_F_BACKEND_REQ",
    )
    assert lacks(reader.features, reader.protocol) == ()


def test_what_was_not_is_said_with_what_follows() -> None:
    assert [(lack.what, lack.why.rpartition(": ")[2]) for lack in lacks(Features(0), ProtocolFeatures(0))] == [
        ("VIRTIO_F_ACCESS_PLATFORM", "there is nothing to see"),
        ("VHOST_USER_PROTOCOL_F_REPLY_ACK", "what it took away may be in use for a while"),
        ("VHOST_USER_PROTOCOL_F_BACKEND_REQ", "misses are not seen, and there may be none"),
    ]
