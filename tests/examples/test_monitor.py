"""The monitor, run as a user runs it: events, what was lost, and rates."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import pytest

from iommubus import Perm
from iommubus.bus.abc import AddressSpace
from iommubus.cli.talking import ask, where
from iommubus.wire.messages.queries import Statistics
from tests.daemons import PATIENCE, bus_at, daemon, environment

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "monitor.py"

AT_ONCE: Final = 4000
"""Events that are published in a row: fewer than a mailbox holds, so that the daemon is given each."""


class Monitor:
    """The example, in a process of its own."""

    def __init__(self, runtime: Path, *patterns: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-u", EXAMPLE, *patterns],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(XDG_RUNTIME_DIR=str(runtime)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def read_to(self, part: str) -> str:
        """Read what it prints until a line has this part, and return that."""
        assert self.process.stdout is not None
        while not self.lines or part not in self.lines[-1]:
            line = self.process.stdout.readline()
            assert line, self.lines[-20:]
            self.lines.append(line.rstrip("\n"))
        return self.lines[-1]

    def end(self) -> list[str]:
        """Press Ctrl-C, and return all that it printed; it has to end well."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        self.lines += self.process.stdout.read().splitlines()
        assert self.process.wait(PATIENCE) == 0, self.lines[-20:]
        return self.lines


async def storm(space: AddressSpace, address: str) -> int:
    """Publish until the daemon has lost some for an observer that stands still; return how many events there were."""
    count, place = 0, where(address, None)
    while True:
        for page in range(AT_ONCE // 2):
            space.map(page * 0x1000, 0x1000, 0x8000, Perm.RW)
            space.unmap(page * 0x1000, 0x1000)
        await space.drain()
        count += AT_ONCE
        parts = await ask(place, "test", Statistics)
        if any(observer.lost for part in parts for observer in part.observers):
            return count


@pytest.mark.timeout(60)
def test_it_prints_events_rates_and_what_was_lost(tmp_path: Path) -> None:
    """While it stands still nobody waits for it; then it is told how much it missed, and the sum is right."""
    place = tmp_path / "iommubus"
    place.mkdir()
    with daemon(place) as running, bus_at(running.address) as (portal, bus), Monitor(tmp_path, "vtd*") as monitor:
        monitor.read_to("watching vtd*")
        other, space = (portal.call(bus.create_space, name) for name in ("other", "vtd0"))
        portal.call(lambda: other.map(0x1000, 0x1000, 0x8000, Perm.RW))
        portal.call(lambda: space.map(0x1000, 0x1000, 0x8000, Perm.RW))

        assert monitor.read_to("MAP") == "vtd0#1 MAP 0x1000..0x1fff -> 0x8000 <Perm.RW: 3>"
        portal.call(space.unmap, 0x1000, 0x1000)
        assert monitor.read_to("UNMAP") == "vtd0#2 UNMAP 0x1000..0x1fff"
        assert monitor.read_to("/s map").startswith("vtd0: ")

        monitor.process.send_signal(signal.SIGSTOP)
        count = portal.call(storm, space, running.address)
        monitor.process.send_signal(signal.SIGCONT)
        monitor.read_to("LOST")
        portal.call(lambda: space.map(0x5000, 0x1000, 0x8000, Perm.RW))
        monitor.read_to(f"#{count + 3} MAP 0x5000")
        lines = monitor.end()

    at = lines.index("all in all:")
    counts = {part.split()[1]: int(part.split()[0]) for part in lines[at + 1].removeprefix("vtd0: ").split(", ")}
    assert lines[at + 2 :] == []
    assert sum(counts.values()) == count + 3
    assert counts["lost"] > 0
    assert not any("other" in line for line in lines)
