"""The examples that need devices of the kernel; the field tests run them in a guest that has those."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from iommubus.bridges import vfio
from tests.kernels import VfioKernel
from tests.loops import every_loop

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

DEVICE: Final = "0000:00:03.0"

STORY: Final = [
    "vfio: 0000:00:03.0 is in VFIO container of group 26",
    "VFIO container of group 26: agreed on TYPE1v2, UNMAP_ALL, pages of 0x1000, 0x200000, 65,535 mappings, ",
    "vfio: the device can be started, it reaches what was mapped before (descriptor 1002)",
    "guest: the pages are free, vfio acknowledged",
    "guest: sync failed: vfio on iommu0/dev could not map 0x200000..0x200fff: NoBacking(iova=2097152, ",
    "vfio: VfioStatistics(maps=1, unmaps=1, failed=1)",
]
"""How each line begins."""


@pytest.mark.parametrize(
    ("example", "device", "sentence"),
    [
        ("vfio_consumer.py", "ffff:00:03.0", "vfio: PCI device ffff:00:03.0 has no place on this machine: "),
        ("vhost_consumer.py", "/dev/vhost-none", "vhost: open /dev/vhost-none: ENOENT, No such file or directory "),
    ],
)
def test_without_the_device_it_ends_with_one_clear_line(example: str, device: str, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, device], capture_output=True, text=True, check=False
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(sentence)


@every_loop
async def test_the_vfio_example_tells_its_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With a model of the kernel in the place of this machine's.
    """
    kernel = VfioKernel()
    monkeypatch.setattr(vfio, "group_of", {DEVICE: 26}.__getitem__)
    monkeypatch.setattr(vfio.Container, "open", partial(vfio.Container.open, kernel=kernel))

    await runpy.run_path(str(EXAMPLES / "vfio_consumer.py"))["main"](DEVICE)

    lines = capsys.readouterr().out.splitlines()
    assert [line[: len(story)] for line, story in zip(lines, STORY, strict=True)] == STORY
    assert kernel.entries == []
