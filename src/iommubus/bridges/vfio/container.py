"""An open VFIO container: the address space of the devices of some groups, as this machine's kernel keeps it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

from ...abi.vfio import (
    GROUP_STATUS,
    INFO,
    Extension,
    GroupFlags,
    GroupStatus,
    InfoFlags,
    Ioctl,
    MapDma,
    UnmapDma,
    dma_avail,
    encode,
    iova_ranges,
    unmaps,
)
from ...bridging.kernel import LINUX, Kernel, refused
from ...errors import IommubusError, KernelRefused, PeerCannot
from ...ranges import LAST, IovaRange
from .words import ATTACH_HINTS, MAP_HINTS, OPEN_HINTS, UNMAP_HINTS, Traits, naming

DEVICES: Final = "/dev/vfio"
"""Where containers are made, and where groups are."""

PCI: Final = Path("/sys/bus/pci/devices")
"""Where the kernel says of each PCI device what it is part of."""

Call = MapDma | UnmapDma
"""What the kernel is told."""


class Step(Struct, frozen=True):
    """What one event comes to.

    Attributes:
        place: Where the event is in its batch.
        calls: What the kernel is told, in order.
    """

    place: int
    calls: tuple[Call, ...]


class Setback(Struct, frozen=True):
    """A step that could not be done; those before it were.

    Attributes:
        place: That of its event.
        error: Why.
    """

    place: int
    error: IommubusError


class Container:
    """A container of type 1, version 2.

    Everything mapped in it is the bus's: whoever maps something beside it is in its way.

    It is this process's alone, and so are its devices: what is mapped ends with the last
    descriptor of either, and the bus takes the end of this process for that.

    Args:
        fd: A descriptor of a container that has its groups and its IOMMU already; this object closes it.
        name: What messages call it.
        kernel: What its calls are made to.
    """

    def __init__(self, fd: int, *, name: str = "a VFIO container", kernel: Kernel = LINUX) -> None:
        self.name = name
        self._kernel = kernel
        self._fd = fd
        self._groups: list[int] = []
        self._whole = False  # whether nobody else has a descriptor by which it lives on
        self._traits: Traits | None = None

    @classmethod
    def open(cls, *groups: str | int, kernel: Kernel = LINUX) -> Self:
        """Make a container of groups, each named by its number or its path.

        Raises:
            KernelRefused: It cannot be opened, or a group not be put into it; why.
            PeerCannot: The kernel's VFIO is of another kind, or a group is used otherwise.
        """
        names = [_path(group) for group in groups]
        with_groups = ", ".join(name.removeprefix(f"{DEVICES}/") for name in names)
        container = cls(_open(kernel, f"{DEVICES}/vfio"), name=f"VFIO container of group {with_groups}", kernel=kernel)
        container._whole = True
        try:
            container._check_kind()
            for name in names:
                container._add(name)
            container._call("VFIO_SET_IOMMU", Ioctl.SET_IOMMU, Extension.TYPE1V2_IOMMU)
        except BaseException:
            container.close()
            raise
        return container

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd < 0

    @property
    def traits(self) -> Traits:
        """What it says of itself, asked for once.

        Raises:
            KernelRefused, AbiError: It does not say that, or not so that it can be read.
        """
        if self._traits is None:
            self._traits = self._ask()
        return self._traits

    def device(self, name: str) -> int:
        """Return a descriptor of a device of its groups, which is the caller's, and stays in this process.

        Args:
            name: As VFIO names it: the address of a PCI device, ``0000:00:03.0``.

        Raises:
            KernelRefused: No group has it, or it cannot be had; why.
        """
        failure = OSError(0, "")
        for group in self._groups:
            try:
                fd = self._kernel.ioctl(group, Ioctl.GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"))
            except OSError as refusal:
                failure = refusal
            else:
                self._whole = False
                return fd
        raise refused(f"VFIO_GROUP_GET_DEVICE_FD {name}", failure, ATTACH_HINTS)

    def carry_out(self, steps: Sequence[Step], goes_on: Callable[[], bool] = lambda: True) -> Setback | None:
        """Tell the kernel everything, in order, and return the first that it refused; may be called in any thread.

        Args:
            steps: What to do.
            goes_on: Looked at before each; once it is false nothing more is done.
        """
        for step in steps:
            if not goes_on():
                return None
            try:
                for call in step.calls:
                    self.tell(call)
            except KernelRefused as refusal:
                return Setback(step.place, refusal)
        return None

    def tell(self, call: Call) -> int:
        """Tell the kernel one thing, and return how many bytes an UNMAP took away.

        Raises:
            KernelRefused: It was refused, and nothing was done.
        """
        is_map = isinstance(call, MapDma)
        request = Ioctl.IOMMU_MAP_DMA if is_map else Ioctl.IOMMU_UNMAP_DMA
        data = bytearray(encode(call))
        try:
            self._kernel.ioctl(self._fd, request, data)
        except OSError as failure:
            raise refused(naming(call), failure, MAP_HINTS if is_map else UNMAP_HINTS) from failure
        return 0 if is_map else int.from_bytes(data[16:24], "little")

    def empty(self) -> None:
        """Unmap everything: no device of its groups reaches any memory once this returns.

        Where that is refused, the container is closed instead, if that ends it.

        Raises:
            KernelRefused: It was refused, and somebody else has the container, or a device of it, open.
        """
        if self.closed and self._whole:
            return
        try:
            for call in unmaps(IovaRange(0, LAST), unmap_all=self.traits.unmap_all):
                self.tell(call)
        except KernelRefused:
            if not self._whole:
                raise
            self.close()

    def close(self) -> None:
        """Close it and its groups; what is mapped goes with it, unless somebody else has it or a device of it open."""
        groups, self._groups = self._groups, []
        for fd in [*groups, self._fd]:
            if fd >= 0:
                self._kernel.close(fd)
        self._fd = -1

    # -- inside ------------------------------------------------------------------

    def _check_kind(self) -> None:
        if self._call("VFIO_GET_API_VERSION", Ioctl.GET_API_VERSION):
            raise PeerCannot(self.name, "VFIO_API_VERSION 0", "it is the only one there is")
        if not self._call("VFIO_CHECK_EXTENSION", Ioctl.CHECK_EXTENSION, Extension.TYPE1V2_IOMMU):
            raise PeerCannot(self.name, "VFIO_TYPE1v2_IOMMU", "is vfio_iommu_type1 loaded?")

    def _add(self, path: str) -> None:
        group = _open(self._kernel, path)
        self._groups.append(group)
        status = bytearray(GROUP_STATUS.encode(GroupStatus(GROUP_STATUS.size, 0)))
        self._call(f"VFIO_GROUP_GET_STATUS of {path}", Ioctl.GROUP_GET_STATUS, status, group)
        if not GROUP_STATUS.decode(status).flags & GroupFlags.VIABLE:
            raise PeerCannot(
                path, "VFIO_GROUP_FLAGS_VIABLE", "each device of the group has to be bound to vfio-pci or to no driver"
            )
        container = bytearray(self._fd.to_bytes(4, "little"))
        self._call(f"VFIO_GROUP_SET_CONTAINER of {path}", Ioctl.GROUP_SET_CONTAINER, container, group)

    def _ask(self) -> Traits:
        size = INFO.size
        while True:
            data = bytearray(size.to_bytes(4, "little").ljust(size, b"\0"))
            self._call("VFIO_IOMMU_GET_INFO", Ioctl.IOMMU_GET_INFO, data)
            info = INFO.decode(data[: INFO.size])
            if info.argsz <= size:
                break
            size = info.argsz
        sizes = info.iova_pgsizes if info.flags & InfoFlags.PGSIZES else 0
        unmap_all = self._call("VFIO_CHECK_EXTENSION", Ioctl.CHECK_EXTENSION, Extension.UNMAP_ALL)
        return Traits(sizes, tuple(sorted(iova_ranges(data))), dma_avail(data), bool(unmap_all))

    def _call(self, what: str, request: Ioctl, argument: bytearray | int = 0, fd: int | None = None) -> int:
        try:
            return self._kernel.ioctl(self._fd if fd is None else fd, request, argument)
        except OSError as failure:
            raise refused(what, failure, ATTACH_HINTS) from failure


def group_of(address: str, devices: Path = PCI) -> int:
    """Return the number of the IOMMU group of a PCI device; look after it was bound to vfio-pci.

    Args:
        address: As ``0000:00:03.0``, or without the domain.
        devices: Where the kernel says it.

    Raises:
        PeerCannot: There is no such device, or no IOMMU before it.
    """
    full = address if re.fullmatch(r"[0-9a-fA-F]{4,}:.*", address) else f"0000:{address}"
    if not (devices / full).exists():
        raise PeerCannot(f"PCI device {full}", "place on this machine", "there is no device at this address")
    try:
        return int((devices / full / "iommu_group").readlink().name)
    except OSError:
        why = "no IOMMU is between it and the memory: is one there, and switched on?"
        raise PeerCannot(f"PCI device {full}", "IOMMU group", why) from None


def _path(group: str | int) -> str:
    text = str(group)
    return f"{DEVICES}/{text}" if text.isdecimal() else text


def _open(kernel: Kernel, path: str) -> int:
    try:
        return kernel.open(path)
    except OSError as failure:
        raise refused(f"open {path}", failure, OPEN_HINTS) from failure
