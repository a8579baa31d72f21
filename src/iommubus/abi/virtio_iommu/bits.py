"""The codes and bits of virtio-iommu.

Source: Linux ``include/uapi/linux/virtio_iommu.h``.
"""

from enum import IntEnum, IntFlag
from typing import Final


class Features(IntFlag):
    """What the device offers, ``1 << VIRTIO_IOMMU_F_*``."""

    INPUT_RANGE = 1 << 0
    DOMAIN_RANGE = 1 << 1
    MAP_UNMAP = 1 << 2
    BYPASS = 1 << 3
    PROBE = 1 << 4
    MMIO = 1 << 5
    BYPASS_CONFIG = 1 << 6


class RequestType(IntEnum):
    """What is asked, ``VIRTIO_IOMMU_T_*``."""

    ATTACH = 1
    DETACH = 2
    MAP = 3
    UNMAP = 4
    PROBE = 5


class Status(IntEnum):
    """How it went, ``VIRTIO_IOMMU_S_*``."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    DEVERR = 3
    INVAL = 4
    RANGE = 5
    NOENT = 6
    FAULT = 7
    NOMEM = 8


class AttachFlags(IntFlag):
    """How an endpoint is attached, ``VIRTIO_IOMMU_ATTACH_F_*``."""

    BYPASS = 1


class MapFlags(IntFlag):
    """What a mapping allows, ``VIRTIO_IOMMU_MAP_F_*``."""

    READ = 1
    WRITE = 2
    MMIO = 4


class FaultReason(IntEnum):
    """Why a device was stopped, ``VIRTIO_IOMMU_FAULT_R_*``."""

    UNKNOWN = 0
    DOMAIN = 1
    MAPPING = 2


class FaultFlags(IntFlag):
    """What the device tried, ``VIRTIO_IOMMU_FAULT_F_*``."""

    READ = 1
    WRITE = 2
    EXEC = 4
    ADDRESS = 0x100
    """The address is valid."""


class ReservedKind(IntEnum):
    """Why a range cannot be mapped, ``VIRTIO_IOMMU_RESV_MEM_T_*``."""

    RESERVED = 0
    MSI = 1


ZEROES: Final = bytes(3)
"""Reserved bytes of a head and a tail, which nobody reads: they stay as they came."""
