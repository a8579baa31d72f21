"""The record in worker threads: on the disk before anybody is confirmed, and nobody waits for what is over."""

import os
import threading
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

import anyio
import pytest

from iommubus.bus.logs import Lines
from iommubus.errors import LeasesUnwritable
from iommubus.service.proof.leases import ExitMember
from iommubus.service.proof.record import Disk, Granted, Record, encode, load
from iommubus.service.proof.recorder import Recorder
from iommubus.transport.tasks import Tasks

BOOT = "b6e1b2d2-0000-4000-8000-000000000000"
MEMBERS = [ExitMember(4711 + number, 123456, str(number)) for number in range(8)]


class ShakyDisk(Disk):
    """A disk that says no while it is full, and counts what was written."""

    def __init__(self) -> None:
        self.full = False
        self.writes = 0
        self.threads: set[int] = set()

    def create(self, path: str) -> int:
        self.threads.add(threading.get_ident())
        self.writes += 1
        if self.full:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        return super().create(path)

    def sync(self, fd: int) -> None:
        """Return at once: no machine loses its power here."""


class Gate:
    """Runs what waits for the disk in a thread, once it is opened."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.waiting = anyio.Event()

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.waiting.set()
        with anyio.CancelScope(shield=True):
            await self.open.wait()
            return await anyio.to_thread.run_sync(work, *arguments)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "leases")


def exists(path: str) -> bool:
    return Path(path).exists()


def put(path: str, granted: Granted) -> None:
    Path(path).write_bytes(encode(granted))


def failed(recorder: Recorder) -> bool:
    """Say whether the last attempt did."""
    return recorder.failure is not None


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a file sets no event
            await anyio.sleep(0.001)


@pytest.mark.asyncio
async def test_it_is_on_the_disk_before_anybody_is_confirmed(path: str) -> None:
    disk = ShakyDisk()
    record = Record(path, BOOT, disk)
    recorder = Recorder(record, Lines())
    async with Tasks() as tasks:
        recorder.begin(tasks)
        await recorder.grant(10.0)
        assert load(path, BOOT) == Granted(BOOT, 10.0)
        await recorder.add(MEMBERS[0])
        assert load(path, BOOT) == Granted(BOOT, 10.0, (MEMBERS[0],))
        writes = disk.writes
        await recorder.grant(10.0)
        await recorder.grant(5.0)
        assert disk.writes == writes
        recorder.forget(MEMBERS[0])
        await settled(lambda: load(path, BOOT) == Granted(BOOT, 10.0))
    assert threading.get_ident() not in disk.threads
    record.close()


@pytest.mark.asyncio
async def test_what_comes_while_the_disk_is_busy_is_written_at_once(path: str) -> None:
    disk, gate = ShakyDisk(), Gate()
    record = Record(path, BOOT, disk)
    recorder = Recorder(record, Lines(), gate.run)
    async with Tasks() as tasks:
        recorder.begin(tasks)
        async with anyio.create_task_group() as clients:
            for member in MEMBERS:
                clients.start_soon(recorder.add, member)
            await gate.waiting.wait()
            assert not exists(path)
            gate.open.set()
    assert set(load(path, BOOT).exits) == set(MEMBERS)
    assert disk.writes <= 2
    record.close()


@pytest.mark.asyncio
async def test_a_disk_that_says_no_refuses_everybody_who_waits_and_is_asked_again(path: str) -> None:
    """What is over is written when it works again."""
    disk = ShakyDisk()
    record = Record(path, BOOT, disk)
    recorder = Recorder(record, Lines())
    async with Tasks() as tasks:
        recorder.begin(tasks)
        await recorder.add(MEMBERS[0])
        disk.full = True
        with pytest.raises(LeasesUnwritable, match="No space left"):
            await recorder.add(MEMBERS[1])
        assert failed(recorder)
        writes = disk.writes
        recorder.forget(MEMBERS[0])
        await settled(lambda: disk.writes > writes)
        disk.full = False
        await recorder.add(MEMBERS[2])
        assert not failed(recorder)
    assert load(path, BOOT) == Granted(BOOT, 0.0, (MEMBERS[2],))
    record.close()


@pytest.mark.asyncio
async def test_who_is_cancelled_meanwhile_is_forgotten_again(path: str) -> None:
    gate = Gate()
    record = Record(path, BOOT, ShakyDisk())
    recorder = Recorder(record, Lines(), gate.run)
    async with Tasks() as tasks:
        recorder.begin(tasks)
        async with anyio.create_task_group() as clients:
            clients.start_soon(recorder.add, MEMBERS[0])
            await gate.waiting.wait()
            clients.cancel_scope.cancel()
        gate.open.set()
        await settled(lambda: exists(path) and load(path, BOOT) == Granted(BOOT))
    record.close()


@pytest.mark.asyncio
async def test_what_is_left_is_written_at_the_end(path: str) -> None:
    put(path, Granted(BOOT, 10.0, tuple(MEMBERS)))
    record = Record(path, BOOT, ShakyDisk())
    recorder = Recorder(record, Lines())
    async with Tasks() as tasks:
        recorder.begin(tasks)
        recorder.forget(MEMBERS[7])
    for member in MEMBERS[1:]:
        recorder.forget(member)
    await recorder.close()
    assert load(path, BOOT) == Granted(BOOT, 10.0, (MEMBERS[0],))
    record.close()


@pytest.mark.asyncio
async def test_longer_leases_of_before_are_settled_and_never_those_of_this_daemon(path: str) -> None:
    """Also if that could not be written before this daemon granted one itself."""
    put(path, Granted(BOOT, 60.0))
    disk = ShakyDisk()
    record = Record(path, BOOT, disk)
    recorder = Recorder(record, Lines())
    async with Tasks() as tasks:
        recorder.begin(tasks)
        disk.full = True
        recorder.settle()
        await settled(lambda: failed(recorder))
        await recorder.grant(10.0)  # the record of before covers it
        disk.full = False
        await recorder.add(MEMBERS[0])
        assert load(path, BOOT) == Granted(BOOT, 10.0, (MEMBERS[0],))
        await recorder.grant(20.0)
        assert load(path, BOOT) == Granted(BOOT, 20.0, (MEMBERS[0],))
    record.close()


@pytest.mark.asyncio
async def test_without_a_record_nothing_is_written() -> None:
    recorder = Recorder(None, Lines())
    await recorder.add(MEMBERS[0])
    recorder.forget(MEMBERS[0])
    recorder.settle()
    await recorder.close()
    assert not failed(recorder)


@pytest.mark.asyncio
async def test_a_probe_finds_out_whether_the_disk_takes_anything(path: str) -> None:
    disk = ShakyDisk()
    record = Record(path, BOOT, disk)
    recorder = Recorder(record, Lines())
    async with Tasks() as tasks:
        recorder.begin(tasks)
        await recorder.probe()
        assert load(path, BOOT) == Granted(BOOT)
        disk.full = True
        with pytest.raises(LeasesUnwritable):
            await recorder.probe()
    record.close()


@pytest.mark.asyncio
async def test_who_lets_go_before_it_is_written_is_never_written(path: str) -> None:
    """Both are in one batch then; and who was written is waited for until it is not."""
    gate = Gate()
    record = Record(path, BOOT, ShakyDisk())
    recorder = Recorder(record, Lines(), gate.run)
    async with Tasks() as tasks, anyio.create_task_group() as clients:
        recorder.begin(tasks)
        clients.start_soon(recorder.add, MEMBERS[0])
        await gate.waiting.wait()
        clients.start_soon(recorder.add, MEMBERS[1])
        await anyio.wait_all_tasks_blocked()
        recorder.forget(MEMBERS[1])
        gate.open.set()
        await settled(lambda: exists(path) and load(path, BOOT).exits == (MEMBERS[0],))
        await recorder.forgotten(MEMBERS[0])
        assert load(path, BOOT).exits == ()
        await recorder.forgotten(MEMBERS[0])
    record.close()
