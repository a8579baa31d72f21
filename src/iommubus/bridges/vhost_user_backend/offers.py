"""What the bridge offers to a front end, and what follows from what was agreed upon."""

from collections.abc import Iterator
from typing import Final

from ...abi.vhost_user import Features, ProtocolFeatures
from ...bridging.telling import Lack
from .device import Device

OWN: Final = Features.PROTOCOL_FEATURES | Features.VERSION_1 | Features.ACCESS_PLATFORM
"""The bridge's own bits of GET_FEATURES."""

PROTOCOL: Final = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
)
"""The bridge's bits of GET_PROTOCOL_FEATURES."""

NAMES: Final = {
    Features.PROTOCOL_FEATURES: "VHOST_USER_F_PROTOCOL_FEATURES",
    Features.VERSION_1: "VIRTIO_F_VERSION_1",
    Features.ACCESS_PLATFORM: "VIRTIO_F_ACCESS_PLATFORM",
}
"""The bits of features by the specifications' names."""


def features(device: Device) -> int:
    """Return what GET_FEATURES is answered."""
    return int(OWN) | device.features


def protocol_features(device: Device) -> int:
    """Return what GET_PROTOCOL_FEATURES is answered."""
    return int(PROTOCOL | ProtocolFeatures.CONFIG if device.config else PROTOCOL)


def agreed(taken: int, protocol: int) -> tuple[str, ...]:
    """Return what the front end took of both, by name; bits of the device by their number."""
    own = [name for bit, name in NAMES.items() if taken & bit]
    rest = [f"feature {bit}" for bit in range(64) if taken & ~int(OWN) & 1 << bit]
    used = [f"VHOST_USER_PROTOCOL_F_{bit.name}" for bit in ProtocolFeatures if protocol & bit]
    return (*own, *rest, *used)


def lacks(taken: int, protocol: int, *, channel: bool) -> Iterator[Lack]:
    """Yield what was not agreed upon, and what follows.

    Args:
        taken: The bits of SET_FEATURES.
        protocol: The bits of SET_PROTOCOL_FEATURES.
        channel: Whether the front end gave a back-end channel.
    """
    if not taken & Features.ACCESS_PLATFORM:
        yield Lack(
            NAMES[Features.ACCESS_PLATFORM],
            "the front end did not take it, so the guest has no IOMMU before this device: there is nothing to "
            "translate or to invalidate, and rings are not served (QEMU: iommu_platform=on)",
        )
    if not protocol & ProtocolFeatures.REPLY_ACK:
        yield Lack(
            "VHOST_USER_PROTOCOL_F_REPLY_ACK",
            "the front end did not take it: an INVALIDATE is not waited for, so the guest may use a page again "
            "while somebody on the bus still uses it",
        )
    if not channel:
        why = "gave no channel for it" if protocol & ProtocolFeatures.BACKEND_REQ else "did not take it"
        yield Lack("VHOST_USER_PROTOCOL_F_BACKEND_REQ", f"the front end {why}: nobody answers misses")
