"""Sizes, offsets and numbers, held against the kernel's own headers by a compiled program.

The headers are those of the machine (on Debian ``linux-libc-dev``).  Those of
6.1 have no ``linux/iommufd.h``, and what a header does not have the program
does not print: such a structure is held against the C compiler's own layout of
the same fields instead, and its ioctl against `_IO`.
"""

import subprocess
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Final

import pytest

from iommubus.abi import iommufd, vfio, vhost, vhost_user, virtio_iommu
from iommubus.abi.fields import Layout

HEADERS: Final = ("linux/vhost.h", "linux/vfio.h", "linux/virtio_iommu.h", "linux/ioctl.h")

IOMMUFD: Final = "linux/iommufd.h"
"""Newer than some of the machines that this runs on."""

STRUCTURES: Final[list[Layout[Any]]] = [
    vhost.IOTLB_MSG,
    vhost.VRING_STATE,
    vhost.VRING_ADDR,
    vhost.VDPA_IOVA_RANGE,
    vfio.MAP_DMA,
    vfio.UNMAP_DMA,
    vfio.INFO,
    vfio.GROUP_STATUS,
    vfio.CAP_HEADER,
    vfio.IOVA_RANGE,
    virtio_iommu.TAIL,
    virtio_iommu.RESV_MEM,
    virtio_iommu.FAULT,
    *virtio_iommu.REQUESTS.values(),
]

MEMBERS: Final = {
    ("virtio_iommu_probe_resv_mem", "type"): "head.type",
    ("virtio_iommu_probe_resv_mem", "length"): "head.length",
    **{
        (layout.name, ours): theirs
        for layout in virtio_iommu.REQUESTS.values()
        for ours, theirs in (("type", "head.type"), ("head_reserved", "head.reserved"))
    },
}
"""Fields that C reaches through another structure."""

PADDING: Final = {("vhost_iotlb_msg", "padding"), ("vfio_iommu_type1_info", "padding")}
"""Fields that C adds without a name."""

ENVELOPES: Final = {
    "sizeof(struct vhost_msg)": vhost.ENVELOPE.size,
    "sizeof(struct vhost_msg_v2)": vhost.ENVELOPE.size,
    "offsetof(struct vhost_msg, iotlb)": vhost.ENVELOPE.offset("union"),
    "offsetof(struct vhost_msg_v2, iotlb)": vhost.ENVELOPE.offset("union"),
    "offsetof(struct vhost_msg_v2, asid)": vhost.ENVELOPE.offset("asid"),
    "sizeof(struct vhost_memory_region)": 32,  # the shape that vhost-user took over
    "sizeof(struct vhost_memory)": 8,
    "offsetof(struct vfio_iommu_type1_dma_unmap, data)": vfio.UNMAP_DMA.size,
    "offsetof(struct vfio_iommu_type1_info_cap_iova_range, iova_ranges)": vfio.CAP_HEADER.size + 8,
    "offsetof(struct vfio_iommu_type1_info_dma_avail, avail)": vfio.CAP_HEADER.size,
    "VHOST_VIRTIO": 0xAF,
    "VHOST_ACCESS_RO": 1,
    "VHOST_ACCESS_WO": 2,
    "VHOST_ACCESS_RW": 3,
    "1 << VHOST_F_LOG_ALL": vhost_user.Features.LOG_ALL,
    "1ull << VIRTIO_F_VERSION_1": vhost_user.Features.VERSION_1,
    "1ull << VIRTIO_F_ACCESS_PLATFORM": vhost_user.Features.ACCESS_PLATFORM,
    "VIRTIO_IOMMU_PROBE_T_RESV_MEM": 1,
}

NAMED: Final[list[tuple[type[IntEnum] | type[IntFlag], str]]] = [
    (vhost.Ioctl, "VHOST_{}"),
    (vhost.IotlbType, "VHOST_IOTLB_{}"),
    (vhost.BackendFeatures, "1 << VHOST_BACKEND_F_{}"),
    (vhost.VringFlags, "1 << VHOST_VRING_F_{}"),
    (vfio.Ioctl, "VFIO_{}"),
    (vfio.InfoFlags, "VFIO_IOMMU_INFO_{}"),
    (vfio.GroupFlags, "VFIO_GROUP_FLAGS_{}"),
    (vfio.MapFlags, "VFIO_DMA_MAP_FLAG_{}"),
    (vfio.UnmapFlags, "VFIO_DMA_UNMAP_FLAG_{}"),
    (virtio_iommu.Features, "1 << VIRTIO_IOMMU_F_{}"),
    (virtio_iommu.RequestType, "VIRTIO_IOMMU_T_{}"),
    (virtio_iommu.Status, "VIRTIO_IOMMU_S_{}"),
    (virtio_iommu.AttachFlags, "VIRTIO_IOMMU_ATTACH_F_{}"),
    (virtio_iommu.MapFlags, "VIRTIO_IOMMU_MAP_F_{}"),
    (virtio_iommu.FaultReason, "VIRTIO_IOMMU_FAULT_R_{}"),
    (virtio_iommu.FaultFlags, "VIRTIO_IOMMU_FAULT_F_{}"),
    (virtio_iommu.ReservedKind, "VIRTIO_IOMMU_RESV_MEM_T_{}"),
]
"""Each enumeration, and what C calls its members."""

ODD: Final = {
    "VHOST_IOTLB_MSG": vhost.MsgType.IOTLB,
    "VHOST_IOTLB_MSG_V2": vhost.MsgType.IOTLB_V2,
    "VFIO_TYPE1_IOMMU": vfio.Extension.TYPE1_IOMMU,
    "VFIO_TYPE1v2_IOMMU": vfio.Extension.TYPE1V2_IOMMU,
    "VFIO_UNMAP_ALL": vfio.Extension.UNMAP_ALL,
    "VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE": vfio.CapId.IOVA_RANGE,
    "VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION": vfio.CapId.MIGRATION,
    "VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL": vfio.CapId.DMA_AVAIL,
}
"""Members whose names follow no rule."""

IN_ORDER: Final = (
    "DESTROY IOAS_ALLOC IOAS_ALLOW_IOVAS IOAS_COPY IOAS_IOVA_RANGES IOAS_MAP IOAS_UNMAP OPTION VFIO_IOAS HWPT_ALLOC "
    "GET_HW_INFO HWPT_SET_DIRTY_TRACKING HWPT_GET_DIRTY_BITMAP HWPT_INVALIDATE FAULT_QUEUE_ALLOC IOAS_MAP_FILE "
    "VIOMMU_ALLOC VDEVICE_ALLOC IOAS_CHANGE_PROCESS VEVENTQ_ALLOC HW_QUEUE_ALLOC"
)
"""The requests to iommufd, numbered from 0x80 without a gap."""

C_TYPES: Final = {"I": "__u32", "i": "__s32", "Q": "__aligned_u64"}


def of_structures() -> Iterator[tuple[str, int]]:
    """Yield what C has to say of every structure; a request's tail is the device's part, and no field here."""
    for layout in STRUCTURES:
        request = layout in virtio_iommu.REQUESTS.values() and layout.name != "virtio_iommu_req_probe"
        yield (f"offsetof(struct {layout.name}, tail)" if request else f"sizeof(struct {layout.name})"), layout.size
        for field in layout.fields:
            if (layout.name, field.name) not in PADDING:
                member = MEMBERS.get((layout.name, field.name), field.name)
                yield f"offsetof(struct {layout.name}, {member})", layout.offset(field.name)


def of_enumerations() -> Iterator[tuple[str, int]]:
    """Yield every member of every enumeration, under its name in C."""
    for kind, pattern in NAMED:
        yield from ((pattern.format(member.name), int(member)) for member in kind)


def of_iommufd() -> Iterator[tuple[str, str, int]]:
    """Yield what is asked of iommufd: the macro that shows whether the header has it, the expression, the value."""
    for ioctl in iommufd.Ioctl:
        yield f"IOMMU_{ioctl.name}", f"IOMMU_{ioctl.name}", int(ioctl)
    for ioctl, layout in iommufd.STRUCTURES.items():
        yield f"IOMMU_{ioctl.name}", f"sizeof(struct {layout.name})", layout.size
        for field in layout.fields:
            expression = f"offsetof(struct {layout.name}, {field.name})"
            yield f"IOMMU_{ioctl.name}", expression, layout.offset(field.name)
    for flag in iommufd.MapFlags:
        yield "IOMMU_IOAS_MAP", f"IOMMU_IOAS_MAP_{flag.name}", int(flag)
    yield "IOMMU_IOAS_MAP", "sizeof(struct iommu_iova_range)", iommufd.IOVA_RANGE.size
    yield "IOMMU_IOAS_MAP", "offsetof(struct iommu_iova_range, last)", iommufd.IOVA_RANGE.offset("last")


def run(folder: Path, lines: Iterator[str]) -> dict[str, int]:
    """Compile and run a program, and return what it printed."""
    source, program = folder / "layout.c", folder / "layout"
    source.write_text("\n".join(lines), encoding="ascii")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", program, source], check=True)  # noqa: S607
    result = subprocess.run([program], capture_output=True, text=True, check=True)
    printed = (line.rpartition(" = ") for line in result.stdout.splitlines())
    return {expression: int(value) for expression, _, value in printed}


def program(headers: tuple[str, ...], body: Iterator[str]) -> Iterator[str]:
    """Yield a C program that prints."""
    yield from ("#include <stddef.h>", "#include <stdio.h>", "#include <linux/types.h>")
    yield from (f"#include <{header}>" for header in headers)
    yield f"#if __has_include(<{IOMMUFD}>)\n#include <{IOMMUFD}>\n#endif"
    yield "int main(void) {"
    yield from body
    yield "return 0; }"


def show(expression: str) -> str:
    """Return the statement that prints an expression and its value."""
    return f'printf("%s = %llu\\n", "{expression}", (unsigned long long)({expression}));'


def test_layouts_and_numbers_are_those_of_the_kernel(tmp_path: Path) -> None:
    expected = {**dict(of_structures()), **dict(of_enumerations()), **ENVELOPES, **ODD}

    found = run(tmp_path, program(HEADERS, map(show, expected)))

    assert len(found) > 200
    assert found == expected


def test_iommufd_is_that_of_the_kernel_where_the_header_has_it(tmp_path: Path) -> None:
    asked = list(of_iommufd())
    guarded = (f"#ifdef {macro}\n{show(expression)}\n#endif" for macro, expression, _ in asked)

    found = run(tmp_path, program(HEADERS, guarded))

    expected = {expression: value for _, expression, value in asked}
    assert found == {expression: expected[expression] for expression in found}


def test_iommufd_is_what_a_compiler_makes_of_the_same_fields(tmp_path: Path) -> None:
    """The structures leave no gap that C would fill, begin with their size, and are passed to `_IO(';', n)`."""

    def body() -> Iterator[str]:
        for layout in iommufd.STRUCTURES.values():
            fields = " ".join(f"{C_TYPES[field.code]} f_{field.name};" for field in layout.fields)
            yield f"struct x_{layout.name} {{ {fields} }};"
            yield show(f"sizeof(struct x_{layout.name})")
            yield from (show(f"offsetof(struct x_{layout.name}, f_{field.name})") for field in layout.fields)
        yield from (show(f"_IO(';', {ioctl & 0xFF:#x})") for ioctl in iommufd.Ioctl)

    found = run(tmp_path, program(HEADERS, body()))

    for layout in iommufd.STRUCTURES.values():
        assert found[f"sizeof(struct x_{layout.name})"] == layout.size
        assert layout.fields[0].fixed == layout.size
        for field in layout.fields:
            assert found[f"offsetof(struct x_{layout.name}, f_{field.name})"] == layout.offset(field.name)
    for ioctl in iommufd.Ioctl:
        assert found[f"_IO(';', {ioctl & 0xFF:#x})"] == ioctl


def test_iommufd_requests_are_numbered_as_in_the_kernel() -> None:
    """As a newer header has them, which not every machine has."""
    assert [ioctl.name for ioctl in iommufd.Ioctl] == IN_ORDER.split()
    assert [int(ioctl) for ioctl in iommufd.Ioctl] == [0x3B80 + at for at in range(21)]


@pytest.mark.parametrize(
    ("ioctl", "size"),
    [
        (iommufd.Ioctl.DESTROY, 8),
        (iommufd.Ioctl.IOAS_ALLOC, 12),
        (iommufd.Ioctl.IOAS_ALLOW_IOVAS, 24),
        (iommufd.Ioctl.IOAS_COPY, 40),
        (iommufd.Ioctl.IOAS_IOVA_RANGES, 32),
        (iommufd.Ioctl.IOAS_MAP, 40),
        (iommufd.Ioctl.IOAS_UNMAP, 24),
        (iommufd.Ioctl.IOAS_MAP_FILE, 40),
    ],
)
def test_iommufd_structures_have_the_sizes_of_the_kernel(ioctl: iommufd.Ioctl, size: int) -> None:
    """As a newer header has them, which not every machine has."""
    assert iommufd.STRUCTURES[ioctl].size == size
