"""The VFIO and vhost bridges on a real kernel: a guest's own, behind QEMU's VT-d.

The guest says what it saw; what that has to be is said here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.docs.blocks import Paste, Run, Typed, blocks
from tests.docs.terminals import pattern
from tests.field.debian import Kernel, install, kernel
from tests.field.guest.saying import MARK
from tests.field.initramfs import Initramfs
from tests.field.parts import Failed, Report
from tests.field.python import ROOT, add_python
from tests.field.qemu import PACKAGES, qemu

ABOUT: Final = "VFIO and vhost-net of a guest's kernel, and a device that shows by DMA what it reaches"

MODULES: Final = ("vfio", "vfio_iommu_type1", "vfio_pci", "vhost_net", "vhost_vsock", "tun", "af_packet")

TRIALS: Final = ("vfio", "vhost", "howto", "examples")

PAGES: Final = [ROOT / "docs" / "howto" / name for name in ("vfio.md", "vhost.md")]
"""How-tos that need a kernel's devices."""

ENTRIES: Final = 64
"""Most mappings of a container in the guest, so that it is soon full."""

SECONDS: Final = 120
"""Within which the guest has done everything; it takes 15."""

INIT: Final = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
sh /load
echo {entries} > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit
cd /app
{python} -m tests.field.guest {trials}
echo "the guest is done"
poweroff -f
"""

SECRET, OTHER, BLANK, NOTHING = "a5", "5a", "11", "00"
"""What every byte of a page is; QEMU gives a device that may not read nothing but zeros."""

Said = dict[str, Any]
"""One thing that the guest saw."""


def guest(which: Kernel, path: Path) -> Path:
    """Write the root file system of the guest, and return where it is."""
    root = Initramfs()
    root.busybox("mount", "insmod", "poweroff", "echo", "readlink")
    for page in PAGES:
        for part in blocks(page):
            if isinstance(part, Paste):
                root.file(f"app/howto/{page.stem}/{part.file}", part.code)
            elif isinstance(part, Typed) and "iommubus" not in part.text:
                root.file(
                    f"app/howto/{page.stem}/typed.sh", f"set -e\nmodprobe() {{ :; }}  # all is loaded\n{part.text}"
                )
    root.modules(which, *MODULES)
    root.file("init", INIT.format(entries=ENTRIES, python=add_python(root), trials=" ".join(TRIALS)), 0o755)
    for name in ("proc", "sys", "dev", "tmp"):
        root.directory(name)
    return root.write(path)


async def run(report: Report, work: Path) -> None:
    """Start the guest, and judge what it says."""
    install(*PACKAGES)
    which = kernel()
    initrd = guest(which, work / "kernel-guest.cpio")
    devices = ("-device", "pci-testdev", "-device", "edu")
    async with qemu(which, initrd, work, *devices, device_iotlb=False) as machine:
        await machine.wait_said("the guest is done", SECONDS)
        console = machine.said()
    for trial, said in trials(console):
        for each in said:
            report.check(each["what"] != "broke", f"the trial of {trial} broke: {each.get('trace')}")
        JUDGES[trial](report, Story(trial, said))


class Story:
    """What the guest said in one trial, read from the beginning to the end.

    Args:
        trial: Its name.
        said: What it said, in order.
    """

    def __init__(self, trial: str, said: list[Said]) -> None:
        self._trial = trial
        self._rest = iter(said)

    def next(self, what: str, **expected: Any) -> Said:
        """Return the next thing that it said of this kind, which has to hold these values.

        Raises:
            Failed: It did not say that, or something else.
        """
        for said in self._rest:
            if said["what"] == what:
                wrong = {name: said.get(name) for name, value in expected.items() if said.get(name) != value}
                if wrong:
                    raise Failed(f"{self._trial}, {what}: {wrong} instead of {expected}; all of it: {said}")
                return said
        raise Failed(f"{self._trial}: the guest did not say {what!r}")


def trials(console: str) -> Iterator[tuple[str, list[Said]]]:
    """Yield the trials of which the guest told, and what it said in each."""
    told = [json.loads(line.removeprefix(MARK)) for line in console.splitlines() if line.startswith(MARK)]
    for name in TRIALS:
        ends = [at for at, said in enumerate(told) if said["what"] in {"begin", "end"} and said["trial"] == name]
        if len(ends) != len(("begin", "end")):
            raise Failed(f"the guest did not get through the trial of {name}: {console[-3000:]}")
        yield name, told[ends[0] + 1 : ends[1]]


# -- VFIO --------------------------------------------------------------------


def judge_vfio(report: Report, story: Story) -> None:
    """Judge what the device reached, and what came back by `sync`."""
    story.next("traits", room=ENTRIES, unmap_all=True, ranges=["0x0..0xfedfffff", "0xfef00000..0x7fffffffff"])
    told = story.next("told")["text"]
    report.check(
        "TYPE1v2" in told and "no IOVA 0xfee00000..0xfeefffff" in told, f"the interrupt window is said: {told}"
    )
    judge_reach(report, story)
    story.next("file, read", page=SECRET, faults=[])
    report.count("DMA from a file that can only be read: what is in it now", 1)
    judge_refusals(report, story)
    times = story.next("latencies")
    report.latencies("VFIO_IOMMU_MAP_DMA, in the guest", times["map"])
    report.latencies("VFIO_IOMMU_UNMAP_DMA, in the guest", times["unmap"])
    report.latencies("UNMAP and sync, in the guest", times["sync"], "all of Python under TCG")
    counts = story.next("statistics")
    report.count("MAPs that the kernel took", counts["maps"])
    report.count("UNMAPs that the kernel took", counts["unmaps"], f"{counts['failed']} events came back with an error")
    story.next("sync", after="left", who=[])
    story.next("left", page=BLANK, closed=False)
    report.count("DMA after the bridge was left: blocked", 1, "the container stays open")
    story.next("current", page=SECRET)
    story.next("fenced", page=BLANK, proven=True, closed=False)
    story.next("sync", after="fenced")
    report.count("DMA after another bridge was fenced: blocked", 1, "proven by the kernel's answer")


def judge_reach(report: Report, story: Story) -> None:
    """Judge the copies of the device: only those that the space allowed have happened, and the others were logged."""
    story.next("mapped", page=SECRET, faults=[])
    report.count("DMA to and from mapped pages: done", 2)
    judge_blocked(report, story.next("read-only, written", page=BLANK), "Write", 0x30_0000)
    story.next("read-only, read", page=OTHER, faults=[])
    report.count("DMA from a read-only page: done; to it: blocked, logged", 2)
    judge_blocked(report, story.next("unmapped, written", page=BLANK), "Write", 0x20_0000)
    judge_blocked(report, story.next("unmapped, read", page=NOTHING), "Read", 0x10_0000)
    report.count("DMA to and from unmapped pages after sync: blocked, logged", 2)


def judge_blocked(report: Report, said: Said, kind: str, iova: int) -> None:
    """Judge what the guest's kernel logged of a copy that was blocked."""
    faults = [(fault[0], fault[1]) for fault in said["faults"]]
    report.check(faults == [(kind, iova)], f"the kernel logs one fault of the kind {kind} at {iova:#x}: {said}")


def judge_refusals(report: Report, story: Story) -> None:
    """Judge what came back by `sync`, and whether it was good again afterwards."""
    for error in ("EEXIST", "EEXIST again"):
        said = story.next("sync failed", after=error, missing=[])
        report.check([one["errno"] for one in said["failures"]] == ["EEXIST"], f"one MAP failed with EEXIST: {said}")
        if error == "EEXIST":
            story.next("sync", after="after EEXIST")
    for after in ("EINVAL", "EINVAL again"):
        said = story.next("sync failed", after=after, failures=[])
        report.check([one["errno"] for one in said["missing"]] == ["EINVAL"], f"an UNMAP failed with EINVAL: {said}")
    story.next("sync", after="after EINVAL", who=[["vfio", "acknowledged"]])
    said = story.next("sync failed", after="ENOSPC", missing=[])
    report.check([one["errno"] for one in said["failures"]] == ["ENOSPC"], f"one MAP failed with ENOSPC: {said}")
    story.next("sync", after="after ENOSPC")
    for call, errno in (("unaligned", "EINVAL"), ("no access", "EINVAL"), ("interrupts", "EINVAL")):
        story.next("past the bridge", call=call, errno=errno)
    story.next("past the bridge", call="nothing there", errno="0")
    story.next("sync", after="interrupts")
    report.count("errors of the kernel that came back by sync", 5, "EEXIST, EINVAL, ENOSPC; good again afterwards")


# -- vhost -------------------------------------------------------------------


def judge_vhost(report: Report, story: Story) -> None:
    """Judge which frames came out of the tap, and what the kernel asked meanwhile."""
    story.next("table", empty=False, errno="EFAULT", miss=None)
    told = story.next("table", empty=True, errno="EFAULT")
    report.check(told["miss"], f"with an empty memory table the kernel asks: {told}")
    report.check("IOTLB_MSG_V2" in story.next("vsock")["told"], "vhost-vsock agrees on messages of the second form")
    said = story.next("backend")
    report.check(said["came"][-1] == "ok" and said["came"][0] == "EFAULT", f"the ring starts once it is known: {said}")
    report.check(said["misses"] >= 1 and said["updates"] >= 1, f"a miss of NET_SET_BACKEND was answered: {said}")
    story.next("mapped", frames=["a"], unanswered=0)
    story.next("sync", after="unmapped", who=[["vhost", "acknowledged"]])
    story.next("unmapped", frames=[], used=1, unanswered=1)
    story.next("mapped again", frames=["c"])
    report.count(
        "frames from a mapped page: sent; after sync, from one unmapped: not", 3, "asked again, and sent again"
    )
    times = story.next("latencies", frames=100)
    report.latencies("write of an UPDATE or INVALIDATE, in the guest", times["write"])
    report.latencies("UNMAP, MAP and sync, in the guest", times["sync"], "all of Python under TCG")
    counts = story.next("statistics", failed=0)
    report.count("misses of vhost-net", counts["misses"], f"{counts['updates']} answered")
    report.count("ranges taken from vhost-net", counts["invalidations"])
    fenced = story.next("fenced", before=["y"], proven=True, frames=[])
    report.count("frames after the bridge was fenced", len(fenced["frames"]), "proven by the kernel's write")


# -- programs ----------------------------------------------------------------


def judge_examples(report: Report, story: Story) -> None:
    """Judge that the examples told their stories."""
    for name, expected in EXAMPLES.items():
        judge_lines(report, story.next("ran", name=name, status=0), expected)
    report.count("examples", len(EXAMPLES))


def judge_howto(report: Report, story: Story) -> None:
    """Judge that what the how-tos say can be done, and shows what they show."""
    for page in PAGES:
        for part in blocks(page):
            if isinstance(part, Typed) and "iommubus" not in part.text:
                story.next("ran", name="typed.sh", status=0)
            elif isinstance(part, Run):
                judge_lines(report, story.next("ran", name=part.file, status=0), part.output.splitlines())
    report.count("how-tos", len(PAGES))


def judge_lines(report: Report, said: Said, expected: list[str]) -> None:
    """Judge what a program printed, line by line; ``...`` is whatever differs."""
    report.check(len(said["lines"]) == len(expected), f"{expected} is printed: {said}")
    for line, want in zip(said["lines"], expected, strict=True):
        report.check(re.fullmatch(pattern(want), line), f"{want!r} is printed, and not {line!r}")


EXAMPLES: Final = {
    "vfio_consumer.py": [
        "vfio: 0000:00:02.0 is in VFIO container of group ...",
        "VFIO container of group ...: agreed on TYPE1v2, ...",
        "vfio: the device can be started, it reaches what was mapped before (descriptor ...)",
        "guest: the pages are free, vfio acknowledged",
        "guest: sync failed: vfio on iommu0/dev could not map 0x200000..0x200fff: NoBacking...",
        "vfio: VfioStatistics(maps=1, unmaps=1, failed=1)",
    ],
    "vhost_consumer.py": [
        "/dev/vhost-net: agreed on VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VHOST_BACKEND_F_IOTLB_MSG_V2",
        "vhost: the ring runs; the kernel asked where it is",
        "guest: the page is free, vhost acknowledged",
    ],
}
"""What each example prints."""

JUDGES: Final = {"vfio": judge_vfio, "vhost": judge_vhost, "howto": judge_howto, "examples": judge_examples}
