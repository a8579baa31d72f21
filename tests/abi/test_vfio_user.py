"""vfio-user: VERSION, DMA_MAP, DMA_UNMAP and errors, byte by byte, and what is refused."""

import json
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.vfio_user import (
    DATA_LIMIT,
    DMA_ACCESS,
    HEADER,
    OVERHEAD,
    VERSION_LIMIT,
    Capabilities,
    Command,
    DmaAccess,
    DmaMap,
    DmaUnmap,
    Empty,
    Flags,
    Header,
    MapFlags,
    Message,
    Opaque,
    TwinSocket,
    UnmapFlags,
    Version,
    capabilities_of,
    check_descriptors,
    decode,
    encode,
    failure,
    maps,
    perm_of,
    range_of,
    splitter,
    unmaps,
    version,
)
from iommubus.caps import Perm
from iommubus.errors import AbiError, BadDescriptors, BadField, BadLength, TooLong
from iommubus.ranges import LAST, IovaRange

WHOLE: Final = IovaRange(0, LAST)
HALF: Final = 2**63
JSON: Final = b'{"capabilities": {"max_msg_fds": 8}}\0'
MAP: Final = DmaMap(32, MapFlags.READ | MapFlags.WRITE, 0x2000, 0xFFFC0000, 0x40000)
MAP_BYTES: Final = "20000000 03000000 0020000000000000 0000fcff00000000 0000040000000000"
UNMAP: Final = DmaUnmap(24, UnmapFlags(0), 0, 0x2000_0000)
UNMAP_BYTES: Final = "18000000 00000000 0000000000000000 0000002000000000"

MESSAGES: Final[list[tuple[Message, str]]] = [
    (Message(0, Command.VERSION, Version(0, 1, JSON)), "0000 0100 39000000 00000000 00000000 0000 0100" + JSON.hex()),
    (Message(0, Command.VERSION, Version(0, 0), Flags.REPLY), "0000 0100 14000000 01000000 00000000 0000 0000"),
    (Message(0x22, Command.DMA_MAP, MAP), "2200 0200 30000000 00000000 00000000" + MAP_BYTES),
    (Message(1, Command.DMA_MAP, MAP, Flags.NO_REPLY), "0100 0200 30000000 10000000 00000000" + MAP_BYTES),
    (Message(1, Command.DMA_MAP, Empty(), Flags.REPLY), "0100 0200 10000000 01000000 00000000"),
    (
        Message(1, Command.DMA_MAP, Empty(), Flags.REPLY | Flags.ERROR, 17),
        "0100 0200 10000000 21000000 11000000",
    ),
    (Message(0x22, Command.DMA_UNMAP, UNMAP), "2200 0300 28000000 00000000 00000000" + UNMAP_BYTES),
    (Message(0x22, Command.DMA_UNMAP, UNMAP, Flags.REPLY), "2200 0300 28000000 01000000 00000000" + UNMAP_BYTES),
    (
        Message(0xB0, Command.DMA_UNMAP, Empty(), Flags.REPLY | Flags.ERROR, 2),
        "b000 0300 10000000 21000000 02000000",
    ),
    (
        Message(3, Command.DMA_UNMAP, DmaUnmap(24, UnmapFlags.ALL, 0, 0), Flags(0), 0xDEAD),
        "0300 0300 28000000 00000000 adde0000 18000000 02000000" + "00" * 16,
    ),
    (Message(9, Command.REGION_READ, Opaque(b"12345")), "0900 0900 15000000 00000000 00000000 3132333435"),
    (Message(9, 0xFFFF, Opaque(b""), Flags.REPLY), "0900 ffff 10000000 01000000 00000000"),
    (Message(9, Command.REGION_READ, Empty(), Flags.REPLY | Flags.ERROR), "0900 0900 10000000 21000000 00000000"),
]


def packed(command: int, payload: bytes, flags: int = 0, size: int | None = None) -> bytes:
    head = b"\1\0" + command.to_bytes(2, "little") + (16 + len(payload) if size is None else size).to_bytes(4, "little")
    return head + flags.to_bytes(4, "little") + bytes(4) + payload


def dma_map(argsz: int = 32, flags: int = 1, offset: int = 0, address: int = 0, size: int = 1) -> bytes:
    words = [argsz.to_bytes(4, "little"), flags.to_bytes(4, "little")]
    return b"".join([*words, *(value.to_bytes(8, "little") for value in (offset, address, size))])


def dma_unmap(argsz: int = 24, flags: int = 0, address: int = 0, size: int = 1) -> bytes:
    words = [argsz.to_bytes(4, "little"), flags.to_bytes(4, "little")]
    return b"".join([*words, *(value.to_bytes(8, "little") for value in (address, size))])


@pytest.mark.parametrize(("message", "hexdump"), MESSAGES)
def test_messages_hold_in_both_directions(message: Message, hexdump: str) -> None:
    assert encode(message) == bytes.fromhex(hexdump)
    assert decode(bytes.fromhex(hexdump)) == message


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", BadLength, "vfio-user header"),
        (bytes(15), BadLength, "vfio-user header"),
        (packed(9, b"", size=15), BadField, "vfio-user header"),
        (packed(9, b"", size=17), BadLength, "vfio-user message"),
        (packed(9, b"12", size=17), BadLength, "vfio-user message"),
        (packed(9, b"", flags=2), BadField, "vfio-user header"),
        (packed(9, b"", flags=0x40), BadField, "vfio-user header"),
        (packed(9, b"", flags=0x20), BadField, "vfio-user header"),
        (packed(9, b"1", flags=0x21), BadLength, "REGION_READ"),
        (packed(77, b"1", flags=0x21), BadLength, "command 77"),
        (packed(2, bytes(31)), BadLength, "DMA_MAP"),
        (packed(2, bytes(33)), BadLength, "DMA_MAP"),
        (packed(2, dma_map(), flags=1), BadLength, "DMA_MAP"),
        (packed(2, dma_map(argsz=31)), BadField, "VFIO_USER_DMA_MAP"),
        (packed(2, dma_map(flags=0x10)), BadField, "VFIO_USER_DMA_MAP"),
        (packed(2, dma_map(size=0)), BadField, "VFIO_USER_DMA_MAP"),
        (packed(2, dma_map(address=LAST, size=2)), BadField, "VFIO_USER_DMA_MAP"),
        (packed(2, dma_map(offset=LAST, size=2)), BadField, "VFIO_USER_DMA_MAP"),
        (packed(3, bytes(23)), BadLength, "DMA_UNMAP"),
        (packed(3, dma_unmap() + bytes(16)), BadLength, "DMA_UNMAP"),
        (packed(3, dma_unmap(argsz=23)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(3, dma_unmap(flags=1)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(3, dma_unmap(size=0)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(3, dma_unmap(address=LAST, size=2)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(3, dma_unmap(flags=2)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(3, dma_unmap(flags=2, address=1, size=0)), BadField, "VFIO_USER_DMA_UNMAP"),
        (packed(1, bytes(3)), BadLength, "VERSION"),
        (packed(1, bytes(4) + b"{}"), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b"\0"), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b"[]\0"), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b"\xff\0"), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b'{"capabilities": 7}\0'), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b'{"capabilities": {"pgsizes": "4k"}}\0'), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(4) + b'{"x":' + b"[" * 2000 + b"]" * 2000 + b"}\0"), BadField, "VFIO_USER_VERSION"),
        (packed(1, bytes(5 + VERSION_LIMIT)), BadLength, "VERSION"),
    ],
)
def test_lengths_codes_and_ranges_are_checked_before_use(data: bytes, error: type[AbiError], message: str) -> None:
    with pytest.raises(error) as caught:
        decode(data)

    assert vars(caught.value)["message"] == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message(1, Command.DMA_MAP, Empty()), TypeError),
        (Message(1, Command.DMA_MAP, MAP, Flags.REPLY), TypeError),
        (Message(1, Command.DEVICE_RESET, Empty()), TypeError),
        (Message(1, Command.DEVICE_RESET, Opaque(b""), Flags.REPLY | Flags.ERROR), TypeError),
        (Message(1, Command.DEVICE_RESET, Empty(), Flags.ERROR), BadField),
        (Message(2**16, Command.DEVICE_RESET, Opaque(b"")), BadField),
        (Message(1, Command.VERSION, Version(0, 0, b"{}")), BadField),
        (Message(1, Command.VERSION, Version(0, 0, b"{}".ljust(VERSION_LIMIT) + b"\0")), BadLength),
        (Message(1, Command.DMA_MAP, DmaMap(32, MapFlags.READ, 0, 0, 0)), BadField),
    ],
)
def test_what_would_be_refused_is_not_written(message: Message, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode(message)


GOOD: Final = [bytes.fromhex(text)[16:] for _, text in MESSAGES]


@given(
    st.integers(0, 20), st.sampled_from([0, 1, 0x10, 0x21]), st.binary(max_size=48) | st.sampled_from(GOOD), st.data()
)
def test_any_bytes_are_a_message_or_refused(command: int, flags: int, payload: bytes, data: st.DataObject) -> None:
    """Random payloads, and good ones with one byte changed; what decodes comes out as it went in."""
    if payload and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload = payload[:at] + bytes([data.draw(st.integers(0, 255))]) + payload[at + 1 :]
    sent = packed(command, payload, flags)
    try:
        message = decode(sent)
    except AbiError:
        return
    assert encode(message) == sent


@given(st.binary(max_size=60))
def test_any_noise_is_a_message_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except AbiError:
        return
    assert encode(message) == data


# -- capabilities ------------------------------------------------------------


def test_capabilities_have_the_defaults_of_the_specification() -> None:
    for data in (b"", b"{}\0", b'{"capabilities": {}}\0', b'{"more": 1, "capabilities": {"later": []}}\0'):
        assert capabilities_of(Version(0, 1, data)) == Capabilities(1, 1048576, 65535, 4096)


def test_capabilities_are_written_as_they_are_read() -> None:
    said = Capabilities(16, 4096, 100, 0x201000, TwinSocket(supported=True, fd_index=0), write_multiple=True)

    value = version(0, 1, said)

    assert value.data.endswith(b"\0")
    assert json.loads(value.data[:-1])["capabilities"]["twin_socket"] == {"supported": True, "fd_index": 0}
    assert capabilities_of(value) == said
    assert decode(encode(Message(0, Command.VERSION, value))).body == value
    assert version(0, 1, Capabilities()).data == b'{"capabilities":{}}\0'


# -- streams, descriptors, errors --------------------------------------------


def test_headers_hold_in_both_directions() -> None:
    header = Header(0x22, 3, 40, Flags.REPLY, 0)

    assert HEADER.encode(header) == bytes.fromhex("2200 0300 28000000 01000000 00000000")
    assert HEADER.decode(HEADER.encode(header)) == header


@pytest.mark.parametrize("step", [1, 7, 16, 10_000])
def test_a_stream_gives_the_messages_that_were_sent(step: int) -> None:
    sent = [bytes.fromhex(text) for _, text in MESSAGES]
    stream, cutter, found = b"".join(sent), splitter(), list[bytes]()
    for at in range(0, len(stream), step):
        cutter.feed(stream[at : at + step])
        found += iter(cutter.next_message, None)

    assert found == sent


def test_a_message_beyond_the_limit_is_refused_with_its_header() -> None:
    at_limit, beyond, chosen = splitter(), splitter(), splitter(limit=20)
    at_limit.feed(packed(10, bytes(DATA_LIMIT + OVERHEAD - 16)))
    beyond.feed(packed(10, b"", size=DATA_LIMIT + OVERHEAD + 1))
    chosen.feed(packed(10, b"", size=21))

    assert len(at_limit.next_message() or b"") == DATA_LIMIT + 32
    for cutter in (beyond, chosen):
        with pytest.raises(TooLong):
            cutter.next_message()


def test_a_message_shorter_than_its_header_is_refused() -> None:
    cutter = splitter()
    cutter.feed(packed(10, b"", size=0))

    with pytest.raises(BadField, match="msg_size of vfio-user header is 0x0"):
        cutter.next_message()


@pytest.mark.parametrize(
    ("message", "agreed", "most"),
    [
        (Message(1, Command.VERSION, Version(0, 1)), 8, 0),
        (Message(1, Command.VERSION, Version(0, 1), Flags.REPLY), 8, 8),
        (Message(1, Command.DMA_MAP, MAP), 8, 1),
        (Message(1, Command.DMA_MAP, Empty(), Flags.REPLY), 8, 0),
        (Message(1, Command.DMA_UNMAP, UNMAP), 8, 0),
        (Message(1, Command.DMA_UNMAP, UNMAP, Flags.REPLY), 8, 0),
        (Message(1, Command.DEVICE_SET_IRQS, Opaque(b"")), 16, 16),
        (Message(1, Command.DEVICE_SET_IRQS, Empty(), Flags.REPLY | Flags.ERROR), 16, 0),
    ],
)
def test_a_message_comes_with_no_more_descriptors_than_belong_to_it(message: Message, agreed: int, most: int) -> None:
    for count in range(most + 1):
        check_descriptors(message, count, agreed)
    with pytest.raises(BadDescriptors) as caught:
        check_descriptors(message, most + 1, agreed)
    assert (caught.value.message, caught.value.count, caught.value.least, caught.value.most) == (
        message.name,
        most + 1,
        0,
        most,
    )


def test_one_descriptor_is_agreed_where_nobody_said_a_number() -> None:
    check_descriptors(Message(1, Command.DEVICE_SET_IRQS, Opaque(b"")), 1)
    with pytest.raises(BadDescriptors):
        check_descriptors(Message(1, Command.DEVICE_SET_IRQS, Opaque(b"")), 2)


def test_a_failure_repeats_the_command_and_carries_no_payload() -> None:
    failed = failure(Message(7, Command.DMA_MAP, MAP), 17)

    assert encode(failed) == bytes.fromhex("0700 0200 10000000 21000000 11000000")
    assert (failed.name, Message(1, 99, Opaque(b"")).name) == ("DMA_MAP", "command 99")


# -- the words of the bus ----------------------------------------------------


@pytest.mark.parametrize("perm", [Perm.R, Perm.W, Perm.RW])
def test_a_mapping_is_one_map_and_one_unmap(perm: Perm) -> None:
    where = IovaRange(0x1000, 0x2FFF)

    assert maps(where, 0x7000, perm) == (DmaMap(32, MapFlags(int(perm)), 0x7000, 0x1000, 0x2000),)
    assert unmaps(where) == (DmaUnmap(24, UnmapFlags(0), 0x1000, 0x2000),)
    assert perm_of(maps(where, 0, perm)[0]) == perm
    assert range_of(maps(where, 0, perm)[0]) == range_of(unmaps(where)[0]) == where


def test_the_whole_space_comes_and_goes_in_the_same_two_halves() -> None:
    """Servers take back exactly what was given."""
    assert [range_of(value) for value in maps(WHOLE, 0, Perm.R)] == [range_of(value) for value in unmaps(WHOLE)]
    assert [value.size for value in unmaps(WHOLE)] == [HALF, HALF]
    assert [value.offset for value in maps(WHOLE, 0, Perm.R)] == [0, HALF]
    assert len(unmaps(IovaRange(1, LAST))) == len(maps(IovaRange(0, LAST - 1), 0, Perm.R)) == 1


def test_the_flag_for_everything_is_the_whole_space() -> None:
    everything: Any = decode(packed(3, dma_unmap(flags=2, size=0))).body

    assert range_of(everything) == WHOLE


def test_flags_of_libvfio_user_are_no_permissions() -> None:
    assert perm_of(DmaMap(32, MapFlags.MMAP | MapFlags.FILE_IO | MapFlags.READ, 0, 0, 1)) == Perm.R
    assert perm_of(DmaMap(32, MapFlags(0), 0, 0, 1)) == Perm(0)


def test_an_access_is_an_address_and_a_count() -> None:
    """It names at least one byte, and does not wrap."""
    data = bytes.fromhex("0010000000000000 0400000000000000")

    assert DMA_ACCESS.decode(data) == DmaAccess(0x1000, 4)
    assert DMA_ACCESS.encode(DmaAccess(0x1000, 4)) == data
    for address, count in ((0x1000, 0), (2**64 - 1, 2)):
        with pytest.raises(BadField):
            DMA_ACCESS.encode(DmaAccess(address, count))
