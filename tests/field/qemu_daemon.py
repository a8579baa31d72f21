"""A guest behind VT-d under traffic, its bridge, a daemon, a cacher and an observer, each in a process of its own."""

import os
import signal
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio

from tests.daemons import daemon, environment
from tests.field import debian, qemu
from tests.field.logs import Kind, Log, Record
from tests.field.parts import Failed, Report

ABOUT: Final = "a guest behind VT-d under traffic -> bridge -> daemon -> a cacher and an observer"

INVALIDATES: Final = 5000
"""That many at least are acknowledged before anything is killed."""

AFTERWARDS: Final = 200
"""Packets that have to come after a restart, and after a fence."""

DEADLINE: Final = 1.0
"""Seconds after which the bridge fences the cacher."""

LEASE: Final = 2.0
"""Seconds of the cacher's lease."""

PATIENCE: Final = 60.0
"""Seconds that one step may take."""

TOP: Final = Path(__file__).parents[2]


class Actor:
    """A process of the story.

    Args:
        process: It.
        log: What it writes down.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Log) -> None:
        self.process = process
        self.log = log

    def count(self, kind: Kind) -> int:
        """Return how many records of a kind there are."""
        return self.log.count(kind)

    @property
    def packets(self) -> int:
        """How many packets a bridge's card has taken."""
        last = self.log.last(Kind.PACKETS)
        return last.one if last else 0

    async def until(self, seen: Callable[["Actor"], object], what: str) -> None:
        """Wait until something can be seen in the log."""
        with anyio.move_on_after(PATIENCE):
            while True:
                ended = self.process.poll() is not None
                if seen(self):
                    return
                if ended:
                    raise Failed(f"{what}: its process ended with {self.process.returncode}")
                await anyio.sleep(0.05)
        raise Failed(f"{what} within {PATIENCE:g} s")


class Stage:
    """Starts actors, and ends them.

    Args:
        work: Where their logs are.
        address: Where the daemon is.
    """

    def __init__(self, work: Path, address: str) -> None:
        self._work = work
        self._address = address
        self._started = 0

    @contextmanager
    def actor(self, role: str, *more: str) -> Generator[Actor]:
        """Give a process that plays a role."""
        self._started += 1
        name = f"{self._started}-{role}"
        path = self._work / f"{name}.log"
        words = [sys.executable, "-m", "tests.field.actors", role, self._address, str(path), *more]
        with (self._work / f"{name}.txt").open("wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=out, env=environment(), cwd=TOP)
        try:
            yield Actor(process, Log(path))
        finally:
            qemu.end(process)


async def run(report: Report, work: Path) -> None:
    """Run the part."""
    debian.install(*qemu.PACKAGES)
    kernel = debian.kernel()
    initrd = qemu.traffic_guest(kernel, work / "traffic.cpio")
    sock = work / "vhost.sock"
    with daemon(work, "--leases-seconds", str(LEASE)) as running:
        stage = Stage(work, running.address)
        with stage.actor("bridge", str(sock), str(DEADLINE)) as first:
            await first.until(ready, "the bridge did not listen")
            with stage.actor("cacher") as cacher, stage.actor("observer") as observer:
                await cacher.until(ready, "the cacher was not ready")
                await observer.until(ready, "the observer was not ready")
                async with qemu.qemu(kernel, initrd, work, *qemu.vhost_user_net(sock)) as guest:
                    await guest.wait_said("traffic begins", PATIENCE)
                    await traffic(report, first, cacher, observer)
                    await stopped(report, first, cacher)
                    killed = guest.sent()
                    os.kill(first.process.pid, signal.SIGKILL)
                    with stage.actor("bridge", str(sock), str(DEADLINE)) as second:
                        await second.until(lambda actor: actor.packets > AFTERWARDS, "no packets after the restart")
                        await second.until(lambda _: guest.sent() > killed + AFTERWARDS, "the guest did not go on")
                        report.count("packets after kill -9 of the bridge", second.packets)


def ready(actor: Actor) -> bool:
    """Say whether an actor is where it has to be."""
    return actor.count(Kind.READY) > 0


async def traffic(report: Report, bridge: Actor, cacher: Actor, observer: Actor) -> None:
    """Let packets flow until there were enough INVALIDATEs, and look at what was written down."""
    await bridge.until(lambda actor: actor.count(Kind.INVALIDATE) > INVALIDATES, f"not {INVALIDATES} INVALIDATEs")
    invalidates, seen = pairs(bridge.log.records()), cacher.log.records()
    report.check(len(invalidates) >= INVALIDATES, f"only {len(invalidates)} INVALIDATEs were acknowledged")
    wrong = early(invalidates, seen)
    report.check(not wrong, f"{wrong} of {len(invalidates)} INVALIDATEs were acknowledged before the cacher let go")
    wrong = stale(invalidates, seen)
    report.check(not wrong, f"the cacher used {wrong} pages after the guest was told that nobody does")
    report.check(cacher.count(Kind.USE) > INVALIDATES // 10, f"the cacher used {cacher.count(Kind.USE)} pages only")
    await observer.until(lambda actor: actor.count(Kind.UNMAP) >= len(invalidates), "the observer did not see all")
    report.check(not observer.count(Kind.LOST), "the observer was told that it missed something")
    told = {record.one: record for record in observer.log.records() if record.kind is Kind.UNMAP}
    wrong = sum(told[begin.one][2:] != begin[2:] for begin, _ in invalidates)
    report.check(not wrong, f"the observer was told something else of {wrong} INVALIDATEs")

    seconds = (invalidates[-1][1].time - invalidates[0][0].time) / 1e9
    took = [(end.time - begin.time) / 1e9 for begin, end in invalidates]
    report.latencies("INVALIDATE to its acknowledgement", took, f"{len(invalidates) / seconds:,.0f} a second")
    report.count("packets taken meanwhile", bridge.packets, f"{bridge.packets / seconds:,.0f} a second")
    report.count("reads by the cacher", cacher.count(Kind.USE), "none of a page that the guest had back")


async def stopped(report: Report, bridge: Actor, cacher: Actor) -> None:
    """Stop the cacher: QEMU is answered once it is fenced and proven stopped, not before; then the guest goes on."""
    os.kill(cacher.process.pid, signal.SIGSTOP)
    before = bridge.packets
    await bridge.until(lambda actor: actor.count(Kind.FENCED), "the cacher was not fenced")
    await bridge.until(lambda actor: actor.packets > before + AFTERWARDS, "the guest did not go on after the fence")
    os.kill(cacher.process.pid, signal.SIGCONT)
    await cacher.until(lambda actor: actor.count(Kind.FENCED), "the cacher did not find that it is fenced")
    messages, seen = bridge.log.records(), cacher.log.records()
    fenced = next(record.time for record in messages if record.kind is Kind.FENCED)
    last = max(record.one for record in seen if record.kind is Kind.LET_GO)
    waited = [pair for pair in pairs(messages) if pair[0].one > last]
    report.check(waited, "no INVALIDATE waited for the cacher that was stopped")
    begin, end = waited[0]
    report.check(end.time >= fenced, "QEMU was answered before the cacher was fenced")
    wrong = stale(waited, seen)
    report.check(not wrong, f"the cacher used {wrong} pages after it was fenced and the guest went on")
    report.count("seconds that QEMU waited for a cacher that was stopped", (end.time - begin.time) / 1e9)


# -- judging -----------------------------------------------------------------------

Pair = tuple[Record, Record]
"""An IOTLB message that came to the bridge, and its acknowledgement."""

PAGE: Final = 0x1000

FEW: Final = 64
"""Pages of an INVALIDATE that are looked at one by one; a larger one is taken for one of the whole space."""


def pairs(messages: list[Record]) -> list[Pair]:
    """Return each INVALIDATE that came to a bridge and was acknowledged; acknowledgements are in order."""
    came = [record for record in messages if record.kind in {Kind.INVALIDATE, Kind.UPDATE}]
    acknowledged = [record for record in messages if record.kind is Kind.ACKNOWLEDGED]
    return [pair for pair in zip(came, acknowledged, strict=False) if pair[0].kind is Kind.INVALIDATE]


def early(invalidates: list[Pair], seen: list[Record]) -> int:
    """Count the INVALIDATEs that were acknowledged before a cacher had let go of what they took away."""
    letting = [record for record in seen if record.kind is Kind.LET_GO]
    found = 0
    for begin, end in invalidates:
        place = bisect_left(letting, begin.one, key=lambda record: record.one)
        found += place == len(letting) or letting[place].time > end.time
    return found


def stale(invalidates: list[Pair], seen: list[Record]) -> int:
    """Count the uses of what an INVALIDATE took away that was acknowledged before."""
    steps = sorted(
        [(end.time, begin) for begin, end in invalidates] + [(use.time, use) for use in seen if use.kind is Kind.USE]
    )
    gone: dict[int, int] = {}  # the last INVALIDATE of each page; and of all, under -1
    found = 0
    for _, record in steps:
        if record.kind is Kind.USE:
            page = record.two // PAGE
            found += record.one < max(gone.get(page, 0), gone.get(-1, 0))
            continue
        pages = range(record.two // PAGE, record.three // PAGE + 1)
        for page in pages if len(pages) <= FEW else [-1]:
            gone[page] = record.one
    return found
