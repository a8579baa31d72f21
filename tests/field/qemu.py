"""QEMU with an emulated IOMMU and a Linux guest, and the console on which the guest says how it fares."""

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from tests.field.debian import Kernel
from tests.field.initramfs import Initramfs
from tests.field.parts import Failed

PACKAGES: Final = ("qemu-system-x86", "seabios", "ipxe-qemu", "busybox-static", "kmod")

MEMORY: Final = "256M"

COMMAND_LINE: Final = "console=ttyS0 panic=-1 no_timer_check intel_iommu=on iommu.passthrough=0 iommu.strict=1"
"""The guest's kernel unmaps at once, and does not mind that its timer is late on a busy machine."""

TRAFFIC: Final = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
sh /load
ip link set eth0 up
echo "add_device eth0@0" > /proc/net/pktgen/kpktgend_0
control() { echo "$1" > /proc/net/pktgen/eth0@0; }
control "count 0"
control "clone_skb 0"
control "pkt_size 1000"
control "delay 0"
control "dst 10.0.0.2"
control "dst_mac 52:54:00:12:34:57"
(while sleep 1; do echo "sent $(cat /sys/class/net/eth0/statistics/tx_packets)"; done) &
echo "traffic begins"
while true; do echo start > /proc/net/pktgen/pgctrl; sleep 1; done
"""
"""The guest's ``/init``: packets as fast as they go, and every second how many there were."""


def traffic_guest(kernel: Kernel, path: Path) -> Path:
    """Write the root file system of a guest that sends packets, and return where it is."""
    root = Initramfs()
    root.busybox("mount", "insmod", "ip", "cat", "sleep", "echo")
    root.modules(kernel, "virtio_pci", "virtio_net", "pktgen")
    root.file("init", TRAFFIC, 0o755)
    for name in ("proc", "sys"):
        root.directory(name)
    return root.write(path)


def vhost_user_net(sock: Path, *, reconnect: bool = True) -> list[str]:
    """Return the arguments for a network card behind the IOMMU whose back end listens at a socket.

    It has no MSI-X: QEMU 7.2 dies of that under TCG.
    """
    again = ",reconnect=1" if reconnect else ""
    card = "virtio-net-pci,netdev=n0,disable-legacy=on,disable-modern=off,iommu_platform=on,ats=on,vectors=0"
    return [
        "-chardev", f"socket,id=c0,path={sock}{again}",
        "-netdev", "vhost-user,id=n0,chardev=c0,queues=1",
        "-device", card,
    ]  # fmt: skip


class Qemu:
    """A guest that runs.

    Args:
        process: QEMU.
        console: The file that the guest's console is written to.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", console: Path) -> None:
        self.process = process
        self._console = console

    def said(self) -> str:
        """Return all that the guest has said."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def sent(self) -> int:
        """Return how many packets a guest of `traffic_guest` has sent, as it said last."""
        counts = [line.split()[1] for line in self.said().splitlines() if line.startswith("sent ") and line[5:].strip()]
        return int(counts[-1]) if counts else 0

    async def wait_said(self, text: str, seconds: float) -> None:
        """Wait until the guest has said something.

        Raises:
            Failed: It has not in time, or QEMU has ended.
        """
        with anyio.move_on_after(seconds):
            while text not in self.said():
                if self.process.poll() is not None:
                    break
                await anyio.sleep(0.05)
            else:
                return
        state = f"QEMU ended with {self.process.returncode}" if self.process.poll() is not None else "it runs"
        raise Failed(f"the guest did not say {text!r} within {seconds:g} s ({state}); last: {self.said()[-2000:]}")


@asynccontextmanager
async def qemu(kernel: Kernel, initrd: Path, work: Path, *more: str, device_iotlb: bool = True) -> AsyncGenerator[Qemu]:
    """Start a guest behind an emulated VT-d, and end it with the block.

    Args:
        kernel: Its kernel.
        initrd: Its root file system.
        work: Where its console is written.
        more: Further arguments of QEMU: the devices.
        device_iotlb: Whether the IOMMU has a device IOTLB.
    """
    console = work / f"console-{os.getpid()}-{initrd.stem}.txt"
    console.unlink(missing_ok=True)
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,kernel-irqchip=split",
        "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-m", MEMORY,
        "-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on", "-numa", "node,memdev=mem",
        "-device", f"intel-iommu,intremap=on,device-iotlb={'on' if device_iotlb else 'off'}",
        *more,
        "-kernel", str(kernel.image), "-initrd", str(initrd), "-append", COMMAND_LINE,
        "-display", "none", "-serial", f"file:{console}", "-monitor", "none", "-no-reboot",
    ]  # fmt: skip
    with (work / "qemu.txt").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Qemu(process, console)
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that this one started, whatever state it is in."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
