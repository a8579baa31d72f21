"""Small models of what the kernel does with a VFIO container and with a vhost device.

They refuse what the kernel refuses, with the same errors, and they are looked at as a
device looks: what it reaches is read from where its mapping leads to in this process.
That they are right is seen by the field tests, which do the same with a real kernel.

Source: Linux ``drivers/vfio/vfio_iommu_type1.c`` (``vfio_dma_do_map``,
``vfio_dma_do_unmap``) and ``drivers/vhost/vhost.c`` (``vhost_process_iotlb_msg``).
"""

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable
from threading import Event, Lock
from typing import Final

from msgspec import Struct

from iommubus.abi import vfio, vhost
from iommubus.abi.vfio import CapId, InfoFlags, MapDma, UnmapDma, UnmapFlags
from iommubus.abi.vhost import IotlbMsg, IotlbType, KernelMsg, MsgType
from iommubus.abi.vhost_user import Features
from iommubus.bridging.kernel import Kernel
from iommubus.caps import Perm
from iommubus.ranges import LAST, IovaRange

PAGE: Final = 0x1000

PATIENCE: Final = 30.0
"""Seconds after which a call that a test holds back goes on, so that a failing test ends."""

X86: Final = (IovaRange(0, 0xFEDF_FFFF), IovaRange(0xFEF0_0000, 2**39 - 1))
"""What can be mapped behind a VT-d: all but where interrupts go."""


def fault(number: int) -> OSError:
    """Return what a call raises that the kernel refuses."""
    return OSError(number, os.strerror(number))


class Gate:
    """Holds calls back, each until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = Event()
        self._open = Event()
        self._open.set()

    def close(self) -> None:
        """Hold back what comes from now on."""
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        """Let it go on."""
        self._open.set()

    def pass_through(self) -> None:
        """Wait until it is open; called in the thread of the call."""
        if not self._open.is_set():
            self.reached.set()
            assert self._open.wait(PATIENCE), "a call was held back for too long"


class Entry(Struct, frozen=True, order=True):
    """A mapping of a device."""

    first: int
    last: int
    address: int
    perm: Perm


def find(entries: list[Entry], first: int, last: int) -> list[Entry]:
    """Return the entries that overlap a range."""
    return [entry for entry in entries if entry.first <= last and entry.last >= first]


def look(entries: list[Entry], iova: int, size: int, perm: Perm) -> int | None:
    """Return where a device is led that accesses so many bytes; `None` if it is blocked."""
    for entry in find(entries, iova, iova):
        if entry.last >= iova + size - 1 and not perm & ~entry.perm:
            return entry.address + iova - entry.first
    return None


# -- VFIO --------------------------------------------------------------------


class VfioKernel(Kernel):
    """VFIO with some groups, each of a device.

    Args:
        groups: Numbers of the groups.
        room: Most mappings of a container; `None` for a kernel that does not say, and has room for 65535.
        ranges: What can be mapped; nothing for a kernel that does not say.
        pagesizes: Sizes of pages; 0 for a kernel that does not say.
        unmap_all: Whether one call takes away everything.

    Attributes:
        entries: What is mapped in the container.
        calls: Every MAP and UNMAP, in order, also those that were refused.
        gate: Holds back MAPs and UNMAPs.
        room_at: Most mappings there may be when one at this address comes, if other than ``room``.
        pinnable_at: Most bytes that may be pinned by then.
        refuse_unmaps: Whether each UNMAP is refused.
        not_viable: Whether a device of a group is bound otherwise.
        version1: Whether there is type 1 version 1 alone.
        open_fds: Descriptors that are open: what each is of.
    """

    def __init__(
        self,
        *groups: int,
        room: int | None = 65535,
        ranges: tuple[IovaRange, ...] = X86,
        pagesizes: int = PAGE | 1 << 21,
        unmap_all: bool = True,
    ) -> None:
        self._groups = groups or (26,)
        self._room = room
        self._ranges = ranges
        self._pagesizes = pagesizes
        self._unmap_all = unmap_all
        self.entries: list[Entry] = []
        self.calls: list[MapDma | UnmapDma] = []
        self.gate = Gate()
        self.room_at: dict[int, int] = {}
        self.pinnable_at: dict[int, int] = {}
        self.refuse_unmaps = False
        self.not_viable = False
        self.version1 = False
        self.open_fds: dict[int, str] = {}
        self._numbers = iter(range(1000, 2000))  # nobody polls them

    def device_reads(self, iova: int, size: int) -> bytes | None:
        """Read as a device does; `None` if the IOMMU blocks it."""
        address = look(self.entries, iova, size, Perm.R)
        return None if address is None else ctypes.string_at(address, size)

    def device_writes(self, iova: int, data: bytes) -> bool:
        """Write as a device does; say whether the IOMMU let it."""
        address = look(self.entries, iova, len(data), Perm.W)
        if address is None:
            return False
        ctypes.memmove(address, data, len(data))
        return True

    # -- calls -------------------------------------------------------------------

    def open(self, path: str) -> int:
        names = {"/dev/vfio/vfio", *(f"/dev/vfio/{group}" for group in self._groups)}
        if path not in names:
            raise fault(errno.ENOENT)
        if path != "/dev/vfio/vfio" and path in self.open_fds.values():
            raise fault(errno.EBUSY)
        return self._new(path)

    def close(self, fd: int) -> None:
        del self.open_fds[fd]
        if not self.open_fds:  # nobody has the container any more
            self.entries.clear()

    def ioctl(self, fd: int, request: int, argument: bytearray | int = 0) -> int:
        if fd not in self.open_fds:
            raise fault(errno.EBADF)
        if isinstance(argument, int):
            return self._numbered(request, argument)
        takes: dict[int, Callable[[bytearray], int | None]] = {
            vfio.Ioctl.GROUP_GET_STATUS: self._status,
            vfio.Ioctl.GROUP_SET_CONTAINER: self._set_container,
            vfio.Ioctl.GROUP_GET_DEVICE_FD: self._device,
            vfio.Ioctl.IOMMU_GET_INFO: self._info,
            vfio.Ioctl.IOMMU_MAP_DMA: self._map,
            vfio.Ioctl.IOMMU_UNMAP_DMA: self._unmap,
        }
        return takes[request](argument) or 0

    # -- inside ------------------------------------------------------------------

    def _new(self, name: str) -> int:
        fd = next(self._numbers)
        self.open_fds[fd] = name
        return fd

    def _numbered(self, request: int, number: int) -> int:
        if request != vfio.Ioctl.CHECK_EXTENSION:
            assert request in {vfio.Ioctl.GET_API_VERSION, vfio.Ioctl.SET_IOMMU}
            return 0
        known = {vfio.Extension.TYPE1V2_IOMMU: not self.version1, vfio.Extension.UNMAP_ALL: self._unmap_all}
        return int(known.get(vfio.Extension(number), True))

    def _status(self, data: bytearray) -> None:
        data[4] = 0 if self.not_viable else 1

    def _set_container(self, data: bytearray) -> None:
        assert self.open_fds[int.from_bytes(data, "little")] == "/dev/vfio/vfio"

    def _device(self, data: bytearray) -> int:
        name = data.rstrip(b"\0").decode()
        if name != "0000:00:03.0":
            raise fault(errno.ENODEV)
        return self._new(name)

    def _info(self, data: bytearray) -> None:
        caps = b""
        if self._ranges:
            body = len(self._ranges).to_bytes(4, "little") + bytes(4)
            body += b"".join(
                each.first.to_bytes(8, "little") + each.last.to_bytes(8, "little") for each in self._ranges
            )
            behind = vfio.INFO.size + vfio.CAP_HEADER.size + len(body) if self._room is not None else 0
            caps += self._header(CapId.IOVA_RANGE, behind) + body
        if self._room is not None:
            free = max(self._room - len(self.entries), 0)
            caps += self._header(CapId.DMA_AVAIL, 0) + free.to_bytes(4, "little")
        flags = (InfoFlags.PGSIZES if self._pagesizes else 0) | (InfoFlags.CAPS if caps else 0)
        room = len(data)
        start = vfio.INFO.size if caps and room >= vfio.INFO.size + len(caps) else 0
        info = vfio.Info(vfio.INFO.size + len(caps), flags, self._pagesizes, start)
        data[:] = (vfio.encode(info) + caps)[:room]

    def _header(self, capability: CapId, behind: int) -> bytes:
        return int(capability).to_bytes(2, "little") + b"\1\0" + behind.to_bytes(4, "little")

    def _map(self, data: bytearray) -> None:
        call = vfio.decode(vfio.Ioctl.IOMMU_MAP_DMA, data)
        assert isinstance(call, MapDma)
        self.calls.append(call)
        self.gate.pass_through()
        last = call.iova + call.size - 1
        if not call.flags or not call.size or (call.iova | call.size | call.vaddr) % PAGE or last > LAST:
            raise fault(errno.EINVAL)
        if find(self.entries, call.iova, last):
            raise fault(errno.EEXIST)
        if len(self.entries) >= self.room_at.get(call.iova, 65535 if self._room is None else self._room):
            raise fault(errno.ENOSPC)
        if self._ranges and not any(each.first <= call.iova and last <= each.last for each in self._ranges):
            raise fault(errno.EINVAL)
        if sum(entry.last - entry.first + 1 for entry in self.entries) + call.size > self.pinnable_at.get(
            call.iova, LAST
        ):
            raise fault(errno.ENOMEM)
        self.entries.append(Entry(call.iova, last, call.vaddr, Perm(int(call.flags))))
        self.entries.sort()

    def _unmap(self, data: bytearray) -> None:
        call = vfio.decode(vfio.Ioctl.IOMMU_UNMAP_DMA, data)
        assert isinstance(call, UnmapDma)
        self.calls.append(call)
        self.gate.pass_through()
        first, last = call.iova, call.iova + call.size - 1
        if call.flags & UnmapFlags.ALL:
            if not self._unmap_all or call.iova or call.size:
                raise fault(errno.EINVAL)
            first, last = 0, LAST
        elif not call.size or (call.iova | call.size) % PAGE or last > LAST:
            raise fault(errno.EINVAL)
        gone = find(self.entries, first, last)
        if self.refuse_unmaps or any(entry.first < first or entry.last > last for entry in gone):
            raise fault(errno.EINVAL)
        self.entries = [entry for entry in self.entries if entry not in gone]
        data[16:24] = sum(entry.last - entry.first + 1 for entry in gone).to_bytes(8, "little")


# -- vhost -------------------------------------------------------------------


class VhostKernel(Kernel):
    """A vhost device with rings.

    Args:
        features: What it offers.
        backend: Its back-end features; `None` for a kernel that knows none.

    Attributes:
        entries: What is in its IOTLB, oldest first.
        written: Every message that was written, in order, also those that were refused.
        gate: Holds back writes.
        behind: Holds back their returns, after all was done.
        owner: Who owns it: "nobody", "us" or "others".
        pending: Questions that were read, and that no UPDATE has answered yet: ring, address and permission.
        woken: Rings that were woken by an UPDATE since the test last looked.
        updates: How many UPDATEs it took.
        refuse: Error of each write, 0 for none.
        says: What is read instead of a question, if it is not empty.
    """

    def __init__(
        self, features: int = Features.VERSION_1 | Features.ACCESS_PLATFORM | 1 << 15, backend: int | None = 2
    ) -> None:
        self.features = features
        self.acked = 0
        self.entries: list[Entry] = []
        self.written: list[IotlbMsg] = []
        self.types: list[MsgType] = []
        self.gate = Gate()
        self.behind = Gate()
        self.owner = "nobody"
        self.memory_table: bytes | None = None
        self.pending: list[tuple[int, int, Perm]] = []
        self.woken: list[int] = []
        self.updates = 0
        self.refuse = 0
        self.says = b""
        self._backend = backend
        self._said: deque[tuple[int, int, Perm]] = deque()
        self._bell = -1
        self._lock = Lock()

    def device_reads(self, ring: int, iova: int, size: int) -> bytes | None:
        """Read as a worker of a ring does; where it cannot, it asks, and `None` is returned."""
        address = self.access(ring, iova, size, Perm.R)
        return None if address is None else ctypes.string_at(address, size)

    def access(self, ring: int, iova: int, size: int, perm: Perm) -> int | None:
        """Return where an access leads to; where it leads nowhere, the ring asks."""
        with self._lock:
            address = look(self.entries, iova, size, perm)
            if address is None:
                self.ask(ring, iova, perm)
            return address

    def ask(self, ring: int, iova: int, perm: Perm) -> None:
        """Have a ring ask."""
        self._said.append((ring, iova, perm))
        os.eventfd_write(self._bell, 1)

    # -- calls -------------------------------------------------------------------

    def open(self, path: str) -> int:
        if path != "/dev/vhost-net":
            raise fault(errno.ENOENT)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        return self._bell

    def ioctl(self, fd: int, request: int, argument: bytearray | int = 0) -> int:
        assert fd == self._bell
        takes: dict[int, Callable[[bytearray], object]] = {
            vhost.Ioctl.SET_OWNER: self._own,
            vhost.Ioctl.GET_VRING_BASE: self._base,
            vhost.Ioctl.GET_FEATURES: self._get_features,
            vhost.Ioctl.SET_FEATURES: self._set_features,
            vhost.Ioctl.GET_BACKEND_FEATURES: self._get_backend,
            vhost.Ioctl.SET_BACKEND_FEATURES: self._set_backend,
            vhost.Ioctl.SET_MEM_TABLE: self._set_table,
        }
        takes[request](argument if isinstance(argument, bytearray) else bytearray())
        return 0

    def read(self, fd: int, size: int) -> bytes:
        with self._lock:
            os.eventfd_read(fd)  # would block if nothing was said
            question = self._said.popleft()
            self.pending.append(question)
        _, iova, perm = question
        message = IotlbMsg(iova, 0, 0, int(perm), IotlbType.MISS)
        return self.says or vhost.encode(KernelMsg(MsgType.IOTLB_V2, 0, message))[:size]

    def write(self, fd: int, data: bytes) -> int:
        assert fd == self._bell
        outer = vhost.decode(data)
        message = outer.iotlb
        self.types.append(outer.type)
        self.written.append(message)
        self.gate.pass_through()
        if self.refuse:
            raise fault(self.refuse)
        if not self.acked & Features.ACCESS_PLATFORM:
            raise fault(errno.EFAULT)
        if not message.size:  # kernels of 2022 and 2023
            raise fault(errno.EINVAL)
        last = message.iova + message.size - 1
        with self._lock:
            if message.type is IotlbType.UPDATE:
                self.entries.append(Entry(message.iova, last, message.uaddr, Perm(message.perm)))
                self.updates += 1
                self.woken += [ring for ring, iova, _ in self.pending if message.iova <= iova <= last]
                self.pending = [each for each in self.pending if not message.iova <= each[1] <= last]
            else:
                gone = find(self.entries, message.iova, last)
                self.entries = [entry for entry in self.entries if entry not in gone]
        self.behind.pass_through()
        return len(data)

    # -- inside ------------------------------------------------------------------

    def _own(self, _: bytearray) -> None:
        if self.owner != "nobody":
            raise fault(errno.EBUSY)
        self.owner = "us"

    def _base(self, _: bytearray) -> None:
        if self.owner != "us":
            raise fault(errno.EPERM)

    def _get_features(self, data: bytearray) -> None:
        data[:] = self.features.to_bytes(8, "little")

    def _set_features(self, data: bytearray) -> None:
        self.acked = int.from_bytes(data, "little")
        if self.acked & ~self.features:
            raise fault(errno.EOPNOTSUPP)

    def _get_backend(self, data: bytearray) -> None:
        if self._backend is None:
            raise fault(errno.ENOTTY)
        data[:] = self._backend.to_bytes(8, "little")

    def _set_backend(self, data: bytearray) -> None:
        assert int.from_bytes(data, "little") & ~(self._backend or 0) == 0

    def _set_table(self, data: bytearray) -> None:
        self.memory_table = bytes(data)
