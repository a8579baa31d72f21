"""Processes as the kernel sees them: where they may run, what they used, what they take."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

NANOSECONDS: Final = 1e9


def threads(pid: int) -> list[Path]:
    """Return the directories of a process's threads."""
    return list(Path(f"/proc/{pid}/task").iterdir())


def pin(pid: int, cpus: Iterable[int]) -> None:
    """Let all threads of a process run on these CPUs alone."""
    for thread in threads(pid):
        os.sched_setaffinity(int(thread.name), cpus)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that all threads of a process have used; exact while they sleep."""
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads(pid)) / NANOSECONDS


def memory(pid: int) -> int:
    """Return the bytes that a process has for itself, and its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    raise LookupError("there is no Pss in smaps_rollup")
