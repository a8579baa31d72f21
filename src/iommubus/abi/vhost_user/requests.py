"""What belongs to each vhost-user request: its bodies, and how many descriptors.

Two tables, one for each channel.  A request that is not in its table is passed
on: its payload is opaque and up to eight descriptors may come with it.

Source: QEMU ``docs/interop/vhost-user.rst``, "Front-end message types" and
"Back-end message types"; where an implementation sends something else, the
line says so.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from ..payloads import EMPTY, OPAQUE, Codec
from ..vhost import VRING_ADDR, VRING_STATE
from .bits import BackendRequest, Channel, Request
from .bodies import REGION_LIMIT
from .codecs import (
    ADDED,
    LOG,
    REMOVED,
    U64_BODY,
    VRING_AREA,
    VRING_FD,
    ConfigCodec,
    IotlbCodec,
    TableCodec,
)

DESCRIPTOR_LIMIT: Final = 8
"""Descriptors of one message, on both channels; the specification's number."""


class Descriptors(Enum):
    """How many descriptors come with a request."""

    NONE = "none"
    ONE = "one"
    MAYBE = "one, or none"
    PER_REGION = "one for each region of the table"
    UNLESS_POLLED = "one, unless the ring is said to have none"
    ANY = "any number"


COUNTS: Final[Mapping[Descriptors, tuple[int, int]]] = {
    Descriptors.NONE: (0, 0),
    Descriptors.ONE: (1, 1),
    Descriptors.MAYBE: (0, 1),
    Descriptors.PER_REGION: (0, REGION_LIMIT),
    Descriptors.UNLESS_POLLED: (0, 1),
    Descriptors.ANY: (0, DESCRIPTOR_LIMIT),
}
"""The same in numbers, at least and at most; the body can say it closer."""


class Shape(Struct, frozen=True):
    """What one request looks like.

    Attributes:
        request: How its body is read; the first that fits the length.
        reply: The same for its reply.  What has no reply of its own is
            acknowledged with a number where that is asked for.
        descriptors: How many come with the request.  None comes with a reply.
    """

    request: tuple[Codec[Any], ...] = (EMPTY,)
    reply: tuple[Codec[Any], ...] = (U64_BODY,)
    descriptors: Descriptors = Descriptors.NONE


TABLE: Final = TableCodec()
CONFIG: Final = ConfigCodec()
IOTLB: Final = IotlbCodec()

_ASK: Final = Shape()
_NUMBER: Final = Shape((U64_BODY,))
_RING: Final = Shape((VRING_STATE,))
_RING_FD: Final = Shape((VRING_FD,), descriptors=Descriptors.UNLESS_POLLED)
_GIVE_FD: Final = Shape(descriptors=Descriptors.ONE)

FRONT_END: Final[Mapping[int, Shape]] = {
    Request.GET_FEATURES: _ASK,
    Request.SET_FEATURES: _NUMBER,
    Request.SET_OWNER: _ASK,
    Request.RESET_OWNER: _ASK,
    Request.SET_MEM_TABLE: Shape((TABLE,), (U64_BODY, TABLE), Descriptors.PER_REGION),  # a table, in postcopy
    # QEMU always sends a log; DPDK replies with nothing, others with a number
    Request.SET_LOG_BASE: Shape((U64_BODY, LOG), (U64_BODY, EMPTY), Descriptors.MAYBE),
    Request.SET_LOG_FD: _GIVE_FD,
    Request.SET_VRING_NUM: _RING,
    Request.SET_VRING_ADDR: Shape((VRING_ADDR,)),
    Request.SET_VRING_BASE: _RING,
    Request.GET_VRING_BASE: Shape((VRING_STATE,), (VRING_STATE,)),
    Request.SET_VRING_KICK: _RING_FD,
    Request.SET_VRING_CALL: _RING_FD,
    Request.SET_VRING_ERR: _RING_FD,
    Request.GET_PROTOCOL_FEATURES: _ASK,
    Request.SET_PROTOCOL_FEATURES: _NUMBER,
    Request.GET_QUEUE_NUM: _ASK,
    Request.SET_VRING_ENABLE: _RING,
    Request.SEND_RARP: _NUMBER,
    Request.NET_SET_MTU: _NUMBER,
    Request.SET_BACKEND_REQ_FD: _GIVE_FD,
    Request.IOTLB_MSG: Shape((IOTLB,)),
    Request.GET_CONFIG: Shape((CONFIG,), (CONFIG, EMPTY)),  # nothing says that it failed
    Request.SET_CONFIG: Shape((CONFIG,)),
    Request.RESET_DEVICE: _ASK,
    Request.GET_MAX_MEM_SLOTS: _ASK,
    Request.ADD_MEM_REG: Shape((ADDED,), (U64_BODY, ADDED), Descriptors.ONE),  # a region, in postcopy
    Request.REM_MEM_REG: Shape((REMOVED,), descriptors=Descriptors.MAYBE),  # one may come by mistake: close it
    Request.SET_STATUS: _NUMBER,
    Request.GET_STATUS: _ASK,
}
"""What a front end asks."""

BACK_END: Final[Mapping[int, Shape]] = {
    BackendRequest.IOTLB_MSG: Shape((IOTLB,)),
    BackendRequest.CONFIG_CHANGE_MSG: _ASK,
    BackendRequest.VRING_HOST_NOTIFIER_MSG: Shape((VRING_AREA,), descriptors=Descriptors.UNLESS_POLLED),
}
"""What a back end asks."""

SHAPES: Final[Mapping[Channel, Mapping[int, Shape]]] = {Channel.FRONT_END: FRONT_END, Channel.BACK_END: BACK_END}

UNLISTED: Final = Shape((OPAQUE,), (OPAQUE,), Descriptors.ANY)
"""What every other request looks like."""


def shape_of(channel: Channel, request: int) -> Shape:
    """Return what a request looks like."""
    return SHAPES[channel].get(request, UNLISTED)


def name_of(channel: Channel, request: int) -> str:
    """Return what people call a request."""
    kind = Request if channel is Channel.FRONT_END else BackendRequest
    known = [code.name for code in kind if code == request]
    return known[0] if known else f"{channel.value} request {request}"
