"""What a client proposes to a server, and what it makes of the answer.

Source: QEMU ``docs/interop/vfio-user.rst``, "VFIO_USER_VERSION".
"""

from typing import Final

from msgspec import Struct

from ...abi.vfio_user import MAJOR, MINOR, Capabilities, Version, capabilities_of, version
from ...bridging.telling import Lack, Negotiated
from ...errors import PeerBroke, PeerCannot

MAPS_LIMIT: Final = 65_535
"""Mappings that a server is given at most, ``max_dma_maps``: the specification's default.  The server may lower it."""


class Terms(Struct, frozen=True):
    """What a server takes.

    Attributes:
        max_maps: Mappings that it holds.
        granule: Its smallest page, in bytes.
        max_data: Bytes in one transfer.
        negotiated: The same, for people.
    """

    max_maps: int
    granule: int
    max_data: int
    negotiated: Negotiated


def propose(max_maps: int) -> Version:
    """Return the first thing that a client says."""
    return version(MAJOR, MINOR, Capabilities(max_dma_maps=max_maps))


def judge(answer: Version, max_maps: int, peer: str, lacks: tuple[Lack, ...] = ()) -> Terms:
    """Return what a server takes that has answered a proposal.

    Args:
        answer: What it said.
        max_maps: What was proposed.
        peer: What errors call it.
        lacks: What is missing beyond the protocol.

    Raises:
        PeerCannot: It speaks another version, or takes no descriptors.
        PeerBroke: It says what it cannot, or was not asked.
        BadField: Its capabilities cannot be read.
    """
    if (answer.major, answer.minor) > (MAJOR, MINOR):
        raise PeerCannot(peer, f"version {MAJOR}.{MINOR}", f"it speaks {answer.major}.{answer.minor}")
    theirs = capabilities_of(answer)
    if theirs.max_msg_fds < 1:
        raise PeerCannot(peer, "descriptors", "memory is handed to it by them (max_msg_fds is 0)")
    if theirs.twin_socket.supported:
        raise PeerBroke(peer, "it answers with a twin_socket that was not proposed")
    for name in ("max_dma_maps", "pgsizes", "max_data_xfer_size"):
        if getattr(theirs, name) < 1:
            raise PeerBroke(peer, f"its {name} is {getattr(theirs, name)}")
    granule = theirs.pgsizes & -theirs.pgsizes
    limit = min(theirs.max_dma_maps, max_maps)
    agreed = (f"version {answer.major}.{answer.minor}", f"max_dma_maps {limit}", f"pgsizes {theirs.pgsizes:#x}")
    return Terms(limit, granule, theirs.max_data_xfer_size, Negotiated(peer, agreed, lacks))
