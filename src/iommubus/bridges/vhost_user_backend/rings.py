"""The rings of one front end: what was said of each, and whether it can be served.

A ring is served once everything that it needs was said, and it is enabled; its
kick descriptor is what starts it, and GET_VRING_BASE ends it.  Where protocol features
were agreed upon a ring begins disabled.  Nothing is started or stopped here.

Source: QEMU ``docs/interop/vhost-user.rst``, "Ring states".
"""

import os
from pathlib import Path
from typing import Final

from ...abi.vhost_user import VringAddr
from ...bridging.vring import SIZE_LIMIT, Ring
from ...errors import BadField
from ...transport.descriptors import close_all
from .device import Call, LiveRing

EVENTFD: Final = "anon_inode:[eventfd]"
"""What ``/proc`` says that an eventfd is."""


class Slot:
    """What was said of one ring.

    Args:
        index: Which one.

    Attributes:
        size: Descriptors; 0 as long as nobody said it.
        addr: Where its parts are.
        base: The first entry that was not used yet.
        kick: Its kick descriptor.
        call: How the driver is told.
        enabled: Whether it may be served; `None` as long as nobody said it.
        live: As which the device serves it now.
        retired: Descriptors that are closed once the device has stopped using them.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = 0
        self.addr: VringAddr | None = None
        self.base = 0
        self.kick: int | None = None
        self.call = Call()
        self.enabled: bool | None = None
        self.live: LiveRing | None = None
        self.retired: list[int] = []

    def resize(self, size: int) -> None:
        """Take the number of descriptors.

        Raises:
            BadField: It is no power of two, or too large.
        """
        if not 0 < size <= SIZE_LIMIT or size & (size - 1):
            raise BadField("SET_VRING_NUM", "num", size, f"a power of two up to {SIZE_LIMIT:#x}")
        self.size = size

    def rebase(self, base: int) -> None:
        """Take the index from which it goes on.

        Raises:
            BadField: An index has 16 bits.
        """
        if base >> 16:
            raise BadField("SET_VRING_BASE", "num", base, "0x0..0xffff")
        self.base = base

    def set_kick(self, fd: int | None) -> None:
        """Take a kick descriptor in the place of the one before, which the device may still use."""
        if self.kick is not None:
            self.retired.append(self.kick)
        self.kick = fd

    def set_call(self, fd: int | None) -> None:
        """Take a call descriptor in the place of the one before."""
        if self.call.fd is not None:
            os.close(self.call.fd)
        self.call.fd = fd

    def wanted(self, features: int, *, enabled: bool) -> LiveRing | None:
        """Return as which the device should serve it; `None` if it should not, or not yet.

        Args:
            features: What was agreed upon.
            enabled: Whether it may be served while nobody has said so.
        """
        may = enabled if self.enabled is None else self.enabled
        if not (may and self.size and self.addr is not None and self.kick is not None):
            return None
        addr = self.addr
        ring = Ring(
            self.index, self.size, addr.desc_user_addr, addr.avail_user_addr, addr.used_user_addr, base=self.base
        )
        return LiveRing(ring, self.kick, self.call, features)

    def stopped(self, base: int) -> None:
        """Take it that the device serves it no longer."""
        self.live = None
        self.base = base
        self.close_retired()

    def close_retired(self) -> None:
        """Close what nobody uses any more."""
        close_all(self.retired)
        self.retired = []

    def reset(self) -> None:
        """Forget what was said: the front end is gone, or begins anew."""
        self.size = self.base = 0
        self.addr = self.enabled = None
        self.set_kick(None)
        self.set_call(None)


def signal(fd: int) -> int:
    """Return an eventfd of a front end, made such that it does not block.

    Raises:
        BadField: It is none.
    """
    if str(Path(f"/proc/self/fd/{fd}").readlink()) != EVENTFD:
        raise BadField("SET_VRING_KICK or SET_VRING_CALL", "descriptor", fd, "that of an eventfd")
    os.set_blocking(fd, False)
    return fd
