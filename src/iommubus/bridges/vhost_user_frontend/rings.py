"""Rings of a device: what a back end is told of each, and in what order.

Source: QEMU ``docs/interop/vhost-user.rst``, "Ring states" and "Front-end message types".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ...abi.vhost import VringFlags
from ...abi.vhost_user import NO_DESCRIPTOR, Body, Request, VringAddr, VringFd, VringState

Step = tuple[Request, Body, tuple[int, ...]]
"""A request, what it carries, and the descriptors that go with it."""


class Ring(Struct, frozen=True):
    """One ring (virtqueue) of a device, as its driver made it.

    Attributes:
        index: Which of the device's, from 0.
        size: Entries of its descriptor table.
        desc: I/O virtual address of the descriptor table.
        avail: I/O virtual address of the available (driver) ring.
        used: I/O virtual address of the used (device) ring.
        base: Index of the available ring at which the back end begins; `None` for
            where the used ring ends, which is right after a back end that left with nothing said.
        kick: An eventfd by which the driver says that there is work; without one
            the back end polls.
        call: An eventfd by which the back end says that work is done; without one
            the driver polls.
    """

    index: int
    size: int
    desc: int
    avail: int
    used: int
    base: int | None = 0
    kick: int | None = None
    call: int | None = None

    @property
    def parts(self) -> tuple[int, int, int]:
        """Where its three parts begin."""
        return self.desc, self.avail, self.used


USED_INDEX: Final = 2
"""Where in the used ring its index is, a ``le16``: behind its flags (``struct virtq_used`` of virtio 1.0)."""


def resumed(rings: Sequence[Ring], bases: Mapping[int, int | None]) -> tuple[Ring, ...]:
    """Return rings as the next back end gets them.

    Args:
        rings: As the last one got them.
        bases: Where it left those that it served; `None` where it did not say so.
    """
    return tuple(replace(ring, base=bases.get(ring.index, ring.base)) for ring in rings)


def steps(ring: Ring, base: int) -> Iterator[Step]:
    """Yield what makes a back end know a ring and serve it from ``base`` on, in order.

    The kick starts it, so everything else is said before; it was made disabled, and is enabled last.
    """
    addresses = VringAddr(ring.index, VringFlags(0), ring.desc, ring.used, ring.avail, 0)
    yield Request.SET_VRING_NUM, VringState(ring.index, ring.size), ()
    yield Request.SET_VRING_BASE, VringState(ring.index, base), ()
    yield Request.SET_VRING_ADDR, addresses, ()
    yield _event(Request.SET_VRING_CALL, ring.index, ring.call)
    yield _event(Request.SET_VRING_KICK, ring.index, ring.kick)
    yield Request.SET_VRING_ENABLE, VringState(ring.index, 1), ()


def _event(request: Request, index: int, fd: int | None) -> Step:
    return (request, VringFd(index | NO_DESCRIPTOR), ()) if fd is None else (request, VringFd(index), (fd,))
