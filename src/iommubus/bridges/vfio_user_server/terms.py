"""What a server offers to a client, and what the two agree upon.

Source: QEMU ``docs/interop/vfio-user.rst``, "VFIO_USER_VERSION".
"""

from typing import Final

from msgspec import Struct

from ...abi.vfio_user import DATA_LIMIT, MAJOR, MINOR, Capabilities, Version, capabilities_of, version
from ...bridging.telling import Lack, Negotiated
from ...errors import PeerBroke, PeerCannot

MAPS_LIMIT: Final = 65_535
"""Mappings of one client, ``max_dma_maps``: the specification's default, and what Linux has for a VFIO container."""

GRANULE: Final = 4096
"""Bytes that every address, offset and size is a multiple of, ``pgsizes``: the specification's default."""

DESCRIPTORS: Final = 16
"""Descriptors in one message, ``max_msg_fds``: as many as QEMU takes.  A MAP has one, SET_IRQS one for each vector."""

Range = tuple[int, int]


class Offer(Struct, frozen=True):
    """What a server can do.

    Attributes:
        granule: Its smallest unit of mapping, in bytes.
        max_maps: Mappings that it takes from one client.
        device: Whether commands of a device are answered.
    """

    granule: int = GRANULE
    max_maps: int = MAPS_LIMIT
    device: bool = False


class Agreement(Struct, frozen=True):
    """What a server and one client have agreed upon.

    Attributes:
        reply: What the server answers to the client's VERSION.
        max_maps: Mappings that the client may have.
        descriptors: Descriptors that the client takes in one message.
        negotiated: The same, for people.
    """

    reply: Version
    max_maps: int
    descriptors: int
    negotiated: Negotiated


def agree(proposed: Version, offer: Offer, peer: str) -> Agreement:
    """Return what a server agrees upon with a client that has proposed a version.

    Raises:
        PeerCannot: It speaks another major version.
        PeerBroke: A capability has a value that it cannot have.
        BadField: The capabilities cannot be read.
    """
    if proposed.major != MAJOR:
        raise PeerCannot(peer, f"version {MAJOR}", f"it proposed {proposed.major}.{proposed.minor}, which is another")
    theirs = capabilities_of(proposed)
    _check(theirs, peer)
    ours = Capabilities(
        max_msg_fds=DESCRIPTORS,
        max_data_xfer_size=min(theirs.max_data_xfer_size, DATA_LIMIT),
        max_dma_maps=min(theirs.max_dma_maps, offer.max_maps),
        pgsizes=offer.granule,
    )
    minor = min(proposed.minor, MINOR)
    agreed = (
        f"version {MAJOR}.{minor}",
        f"max_msg_fds {ours.max_msg_fds} ({theirs.max_msg_fds} to it)",
        f"max_dma_maps {ours.max_dma_maps}",
        f"pgsizes {ours.pgsizes:#x}",
    )
    negotiated = Negotiated(peer, agreed, tuple(_lacks(theirs, offer)))
    return Agreement(version(MAJOR, minor, ours), ours.max_dma_maps, theirs.max_msg_fds, negotiated)


def _check(theirs: Capabilities, peer: str) -> None:
    limits: dict[str, Range] = {
        "max_msg_fds": (0, 2**31 - 1),
        "max_data_xfer_size": (1, 2**32 - 1),
        "max_dma_maps": (1, 2**64 - 1),
        "pgsizes": (1, 2**64 - 1),
    }
    for name, (least, most) in limits.items():
        value = getattr(theirs, name)
        if not least <= value <= most:
            raise PeerBroke(peer, f"its {name} is {value}, which is not {least} to {most}")


def _lacks(theirs: Capabilities, offer: Offer) -> list[Lack]:
    lacks: list[Lack] = []
    smallest = theirs.pgsizes & -theirs.pgsizes
    if smallest < offer.granule:
        why = f"this side maps in units of {offer.granule:#x}, and refuses smaller ones"
        lacks.append(Lack(f"pages of {smallest:#x}", why))
    if theirs.twin_socket.supported:
        lacks.append(Lack("twin_socket", "this side sends no commands of its own"))
    if theirs.write_multiple:
        lacks.append(Lack("write_multiple", "nobody needs it here; each write is a message"))
    if not offer.device:
        lacks.append(
            Lack("device", "nothing but the space stands behind this bridge; its commands are answered ENOTSUP")
        )
    return lacks
