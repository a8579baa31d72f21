"""The IOTLB message in its two envelopes, and as a change of the bus."""

from typing import Final

import pytest
from hypothesis import example, given, strategies as st

from iommubus.abi.extents import MIDDLE
from iommubus.abi.vhost import (
    IOTLB_LEAST,
    IOTLB_MSG,
    VDPA_IOVA_RANGE,
    VRING_ADDR,
    VRING_STATE,
    IotlbMsg,
    IotlbType,
    KernelMsg,
    MsgType,
    VdpaIovaRange,
    VringAddr,
    VringFlags,
    VringState,
    decode,
    decode_iotlb,
    encode,
    invalidations,
    perm_of,
    range_of,
    updates,
)
from iommubus.caps import Perm
from iommubus.errors import AbiError, BadField, BadLength
from iommubus.ranges import LAST, IovaRange

UPDATE: Final = IotlbMsg(0xFFFFF000, 0x1000, 0x7FB58EBF3000, 3, IotlbType.UPDATE, bytes.fromhex("2ce62d55efdf"))
MISS: Final = IotlbMsg(0xFFFFD000, 0, 0, 1, IotlbType.MISS)
GARBAGE: Final = IotlbMsg(0x1000, 0x2000, 0xDEAD_BEEF_0000_0001, 0x7F, IotlbType.INVALIDATE, b"qemu!!")
WHOLE: Final = IotlbMsg(0, 0, 0, 0, IotlbType.INVALIDATE)
HINT: Final = IotlbMsg(LAST, LAST, LAST, 0xFF, IotlbType.BATCH_BEGIN)

IOTLB: Final[list[tuple[IotlbMsg, str]]] = [
    (UPDATE, "00f0ffff00000000 0010000000000000 0030bf8eb57f0000 03 02 2ce62d55efdf"),
    (MISS, "00d0ffff00000000 0000000000000000 0000000000000000 01 01 000000000000"),
    (GARBAGE, "0010000000000000 0020000000000000 01000000efbeadde 7f 03 71656d752121"),
    (WHOLE, "0000000000000000 0000000000000000 0000000000000000 00 03 000000000000"),
    (HINT, "ffffffffffffffff ffffffffffffffff ffffffffffffffff ff 05 000000000000"),
    (
        IotlbMsg(LAST, 1, LAST, 2, IotlbType.UPDATE),
        "ffffffffffffffff 0100000000000000 ffffffffffffffff 02 02 000000000000",
    ),
    (
        IotlbMsg(0x10, 0, 0, 2, IotlbType.ACCESS_FAIL),
        "1000000000000000 0000000000000000 0000000000000000 02 04 000000000000",
    ),
    (IotlbMsg(0, 0, 0, 0, IotlbType.BATCH_END), "00" * 25 + "06" + "00" * 6),
]
"""What one side means, and what travels."""

ADDRESSES: Final = st.integers(0, LAST) | st.sampled_from([0, 1, MIDDLE - 1, MIDDLE, LAST - 1, LAST])
RANGES: Final = st.tuples(ADDRESSES, ADDRESSES).map(lambda edges: IovaRange(min(edges), max(edges)))


def iotlb(iova: int, size: int, uaddr: int, perm: int, kind: int) -> bytes:
    """Pack what an encoder would refuse."""
    return b"".join(value.to_bytes(8, "little") for value in (iova, size, uaddr)) + bytes([perm, kind]) + bytes(6)


@pytest.mark.parametrize(("message", "hexdump"), IOTLB)
def test_iotlb_messages_hold_in_both_directions(message: IotlbMsg, hexdump: str) -> None:
    assert IOTLB_MSG.encode(message) == bytes.fromhex(hexdump)
    assert decode_iotlb(bytes.fromhex(hexdump)) == message


@pytest.mark.parametrize(("message", "hexdump"), IOTLB)
@pytest.mark.parametrize(
    ("kind", "envelope"), [(MsgType.IOTLB, "01000000 adde0000"), (MsgType.IOTLB_V2, "02000000 adde0000")]
)
def test_kernel_messages_hold_in_both_directions(message: IotlbMsg, hexdump: str, kind: MsgType, envelope: str) -> None:
    """72 bytes in both versions; the hole of the first and the rest of the union stay as they came."""
    data = bytes.fromhex(envelope + hexdump) + bytes(range(32))
    expected = KernelMsg(kind, 0xDEAD, message, bytes(range(32)))

    assert decode(data) == expected
    assert encode(expected) == data
    assert len(data) == 72


@pytest.mark.parametrize("length", range(IOTLB_LEAST, 33))
def test_padding_may_be_missing_and_is_always_written(length: int) -> None:
    data = bytes.fromhex(IOTLB[0][1])[:length]

    message = decode_iotlb(data)

    assert IOTLB_MSG.encode(message) == data.ljust(32, b"\0")


@pytest.mark.parametrize("length", [0, 25, 33, 72])
def test_an_iotlb_message_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadLength, match=f"vhost_iotlb_msg has 26 to 32 bytes, got {length}"):
        decode_iotlb(bytes(length))


@pytest.mark.parametrize("length", [0, 32, 40, 68, 71, 73])
def test_a_kernel_message_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadLength):
        decode(bytes(length))


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (iotlb(0, 1, 0, 1, 0), "type"),
        (iotlb(0, 1, 0, 1, 7), "type"),
        (iotlb(0, 1, 0, 4, IotlbType.UPDATE), "perm"),
        (iotlb(0, 0, 0, 4, IotlbType.MISS), "perm"),
        (iotlb(0, 0, 0, 0x81, IotlbType.ACCESS_FAIL), "perm"),
        (iotlb(0, 0, 0, 1, IotlbType.UPDATE), "size"),
        (iotlb(LAST, 2, 0, 1, IotlbType.UPDATE), "size"),
        (iotlb(0, 2, LAST, 1, IotlbType.UPDATE), "size"),
        (iotlb(LAST - 1, 3, 0, 0, IotlbType.INVALIDATE), "size"),
    ],
)
def test_codes_and_ranges_are_checked_before_use(data: bytes, field: str) -> None:
    for read in (lambda: decode_iotlb(data), lambda: decode(bytes([1]) + bytes(7) + data + bytes(32))):
        with pytest.raises(BadField) as caught:
            read()
        assert (caught.value.message, caught.value.field) == ("vhost_iotlb_msg", field)


@pytest.mark.parametrize("envelope", [0, 3, 0xFFFFFFFF])
def test_an_unknown_envelope_is_refused(envelope: int) -> None:
    with pytest.raises(BadField, match=f"type of vhost_msg is {envelope:#x}"):
        decode(envelope.to_bytes(4, "little") + bytes(68))


def test_what_would_be_refused_is_not_written() -> None:
    with pytest.raises(BadField, match="perm"):
        IOTLB_MSG.encode(IotlbMsg(0, 1, 0, 4, IotlbType.UPDATE))
    with pytest.raises(BadLength, match="union"):
        encode(KernelMsg(MsgType.IOTLB, 0, MISS, bytes(31)))


@given(st.binary(max_size=34) | st.binary(min_size=26, max_size=32))
@example(bytes(25) + b"\x03")
def test_any_bytes_are_an_iotlb_message_or_refused(data: bytes) -> None:
    try:
        message = decode_iotlb(data)
    except AbiError:
        return
    assert IOTLB_MSG.encode(message) == data.ljust(32, b"\0")


@given(st.binary(max_size=80) | st.tuples(st.integers(1, 2), st.binary(min_size=64, max_size=64)).map(
    lambda parts: bytes([parts[0]]) + bytes(7) + parts[1][:25] + bytes([parts[0] + 1]) + parts[1][26:]
))  # fmt: skip
def test_any_bytes_are_a_kernel_message_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except AbiError:
        return
    assert encode(message) == data


def test_rings_hold_in_both_directions() -> None:
    state, addresses = VringState(1, 0x100), VringAddr(0, VringFlags.LOG, 0xFFFFE000, 0xFFFFF240, 0xFFFFF000, 0x10)

    assert VRING_STATE.encode(state).hex(" ", 4) == "01000000 00010000"
    assert VRING_STATE.decode(VRING_STATE.encode(state)) == state
    assert VRING_ADDR.encode(addresses).hex(" ", 8) == (
        "0000000001000000 00e0ffff00000000 40f2ffff00000000 00f0ffff00000000 1000000000000000"
    )
    assert VRING_ADDR.decode(VRING_ADDR.encode(addresses)) == addresses


def test_what_a_vdpa_device_can_address_is_not_inverted() -> None:
    assert VDPA_IOVA_RANGE.decode(bytes(8) + b"\xff" * 8) == VdpaIovaRange(0, LAST)
    with pytest.raises(BadField, match="last of vhost_vdpa_iova_range is 0x0"):
        VDPA_IOVA_RANGE.decode(b"\1" + bytes(15))


# -- the words of the bus ----------------------------------------------------


def test_size_0_is_the_whole_space_in_an_invalidation_and_nothing_in_an_update() -> None:
    assert range_of(WHOLE) == IovaRange(0, LAST)
    assert range_of(IotlbMsg(0x1000, 0, 0, 0, IotlbType.INVALIDATE)) == IovaRange(0, LAST)
    with pytest.raises(BadField):
        range_of(IotlbMsg(0x1000, 0, 0, 1, IotlbType.UPDATE))


def test_ranges_and_permissions_come_from_the_types_that_have_them() -> None:
    assert range_of(UPDATE) == IovaRange(0xFFFFF000, 0xFFFFFFFF)
    assert range_of(GARBAGE) == IovaRange(0x1000, 0x2FFF)
    assert perm_of(UPDATE) == Perm.RW
    assert perm_of(MISS) is Perm.R
    assert perm_of(IotlbMsg(0, 0, 0, 2, IotlbType.ACCESS_FAIL)) is Perm.W
    assert perm_of(IotlbMsg(0, 1, 0, 0, IotlbType.UPDATE)) == Perm(0)
    with pytest.raises(BadField, match="type"):
        range_of(MISS)
    with pytest.raises(BadField, match="type"):
        perm_of(GARBAGE)
    with pytest.raises(BadField, match="perm"):
        perm_of(IotlbMsg(0, 0, 0, 4, IotlbType.MISS))


@given(RANGES, st.sampled_from([Perm.R, Perm.W, Perm.RW]))
@example(IovaRange(0, LAST), Perm.RW)
def test_updates_are_read_back_as_what_they_map(where: IovaRange, perm: Perm) -> None:
    messages = updates(where, where.first, perm)

    read = [decode_iotlb(IOTLB_MSG.encode(message)) for message in messages]
    assert [message.uaddr for message in read] == [message.iova for message in read]
    assert {perm_of(message) for message in read} == {perm}
    assert {message.type for message in read} == {IotlbType.UPDATE}
    assert [range_of(message).first for message in read[1:]] == [range_of(message).last + 1 for message in read[:-1]]
    assert (range_of(read[0]).first, range_of(read[-1]).last) == (where.first, where.last)


@given(RANGES)
@example(IovaRange(0, LAST))
@example(IovaRange(0x1000, LAST))
@example(IovaRange(MIDDLE, LAST))
@example(IovaRange(0, LAST - 1))
def test_invalidations_cover_exactly_what_went(where: IovaRange) -> None:
    """Size 0 is never written, and where an end of 2^64 wraps, the addresses below the middle are said alone."""
    read = [decode_iotlb(IOTLB_MSG.encode(message)) for message in invalidations(where)]

    assert (range_of(read[0]).first, range_of(read[-1]).last) == (where.first, where.last)
    assert sum(message.size for message in read) == where.size
    assert all(message.size > 0 and message.type is IotlbType.INVALIDATE for message in read)
    assert all(message.iova + message.size < 2**64 for message in read if message.iova < MIDDLE)


def test_the_whole_space_is_invalidated_in_two_halves() -> None:
    assert invalidations(IovaRange(0, LAST)) == (
        IotlbMsg(0, 2**63, 0, 0, IotlbType.INVALIDATE),
        IotlbMsg(2**63, 2**63, 0, 0, IotlbType.INVALIDATE),
    )
    assert len(invalidations(IovaRange(0, LAST - 1))) == 1
