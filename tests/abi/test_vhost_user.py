"""vhost-user: every listed request and reply, byte by byte, and what is refused."""

from typing import Any, Final

import pytest
from hypothesis import example, given, strategies as st

from iommubus.abi.vhost import VringFlags
from iommubus.abi.vhost_user import (
    BACK_END,
    CONFIG_LIMIT,
    DESCRIPTOR_LIMIT,
    FRONT_END,
    HEADER,
    PAYLOAD_LIMIT,
    REGION_LIMIT,
    U64,
    UNLISTED,
    BackendRequest,
    Body,
    Channel,
    Config,
    ConfigFlags,
    Empty,
    Features,
    Flags,
    Header,
    IotlbMsg,
    IotlbType,
    Log,
    MemRegion,
    MemTable,
    Message,
    Opaque,
    ProtocolFeatures,
    Region,
    Request,
    VringAddr,
    VringArea,
    VringFd,
    VringState,
    acknowledge,
    check_descriptors,
    decode,
    decode_header,
    descriptors,
    encode,
    encode_header,
    name_of,
    shape_of,
    splitter,
)
from iommubus.errors import AbiError, BadDescriptors, BadField, BadLength, TooLong

REGION: Final = Region(0, 0x1000_0000, 0x7FB5_8BF0_0000, 0)
HIGH: Final = Region(2**64 - 0x1000, 0x1000, 2**64 - 0x1000, 2**64 - 0x1000)
ADDED: Final = MemRegion(0x1000, 0x2000, 0x3000, 0x4000, 0xAA)
IOTLB: Final = IotlbMsg(0xFFFFF000, 0x1000, 0x7FB58EBF3000, 3, IotlbType.UPDATE, bytes.fromhex("022ce62d55ef"))
MISS: Final = IotlbMsg(0xFFFFD000, 0, 0, 1, IotlbType.MISS)
ADDRESSES: Final = VringAddr(0, VringFlags(0), 0xFFFFE000, 0xFFFFF240, 0xFFFFF000, 0xFFFFF240)
REGION_BYTES: Final = "0000000000000000 0000001000000000 0000f08bb57f0000 0000000000000000"
ADDED_BYTES: Final = "aa00000000000000 0010000000000000 0020000000000000 0030000000000000 0040000000000000"
HIGH_BYTES: Final = "00f0ffffffffffff 0010000000000000 00f0ffffffffffff 00f0ffffffffffff"

REQUESTS: Final[list[tuple[Request, Body, str]]] = [
    (Request.GET_FEATURES, Empty(), ""),
    (Request.SET_FEATURES, U64(0x3_4000_0000), "0000004003000000"),
    (Request.SET_OWNER, Empty(), ""),
    (Request.RESET_OWNER, Empty(), ""),
    (Request.SET_MEM_TABLE, MemTable((REGION,)), "01000000 00000000" + REGION_BYTES),
    (Request.SET_MEM_TABLE, MemTable((REGION, HIGH), 7), "02000000 07000000" + REGION_BYTES + HIGH_BYTES),
    (Request.SET_MEM_TABLE, MemTable(()), "00000000 00000000"),
    (Request.SET_LOG_BASE, U64(0x1000), "0010000000000000"),
    (Request.SET_LOG_BASE, Log(0x8000, 0x1000), "0080000000000000 0010000000000000"),
    (Request.SET_LOG_FD, Empty(), ""),
    (Request.SET_VRING_NUM, VringState(0, 256), "00000000 00010000"),
    (
        Request.SET_VRING_ADDR,
        ADDRESSES,
        "00000000 00000000 00e0ffff00000000 40f2ffff00000000 00f0ffff00000000 40f2ffff00000000",
    ),
    (Request.SET_VRING_BASE, VringState(1, 0xFFFF), "01000000 ffff0000"),
    (Request.GET_VRING_BASE, VringState(1, 0), "01000000 00000000"),
    (Request.SET_VRING_KICK, VringFd(3), "0300000000000000"),
    (Request.SET_VRING_CALL, VringFd(0x1FF), "ff01000000000000"),
    (Request.SET_VRING_ERR, VringFd(0x100), "0001000000000000"),
    (Request.GET_PROTOCOL_FEATURES, Empty(), ""),
    (Request.SET_PROTOCOL_FEATURES, U64(0x29), "2900000000000000"),
    (Request.GET_QUEUE_NUM, Empty(), ""),
    (Request.SET_VRING_ENABLE, VringState(0, 1), "00000000 01000000"),
    (Request.SEND_RARP, U64(0x563412005452), "5254001234560000"),
    (Request.NET_SET_MTU, U64(1500), "dc05000000000000"),
    (Request.SET_BACKEND_REQ_FD, Empty(), ""),
    (Request.IOTLB_MSG, IOTLB, "00f0ffff00000000 0010000000000000 0030bf8eb57f0000 03 02 022ce62d55ef"),
    (Request.GET_CONFIG, Config(4, ConfigFlags.WRITABLE, bytes(3)), "04000000 03000000 00000000 000000"),
    (Request.SET_CONFIG, Config(0, ConfigFlags.MIGRATION, b"\xab\xcd"), "00000000 02000000 01000000 abcd"),
    (Request.RESET_DEVICE, Empty(), ""),
    (Request.GET_MAX_MEM_SLOTS, Empty(), ""),
    (Request.ADD_MEM_REG, ADDED, ADDED_BYTES),
    (Request.REM_MEM_REG, ADDED, ADDED_BYTES),
    (Request.REM_MEM_REG, MemRegion(0, 2, 0, 2**64 - 1), "00" * 8 + "00" * 8 + "02" + "00" * 15 + "ff" * 8),
    (Request.SET_STATUS, U64(0xF), "0f00000000000000"),
    (Request.GET_STATUS, Empty(), ""),
    (Request.SET_VRING_ENDIAN, Opaque(b"\1\2"), "0102"),
    (Request.POSTCOPY_ADVISE, Opaque(b""), ""),
]
"""Each request of a front end that is listed, and two that are not."""

REPLIES: Final[list[tuple[Request, Body, str]]] = [
    (Request.GET_FEATURES, U64(0x3_4000_0000), "0000004003000000"),
    (Request.SET_FEATURES, U64(1), "0100000000000000"),
    (Request.SET_MEM_TABLE, U64(0), "0000000000000000"),
    (Request.SET_MEM_TABLE, MemTable((REGION,)), "01000000 00000000" + REGION_BYTES),
    (Request.SET_LOG_BASE, Empty(), ""),
    (Request.SET_LOG_BASE, U64(0), "0000000000000000"),
    (Request.GET_VRING_BASE, VringState(1, 77), "01000000 4d000000"),
    (Request.GET_PROTOCOL_FEATURES, U64(0x29), "2900000000000000"),
    (Request.GET_QUEUE_NUM, U64(2), "0200000000000000"),
    (Request.IOTLB_MSG, U64(1), "0100000000000000"),
    (Request.GET_CONFIG, Config(0, ConfigFlags.WRITABLE, b"\x01"), "00000000 01000000 00000000 01"),
    (Request.GET_CONFIG, Empty(), ""),
    (Request.ADD_MEM_REG, U64(0), "0000000000000000"),
    (Request.ADD_MEM_REG, ADDED, ADDED_BYTES),
    (Request.GET_MAX_MEM_SLOTS, U64(32), "2000000000000000"),
    (Request.GET_STATUS, U64(4), "0400000000000000"),
    (Request.GET_INFLIGHT_FD, Opaque(bytes(20)), "00" * 20),
]

BACKEND: Final[list[tuple[BackendRequest, Body, str]]] = [
    (BackendRequest.IOTLB_MSG, MISS, "00d0ffff00000000" + "00" * 16 + "01 01 000000000000"),
    (BackendRequest.CONFIG_CHANGE_MSG, Empty(), ""),
    (
        BackendRequest.VRING_HOST_NOTIFIER_MSG,
        VringArea(0x102, 0x1000, 0x2000),
        "0201000000000000 0010000000000000 0020000000000000",
    ),
    (BackendRequest.VRING_CALL, Opaque(bytes(8)), "00" * 8),
]

MESSAGES: Final[list[tuple[Message, str]]] = [
    *(
        (Message(request, body, flags), f"{request:02x}000000 {1 | flags:02x}000000" + payload)
        for rows, flags in ((REQUESTS, Flags(0)), (REQUESTS, Flags.NEED_REPLY), (REPLIES, Flags.REPLY))
        for request, body, payload in rows
    ),
    *(
        (Message(request, body, flags, Channel.BACK_END), f"{request:02x}000000 {1 | flags:02x}000000" + payload)
        for flags in (Flags(0), Flags.NEED_REPLY)
        for request, body, payload in BACKEND
    ),
    (Message(1, U64(0), Flags.REPLY, Channel.BACK_END), "01000000 05000000" + "00" * 8),
    (Message(1000, Opaque(b"later")), "e8030000 01000000" + b"later".hex()),
]
"""Messages, and their bytes without the header's size."""


def wire(text: str) -> bytes:
    """Return the bytes of a row, with the size filled in."""
    data = bytes.fromhex(text)
    return data[:8] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def request(number: int, payload: bytes, flags: int = 1) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in (number, flags, len(payload))) + payload


@pytest.mark.parametrize(("message", "text"), MESSAGES)
def test_messages_hold_in_both_directions(message: Message, text: str) -> None:
    assert encode(message) == wire(text)
    assert decode(wire(text), message.channel) == message


def test_every_listed_request_has_a_row() -> None:
    assert FRONT_END.keys() <= {code for code, _, _ in REQUESTS}
    assert BACK_END.keys() <= {code for code, _, _ in BACKEND}
    own = {code for code, shape in FRONT_END.items() if shape.reply != FRONT_END[Request.SET_OWNER].reply}
    assert own <= {code for code, _, _ in REPLIES}


def test_an_iotlb_message_without_padding_is_taken_and_sent_with_it() -> None:
    data = request(Request.IOTLB_MSG, bytes(25) + b"\x03")

    assert encode(decode(data)) == request(Request.IOTLB_MSG, bytes(25) + b"\x03" + bytes(6))


def test_the_bits_are_those_of_the_specification() -> None:
    assert Features(0x3_4000_0000) == Features.PROTOCOL_FEATURES | Features.VERSION_1 | Features.ACCESS_PLATFORM
    assert ProtocolFeatures(0x29) == ProtocolFeatures.MQ | ProtocolFeatures.REPLY_ACK | ProtocolFeatures.BACKEND_REQ
    assert [code.value for code in Request] == list(range(1, 41))
    assert [bit.value for bit in ProtocolFeatures] == [1 << bit for bit in range(17)]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", BadLength, "vhost-user header"),
        (bytes(11), BadLength, "vhost-user header"),
        (request(1, b"", flags=0), BadField, "vhost-user header"),
        (request(1, b"", flags=2), BadField, "vhost-user header"),
        (request(1, b"", flags=0x11), BadField, "vhost-user header"),
        (request(1, b"")[:8] + b"\1\0\0\0", BadLength, "vhost-user message"),
        (request(1, b"") + b"\0", BadLength, "vhost-user message"),
        (request(Request.SET_OWNER, b"\0"), BadLength, "SET_OWNER"),
        (request(Request.SET_FEATURES, bytes(7)), BadLength, "SET_FEATURES"),
        (request(Request.SET_LOG_BASE, bytes(9)), BadLength, "memory or log"),
        (request(Request.IOTLB_MSG, bytes(25)), BadLength, "IOTLB_MSG"),
        (request(Request.IOTLB_MSG, bytes(33)), BadLength, "IOTLB_MSG"),
        (request(Request.IOTLB_MSG, bytes(32)), BadField, "vhost_iotlb_msg"),
        (request(Request.GET_FEATURES, b"", flags=5), BadLength, "GET_FEATURES"),
        (request(Request.SET_VRING_KICK, bytes([0, 2]) + bytes(6)), BadField, "vring"),
        (request(Request.SET_VRING_ADDR, bytes([0, 0, 0, 0, 2]) + bytes(35)), BadField, "vhost_vring_addr"),
        (request(Request.SET_MEM_TABLE, bytes(7)), BadLength, "SET_MEM_TABLE"),
        (request(Request.SET_MEM_TABLE, b"\1" + bytes(7)), BadLength, "memory table"),
        (request(Request.SET_MEM_TABLE, b"\1" + bytes(7 + 64)), BadLength, "memory table"),
        (request(Request.SET_MEM_TABLE, b"\1" + bytes(7 + 32)), BadField, "memory region"),
        (request(Request.SET_MEM_TABLE, b"\x09" + bytes(7 + 9 * 32)), BadLength, "SET_MEM_TABLE"),
        (request(Request.SET_MEM_TABLE, b"\x09" + bytes(7)), BadField, "memory table"),
        (request(Request.SET_MEM_TABLE, b"\xff" * 8), BadField, "memory table"),
        (request(Request.ADD_MEM_REG, bytes(40)), BadField, "memory region"),
        (request(Request.REM_MEM_REG, bytes(40)), BadField, "memory region"),
        (request(Request.GET_CONFIG, bytes(11)), BadLength, "GET_CONFIG"),
        (request(Request.GET_CONFIG, bytes(13)), BadLength, "config"),
        (request(Request.GET_CONFIG, bytes(8) + b"\2" + bytes(3)), BadField, "config"),
        (request(Request.GET_CONFIG, bytes(4) + b"\1\1" + bytes(6)), BadField, "config"),
        (request(Request.GET_CONFIG, bytes(4) + b"\1" + bytes(7)), BadLength, "config"),
        (request(Request.GET_CONFIG, bytes(12 + 257)), BadLength, "GET_CONFIG"),
    ],
)
def test_lengths_codes_and_ranges_are_checked_before_use(data: bytes, error: type[AbiError], message: str) -> None:
    with pytest.raises(error) as caught:
        decode(data)

    assert vars(caught.value)["message"] == message.replace("memory or log", "SET_LOG_BASE")


@pytest.mark.parametrize(
    "region",
    [
        Region(2**64 - 1, 2, 0, 0),
        Region(0, 2, 2**64 - 1, 0),
        Region(0, 2, 0, 2**64 - 1),
        Region(0, 0, 0, 0),
    ],
)
def test_a_region_that_wraps_or_is_empty_is_refused(region: Region) -> None:
    data = b"".join(value.to_bytes(8, "little") for value in
                    (region.guest_address, region.size, region.user_address, region.mmap_offset))  # fmt: skip
    for message in (
        request(Request.SET_MEM_TABLE, b"\1" + bytes(7) + data),
        request(Request.ADD_MEM_REG, bytes(8) + data),
    ):
        with pytest.raises(BadField, match="size of memory region"):
            decode(message)
    with pytest.raises(BadField, match="size of memory region"):
        encode(Message(Request.SET_MEM_TABLE, MemTable((region,))))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message(Request.SET_FEATURES, Empty()), TypeError),
        (Message(Request.SET_VRING_KICK, VringArea(0, 1, 0)), TypeError),
        (Message(Request.GET_FEATURES, U64(0)), TypeError),
        (Message(Request.GET_FEATURES, Empty(), Flags.REPLY), TypeError),
        (Message(1000, Empty()), TypeError),
        (Message(Request.SET_FEATURES, U64(2**64)), BadField),
        (Message(Request.SET_VRING_KICK, VringFd(0x200)), BadField),
        (Message(Request.SET_MEM_TABLE, MemTable((REGION,) * (REGION_LIMIT + 1))), BadField),
        (Message(Request.SET_CONFIG, Config(0, ConfigFlags.WRITABLE, bytes(CONFIG_LIMIT + 1))), BadField),
        (Message(Request.SET_OWNER, Empty(), Flags(0x10)), BadField),
        (Message(2**32, Opaque(b"")), BadField),
    ],
)
def test_what_would_be_refused_is_not_written(message: Message, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode(message)


def test_a_whole_table_and_a_whole_piece_of_configuration_fit() -> None:
    for message in (
        Message(Request.SET_MEM_TABLE, MemTable((REGION,) * REGION_LIMIT)),
        Message(Request.SET_CONFIG, Config(0, ConfigFlags.WRITABLE, bytes(CONFIG_LIMIT))),
    ):
        assert decode(encode(message)) == message


GOOD: Final = [bytes.fromhex(text) for rows in (REQUESTS, REPLIES, BACKEND) for _, _, text in rows]
PAYLOADS: Final = st.binary(max_size=64) | st.sampled_from(GOOD)


@given(st.integers(0, 45), st.sampled_from([1, 5, 9, 13, 0, 2]), PAYLOADS, st.sampled_from(Channel), st.data())
def test_any_bytes_are_a_message_or_refused(
    number: int, flags: int, payload: bytes, channel: Channel, data: st.DataObject
) -> None:
    """Random payloads, and good ones with one byte changed; what decodes comes out as it went in."""
    if payload and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload = payload[:at] + bytes([data.draw(st.integers(0, 255))]) + payload[at + 1 :]
    sent = request(number, payload, flags)
    try:
        message = decode(sent, channel)
    except AbiError:
        return
    check: tuple[int, int] = descriptors(message)
    assert 0 <= check[0] <= check[1] <= DESCRIPTOR_LIMIT
    if isinstance(message.body, IotlbMsg):
        sent = request(number, payload.ljust(32, b"\0"), flags)
    assert encode(message) == sent


@given(st.binary(max_size=60))
@example(b"")
def test_any_noise_is_a_message_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except AbiError:
        return
    assert decode(encode(message)) == message


# -- headers and streams -----------------------------------------------------


def test_headers_hold_in_both_directions() -> None:
    header = Header(22, Flags.NEED_REPLY, 32)

    assert encode_header(header) == bytes.fromhex("16000000 09000000 20000000")
    assert decode_header(bytes.fromhex("16000000 09000000 20000000")) == header
    assert HEADER.size == 12


@pytest.mark.parametrize("step", [1, 5, 12, 10_000])
def test_a_stream_gives_the_messages_that_were_sent(step: int) -> None:
    sent = [wire(text) for _, text in MESSAGES]
    stream, cutter, found = b"".join(sent), splitter(), list[bytes]()
    for at in range(0, len(stream), step):
        cutter.feed(stream[at : at + step])
        found += iter(cutter.next_message, None)

    assert found == sent


def test_a_payload_beyond_the_limit_is_refused_with_its_header() -> None:
    at_limit, beyond = splitter(), splitter()
    at_limit.feed(request(50, bytes(PAYLOAD_LIMIT)))
    beyond.feed(request(50, bytes(PAYLOAD_LIMIT + 1))[:12])

    assert at_limit.next_message() == request(50, bytes(PAYLOAD_LIMIT))
    with pytest.raises(TooLong) as caught:
        beyond.next_message()
    assert (caught.value.length, caught.value.limit) == (PAYLOAD_LIMIT + 1, PAYLOAD_LIMIT)


def test_the_limit_of_a_stream_can_be_chosen() -> None:
    cutter = splitter(limit=8)
    cutter.feed(request(2, bytes(8)) + request(2, bytes(9)))

    assert cutter.next_message() == request(2, bytes(8))
    with pytest.raises(TooLong):
        cutter.next_message()


def test_a_stream_of_something_else_is_refused_at_its_first_header() -> None:
    cutter = splitter()
    cutter.feed(b"GET / HTTP/1.1")

    with pytest.raises(BadField, match="flags of vhost-user header"):
        cutter.next_message()


# -- descriptors and acknowledgements ----------------------------------------

COUNTS: Final[list[tuple[Message, int, int]]] = [
    (Message(Request.SET_OWNER, Empty()), 0, 0),
    (Message(Request.IOTLB_MSG, IOTLB, Flags.NEED_REPLY), 0, 0),
    (Message(Request.SET_MEM_TABLE, MemTable(())), 0, 0),
    (Message(Request.SET_MEM_TABLE, MemTable((REGION, HIGH))), 2, 2),
    (Message(Request.SET_MEM_TABLE, MemTable((REGION,)), Flags.REPLY), 0, 0),
    (Message(Request.SET_LOG_BASE, Log(1, 0)), 0, 1),
    (Message(Request.SET_LOG_FD, Empty()), 1, 1),
    (Message(Request.SET_BACKEND_REQ_FD, Empty()), 1, 1),
    (Message(Request.SET_BACKEND_REQ_FD, U64(0), Flags.REPLY), 0, 0),
    (Message(Request.SET_VRING_KICK, VringFd(2)), 1, 1),
    (Message(Request.SET_VRING_CALL, VringFd(0x102)), 0, 0),
    (Message(Request.SET_VRING_ERR, VringFd(0)), 1, 1),
    (Message(Request.ADD_MEM_REG, ADDED), 1, 1),
    (Message(Request.REM_MEM_REG, ADDED), 0, 1),
    (Message(Request.SET_INFLIGHT_FD, Opaque(b"")), 0, 8),
    (Message(Request.GET_INFLIGHT_FD, Opaque(b""), Flags.REPLY), 0, 8),
    (Message(BackendRequest.IOTLB_MSG, MISS, channel=Channel.BACK_END), 0, 0),
    (Message(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(1, 1, 0), channel=Channel.BACK_END), 1, 1),
    (Message(BackendRequest.VRING_HOST_NOTIFIER_MSG, VringArea(0x101, 0, 0), channel=Channel.BACK_END), 0, 0),
]


@pytest.mark.parametrize(("message", "least", "most"), COUNTS)
def test_a_message_comes_with_its_descriptors_and_no_others(message: Message, least: int, most: int) -> None:
    for count in range(10):
        if least <= count <= most:
            check_descriptors(message, count)
        else:
            with pytest.raises(BadDescriptors) as caught:
                check_descriptors(message, count)
            error = caught.value
            assert (error.message, error.count, error.least, error.most) == (message.name, count, least, most)


def test_a_message_that_was_made_wrong_has_a_number_of_descriptors_all_the_same() -> None:
    assert descriptors(Message(Request.SET_MEM_TABLE, Empty())) == (0, REGION_LIMIT)
    assert descriptors(Message(Request.SET_VRING_KICK, Empty())) == (0, 1)


def test_a_ring_without_a_descriptor_is_polled() -> None:
    assert [(ring.index, ring.has_descriptor) for ring in (VringFd(0xFF), VringFd(0x1FF))] == [
        (255, True),
        (255, False),
    ]
    assert VringArea(0x103, 0, 0).index == 3


def test_an_acknowledgement_repeats_the_request_on_its_channel() -> None:
    miss = Message(BackendRequest.IOTLB_MSG, MISS, Flags.NEED_REPLY, Channel.BACK_END)

    assert acknowledge(miss) == Message(1, U64(0), Flags.REPLY, Channel.BACK_END)
    assert encode(acknowledge(Message(Request.IOTLB_MSG, IOTLB), 1)) == request(22, b"\1" + bytes(7), flags=5)


def test_requests_have_names_on_both_channels() -> None:
    assert name_of(Channel.FRONT_END, 1) == "GET_FEATURES"
    assert name_of(Channel.BACK_END, 1) == "IOTLB_MSG"
    assert name_of(Channel.BACK_END, 40) == "back end request 40"
    assert shape_of(Channel.BACK_END, 22) is UNLISTED
    names: list[Any] = [shape_of(Channel.FRONT_END, code) for code in FRONT_END]
    assert UNLISTED not in names
