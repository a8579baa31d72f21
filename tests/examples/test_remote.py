"""The examples of two processes and a daemon, run as a user runs them."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.daemons import PATIENCE, daemon, environment

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

EMULATOR: Final = [
    "guest: press Enter to unmap 0x3000",
    "iommu: asked for 0x1000, W",
    "iommu: asked for 0x2000, W",
    "iommu: asked for 0x3000, W",
    "guest: the page is free, vhost acknowledged",
    "guest: press Enter to power off",
    "iommu: asked for 0x3000, R",
]

CACHER: Final = [
    "vhost: 0x1000 -> 0x80007000",
    "vhost: 0x1800 -> 0x80007800",
    "vhost: 0x2000 -> 0x80003000",
    "vhost: 0x3000 -> 0x80009000",
    "vhost: 0x3000 was unmapped, and is still in use",
    "vhost: lets go of it",
    "vhost: nothing is mapped at 0x3000",
    "cache: 2 hits, 4 misses, 1 eviction, 1 invalidation, 1 entry left, 0 pinned",
]


class Terminal:
    """A program that was started in a terminal of its own."""

    def __init__(self, example: str, address: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-u", EXAMPLES / example],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(XDG_RUNTIME_DIR=address),
        )

    def read_to(self, line: str) -> None:
        """Read what it prints until it is this line."""
        assert self._process.stdout is not None
        while not self.lines or self.lines[-1] != line:
            read = self._process.stdout.readline()
            assert read, self.lines
            self.lines.append(read.rstrip("\n"))

    def press_enter(self) -> None:
        """Press Enter."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> list[str]:
        """Read to its end, and return all that it printed; it has to end well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with self._process.stdout as output:
            self.lines += output.read().splitlines()
        assert self._process.wait(PATIENCE) == 0, self.lines
        return self.lines


@pytest.mark.timeout(60)
def test_they_tell_one_story_between_them(tmp_path: Path) -> None:
    """
    A sync in one process waits for a pin in the other.
    """
    place = tmp_path / "iommubus"
    place.mkdir()
    with daemon(place):
        emulator = Terminal("remote_emulator.py", str(tmp_path))
        emulator.read_to(EMULATOR[0])
        cacher = Terminal("remote_cacher.py", str(tmp_path))
        cacher.read_to(CACHER[3])
        emulator.press_enter()
        cacher.read_to(CACHER[-1])
        emulator.read_to(EMULATOR[4])
        emulator.press_enter()
        cacher_said, emulator_said = cacher.end(), emulator.end()

    assert cacher_said == CACHER
    assert sorted(emulator_said) == sorted(EMULATOR)
    assert emulator_said[:5] == EMULATOR[:5]
