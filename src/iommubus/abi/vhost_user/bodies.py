"""What vhost-user messages carry behind their header, as frozen values.

Source: QEMU ``docs/interop/vhost-user.rst``, "Payload".
"""

from typing import Final

from msgspec import Struct

from ..payloads import Empty, Opaque
from ..vhost import IotlbMsg, VringAddr, VringState
from .bits import ConfigFlags

REGION_LIMIT: Final = 8
"""Regions of one memory table; the specification's number.  More are added one by one, with ADD_MEM_REG."""

CONFIG_LIMIT: Final = 256
"""Bytes of configuration space in one message; ``VHOST_USER_MAX_CONFIG_SIZE``."""

NO_DESCRIPTOR: Final = 1 << 8
"""The bit beside a ring's index that says: no descriptor comes with this."""


class U64(Struct, frozen=True, gc=False):
    """One number: features, a status, or an acknowledgement, in which 0 is success."""

    value: int


class VringFd(Struct, frozen=True, gc=False):
    """The ring that a descriptor is for.

    Attributes:
        value: The ring's index, and `NO_DESCRIPTOR`.
    """

    value: int

    @property
    def index(self) -> int:
        """The ring."""
        return self.value & (NO_DESCRIPTOR - 1)

    @property
    def has_descriptor(self) -> bool:
        """Say whether a descriptor comes with the message; without one the ring is polled."""
        return not self.value & NO_DESCRIPTOR


class VringArea(VringFd, frozen=True, gc=False):
    """Where a ring's notifications can be written, in what the descriptor maps.

    Attributes:
        size: Length in bytes.
        offset: Where it begins.
    """

    size: int
    offset: int


class Region(Struct, frozen=True, gc=False):
    """A piece of the front end's memory, which its descriptor can map.

    Attributes:
        guest_address: Where the guest sees it; without meaning once there is an IOTLB.
        size: Length in bytes.
        user_address: Where the front end sees it: what IOTLB messages lead to.
        mmap_offset: Where it begins in what the descriptor maps.
    """

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


class MemRegion(Region, frozen=True, gc=False):
    """One region that comes or goes; its ``mmap_offset`` means nothing where it goes.

    Attributes:
        padding: A number that nobody reads, as it came.
    """

    padding: int = 0


class MemTable(Struct, frozen=True):
    """All memory of a front end; a descriptor comes for each region, in order.

    Attributes:
        padding: A number that nobody reads, as it came.
    """

    regions: tuple[Region, ...]
    padding: int = 0


class Log(Struct, frozen=True, gc=False):
    """Where dirty pages are logged, in what the descriptor maps; in bytes."""

    size: int
    offset: int


class Config(Struct, frozen=True, gc=False):
    """A piece of a device's configuration space; `data` is what is in it, or room for it."""

    offset: int
    flags: ConfigFlags
    data: bytes


Body = (
    Empty | U64 | VringFd | VringState | VringAddr | MemTable | MemRegion | Log | Config | VringArea | IotlbMsg | Opaque
)
"""Anything behind a header."""
