"""The codes and bits of vfio-user.

Source: QEMU ``docs/interop/vfio-user.rst``; flags that only libvfio-user has
are those of its ``include/vfio-user.h``.
"""

from enum import IntEnum, IntFlag


class Command(IntEnum):
    """What is asked, ``VFIO_USER_*``."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flags(IntFlag):
    """Flags of a header."""

    REPLY = 0x1
    """An answer; the other values of the first four bits mean nothing."""

    NO_REPLY = 0x10
    """Do not answer."""

    ERROR = 0x20
    """The command failed; only together with `REPLY`, and without a payload."""


class MapFlags(IntFlag):
    """How a server may use what is mapped."""

    READ = 0x1
    WRITE = 0x2
    MMAP = 0x4
    """It may map the descriptor; libvfio-user's."""

    FILE_IO = 0x8
    """It may read and write the descriptor; libvfio-user's."""


class UnmapFlags(IntFlag):
    """What an UNMAP does; the specification has no such flag yet."""

    ALL = 0x2
    """Everything, with address and size 0; libvfio-user's."""
