"""Field part 2: DPDK as the back end of a space, and beside it a second device of the same DPDK behind plain code."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import anyio

from iommubus import AddressSpace, Bus, Memory, Perm
from iommubus.bridges.vhost_user_frontend import FrontendStatistics, VhostUserFrontend
from iommubus.bridging.telling import Notice, Told
from tests.field.dpdk import Testpmd, testpmd
from tests.field.nic import PAGE, Nic
from tests.field.parts import Failed, Report
from tests.field.plain import Plain, memory

ABOUT = "DPDK is the back end of a space: MISSes answered, INVALIDATEs acknowledged, beside a loop without the bus"

ROUNDS: Final = 2_000
SIZE: Final = 1 << 20
PAGES: Final = 0x10_0000
"""Where packets are mapped, one after the other."""

PATIENCE: Final = 20.0


class Scene:
    """A bridge between a space and a DPDK."""

    def __init__(self, space: AddressSpace, ram: Memory, nic: Nic, bridge: VhostUserFrontend, told: list[Told]) -> None:
        self.space = space
        self.ram = ram
        self.nic = nic
        self.bridge = bridge
        self.told = told

    def serves(self) -> int:
        """Return how many times a ring came to be served."""
        return sum(isinstance(each, Notice) and "serves ring" in each.text for each in self.told)

    async def packet(self, iova: int, ram: Memory, offset: int = Nic.SIZE) -> float:
        """Map a packet and send it; return the seconds from there until DPDK is through with it."""
        self.space.map(iova, PAGE, offset, Perm.RW, memory=ram)
        begin = perf_counter()
        self.nic.send(iova)
        await until(lambda: self.nic.sent, "a packet is taken")
        return perf_counter() - begin


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so, and meanwhile let the bridge work."""
    end = perf_counter() + PATIENCE
    while not condition():
        await anyio.sleep(0)
        if perf_counter() > end:
            raise Failed(f"for {PATIENCE:g} s it was waited until {what}")


async def run(report: Report, work: Path) -> None:
    """Run the part."""
    sock, other = work / "space.sock", work / "plain.sock"
    async with testpmd(sock, work, other) as pmd, Bus() as bus:
        space = await bus.create_space("nic")
        ram = await bus.add_memory("ram", SIZE)
        nic = Nic(bus.memory_view(ram))
        told: list[Told] = []
        bridge = VhostUserFrontend(bus, connect=sock, space="nic", rings=nic.rings, tell=told.append)
        at = Scene(space, ram, nic, bridge, told)
        async with anyio.create_task_group() as tasks:
            await tasks.start(bridge.run)
            space.map(0, Nic.SIZE, 0, Perm.RW, memory=ram)
            await until(lambda: at.serves() == 2, "both rings are served")
            await compare(at, other, report)
            await others(at, bus, report)
            await fenced(at, report)
            await killed(at, pmd, report)
            tasks.cancel_scope.cancel()
        report.check("agreed on" in str(told[0]), f"what was agreed is said first, not {told[0]}")
        check(bridge.statistics(), report)


async def compare(at: Scene, other: Path, report: Report) -> None:
    """Send packets through the bus and by plain code in turn, and take both pages away."""
    fd = memory(SIZE)
    bus_answers: list[float] = []
    bus_ends: list[float] = []
    plain_answers: list[float] = []
    plain_ends: list[float] = []
    with mmap.mmap(fd, SIZE) as mapped, memoryview(mapped) as view, Plain(other, fd, SIZE) as plain:
        os.close(fd)
        nic = Nic(view)
        plain.serve(nic.rings, Nic.SIZE)
        for number in range(ROUNDS):
            iova = PAGES + number * PAGE
            bus_answers.append(await at.packet(iova, at.ram))
            begin = perf_counter()
            at.space.unmap(iova, PAGE)
            await at.space.sync()
            bus_ends.append(perf_counter() - begin)
            acknowledged = at.bridge.statistics().acknowledged
            report.check(acknowledged == number + 1, f"sync {number + 1} returns after {acknowledged} acknowledgements")
            plain_answers.append(_packet(plain, nic, iova))
            begin = perf_counter()
            plain.invalidate(iova, PAGE)
            plain_ends.append(perf_counter() - begin)
        del nic
    report.latencies("packet: MISS, UPDATE, taken", bus_answers, "through the bus")
    report.latencies("packet, plain code", plain_answers, f"the bus takes {_ratio(bus_answers, plain_answers)}")
    report.latencies("unmap and sync: INVALIDATE", bus_ends, "through the bus")
    report.latencies("INVALIDATE, plain code", plain_ends, f"the bus takes {_ratio(bus_ends, plain_ends)}")


def _packet(plain: Plain, nic: Nic, iova: int) -> float:
    begin = perf_counter()
    nic.send(iova)
    if plain.missed() != iova:
        raise Failed(f"DPDK asks for another page than {iova:#x}")
    plain.update(iova, PAGE, Nic.SIZE)
    while not nic.sent:
        if perf_counter() - begin > PATIENCE:
            raise Failed(f"for {PATIENCE:g} s DPDK does not take a packet from plain code")
    return perf_counter() - begin


def _ratio(one: list[float], other: list[float]) -> str:
    return f"{median(one) / median(other):.1f} times that"


async def others(at: Scene, bus: Bus, report: Report) -> None:
    """Send packets out of memories that DPDK has not seen, more than it has room for; each changes its table."""
    for number in range(10):
        ram = await bus.add_memory(f"other{number}", 4 * PAGE)
        await at.packet(PAGES + number * PAGE, ram, offset=PAGE)
    at.space.unmap(PAGES, 10 * PAGE)
    await at.space.sync()
    report.count("memories", at.bridge.statistics().memories, f"{at.bridge.statistics().withdrawn} of them withdrawn")


async def fenced(at: Scene, report: Report) -> None:
    """Fence the bridge: DPDK has to stop, and to go on in the next connection."""
    (name,) = at.space.statistics().subscriptions
    begin = perf_counter()
    report.check(await at.space.fence(name), "DPDK is proven stopped by its answers to GET_VRING_BASE")
    report.count("ms until a fenced DPDK is proven stopped", (perf_counter() - begin) * 1e3)
    await at.space.sync()
    await until(lambda: at.serves() == 4, "both rings are served again")
    await at.packet(PAGES, at.ram)


async def killed(at: Scene, pmd: Testpmd, report: Report) -> None:
    """Kill DPDK with a page in use: the end of its process is the proof."""
    pmd.process.kill()
    at.space.unmap(PAGES, PAGE)
    await at.space.sync()
    report.check(pmd.process.poll() is not None, "a sync completes only when the process of a killed DPDK has ended")


def check(counts: FrontendStatistics, report: Report) -> None:
    """Hold the counters against what was done."""
    report.count("MISSes answered", counts.updates, f"{counts.misses} came, {counts.stale} answers were stale")
    report.count("INVALIDATEs acknowledged", counts.acknowledged)
    report.check(counts.acknowledged >= ROUNDS, f"{ROUNDS} INVALIDATEs are acknowledged, not {counts.acknowledged}")
    report.check(counts.updates >= ROUNDS, f"{ROUNDS} MISSes are answered, not {counts.updates}")
    report.check(counts.refused == 0, f"DPDK refuses nothing, and refused {counts.refused}")
