"""virtio-iommu: a driver's requests, a device's answers, and the words of the bus."""

from typing import Final

import pytest
from hypothesis import given, strategies as st

from iommubus.abi.virtio_iommu import (
    FAULT,
    REQUESTS,
    RESV_MEM,
    TAIL,
    Attach,
    AttachFlags,
    Detach,
    Fault,
    FaultFlags,
    FaultReason,
    Map,
    MapFlags,
    Probe,
    Request,
    ReservedKind,
    ResvMem,
    Status,
    Tail,
    Unmap,
    decode,
    encode,
    perm_of,
    range_of,
)
from iommubus.caps import Perm
from iommubus.errors import AbiError, BadField, BadLength
from iommubus.ranges import LAST, IovaRange

VECTORS: Final[list[tuple[Request, str]]] = [
    (Attach(1, 0x10), "01 000000 01000000 10000000 00000000 00000000"),
    (Attach(1, 0x10, AttachFlags.BYPASS, b"abc"), "01 616263 01000000 10000000 01000000 00000000"),
    (Detach(1, 0x10), "02 000000 01000000 10000000 0000000000000000"),
    (Detach(1, 0x10, b"ignored!"), "02 000000 01000000 10000000 69676e6f72656421"),
    (
        Map(1, 0xFFFFE000, 0xFFFFFFFF, 0x2436000, MapFlags.READ | MapFlags.WRITE),
        "03 000000 01000000 00e0ffff00000000 ffffffff00000000 0060430200000000 03000000",
    ),
    (
        Map(1, 0, LAST, 0, MapFlags.READ),
        "03 000000 01000000 0000000000000000 ffffffffffffffff 0000000000000000 01000000",
    ),
    (
        Map(1, 0xFEE00000, 0xFEE00FFF, 0xFFFF_FFFF_FFFF_F000, MapFlags.WRITE | MapFlags.MMIO),
        "03 000000 01000000 0000e0fe00000000 ff0fe0fe00000000 00f0ffffffffffff 06000000",
    ),
    (Unmap(1, 0x1000, 0x2FFF), "04 000000 01000000 0010000000000000 ff2f000000000000 00000000"),
    (Unmap(1, 0, LAST, b"okay"), "04 000000 01000000 0000000000000000 ffffffffffffffff 6f6b6179"),
    (Unmap(1, 5, 5), "04 000000 01000000 0500000000000000 0500000000000000 00000000"),
    (Probe(0x10), "05 000000 10000000" + "00" * 64),
    (Probe(0x10, b"?" * 64), "05 000000 10000000" + "3f" * 64),
]
"""The driver's part of each request: what the tail would follow."""


@pytest.mark.parametrize(("request_", "hexdump"), VECTORS)
def test_requests_hold_in_both_directions(request_: Request, hexdump: str) -> None:
    assert encode(request_) == bytes.fromhex(hexdump)
    assert decode(bytes.fromhex(hexdump)) == request_


def test_every_request_has_a_vector() -> None:
    assert {type(request) for request, _ in VECTORS} == {layout.kind for layout in REQUESTS.values()}


def test_answers_hold_in_both_directions() -> None:
    tail, window = Tail(Status.RANGE, b"xyz"), ResvMem(ReservedKind.MSI, 0xFEE00000, 0xFEEFFFFF)
    fault = Fault(FaultReason.MAPPING, FaultFlags.WRITE | FaultFlags.ADDRESS, 0x10, 0xFFFFD000)

    assert TAIL.encode(tail).hex() == "0578797a"
    assert TAIL.decode(bytes.fromhex("0578797a")) == tail
    assert RESV_MEM.encode(window) == bytes.fromhex("0100 1400 01 000000 0000e0fe00000000 ffffeffe00000000")
    assert RESV_MEM.decode(RESV_MEM.encode(window)) == window
    assert FAULT.encode(fault) == bytes.fromhex("02 000000 02010000 10000000 00000000 00d0ffff00000000")
    assert FAULT.decode(FAULT.encode(fault)) == fault


@pytest.mark.parametrize(
    ("hexdump", "sentence"),
    [
        ("00" * 20, "type of virtio_iommu_req_head is 0x0, allowed: one of 1, 2, 3, 4, 5"),
        ("06" + "00" * 19, "type of virtio_iommu_req_head is 0x6, allowed: one of 1, 2, 3, 4, 5"),
        (
            "01 000000 01000000 10000000 02000000 00000000",
            "flags of virtio_iommu_req_attach is 0x2, allowed: the bits 0x1",
        ),
        (
            "01 000000 01000000 10000000 00000000 00000001",
            "reserved of virtio_iommu_req_attach is 0x1000000, allowed: 0x0",
        ),
        (
            "03 000000 01000000" + "00" * 8 + "ff0f000000000000" + "00" * 8 + "08000000",
            "flags of virtio_iommu_req_map is 0x8, allowed: the bits 0x7",
        ),
        (
            "03 000000 01000000 0010000000000000 ff0f000000000000" + "00" * 8 + "01000000",
            "virt_end of virtio_iommu_req_map is 0xfff, allowed: 0x1000..0xffffffffffffffff",
        ),
        (
            "03 000000 01000000 0010000000000000 0010000000000000" + "00" * 8 + "01000000",
            "virt_end of virtio_iommu_req_map is 0x1000, allowed: more than 0x1000",
        ),
        (
            "03 000000 01000000 0010000000000000 0020000000000000 fff0ffffffffffff 01000000",
            "phys_start of virtio_iommu_req_map is 0xfffffffffffff0ff, allowed: 0x0..0xffffffffffffefff",
        ),
        (
            "03 000000 01000000 0010000000000000 ff1f000000000000 01f0ffffffffffff 01000000",
            "phys_start of virtio_iommu_req_map is 0xfffffffffffff001, allowed: 0x0..0xfffffffffffff000",
        ),
        (
            "04 000000 01000000 0010000000000000 ff0f000000000000 00000000",
            "virt_end of virtio_iommu_req_unmap is 0xfff, allowed: 0x1000..0xffffffffffffffff",
        ),
    ],
)
def test_types_flags_and_ranges_are_checked_before_use(hexdump: str, sentence: str) -> None:
    with pytest.raises(BadField) as caught:
        decode(bytes.fromhex(hexdump))

    assert str(caught.value) == sentence


@pytest.mark.parametrize(("request_", "hexdump"), VECTORS)
def test_a_request_of_another_length_is_refused(request_: Request, hexdump: str) -> None:
    data = bytes.fromhex(hexdump)
    for cut in (data[:-1], data + b"\0", data[:1]):
        with pytest.raises(
            BadLength, match=f"virtio_iommu_req_{type(request_).__name__.lower()} has {len(data)} bytes"
        ):
            decode(cut)


def test_nothing_is_no_request() -> None:
    with pytest.raises(BadLength, match="virtio_iommu_req_head has 4 to 72 bytes, got 0"):
        decode(b"")


def test_an_answer_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadField, match="status of virtio_iommu_req_tail is 0x9"):
        TAIL.decode(b"\x09\0\0\0")
    with pytest.raises(BadField, match="end of virtio_iommu_probe_resv_mem is 0x0"):
        RESV_MEM.encode(ResvMem(ReservedKind.MSI, 1, 0))
    with pytest.raises(BadField, match="length of virtio_iommu_probe_resv_mem is 0x15"):
        RESV_MEM.decode(bytes.fromhex("0100 1500" + "00" * 20))


@given(
    st.binary(max_size=80)
    | st.sampled_from(sorted(REQUESTS)).flatmap(
        lambda code: st.binary(min_size=REQUESTS[code].size - 1, max_size=REQUESTS[code].size - 1).map(
            lambda rest: bytes([code]) + rest
        )
    )
)
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = decode(data)
    except AbiError:
        return
    assert encode(request) == data


# -- the words of the bus ----------------------------------------------------


def test_ends_are_inclusive_here_as_there() -> None:
    assert range_of(Map(1, 0, LAST, 0, MapFlags.READ)) == IovaRange(0, LAST)
    assert range_of(Unmap(1, 0x1000, 0x1FFF)) == IovaRange(0x1000, 0x1FFF)
    with pytest.raises(BadField):
        range_of(Unmap(1, 1, 0))


def test_device_memory_is_no_permission() -> None:
    assert perm_of(Map(1, 0, 1, 0, MapFlags.WRITE | MapFlags.MMIO)) is Perm.W
    assert perm_of(Map(1, 0, 1, 0, MapFlags.READ | MapFlags.WRITE)) == Perm.RW
    assert perm_of(Map(1, 0, 1, 0, MapFlags.MMIO)) == Perm(0)
