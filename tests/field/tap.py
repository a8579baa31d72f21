"""QEMU to DPDK through the tap: packets flow, and it publishes what an independent reading of the bytes says."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from tests.daemons import command, daemon, environment
from tests.field.debian import Kernel, install, kernel
from tests.field.dpdk import Testpmd, testpmd
from tests.field.parts import Report
from tests.field.qemu import PACKAGES, end, qemu, traffic_guest, vhost_user_net
from tests.vhost_user_bytes import Event, Reading

ABOUT: Final = "QEMU to DPDK through the tap"

MEASURED: Final = 4
"""Seconds for which packets are counted at least, after the first have flowed."""

LEAST: Final = 1_200
"""Packets that there have to be, so that there was traffic to speak of ..."""

INVALIDATES: Final = 1_000
"""... and INVALIDATEs: one for nearly each."""

PATIENT: Final = ("no_timer_check",)
"""Words for a guest on a busy machine: it panics where its timer is late."""

SPACE: Final = "tapped"

ADDRESSES: Final = ("first", "last", "target")


async def run(report: Report, work: Path) -> None:
    """Have a guest send packets to testpmd, directly and through the tap."""
    install(*PACKAGES)
    image = kernel()
    initrd = traffic_guest(image, work / "initrd")
    async with testpmd(work / "direct.sock", work) as pmd:
        direct = await traffic(pmd, image, initrd, work, work / "direct.sock")
    with daemon(work) as bus, tail(bus.address, work) as seen:
        async with testpmd(work / "back.sock", work) as pmd:
            with tap(bus.address, work) as process:
                through = await traffic(pmd, image, initrd, work, work / "front.sock")
                await said(work / "tap.txt", f"{SPACE}: the front end is gone")
                assert process.poll() is None
        events = await published(seen, work)
    report.count("packets/s, directly", direct)
    report.count("packets/s, through the tap", through, f"{through / direct:.0%}; with a daemon and an observer")
    judge(report, work, events)


async def traffic(pmd: Testpmd, image: Kernel, initrd: Path, work: Path, sock: Path) -> int:
    """Run a guest, and return how many packets arrive in a second."""
    async with qemu(image, initrd, work, *vhost_user_net(sock), append=PATIENT) as guest:
        await guest.wait_said("traffic begins", 60)
        with anyio.fail_after(60):
            while not (before := await pmd.received()):
                await anyio.sleep(0.1)
            begun = anyio.current_time()
            while (count := await pmd.received() - before) < LEAST or anyio.current_time() < begun + MEASURED:
                await anyio.sleep(0.2)
        return int(count / (anyio.current_time() - begun))


@contextmanager
def tap(address: str, work: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Give a tap in a process of its own, which listens."""
    words = command(
        "bridge", "vhost-user-tap", "--listen", str(work / "front.sock"), "--connect", str(work / "back.sock"),
        "--space", SPACE, "--record", str(work / "record.jsonl"), "--address", address,
    )  # fmt: skip
    with (work / "tap.txt").open("wb") as out, (work / "tap-errors.txt").open("wb") as errors:
        process = subprocess.Popen(words, stdout=out, stderr=errors, env=environment())
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0, (work / "tap-errors.txt").read_text()
    finally:
        end(process)


@contextmanager
def tail(address: str, work: Path) -> Generator[Path]:
    """Give the file into which an observer in a process of its own writes what it sees."""
    seen = work / "seen.jsonl"
    with seen.open("wb") as out, (work / "tail.txt").open("wb") as errors:
        words = command("tail", "*", "--json", "--address", address)
        process = subprocess.Popen(words, stdout=out, stderr=errors, env=environment())
    try:
        yield seen
    finally:
        end(process)


async def said(file: Path, part: str) -> None:
    """Wait until a file has some text."""
    with anyio.fail_after(20):
        while part not in file.read_text():
            await anyio.sleep(0.05)


async def published(seen: Path, work: Path) -> list[dict[str, Any]]:
    """Return what the observer saw, once it has seen as many as the bytes say, or no more come."""
    wanted = len(expected(work).events)
    with anyio.move_on_after(20):
        while seen.read_bytes().count(b"\n") < wanted:
            await anyio.sleep(0.05)
    return [json.loads(line) for line in seen.read_text().splitlines()]


def expected(work: Path) -> Reading:
    """Read the bytes that the tap has passed on."""
    reading = Reading()
    for line in (work / "record.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if (entry["chan"], entry["dir"]) == ("main", "rx"):
            reading.read(bytes.fromhex(entry["hex"]))
    reading.end()
    return reading


def judge(report: Report, work: Path, events: list[dict[str, Any]]) -> None:
    """Compare what was published with the bytes."""
    reading = expected(work)
    for number, event in enumerate(events, 1):
        report.check(event["kind"] != "lost", f"the observer is not too slow: {event}")
        report.check(event["seq"] == number, f"no event is left out before {event}")
    found = [as_event(event) for event in events]
    for number, (was, should) in enumerate(zip(found, reading.events, strict=False), 1):
        report.check(was == should, f"event {number} is {should}, and was {was}")
    report.check(len(found) == len(reading.events), f"there are {len(reading.events)} events, and were {len(found)}")
    report.check(reading.invalidates >= INVALIDATES, f"{INVALIDATES} INVALIDATEs, and there were {reading.invalidates}")
    report.count("UPDATEs", reading.updates)
    report.count("INVALIDATEs", reading.invalidates)
    kinds = Counter(event.kind for event in found)
    report.count("events equal to an independent reading", len(found), ", ".join(f"{n} {k}" for k, n in kinds.items()))


def as_event(event: dict[str, Any]) -> Event:
    """Return an event as the independent reading has it."""
    first, last, target = (int(event.get(name, "0"), 0) for name in ADDRESSES)
    perm = {"r": 1, "w": 2, "rw": 3}.get(str(event.get("perm", "")).lower(), 0)
    return Event(event["kind"], first, last, target, perm, bool(event.get("memory")))
