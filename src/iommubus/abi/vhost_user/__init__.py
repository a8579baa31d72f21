"""vhost-user: the protocol between a front end (QEMU) and a back end (DPDK, a device of its own).

* `bits`: requests, flags, features
* `header`: the 12 bytes before each message, and streams
* `bodies`: what messages carry, and `codecs`: how that is read and written
* `requests`: which body and how many descriptors belong to which request
* `messages`: the whole, read and written

No descriptor is touched here: `check_descriptors` takes how many there were.

Source: QEMU ``docs/interop/vhost-user.rst``.
"""

from ..payloads import Empty, Opaque
from ..vhost import IotlbMsg, IotlbType, VringAddr, VringState
from .bits import BackendRequest, Channel, ConfigFlags, Features, Flags, ProtocolFeatures, Request
from .bodies import (
    CONFIG_LIMIT,
    NO_DESCRIPTOR,
    REGION_LIMIT,
    U64,
    Body,
    Config,
    Log,
    MemRegion,
    MemTable,
    Region,
    VringArea,
    VringFd,
)
from .header import HEADER, PAYLOAD_LIMIT, Header, decode_header, encode_header, splitter
from .messages import Message, acknowledge, check_descriptors, decode, descriptors, encode
from .requests import BACK_END, DESCRIPTOR_LIMIT, FRONT_END, UNLISTED, Descriptors, Shape, name_of, shape_of

__all__ = [
    "BACK_END",
    "CONFIG_LIMIT",
    "DESCRIPTOR_LIMIT",
    "FRONT_END",
    "HEADER",
    "NO_DESCRIPTOR",
    "PAYLOAD_LIMIT",
    "REGION_LIMIT",
    "U64",
    "UNLISTED",
    "BackendRequest",
    "Body",
    "Channel",
    "Config",
    "ConfigFlags",
    "Descriptors",
    "Empty",
    "Features",
    "Flags",
    "Header",
    "IotlbMsg",
    "IotlbType",
    "Log",
    "MemRegion",
    "MemTable",
    "Message",
    "Opaque",
    "ProtocolFeatures",
    "Region",
    "Request",
    "Shape",
    "VringAddr",
    "VringArea",
    "VringFd",
    "VringState",
    "acknowledge",
    "check_descriptors",
    "decode",
    "decode_header",
    "descriptors",
    "encode",
    "encode_header",
    "name_of",
    "shape_of",
    "splitter",
]
