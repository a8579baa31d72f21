"""What is offered, and what is said of what was not taken."""

import pytest

from iommubus.abi.vhost_user import Features, ProtocolFeatures
from iommubus.bridges.vhost_user_backend import NoDevice
from iommubus.bridges.vhost_user_backend.offers import agreed, features, lacks, protocol_features

ALL = int(Features.PROTOCOL_FEATURES | Features.VERSION_1 | Features.ACCESS_PLATFORM)
BOTH = int(ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ)


class Disk(NoDevice):
    """A device with bits and a configuration space of its own."""

    features = 1 << 9
    config = bytes(60)


def test_what_a_device_has_is_offered_beside_what_the_bridge_has() -> None:
    assert features(NoDevice()) == ALL
    assert features(Disk()) == ALL | 1 << 9
    assert not protocol_features(NoDevice()) & ProtocolFeatures.CONFIG
    assert protocol_features(Disk()) == protocol_features(NoDevice()) | ProtocolFeatures.CONFIG


def test_what_was_agreed_upon_is_said_by_name() -> None:
    assert agreed(ALL | 1 << 9, BOTH) == (
        "VHOST_USER_F_PROTOCOL_FEATURES",
        "VIRTIO_F_VERSION_1",
        "VIRTIO_F_ACCESS_PLATFORM",
        "feature 9",
        "VHOST_USER_PROTOCOL_F_REPLY_ACK",
        "VHOST_USER_PROTOCOL_F_BACKEND_REQ",
    )


@pytest.mark.parametrize(
    ("taken", "protocol", "channel", "what"),
    [
        (ALL, BOTH, True, []),
        (ALL & ~(1 << 33), BOTH, True, ["VIRTIO_F_ACCESS_PLATFORM"]),
        (ALL, int(ProtocolFeatures.BACKEND_REQ), True, ["VHOST_USER_PROTOCOL_F_REPLY_ACK"]),
        (ALL, int(ProtocolFeatures.REPLY_ACK), False, ["VHOST_USER_PROTOCOL_F_BACKEND_REQ"]),
        (ALL, BOTH, False, ["VHOST_USER_PROTOCOL_F_BACKEND_REQ"]),
    ],
)
def test_each_lack_is_named(taken: int, protocol: int, channel: bool, what: list[str]) -> None:
    assert [lack.what for lack in lacks(taken, protocol, channel=channel)] == what


def test_it_is_said_whose_doing_the_missing_channel_is() -> None:
    refused, forgotten = (next(lacks(ALL, bits, channel=False)).why for bits in (int(ProtocolFeatures.REPLY_ACK), BOTH))

    assert refused == "the front end did not take it: nobody answers misses"
    assert forgotten == "the front end gave no channel for it: nobody answers misses"
