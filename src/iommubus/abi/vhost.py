"""Linux vhost: the IOTLB message, its envelopes, and the numbers of the ioctls.

`IotlbMsg` is shared by the kernel and vhost-user.  The kernel wraps it in
``struct vhost_msg`` or ``struct vhost_msg_v2``, both 72 bytes on a 64-bit
machine, which are read from and written to the vhost device itself.

What a type does not use stays as it came: QEMU sends whatever was in memory as
``uaddr`` and ``perm`` of an INVALIDATE, and in the padding of everything.

Source: Linux ``include/uapi/linux/vhost_types.h`` and ``vhost.h``, and for
what is accepted ``drivers/vhost/vhost.c``.  Numbers of ioctls are those of the
generic encoding (x86, Arm, RISC-V, s390).
"""

from enum import IntEnum, IntFlag
from typing import Final

from msgspec import Struct

from ..caps import Perm
from ..errors import BadField, BadLength
from ..ranges import LAST, IovaRange
from . import extents
from .fields import Bytes, Layout, raw, u8, u32, u64


class Ioctl(IntEnum):
    """The requests to a vhost device, ``VHOST_*``."""

    GET_FEATURES = 0x8008_AF00
    SET_FEATURES = 0x4008_AF00
    SET_OWNER = 0xAF01
    RESET_OWNER = 0xAF02
    SET_MEM_TABLE = 0x4008_AF03
    SET_LOG_BASE = 0x4008_AF04
    SET_LOG_FD = 0x4004_AF07
    SET_VRING_NUM = 0x4008_AF10
    SET_VRING_ADDR = 0x4028_AF11
    SET_VRING_BASE = 0x4008_AF12
    GET_VRING_BASE = 0xC008_AF12
    SET_VRING_KICK = 0x4008_AF20
    SET_VRING_CALL = 0x4008_AF21
    SET_VRING_ERR = 0x4008_AF22
    SET_BACKEND_FEATURES = 0x4008_AF25
    GET_BACKEND_FEATURES = 0x8008_AF26
    NET_SET_BACKEND = 0x4008_AF30
    VDPA_GET_IOVA_RANGE = 0x8010_AF78
    VDPA_GET_AS_NUM = 0x8004_AF7A
    VDPA_SET_GROUP_ASID = 0x4008_AF7C


class BackendFeatures(IntFlag):
    """What the kernel's side can do, ``1 << VHOST_BACKEND_F_*``."""

    IOTLB_MSG_V2 = 1 << 1
    IOTLB_BATCH = 1 << 2
    IOTLB_ASID = 1 << 3
    SUSPEND = 1 << 4


class MsgType(IntEnum):
    """The envelope of an IOTLB message, ``VHOST_IOTLB_MSG*``."""

    IOTLB = 1
    IOTLB_V2 = 2


class IotlbType(IntEnum):
    """What an IOTLB message says, ``VHOST_IOTLB_*``."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4
    BATCH_BEGIN = 5
    BATCH_END = 6


class VringFlags(IntFlag):
    """Flags of a ring's addresses, ``1 << VHOST_VRING_F_*``."""

    LOG = 1


WITH_PERM: Final = {IotlbType.MISS, IotlbType.UPDATE, IotlbType.ACCESS_FAIL}
"""The types whose ``perm`` means something."""


# -- structures --------------------------------------------------------------


class IotlbMsg(Struct, frozen=True, gc=False):
    """``struct vhost_iotlb_msg``.

    Attributes:
        iova: First address.
        size: Length in bytes; 0 in an INVALIDATE is the whole space.
        uaddr: Where an UPDATE leads: an address in the front end's process.
        perm: 0 to 3, as `Perm`; anything in an INVALIDATE or a batch hint.
        type: What it says.
        padding: The tail that C adds, as it came.
    """

    iova: int
    size: int
    uaddr: int
    perm: int
    type: IotlbType
    padding: bytes = bytes(6)


class KernelMsg(Struct, frozen=True):
    """``struct vhost_msg`` or ``struct vhost_msg_v2``.

    Attributes:
        type: Which of the two.
        asid: Address space of a vDPA device; in the first version a hole, kept as it came.
        iotlb: The message.
        rest: What the union has behind the message, as it came.
    """

    type: MsgType
    asid: int
    iotlb: IotlbMsg
    rest: bytes = bytes(32)


class VringState(Struct, frozen=True, gc=False):
    """``struct vhost_vring_state``: a ring, and a number that depends on the request."""

    index: int
    num: int


class VringAddr(Struct, frozen=True, gc=False):
    """``struct vhost_vring_addr``: where a ring's parts are, as IOVAs once there is an IOTLB."""

    index: int
    flags: VringFlags
    desc_user_addr: int
    used_user_addr: int
    avail_user_addr: int
    log_guest_addr: int


class VdpaIovaRange(Struct, frozen=True, gc=False):
    """``struct vhost_vdpa_iova_range``: what a vDPA device can address, both ends inclusive."""

    first: int
    last: int


class _Envelope(Struct, frozen=True):
    type: MsgType
    asid: int
    union: bytes


def _check_iotlb(message: IotlbMsg) -> None:
    if message.type in WITH_PERM and message.perm > Perm.RW:
        raise BadField(IOTLB_MSG.name, "perm", message.perm, "0x0..0x3")
    if message.type is IotlbType.UPDATE:
        extents.sized(IOTLB_MSG.name, "size", message.uaddr, message.size)
    if message.type in (IotlbType.UPDATE, IotlbType.INVALIDATE):
        range_of(message)


def _check_vdpa(limits: VdpaIovaRange) -> None:
    extents.ends(VDPA_IOVA_RANGE.name, "last", limits.first, limits.last)


IOTLB_MSG: Final = Layout(
    IotlbMsg,
    "vhost_iotlb_msg",
    u64("iova"),
    u64("size"),
    u64("uaddr"),
    u8("perm"),
    u8("type", IotlbType),
    raw("padding", 6),
    check=_check_iotlb,
)

VRING_STATE: Final = Layout(VringState, "vhost_vring_state", u32("index"), u32("num"))

VRING_ADDR: Final = Layout(
    VringAddr,
    "vhost_vring_addr",
    u32("index"),
    u32("flags", VringFlags),
    u64("desc_user_addr"),
    u64("used_user_addr"),
    u64("avail_user_addr"),
    u64("log_guest_addr"),
)

VDPA_IOVA_RANGE: Final = Layout(VdpaIovaRange, "vhost_vdpa_iova_range", u64("first"), u64("last"), check=_check_vdpa)

ENVELOPE: Final = Layout(_Envelope, "vhost_msg", u32("type", MsgType), u32("asid"), raw("union", 64))

IOTLB_LEAST: Final = 26
"""Bytes of an IOTLB message without the tail that C adds: what the vhost-user specification lists."""


# -- bytes -------------------------------------------------------------------


def decode_iotlb(data: Bytes) -> IotlbMsg:
    """Read an IOTLB message with its padding, part of it, or none.

    Raises:
        BadLength: Not 26 to 32 bytes.
        BadField: An unknown type or permission, an UPDATE of no bytes, or a range that wraps.
    """
    if not IOTLB_LEAST <= len(data) <= IOTLB_MSG.size:
        raise BadLength(IOTLB_MSG.name, len(data), IOTLB_LEAST, IOTLB_MSG.size)
    return IOTLB_MSG.decode(bytes(data).ljust(IOTLB_MSG.size, b"\0"))


def decode(data: Bytes) -> KernelMsg:
    """Read what a vhost device gave.

    Raises:
        BadLength: Not 72 bytes.
        BadField: An unknown envelope, or as for `decode_iotlb`.
    """
    envelope = ENVELOPE.decode(data)
    union = envelope.union
    iotlb = IOTLB_MSG.decode(union[: IOTLB_MSG.size])
    return KernelMsg(envelope.type, envelope.asid, iotlb, union[IOTLB_MSG.size :])


def encode(message: KernelMsg) -> bytes:
    """Write what a vhost device takes.

    Raises:
        BadLength: ``rest`` or ``padding`` of the wrong length.
        BadField: As for `decode`.
    """
    union = IOTLB_MSG.encode(message.iotlb) + message.rest
    return ENVELOPE.encode(_Envelope(message.type, message.asid, union))


# -- to and from the words of the bus ----------------------------------------


def range_of(message: IotlbMsg) -> IovaRange:
    """Return what an UPDATE or an INVALIDATE covers.

    An INVALIDATE of size 0 covers the whole space, wherever it begins: QEMU's
    mask of all ones becomes that size, and too much is right where too little is not.

    Raises:
        BadField: It says nothing about a range, is an UPDATE of no bytes, or wraps.
    """
    if message.type not in (IotlbType.UPDATE, IotlbType.INVALIDATE):
        raise BadField(IOTLB_MSG.name, "type", message.type, "UPDATE (2) or INVALIDATE (3)")
    if message.type is IotlbType.INVALIDATE and message.size == 0:
        return IovaRange(0, LAST)
    return extents.sized(IOTLB_MSG.name, "size", message.iova, message.size)


def perm_of(message: IotlbMsg) -> Perm:
    """Return the access that a MISS or an ACCESS_FAIL needs, or an UPDATE allows; it may be none.

    Raises:
        BadField: Its ``perm`` means nothing, or has unknown bits.
    """
    if message.type not in WITH_PERM:
        raise BadField(IOTLB_MSG.name, "type", message.type, "MISS (1), UPDATE (2) or ACCESS_FAIL (4)")
    _check_iotlb(message)
    return Perm(message.perm)


def updates(where: IovaRange, uaddr: int, perm: Perm) -> tuple[IotlbMsg, ...]:
    """Return the UPDATEs that map ``where`` to ``uaddr``, in the order of the addresses."""
    return tuple(
        IotlbMsg(piece.first, piece.size, uaddr + piece.first - where.first, int(perm), IotlbType.UPDATE)
        for piece in _pieces(where)
    )


def invalidations(where: IovaRange) -> tuple[IotlbMsg, ...]:
    """Return the INVALIDATEs that take ``where`` away.

    Size 0 is read as the whole space, and never written: kernels of 2022 and
    2023 refuse it, and DPDK does nothing and says that it did.
    """
    return tuple(IotlbMsg(piece.first, piece.size, 0, 0, IotlbType.INVALIDATE) for piece in _pieces(where))


def _pieces(where: IovaRange) -> tuple[IovaRange, ...]:
    """Return the range as everybody understands it.

    DPDK adds address and size, and up to 2^64-1 the sum wraps: it then finds
    nothing to remove.  The lower half, where the addresses of devices are, is
    therefore said by itself.
    """
    return extents.halves(where) if where.last == LAST else (where,)
