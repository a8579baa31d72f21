"""Where logs come from, and what is said of those that cannot be read."""

import gzip
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from iommubus.abi.qemu_trace import Family
from iommubus.demo.script import Unplayable
from iommubus.demo.source import SHIPPED, load
from iommubus.errors import TraceError

LOG = b"virtio_iommu_map domain=0 virt_start=0x1000 virt_end=0x1fff phys_start=0x8000 flags=3\n"


COMPRESSIONS: Final[dict[str, Callable[[bytes], bytes]]] = {"plain": bytes, "gz": gzip.compress, "xz": lzma.compress}


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_compression_is_told_by_content_and_not_by_name(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "log.of-some-kind"
    path.write_bytes(compress(LOG))

    script = load(str(path))

    assert script.title == str(path)
    assert len(script.steps) == 1


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(compress(LOG))))

    assert load("-").title == "<stdin>"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "log"
    path.write_bytes(compress(LOG)[:-4])

    with pytest.raises(Unplayable, match="it is cut off, or its compression is damaged"):
        load(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing"

    with pytest.raises(Unplayable, match=r"missing: No such file or directory$"):
        load(str(path))


def test_an_empty_file_has_nothing_to_play(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")

    with pytest.raises(Unplayable, match="no event of a known family"):
        load(str(path))


def test_a_damaged_line_is_an_error_unless_it_may_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG + b"virtio_iommu_map domain=zero\n")

    with pytest.raises(TraceError) as caught:
        load(str(path))

    assert (caught.value.path, caught.value.line) == (str(path), 2)
    assert caught.value.text == "virtio_iommu_map domain=zero"
    assert load(str(path), keep_going=True).tally.damaged == 1


def test_the_family_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(LOG + b"vtd_inv_desc_iotlb_global iotlb invalidate global\n")

    assert load(str(path)).family is Family.VIRTIO_IOMMU
    with pytest.raises(Unplayable, match="no event of the family vtd_page_walk"):
        load(str(path), Family.VTD_PAGE_WALK)


def test_every_shipped_log_can_be_read() -> None:
    for shipped in SHIPPED:
        assert shipped.load().family is shipped.family
