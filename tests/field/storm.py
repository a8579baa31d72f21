"""Field part 6: one producer against a daemon, a cacher, a shadower, and a back end behind the front-end bridge."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from tests.daemons import command, daemon, environment
from tests.field.parts import Failed, Report
from tests.field.qemu import end

ABOUT = "60 s of UNMAPs as fast as they can be made: daemon, cacher, shadower, front-end bridge and its back end"

SECONDS: Final = 60
ROOT: Final = Path(__file__).parents[2]

LEAST: Final = 50
"""Syncs, and reads of each consumer, without which the storm would show little."""

SAMPLE: Final = 1.0
"""Seconds between two looks at the memory of the daemon."""

FLAT: Final = 8 << 20
"""Bytes that the daemon may have more in the last third than in the second, at most."""


class Role:
    """A process of the storm."""

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        self.process = process
        self._name = name

    async def said(self) -> dict[str, Any]:
        """Return what it says next."""
        line = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        if not line:
            raise Failed(f"the {self._name} has ended with {self.process.wait()}")
        return msgspec.json.decode(line, type=dict[str, Any])

    def ask(self) -> None:
        """Ask for its counters, or, of the producer, to begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def role(name: str, *words: str) -> Generator[Role]:
    """Start a process, and end it with the block."""
    with started([sys.executable, "-m", "tests.field.storming", name, *words]) as process:
        yield Role(process, name)


@contextmanager
def started(words: list[str]) -> Generator["subprocess.Popen[bytes]"]:
    """Start a process, and end it with the block."""
    variables = environment(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, cwd=ROOT, env=variables)
    try:
        yield process
    finally:
        end(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def run(report: Report, work: Path) -> None:
    """Run the part."""
    sock = work / "device.sock"
    with ExitStack() as stack:
        served = stack.enter_context(daemon(work))
        device = stack.enter_context(role("device", str(sock)))
        producer = stack.enter_context(role("producer", served.address, str(SECONDS)))
        await device.said()
        await producer.said()
        consumers = {name: stack.enter_context(role(name, served.address)) for name in ("cacher", "shadower")}
        for consumer in consumers.values():
            await consumer.said()
        words = ("bridge", "vhost-user-frontend", "--connect", str(sock), "--space", "storm", "--name", "bridge")
        bridge = Role(stack.enter_context(started(command(*words, "-a", served.address, "--json"))), "bridge")
        await bridge.said()

        samples = [resident(served.process.pid)]
        producer.ask()
        await _watch(samples, served.process.pid)
        producer.ask()
        found = await producer.said()
        followers = await _asked({**consumers, "device": device})
        subscribers = await _subscribers(served.address)
        bridge.process.terminate()
        left = await anyio.to_thread.run_sync(bridge.process.wait)
    _tell(report, found, followers, subscribers)
    _check(report, found, followers, subscribers)
    _check_memory(report, samples)
    report.check(left == 0, f"the bridge ends well, not with {left}")


async def _watch(samples: list[int], pid: int) -> None:
    for _ in range(round(SECONDS / SAMPLE)):
        await anyio.sleep(SAMPLE)
        samples.append(resident(pid))


async def _asked(roles: dict[str, Role]) -> dict[str, dict[str, Any]]:
    answers: dict[str, dict[str, Any]] = {}
    for name, one in roles.items():
        one.ask()
        answers[name] = await one.said()
    return answers


async def _subscribers(address: str) -> dict[str, dict[str, Any]]:
    done = await anyio.run_process(command("subscribers", "-a", address, "--json"), env=environment())
    return {each["subscriber"]: each for each in msgspec.json.decode(done.stdout, type=list[dict[str, Any]])}


def _tell(
    report: Report, found: dict[str, Any], followers: dict[str, dict[str, Any]], subscribers: dict[str, dict[str, Any]]
) -> None:
    report.count("UNMAPs", found["unmaps"], f"{found['unmaps'] / SECONDS:,.0f} a second")
    report.latencies("syncs", found["seconds"], f"{found['failed']} failed")
    for name in ("cacher", "shadower", "bridge"):
        one = subscribers[name]
        report.count(
            f"conflations of the {name}", one["conflations"], f"{one['delivered']['unmap']:,} UNMAPs delivered"
        )
    for name in ("cacher", "device"):
        report.count(f"reads of the {name}", followers[name]["reads"], f"{followers[name]['wrong']} of a page gone")


def _check(
    report: Report, found: dict[str, Any], followers: dict[str, dict[str, Any]], subscribers: dict[str, dict[str, Any]]
) -> None:
    report.check(not found["failed"], f"every sync is honoured; {found['failed']} failed")
    report.check(found["syncs"] >= LEAST, f"there are at least {LEAST} syncs, not {found['syncs']}")
    for name in ("cacher", "device"):
        one = followers[name]
        report.check(one["reads"] >= LEAST, f"the {name} reads meanwhile, at least {LEAST} times, not {one['reads']}")
        report.check(
            not one["wrong"], f"after a sync nobody reads what was unmapped; the {name} did {one['wrong']} times"
        )
    same = followers["shadower"]["digest"] == found["digest"]
    report.check(same, f"the mirror has what is mapped: {found['mappings']}, not {followers['shadower']['mappings']}")
    conflated = sum(one["conflations"] for one in subscribers.values())
    report.check(conflated, "the storm is more than mailboxes hold, so something is conflated")
    report.check(all(not one["fenced"] for one in subscribers.values()), "nobody is fenced")


def _check_memory(report: Report, samples: list[int]) -> None:
    third = len(samples) // 3
    second, last = max(samples[third : 2 * third]), max(samples[2 * third :])
    report.count("MiB of the daemon", last / 2**20, f"{second / 2**20:.1f} before, {samples[0] / 2**20:.1f} at first")
    report.check(last <= second + FLAT, f"the memory of the daemon stays flat: {second} bytes became {last}")
