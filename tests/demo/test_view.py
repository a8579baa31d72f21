"""The demo on a console: in a file, on a terminal, narrow, wide, in ASCII, and when it failed."""

import io
from collections.abc import Sequence

import pytest
from msgspec import structs
from rich.console import Console

from iommubus.abi.qemu_trace import Family, Trace
from iommubus.demo.job import Exhibit, conclusion, exhibits, perform
from iommubus.demo.result import Result
from iommubus.demo.script import Unplayable, write_script
from iommubus.demo.view import ConsoleView

LINES = [
    "virtio_iommu_attach domain=0 endpoint=16",
    *(
        f"1@{at}.0:virtio_iommu_map domain=0 virt_start={at:#x}000 virt_end={at:#x}fff phys_start=0x8000 flags=3"
        for at in range(1, 300)
    ),
    "1@300.0:virtio_iommu_unmap_done domain=0 virt_start=0x1000 virt_end=0x1fff",
    "1@301.0:vhost_iotlb_miss [this] is no markup",
    "1@302.0:virtio_iommu_map domain=0 virt_start=0x2000 virt_end=0x2fff phys_start=0x9000 flags=3",
    "1@303.0:virtio_iommu_map domain=0 virt_start=0x3000 virt_end=0x3fff phys_start=0x9000 flags=4",
    "1@304.0:virtio_iommu_map domain=broken",
]
PULL = ["vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x1"]


def exhibit(lines: Sequence[str] = LINES) -> Exhibit:
    return Exhibit(write_script(Trace.read(lines, path="log[x]", keep_going=True), "log[x]"))


def shown(
    *programme: Exhibit, width: int = 80, encoding: str = "utf-8", terminal: bool = False
) -> tuple[str, list[Result]]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=file, width=width, force_terminal=terminal, markup=False, highlight=False, legacy_windows=False
    )
    results = perform(programme, ConsoleView(console, "asyncio"), "asyncio")
    file.flush()
    buffer = file.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(encoding), results


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_everything_fits_the_width_and_ends_with_the_conclusion(width: int, encoding: str) -> None:
    text, results = shown(exhibit(), width=width, encoding=encoding)

    lines = text.splitlines()
    assert lines[-1] == "demo ok: 1 trace, 302 events, 4 syncs, every copy and cache was right"
    assert conclusion(results) == lines[-1]
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 4


def test_every_figure_is_shown() -> None:
    text, _ = shown(exhibit(), width=140)

    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "published in virtio-iommu/domain-0 301 2" not in rows  # a remap is one UNMAP and one MAP
    assert "published in virtio-iommu/domain-0 300 2" in rows
    assert "at the end 298 pages mapped, in 298 mappings" in rows
    assert "endpoint-16 follows its endpoint 598 3 0 0x" in rows
    assert "moves 1 move, 1 endpoint: 0 pages held once detached, 298 once attached again" in rows
    assert "remaps 1 MAPs over a live mapping, played as UNMAP and MAP" in rows
    assert "skipped 1 vhost_iotlb_miss" in rows
    assert "no change 1 virtio_iommu_map" in rows
    assert "damaged 1 lines" in rows
    assert any(row.startswith("log[x]:305: ") for row in rows)
    assert any(row.startswith("100%: ") for row in rows)


def test_a_terminal_is_shown_what_moves_and_keeps_nothing_of_it() -> None:
    text, _ = shown(exhibit(), terminal=True)

    before, _, rest = text.partition("\x1b[?25l")  # the cursor goes
    moving, _, after = rest.partition("\x1b[?25h")  # and comes back
    assert "100%: " not in before + after
    assert "100%: " in moving
    assert "conflations" in moving
    assert after.lstrip("\r\n").startswith("\x1b[1A\x1b[2K")  # what moved is cleared, line by line


def test_a_pull_space_has_no_picture_and_says_so() -> None:
    text, _ = shown(exhibit(PULL))

    assert "vtd/domain-1: a pull space keeps no table, so there is nothing to draw" in text
    assert "none: a pull space keeps no table to ask" in text


def test_spaces_that_are_not_drawn_are_counted() -> None:
    lines = [f"vtd_inv_desc_iotlb_domain iotlb invalidate whole domain {domain:#x}" for domain in range(5)]

    assert "(2 more spaces are not drawn)" in shown(exhibit(lines))[0]


def test_a_failure_says_why_and_is_the_conclusion() -> None:
    first = exhibit(PULL)
    text, results = shown(structs.replace(first, expected=next(exhibits(None, None)).expected))

    assert "failed: 0 MAPs published, expected 9,015" in text
    assert text.splitlines()[-1] == "demo failed: log[x]: 0 MAPs published, expected 9,015"
    assert conclusion(results * 2).endswith(" (and 1 more of 2 plays)")


def test_a_family_that_no_shipped_trace_has_cannot_be_played() -> None:
    with pytest.raises(Unplayable, match="no shipped trace is played as vtd_inval"):
        next(exhibits(None, Family.VTD_INVAL))

    assert [each.script.family for each in exhibits(None, Family.VTD_PAGE_WALK)] == [Family.VTD_PAGE_WALK]
