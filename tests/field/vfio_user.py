"""vfio-user: both roles against each other, each in a process of its own; and the server against a recorded QEMU."""

import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from errno import ENOTSUP, errorcode
from mmap import mmap
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskStatus

from iommubus import Bus, Cap, Mirror, Perm, connect
from iommubus.abi import vfio_user
from iommubus.bridges.vfio_user_server import Done, ServerStatistics, VfioUserServer
from iommubus.bus.abc import AddressSpace, EventBus
from iommubus.bus.reports import Missing
from iommubus.errors import SyncFailed
from iommubus.events import Memory
from tests.abi.test_traces import VFIO_USER, Line, lines
from tests.bridges.vfio_user_peers import ERROR, VERSION, End, Heard, connect as connect_to, memfd, message, version
from tests.daemons import command, daemon, environment
from tests.field.parts import Failed, Report
from tests.field.qemu import end

ABOUT: Final = "vfio-user: client and server in processes of their own, and a recorded QEMU replayed into the server"

PAGE: Final = 0x1000
PAGES: Final = 256
ROUNDS: Final = 500
BATCHES: Final = 20

DEVICE: Final = """
import sys, mmap, anyio
from iommubus import Cap, Map, connect

async def main():
    with open(sys.argv[2], "r+b") as file:
        record = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    async with connect(sys.argv[1], name="device") as bus:
        async with bus.subscribe("far", Cap.IOTLB, name="device") as events:
            print("follows", flush=True)
            async for event in events:  # what is recorded here is acknowledged behind it
                for page in range(event.first >> 12, min((event.last >> 12) + 1, len(record))):
                    there = isinstance(event, Map)
                    record[page] = event.target // 4096 + page - (event.first >> 12) + 1 if there else 0

anyio.run(main)
"""
"""A device behind the server: it keeps in a shared file what it can reach, page by page: 0, or 1 and the target."""


async def run(report: Report, work: Path) -> None:
    """Run both."""
    await against_each_other(report, work)
    await recorded(report, work)


# -- both roles --------------------------------------------------------------------


class Rig:
    """What runs: a near space of this process, and what the device behind the far one can reach."""

    def __init__(self, work: Path, address: str, bus: EventBus, space: AddressSpace, memory: Memory) -> None:
        self.work = work
        self.address = address
        self.bus = bus
        self.space = space
        self.memory = memory
        self.record = memoryview(bytearray())

    def map(self, page: int, target: int) -> None:
        self.space.map(page * PAGE, PAGE, target * PAGE, Perm.RW, memory=self.memory)

    async def shows(self, pages: dict[int, int], what: str) -> None:
        """Wait until the device can reach these pages, and no others."""
        wanted = [pages[page] + 1 if page in pages else 0 for page in range(PAGES)]
        with anyio.move_on_after(20):
            while list(self.record) != wanted:
                await anyio.sleep(0.002)
            return
        raise Failed(f"{what}: the device does not reach what it should")


@contextmanager
def process(words: Sequence[str], work: Path, name: str) -> Generator["subprocess.Popen[bytes]"]:
    """Give a process that says what it says into a file, and end it."""
    with (work / f"{name}.txt").open("ab") as out:
        started = subprocess.Popen(words, stdout=out, stderr=out, env=environment())
    try:
        yield started
    finally:
        end(started)


async def says(work: Path, name: str, text: str, times: int = 1) -> None:
    """Wait until a process has said something so often."""
    with anyio.move_on_after(20):
        while (work / f"{name}.txt").read_text().count(text) < times:
            await anyio.sleep(0.01)
        return
    raise Failed(f"{name} has not said {text!r}: {(work / f'{name}.txt').read_text()[-1000:]}")


def bridge(rig: Rig, role: str, *options: str) -> list[str]:
    """Return the command line of a bridge."""
    return command("bridge", f"vfio-user-{role}", "-a", rig.address, *options)


@asynccontextmanager
async def rigged(work: Path) -> AsyncGenerator[Rig]:
    """Give a daemon, a device, and a producer; the bridges between them are started by others."""
    record = work / "record"
    record.write_bytes(bytes(PAGES * 8))
    with daemon(work) as running, record.open("r+b") as file, mmap(file.fileno(), 0) as shared:
        words = [sys.executable, "-c", DEVICE, running.address, str(record)]
        async with connect(running.address, name="machine") as bus:
            rig = Rig(work, running.address, bus, await bus.create_space("near"), await bus.add_memory("ram", 1 << 30))
            with process(words, work, "device"), memoryview(shared).cast("Q") as rig.record:
                await says(work, "device", "follows")
                yield rig


async def against_each_other(report: Report, work: Path) -> None:
    """Map and unmap at the near end, and look at what the device behind the far end can reach."""
    path = work / "v.sock"
    async with rigged(work) as rig:
        serve = bridge(rig, "server", "--listen", str(path), "--space", "far")
        follow = bridge(rig, "client", "--connect", str(path), "--space", "near")
        with process(follow, work, "client") as client:
            with process(serve, work, "server") as server:
                await says(work, "client", "agreed on")
                await one_by_one(report, rig)
                await many_at_once(report, rig)
                await held_up(report, rig, server)
                await killed(report, rig, server)
            with process(serve, work, "server"):
                await says(work, "client", "agreed on", 2)
                await rig.shows({page: 512 + page for page in range(8)}, "after a restart")
                report.count("servers killed and started again", 1, "the client connects, and all is mapped again")
                client.send_signal(signal.SIGTERM)
                report.check(await ended(client) == 0, f"the client ends well: {client.returncode}")
                await rig.shows({}, "after the client was told to end")


async def ended(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process, and return its status."""
    return await anyio.to_thread.run_sync(process.wait, 20)


async def one_by_one(report: Report, rig: Rig) -> None:
    """A page at a time: when `sync` has returned the device has let go."""
    took: list[float] = []
    for turn in range(ROUNDS):
        page = turn % PAGES
        rig.map(page, turn)
        await rig.space.sync(20)
        rig.space.unmap(page * PAGE, PAGE)
        begin = time.perf_counter()
        await rig.space.sync(20)
        took.append(time.perf_counter() - begin)
        report.check(rig.record[page] == 0, f"page {page} is unmapped in turn {turn}, and the device reaches it")
    report.latencies("UNMAPs through both, each with its sync", took, "the device had let go of each")


async def many_at_once(report: Report, rig: Rig) -> None:
    """All pages, and half of them away again, many times."""
    unmapped = 0
    for turn in range(BATCHES):
        for page in range(PAGES):
            rig.map(page, turn * PAGES + page)
        await rig.space.sync(20)
        for page in range(turn % 2, PAGES, 2):
            rig.space.unmap(page * PAGE, PAGE)
            unmapped += 1
        await rig.space.sync(20)
        report.check(
            not any(rig.record[page] for page in range(turn % 2, PAGES, 2)), f"the device reaches what went in {turn}"
        )
        left = {page: turn * PAGES + page for page in range(1 - turn % 2, PAGES, 2)}
        await rig.shows(left, f"batch {turn}")
        rig.space.unmap_all()
        await rig.space.sync(20)
        report.check(not any(rig.record), f"the device reaches something after batch {turn}")
    report.count("UNMAPs in batches", unmapped + BATCHES * PAGES // 2)


async def held_up(report: Report, rig: Rig, server: "subprocess.Popen[bytes]") -> None:
    """A server that stands still holds up the sync, and is not believed to be done."""
    rig.map(3, 3)
    await rig.space.sync(20)
    server.send_signal(signal.SIGSTOP)
    rig.space.unmap(3 * PAGE, PAGE)
    try:
        await rig.space.sync(0.3)
    except SyncFailed as failed:
        report.check(len(failed.missing) == 1, f"one is missing: {failed}")
    else:
        raise Failed("a sync has returned while the server stood still")
    server.send_signal(signal.SIGCONT)
    await rig.space.sync(20)
    report.check(rig.record[3] == 0, "the device let go of page 3")
    report.count("syncs that a stopped server held up", 1, "and that were through when it went on")


async def killed(report: Report, rig: Rig, server: "subprocess.Popen[bytes]") -> None:
    """The server is killed: its end is the proof."""
    for page in range(8):
        rig.map(page, 512 + page)
    await rig.space.sync(20)
    await rig.shows({page: 512 + page for page in range(8)}, "before the server is killed")
    server.kill()
    await ended(server)
    await rig.shows({}, "after the server was killed")
    with anyio.fail_after(20):
        while True:
            try:
                await rig.space.sync(5)
            except SyncFailed as failed:
                report.check(all(isinstance(one, Missing) for one in failed.missing), str(failed))
            else:
                return


# -- a recording -------------------------------------------------------------------


class Recorded:
    """The device of the recording: it answers as that one did."""

    def __init__(self, answers: Sequence[Line]) -> None:
        self._answers = deque(answers)
        self.said = 0

    async def handle(self, command: int, payload: bytes, fds: Sequence[int]) -> Done | int:
        del payload, fds
        if not self._answers:
            return ENOTSUP
        answer = self._answers.popleft()
        header = vfio_user.HEADER.decode(answer.data[:16])
        if header.command != command:
            raise Failed(f"command {command} came where the recording has {header.command}")
        self.said += 1
        return Done(answer.data[16:].ljust(header.msg_size - 16, b"\0"))

    def client_gone(self) -> None:
        pass


class Replay:
    """A client that says what the recorded one said, and compares what it hears with what that one heard.

    Args:
        client: Its connection.
        ram: The guest's memory.
    """

    def __init__(self, client: End, ram: int) -> None:
        self.errors: Counter[str] = Counter()
        self.same = self.cut = 0
        self.took: list[float] = []
        self._client = client
        self._ram = ram
        self._began: dict[int, float] = {}
        self._early: dict[int, Heard] = {}

    def say(self, line: Line) -> None:
        """Say one thing, with a descriptor where it had one."""
        header = vfio_user.HEADER.decode(line.data[:16])
        data = line.data
        if header.msg_size > len(data):
            self.cut += 1
            data = message(header.msg_id, VERSION, version(pgsizes=4096, max_msg_fds=16, max_dma_maps=65535))
        if header.command == vfio_user.Command.DMA_UNMAP:
            self._began[header.msg_id] = time.perf_counter()
        self._client.send(data, [self._ram] * line.descriptors)

    async def compare(self, line: Line) -> None:
        """Hear the answer to what was said, and compare it with the recorded one."""
        header = vfio_user.HEADER.decode(line.data[:16])
        heard = await self._answer_to(header.msg_id)
        if (heard.command, heard.flags, heard.error) != (header.command, int(header.flags), header.error):
            raise Failed(f"{heard} is not what the recording has: {header}")
        payload = line.data[16:]
        if header.msg_size > len(line.data):
            self.cut += 1
        if header.command != VERSION and not heard.payload.startswith(payload):
            raise Failed(f"{heard.payload.hex()} is not what the recording has: {payload.hex()}")
        self.same += 1
        if heard.flags & ERROR:
            self.errors[errorcode[heard.error]] += 1
        elif heard.number in self._began:
            self.took.append(time.perf_counter() - self._began.pop(heard.number))

    async def _answer_to(self, number: int) -> Heard:
        with anyio.fail_after(20):
            while number not in self._early:
                heard = await self._client.hear()
                if heard is None:
                    raise Failed("the server has closed the connection")
                self._early[heard.number] = heard
        self._client.heard.clear()
        return self._early.pop(number)


async def mirrored(bus: EventBus, *, task_status: TaskStatus[Mirror]) -> None:
    """Keep a copy of the space."""
    async with bus.subscribe("guest", Cap.IOTLB, name="mirror") as events:
        mirror = Mirror(events)
        task_status.started(mirror)
        await mirror.run()


async def recorded(report: Report, work: Path) -> None:
    """Say to the server what a real QEMU said, in its order, and compare the answers."""
    told = lines(VFIO_USER)
    device = Recorded([line for line in told if line.stream[1] == "s2c" and is_the_devices(line)])
    path = work / "guest.sock"
    async with Bus() as bus, anyio.create_task_group() as tasks:
        server = VfioUserServer(bus, listen=str(path), space="guest", handler=device, tell=lambda _: None)
        await tasks.start(server.run)
        mirror = await tasks.start(mirrored, bus)
        with await connect_to(path) as client, memfd(guest_size(told) // PAGE) as ram:
            replay = Replay(client, ram)
            for line in told:
                if line.stream[1] == "c2s":
                    replay.say(line)
                else:
                    await replay.compare(line)
            await bus.sync()
            seen = {(one.first, one.size, one.target, int(one.perm)) for one in mirror}
            report.check(seen == left_by(told), f"what is mapped in the end: {seen}")
            say_what_came(report, replay, server.statistics(), len(seen))
        tasks.cancel_scope.cancel()


def say_what_came(report: Report, replay: Replay, statistics: ServerStatistics, left: int) -> None:
    """Report what came of a replay, and check it."""
    report.count("recorded answers of libvfio-user, and ours the same", replay.same)
    errors = ", ".join(f"{count} {name}" for name, count in replay.errors.items())
    report.count("errors among them", sum(replay.errors.values()), errors)
    report.check(replay.errors == {"ENOENT": 142}, f"the errors are those of the recording: {errors}")
    report.check(replay.cut == 3, f"three messages are cut in the recording: {replay.cut}")
    report.count("messages that the recording cut, compared up to there", replay.cut)
    report.count("DMA_MAPs", statistics.maps, f"{left} mapped in the end, as in the recording")
    report.latencies("DMA_UNMAPs, each with its sync", replay.took, f"{statistics.syncs:,} syncs")


def is_the_devices(line: Line) -> bool:
    """Say whether a recorded message is about the device, and not about memory."""
    return vfio_user.HEADER.decode(line.data[:16]).command > vfio_user.Command.DMA_UNMAP


def bodies(told: Sequence[Line]) -> Iterator[tuple[vfio_user.Body, int]]:
    """Yield the MAPs and UNMAPs that were done, and with how many descriptors."""
    asked: dict[int, tuple[vfio_user.Body, int]] = {}
    for line in told:
        header = vfio_user.HEADER.decode(line.data[:16])
        if header.command not in {vfio_user.Command.DMA_MAP, vfio_user.Command.DMA_UNMAP}:
            continue
        if not header.flags & vfio_user.Flags.REPLY:
            asked[header.msg_id] = vfio_user.decode(line.data).body, line.descriptors
        elif not header.flags & vfio_user.Flags.ERROR:
            yield asked.pop(header.msg_id)


def guest_size(told: Sequence[Line]) -> int:
    """Return how large the guest's memory is: as far as it was mapped."""
    return max(body.offset + body.size for body, fds in bodies(told) if isinstance(body, vfio_user.DmaMap) and fds)


def left_by(told: Sequence[Line]) -> set[tuple[int, int, int, int]]:
    """Return what is mapped in the end: address, size, target, access."""
    held: dict[int, tuple[int, int, int, int]] = {}
    for body, fds in bodies(told):
        if isinstance(body, vfio_user.DmaMap):
            target = body.offset if fds else body.address
            held[body.address] = body.address, body.size, target, int(vfio_user.perm_of(body))
        elif isinstance(body, vfio_user.DmaUnmap):
            del held[body.address]
    return set(held.values())
