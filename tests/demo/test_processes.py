"""Whole traces across processes: right ones, seeded faults, and processes that are lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import pytest
from anyio.abc import TaskStatus

from iommubus import Cap
from iommubus.bus.abc import EventBus
from iommubus.demo.casting import Crew
from iommubus.demo.house import Unopened
from iommubus.demo.job import LOOPS
from iommubus.demo.player import play
from iommubus.demo.processes import how_it_ended, own_processes
from iommubus.demo.result import Progress, Result
from iommubus.demo.subscribers import Cacher, Follower, Shadower
from iommubus.errors import Disconnected
from iommubus.events import Event, Unmap
from tests.daemons import PATIENCE, command, daemon, environment
from tests.demo.test_player import STORY, UNMAP_OF_VICTIM, VICTIM, Hoarder, Losing, SlowAndForgetful, script

PULL: Final = ["vtd_inv_desc_iotlb_pages iotlb invalidate domain 0x1 addr 0x1000 mask 0x0"]
"""Of a space without a table: it has a cache and an observer alone."""


pytestmark = pytest.mark.timeout(90)  # many processes start, which a busy machine does slowly


def nobody(_: Progress) -> None:
    """Do not watch."""


def played(
    lines: list[str] = STORY,
    *,
    crew: Crew | None = None,
    address: str | None = None,
    loop: str = "uvloop",
    watch: Callable[[Progress], object] = nobody,
) -> Result:
    """Play across processes; at the end of it there are no more than before."""
    before = set(children(os.getpid()))
    venue = partial(own_processes, address, loop)
    result: Result = anyio.run(partial(play, script(*lines), crew=crew, watch=watch, venue=venue), **LOOPS[loop])
    assert set(children(os.getpid())) == before
    return result


def children(parent: int) -> Iterator[int]:
    """Yield the processes that a process has started and not seen end."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        yield from map(int, (task / "children").read_text(encoding="ascii").split())


def program_of(process: int) -> list[str]:
    """Return the command line of a process, without the interpreter."""
    return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").split("\0")[1:-1]


def daemon_of(parent: int) -> int:
    """Return the process of the daemon: the one that has no board."""
    (found,) = (child for child in children(parent) if len(program_of(child)) == 4)
    return found


def test_a_trace_comes_out_the_same_as_in_one_process() -> None:
    """What each process holds is what it must be, after each `sync`, at that moment."""
    seen: list[Progress] = []

    result = played(watch=seen.append)

    assert result.reasons == []
    assert result.processes == 7  # the producer, the daemon, two copies, a cache, who follows, and an observer
    assert (result.maps, result.unmaps, result.pages) == (400, 200, 200)
    assert result.lookups.asked == result.lookups.answered == result.lookups.agreed == 13
    assert {lag.subscriber for lag in seen[0].lags} == {"vfio", "vfio-slow", "vhost", "virtio-iommu/endpoint-16"}
    given = {one.subscriber: one for one in result.received}
    assert given["vfio-slow"].conflations
    assert (given["vfio"].maps, given["vfio"].unmaps, given["vfio"].conflations) == (400, 200, 0)
    assert (given["observer"].seen, given["observer"].lost) == (600, 0)
    assert (result.moves.left, result.moves.returned) == (0, 200)


def test_a_trace_is_played_on_a_daemon_that_is_there_and_stays(tmp_path: Path) -> None:
    """Twice: nothing of the first time is in the way."""
    with daemon(tmp_path) as running:
        for _ in range(2):
            result = played(PULL, address=running.address)
            assert (result.reasons, result.unmaps, result.processes) == ([], 1, 4)


# -- seeded faults ---------------------------------------------------------------------


class Forgetful(Shadower):
    """Ignores one UNMAP."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first == VICTIM):
            super().apply(event)


class Lame(Follower):
    """Ignores one UNMAP."""

    def apply(self, event: Event) -> None:
        if not (isinstance(event, Unmap) and event.first == VICTIM):
            super().apply(event)


def test_whoever_ignores_an_unmap_is_found_in_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, by the `sync` behind that line; and an observer that was not told what it lost, at the end."""
    monkeypatch.setattr("iommubus.demo.player.OBSERVER_TIMEOUT", 0.5)
    faulty = Crew(shadower=Forgetful, slow=SlowAndForgetful, cacher=Hoarder, follower=Lame, watcher=Losing)

    result = played(crew=faulty, loop="asyncio")

    found = {violation.subscriber: violation for violation in result.violations}
    assert set(found) == {"vfio", "vfio-slow", "vhost", "virtio-iommu/endpoint-16"}
    assert {(one.page, one.event) for one in found.values()} == {(VICTIM, UNMAP_OF_VICTIM)}
    assert all(one.after < UNMAP_OF_VICTIM <= one.until for one in found.values())
    assert found["vhost"].should == f"dropped (unmapped in line {UNMAP_OF_VICTIM})"
    assert result.failures == [f"the observer saw or lost {result.events - 1} of {result.events} events"]


# -- processes that are lost -----------------------------------------------------------


class Mortal(Cacher):
    """Is killed by its first event."""

    def apply(self, event: Event) -> None:  # noqa: ARG002 - any
        os.kill(os.getpid(), signal.SIGKILL)


class Unwelcome(Cacher):
    """Asks for what nobody can have."""

    async def run(self, bus: EventBus, *, task_status: TaskStatus[None]) -> None:
        async with bus.subscribe(self.space, Cap(0)):
            task_status.started()


def test_a_consumer_that_is_killed_ends_the_play() -> None:
    assert played(PULL, crew=Crew(cacher=Mortal)).reasons == ["the process of vhost was killed by SIGKILL"]


def test_a_consumer_that_cannot_begin_ends_the_play_and_says_why() -> None:
    (reason,) = played(PULL, crew=Crew(cacher=Unwelcome)).reasons

    assert reason == "vhost: the capability mask 0x0 asks for nothing"


def test_a_daemon_that_is_killed_ends_the_play() -> None:
    def kill(_: Progress) -> None:
        os.kill(daemon_of(os.getpid()), signal.SIGKILL)

    assert played(PULL, watch=kill).reasons == ["the process of the daemon was killed by SIGKILL"]


def test_a_daemon_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommubus.demo.processes.PROGRAM", "iommubus.nowhere")

    with pytest.raises(Unopened, match=r"^the process of the daemon ended with exit status 1$"):
        played(PULL)


def test_a_daemon_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Disconnected, match="No such file or directory"):
        played(PULL, address=f"unix:{tmp_path}/nothing")


@pytest.mark.parametrize(
    ("number", "status", "errors"), [(signal.SIGINT, 130, "iommubus demo: interrupted\n"), (signal.SIGKILL, -9, "")]
)
def test_all_processes_end_with_the_demo(tmp_path: Path, number: int, status: int, errors: str) -> None:
    """Whether it is interrupted, or killed and can end nobody itself."""
    log = tmp_path / "trace"
    log.write_text("\n".join(PULL * 20_000))
    process = subprocess.Popen(
        command("demo", "--trace", str(log), "--connect", "own"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    assert process.stdout is not None
    while " 25%" not in process.stdout.readline():
        pass
    started = list(children(process.pid))
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)

    assert (process.returncode, said) == (status, errors)
    assert len(started) == 3
    end = time.monotonic() + PATIENCE
    while alive := [child for child in started if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "ended with exit status 0"), (3, "ended with exit status 3"), (-9, "was killed by SIGKILL")],
)
def test_the_status_of_a_process_is_said_in_words(status: int, text: str) -> None:
    assert how_it_ended(status) == text
