"""A vhost device of the kernel: ``/dev/vhost-net``, ``/dev/vhost-vsock``.

Its addresses are those of one process, its owner, whoever writes them.  So the
bridge's process has to be that, and the one that sets up the rings too, because
the kernel lets nobody else.

A write returns once no worker of the device uses what it took away: it has
every ring's lock meanwhile.  It may therefore take as long as a worker does.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from ...abi.vhost import (
    ENVELOPE,
    VRING_STATE,
    BackendFeatures,
    Ioctl,
    IotlbMsg,
    KernelMsg,
    MsgType,
    VringState,
    decode,
    encode,
    range_of,
)
from ...abi.vhost_user import Features
from ...bridging.kernel import LINUX, Kernel, refused
from ...bridging.telling import Lack, Negotiated
from ...errors import PeerCannot

FEATURES: Final = Features.VERSION_1
"""What is set by default beside ACCESS_PLATFORM: what every driver of today needs."""

MEM_TABLE_EMPTY: Final = bytes(8)
"""``struct vhost_memory`` of no regions."""

OPEN_HINTS: Final = {
    errno.ENOENT: "is its module loaded, vhost_net or vhost_vsock?",
    errno.EACCES: "this user may not",
}
"""What it means that a device cannot be opened."""

SET_HINTS: Final = {
    errno.EPERM: "another process has called SET_OWNER; only that may go on",
    errno.EFAULT: "the kernel has no memory for it",
}
"""What it means that the kernel refuses to be set up."""

WRITE_HINTS: Final = {
    errno.EFAULT: "the device has no IOTLB, or the address is none of this process",
    errno.EINVAL: "nobody owns the device, or the kernel knows no such message",
}
"""What it means that a message is refused; the kernel says little more than whether it is."""


class VhostDevice:
    """An open vhost device.

    It is this process's alone: its workers go on until its last descriptor is closed, and
    the bus takes the end of this process for that.

    Args:
        fd: Its descriptor; this object closes it.
        name: What messages call it.
        kernel: What its calls are made to.
    """

    def __init__(self, fd: int, *, name: str = "a vhost device", kernel: Kernel = LINUX) -> None:
        self.name = name
        self.fd = fd
        self._kernel = kernel
        self._type = MsgType.IOTLB
        self._opened_here = False

    @classmethod
    def open(cls, path: str, *, kernel: Kernel = LINUX) -> Self:
        """Open a device by its path.

        Raises:
            KernelRefused: It cannot be opened; why.
        """
        try:
            device = cls(kernel.open(path), name=path, kernel=kernel)
        except OSError as failure:
            raise refused(f"open {path}", failure, OPEN_HINTS) from failure
        device._opened_here = True
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            self._kernel.close(self.fd)
        self.fd = -1

    def negotiate(self, features: int = FEATURES) -> Negotiated:
        """Own the device, have it make an IOTLB, and return what is agreed upon.

        A device that was opened here is given an empty memory table beside it: without
        one the kernel takes no rings, and with an IOTLB it looks nothing up in it.

        Args:
            features: What is agreed upon with the guest, with or without ACCESS_PLATFORM.

        Raises:
            KernelRefused: The kernel refuses; why.
            PeerCannot: It has no IOTLB, or another process owns the device, or it lacks some of ``features``.
        """
        self._own()
        offered = self._get(Ioctl.GET_FEATURES)
        wanted = int(features) | Features.ACCESS_PLATFORM
        if not offered & Features.ACCESS_PLATFORM:
            raise PeerCannot(self.name, "VIRTIO_F_ACCESS_PLATFORM", "the kernel keeps no IOTLB for this device")
        if missing := wanted & ~offered:
            raise PeerCannot(self.name, ", ".join(map(_name, _bits(missing))), "the guest was promised it")
        backend = BackendFeatures.IOTLB_MSG_V2 & self._backend_features()
        if backend:
            self._set(Ioctl.SET_BACKEND_FEATURES, int(backend).to_bytes(8, "little"))
            self._type = MsgType.IOTLB_V2
        self._set(Ioctl.SET_FEATURES, int(wanted).to_bytes(8, "little"))
        if self._opened_here:
            self._set(Ioctl.SET_MEM_TABLE, MEM_TABLE_EMPTY)
        os.set_blocking(self.fd, False)
        names = [*map(_name, _bits(wanted)), *(f"VHOST_BACKEND_F_{each.name}" for each in backend)]
        return Negotiated(self.name, tuple(names), tuple(_lacks(backend)))

    def read(self) -> IotlbMsg | None:
        """Return what the kernel says, or `None` if it says nothing now.

        Raises:
            KernelRefused: It cannot be read.
            AbiError: It makes no sense.
        """
        try:
            data = self._kernel.read(self.fd, ENVELOPE.size)
        except BlockingIOError:
            return None
        except OSError as failure:
            raise refused(f"read {self.name}", failure, {}) from failure
        return decode(data).iotlb

    def write(self, message: IotlbMsg) -> None:
        """Tell the kernel something; what it took away is in no use once this returns.  May be called in any thread.

        Raises:
            KernelRefused: It was refused.
        """
        data = encode(KernelMsg(self._type, 0, message))
        try:
            self._kernel.write(self.fd, data)
        except OSError as failure:
            raise refused(f"{message.type.name} {range_of(message)}", failure, WRITE_HINTS) from failure

    def write_all(self, messages: Sequence[IotlbMsg]) -> None:
        """Tell it several things, in order, up to the first that is refused; raises as `write`."""
        for message in messages:
            self.write(message)

    # -- inside ------------------------------------------------------------------

    def _own(self) -> None:
        try:
            self._kernel.ioctl(self.fd, Ioctl.SET_OWNER)
        except OSError as failure:
            if failure.errno != errno.EBUSY:
                raise refused("VHOST_SET_OWNER", failure, SET_HINTS) from failure
            self._check_owner()

    def _check_owner(self) -> None:
        """Ask something harmless that only the owner is told."""
        try:
            self._kernel.ioctl(self.fd, Ioctl.GET_VRING_BASE, bytearray(VRING_STATE.encode(VringState(0, 0))))
        except OSError as failure:
            if failure.errno != errno.EPERM:
                raise refused("VHOST_GET_VRING_BASE", failure, SET_HINTS) from failure
            why = "another process owns it, and its addresses would be meant"
            raise PeerCannot(self.name, "owner in this process", why) from None

    def _backend_features(self) -> BackendFeatures:
        try:
            return BackendFeatures(self._get(Ioctl.GET_BACKEND_FEATURES))
        except OSError:  # the kernel is older than they are
            return BackendFeatures(0)

    def _get(self, request: Ioctl) -> int:
        data = bytearray(8)
        self._kernel.ioctl(self.fd, request, data)
        return int.from_bytes(data, "little")

    def _set(self, request: Ioctl, data: bytes) -> None:
        try:
            self._kernel.ioctl(self.fd, request, bytearray(data))
        except OSError as failure:
            raise refused(f"VHOST_{request.name}", failure, SET_HINTS) from failure


def _bits(features: int) -> Iterator[int]:
    while features:
        yield features & -features
        features &= features - 1


def _name(bit: int) -> str:
    known = Features.__members__.items()
    return next((f"VIRTIO_F_{name}" for name, each in known if each == bit), f"feature bit {bit.bit_length() - 1}")


def _lacks(backend: BackendFeatures) -> Iterator[Lack]:
    if not backend:
        why = "the kernel is older than 4.20; messages go in the first form, whose layout only 64-bit processes share"
        yield Lack("VHOST_BACKEND_F_IOTLB_MSG_V2", why)
