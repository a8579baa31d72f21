"""A transmit ring as a guest's driver lays it out, and the tap that vhost-net sends its frames to.

Source: virtio 1.2, section 2.7, "Split Virtqueues"; Linux ``include/uapi/linux/if_tun.h``.
"""

import os
import socket
import struct
from fcntl import ioctl
from typing import Final

SIZE: Final = 8
"""Descriptors of the ring."""

DESCRIPTORS, AVAILABLE, USED = 0, 0x200, 0x400
"""Where its parts are in its page."""

HEADER: Final = bytes(12)
"""``struct virtio_net_hdr_v1``, which asks for nothing."""

TAP: Final = b"tap0"
TUNSETIFF, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ETH_P_ALL: Final = 3


class TransmitRing:
    """A ring in a page of memory.

    Args:
        page: The page.
        iova: Where the device sees it.
    """

    def __init__(self, page: memoryview, iova: int) -> None:
        self._page = page
        self._iova = iova
        self._count = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        """Where the device sees descriptors, what is available, and what was used."""
        return self._iova + DESCRIPTORS, self._iova + AVAILABLE, self._iova + USED

    def offer(self, iova: int, size: int) -> None:
        """Make a frame available: its header and its bytes, at an address of the device."""
        at = self._count % SIZE
        struct.pack_into("<QIHH", self._page, DESCRIPTORS + 16 * at, iova, size, 0, 0)
        struct.pack_into("<H", self._page, AVAILABLE + 4 + 2 * at, at)
        self._count += 1
        struct.pack_into("<H", self._page, AVAILABLE + 2, self._count & 0xFFFF)

    @property
    def used(self) -> int:
        """How many the device has sent."""
        return int(struct.unpack_from("<H", self._page, USED + 2)[0])


def frame(letter: bytes) -> bytes:
    """Return a frame that is told from others by a letter."""
    return b"\xff" * 6 + b"\x52\x54\x00\x00\x00\x01" + b"\x88\xb5" + letter * 50


def make_tap() -> int:
    """Make a network interface, up, whose frames have a header, and return its descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    ioctl(fd, TUNSETIFF, struct.pack("16sH22x", TAP, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", len(HEADER)))
    with socket.socket() as sock:
        (flags,) = struct.unpack("16xH22x", ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", TAP, 0)))
        ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", TAP, flags | IFF_UP))
    return fd


def listen() -> socket.socket:
    """Return what sees the frames that come out of the tap."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((TAP.decode(), 0))
    sock.setblocking(False)
    return sock


def seen(sock: socket.socket) -> list[str]:
    """Return the letters of the frames that have come since this was last asked."""
    letters = list[str]()
    while True:
        try:
            data = sock.recv(2048)
        except BlockingIOError:
            return letters
        if data[12:14] == b"\x88\xb5":  # others are the kernel's own
            letters.append(data[14:15].decode())
