"""The codes and bits of vhost-user: requests on both channels, flags, features.

Older texts and QEMU's before 2023 say "slave" where "backend" stands here.

Source: QEMU ``docs/interop/vhost-user.rst``; bits of virtio features are those
of the virtio specification.
"""

from enum import Enum, IntEnum, IntFlag


class Channel(Enum):
    """Whose requests a socket carries; their numbers mean different things."""

    FRONT_END = "front end"
    """The main socket: the front end asks, the back end replies."""

    BACK_END = "back end"
    """The socket of SET_BACKEND_REQ_FD: the back end asks, the front end replies."""


class Flags(IntFlag):
    """Flags of a header, beside its version."""

    REPLY = 4
    """An answer."""

    NEED_REPLY = 8
    """Answer even what has no reply of its own; needs `ProtocolFeatures.REPLY_ACK`."""


class Request(IntEnum):
    """What a front end asks, ``VHOST_USER_*``."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(IntEnum):
    """What a back end asks, ``VHOST_USER_BACKEND_*``."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5


class Features(IntFlag):
    """The bits of GET_FEATURES and SET_FEATURES that matter here; the others are the device's own."""

    LOG_ALL = 1 << 26
    """Log every write, for migration."""

    PROTOCOL_FEATURES = 1 << 30
    """There are protocol features, and rings start disabled."""

    VERSION_1 = 1 << 32
    """A device of virtio 1.0 or later."""

    ACCESS_PLATFORM = 1 << 33
    """Addresses are IOVAs: there are IOTLB messages.  Also called IOMMU_PLATFORM."""


class ProtocolFeatures(IntFlag):
    """The bits of GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES, ``1 << VHOST_USER_PROTOCOL_F_*``."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16


class ConfigFlags(IntEnum):
    """Why the configuration space is read or written."""

    WRITABLE = 0
    """The guest does it: only fields that it may write."""

    MIGRATION = 1
    """Migration does it: every field."""
