"""What the messages between a front end and a back end mean for the translations that a device may use.

Only the front end changes them, by what it asks:

* UPDATE gives an entry, INVALIDATE takes away every entry that it touches, whole, as back ends do;
* another memory table, or a region less, takes all of them away: what they lead to may be gone;
* so does the end of the last ring, and a reset: a device that serves none uses none, and the
  front end tells it of nothing more.

Source: QEMU ``docs/interop/vhost-user.rst``, "IOMMU support" and "Ring states"; DPDK
``lib/vhost/iotlb.c`` and ``vhost_user_set_mem_table``.
"""

from typing import Final

from msgspec import Struct

from ...abi import vhost
from ...abi.vhost_user import (
    U64,
    Body,
    Channel,
    Features,
    Flags,
    IotlbMsg,
    IotlbType,
    MemRegion,
    MemTable,
    Message,
    ProtocolFeatures,
    Region,
    Request,
    VringFd,
    VringState,
)
from ...bridging.telling import Lack
from ...caps import Perm
from ...ranges import IovaRange


class Entry(Struct, frozen=True):
    """An entry that came.

    Attributes:
        where: Its addresses.
        user_address: Where it leads, in the front end's process.
        perm: What the device may do there; it may be nothing.
    """

    where: IovaRange
    user_address: int
    perm: Perm


class Dropped(Struct, frozen=True):
    """Every entry in these addresses went."""

    where: IovaRange


class Emptied(Struct, frozen=True):
    """Every entry went."""


class Table(Struct, frozen=True):
    """There is another memory table."""

    regions: tuple[Region, ...]


class Plugged(Struct, frozen=True):
    """There is one region more."""

    region: MemRegion


class Unplugged(Struct, frozen=True):
    """There is one region less."""

    region: MemRegion


Act = Entry | Dropped | Emptied | Table | Plugged | Unplugged
"""What a message means for the translations."""


class Reader:
    """Reads what the front end asks.

    Attributes:
        features: The bits of the last SET_FEATURES.
        protocol: The bits of the last SET_PROTOCOL_FEATURES.
    """

    def __init__(self) -> None:
        self._rings: set[int] = set()  # that are served
        self.features = Features(0)
        self.protocol = ProtocolFeatures(0)

    def read(self, message: Message) -> Act | None:
        """Return what a request of the front end means; `None` if the translations stay as they are."""
        if message.channel is not Channel.FRONT_END or message.flags & Flags.REPLY:
            return None
        match message.body:
            case IotlbMsg() as iotlb:
                act = act_of(iotlb)
            case MemTable(regions=regions):
                act = Table(regions)
            case MemRegion() as region:
                act = Plugged(region) if message.request == Request.ADD_MEM_REG else Unplugged(region)
            case body:
                act = self._keep(message.request, body)
        return act

    def _keep(self, request: int, body: Body) -> Emptied | None:
        """Remember what was agreed upon and which rings are served, and say whether the last one ended."""
        served = bool(self._rings)
        match request, body:
            case Request.SET_FEATURES, U64(value=value):
                self.features = Features(value)
            case Request.SET_PROTOCOL_FEATURES, U64(value=value):
                self.protocol = ProtocolFeatures(value)
            case Request.SET_VRING_KICK, VringFd() as ring:
                self._rings.add(ring.index)
            case Request.GET_VRING_BASE, VringState(index=index):
                self._rings.discard(index)
            case Request.RESET_OWNER | Request.RESET_DEVICE, _:
                self._rings.clear()
            case _:
                pass
        return Emptied() if served and not self._rings else None


def act_of(iotlb: IotlbMsg) -> Act | None:
    """Return what an IOTLB message of the front end means."""
    if iotlb.type is IotlbType.UPDATE:
        return Entry(vhost.range_of(iotlb), iotlb.uaddr, vhost.perm_of(iotlb))
    if iotlb.type is IotlbType.INVALIDATE:
        return Dropped(vhost.range_of(iotlb))
    return None


NAMES: Final = {
    Features.PROTOCOL_FEATURES: "VHOST_USER_F_PROTOCOL_FEATURES",
    Features.VERSION_1: "VIRTIO_F_VERSION_1",
    Features.ACCESS_PLATFORM: "VIRTIO_F_ACCESS_PLATFORM",
}
"""Bits of features by the specifications' names; the others are the device's own."""


def agreed(features: Features, protocol: ProtocolFeatures) -> tuple[str, ...]:
    """Return what the two ends agreed upon, by name; bits of the device by their number."""
    named = [name for bit, name in NAMES.items() if features & bit]
    rest = [f"feature {bit}" for bit in range(64) if int(features) >> bit & 1 and Features(1 << bit) not in NAMES]
    used = [f"VHOST_USER_PROTOCOL_F_{bit.name}" for bit in ProtocolFeatures if protocol & bit]
    return (*named, *rest, *used)


def lacks(features: Features, protocol: ProtocolFeatures) -> tuple[Lack, ...]:
    """Return what the two ends did not agree upon, and what follows for who watches."""
    found: list[Lack] = []
    if not features & Features.ACCESS_PLATFORM:
        why = "the two ends use addresses of the guest, not I/O virtual ones: there is nothing to see"
        found.append(Lack("VIRTIO_F_ACCESS_PLATFORM", why))
    if not protocol & ProtocolFeatures.REPLY_ACK:
        why = "the front end waits for no acknowledgement: what it took away may be in use for a while"
        found.append(Lack("VHOST_USER_PROTOCOL_F_REPLY_ACK", why))
    if not protocol & ProtocolFeatures.BACKEND_REQ:
        why = "the back end cannot ask: misses are not seen, and there may be none"
        found.append(Lack("VHOST_USER_PROTOCOL_F_BACKEND_REQ", why))
    return tuple(found)
