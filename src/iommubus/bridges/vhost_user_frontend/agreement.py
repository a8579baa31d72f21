"""What a back end has to offer, what it may, and what follows where it does not.

Source: QEMU ``docs/interop/vhost-user.rst``, "Protocol features" and "IOMMU support".
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ...abi.vhost_user import Features, ProtocolFeatures
from ...bridging.telling import Lack
from ...errors import PeerCannot

NEEDED: Final[Mapping[Features, str]] = {
    Features.PROTOCOL_FEATURES: "with it the two that follow are agreed upon",
    Features.ACCESS_PLATFORM: "without it its addresses are those of the guest's memory, and no I/O virtual ones",
}
"""Features without which there is no bridge, and why."""

NEEDED_PROTOCOL: Final[Mapping[ProtocolFeatures, str]] = {
    ProtocolFeatures.REPLY_ACK: "without it nobody knows when it has stopped using what was unmapped",
    ProtocolFeatures.BACKEND_REQ: "without it the back end cannot ask where an address leads",
}
"""The same among the features of the protocol."""

NO_VERSION_1: Final = "the back end serves only rings of the time before virtio 1.0"
NO_SLOTS: Final = (
    "each memory that comes into use is told by the whole memory table, for which a back end may forget all "
    "translations; those beyond 8 take the place of others"
)
NO_OWN: Final = "the back end does not offer it, and the device is without"


class Agreement(Struct, frozen=True):
    """What both use.

    Attributes:
        features: Bits of SET_FEATURES.
        protocol: Bits of SET_PROTOCOL_FEATURES.
        names: Their names, as the specification has them.
        lacks: What could not be had.
    """

    features: int
    protocol: ProtocolFeatures
    names: tuple[str, ...]
    lacks: tuple[Lack, ...]

    @property
    def slots(self) -> bool:
        """Whether memories are given one by one."""
        return ProtocolFeatures.CONFIGURE_MEM_SLOTS in self.protocol


def check_features(peer: str, offered: int) -> None:
    """Check that a back end offers what must be there before anything else is asked.

    Raises:
        PeerCannot: It does not.
    """
    for feature, why in NEEDED.items():
        if not offered & feature:
            raise PeerCannot(peer, feature.name or "", why)


def agree(peer: str, offered: int, protocol: int, wanted: int = 0) -> Agreement:
    """Return what is used of what a back end offers.

    Args:
        peer: What errors call it.
        offered: The answer to GET_FEATURES.
        protocol: The answer to GET_PROTOCOL_FEATURES.
        wanted: Bits of the device's own features that its driver would use.

    Raises:
        PeerCannot: Something is missing that is needed.
    """
    check_features(peer, offered)
    for feature, why in NEEDED_PROTOCOL.items():
        if not protocol & feature:
            raise PeerCannot(peer, feature.name or "", why)
    general = Features.PROTOCOL_FEATURES | Features.ACCESS_PLATFORM | (Features.VERSION_1 & Features(offered))
    used = ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ
    used |= ProtocolFeatures.CONFIGURE_MEM_SLOTS & ProtocolFeatures(protocol)
    own = wanted & offered & ~int(general)
    lacks = [Lack("VERSION_1", NO_VERSION_1)] if Features.VERSION_1 not in general else []
    if ProtocolFeatures.CONFIGURE_MEM_SLOTS not in used:
        lacks.append(Lack("CONFIGURE_MEM_SLOTS", NO_SLOTS))
    lacks += [Lack(name, NO_OWN) for name in _bits(wanted & ~offered)]
    names = (*(one.name or "" for one in general), *_bits(own), *(one.name or "" for one in used))
    return Agreement(int(general) | own, used, names, tuple(lacks))


def _bits(mask: int) -> list[str]:
    return [f"feature {bit}" for bit in range(mask.bit_length()) if mask >> bit & 1]
