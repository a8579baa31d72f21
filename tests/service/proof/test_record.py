"""The record of what was granted, cut at every byte and at every call: it is the old one or the new one."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from errno import ENOSPC
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from iommubus.errors import LeasesUnreadable, LeasesUnwritable, LockTaken
from iommubus.service.proof.leases import ExitMember
from iommubus.service.proof.record import LIMIT, Change, Disk, Granted, Record, encode, load, write
from tests.peers import open_descriptors

BOOT = "b6e1b2d2-0000-4000-8000-000000000000"
MEMBER = ExitMember(4711, 123456, "vfio")
OTHER = ExitMember(4712, 123457, "vhost")
OLD = Granted(BOOT, 5.0, (MEMBER,))
NEW = Granted(BOOT, 5.0, (MEMBER, OTHER))


class Killed(BaseException):
    """The process ends here; nothing catches it."""


class StumblingDisk(Disk):
    """A disk at which call number ``stop`` does not happen; it writes one byte at a time, and keeps things back.

    Args:
        stop: Calls that still work.
        trouble: What happens then.
    """

    def __init__(self, stop: int, trouble: BaseException) -> None:
        self._left = stop
        self._trouble = trouble

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._trouble

    def heal(self) -> None:
        """Work from now on."""
        self._left = sys.maxsize

    def create(self, path: str) -> int:
        self.step()
        return super().create(path)

    def write(self, fd: int, data: bytes) -> int:
        self.step()
        return super().write(fd, data[:1])

    def sync(self, fd: int) -> None:  # noqa: ARG002
        self.step()

    def rename(self, old: str, new: str) -> None:
        self.step()
        super().rename(old, new)

    def directory(self, path: str) -> int:
        self.step()
        return super().directory(path)


class Unsynced(Disk):
    """A disk that keeps things back, for tests whose machine does not lose its power."""

    def sync(self, fd: int) -> None:
        """Return at once."""


CALLS = len(encode(NEW)) + 5
"""Calls of one write at that disk: create, each byte, sync, rename, directory, sync."""


@pytest.fixture
def path(tmp_path: Path) -> Generator[str]:
    before = open_descriptors()
    yield str(tmp_path / "leases")
    assert open_descriptors() == before


def test_a_record_that_was_cut_anywhere_is_the_old_or_the_new_one(path: str) -> None:
    """Killed before every call; what had been returned from is there, and the next daemon goes on."""
    seen: list[Granted] = []
    for stop in range(CALLS + 1):
        Path(path).write_bytes(encode(OLD))
        record = Record(path, BOOT, StumblingDisk(stop, Killed()))
        try:
            record.add_exit(OTHER)
        except Killed:
            assert stop < CALLS
        else:
            assert stop == CALLS
            assert load(path, BOOT) == NEW
        record.close()
        seen.append(load(path, BOOT))
        write(Unsynced(), path, encode(NEW))  # what was left beside it is in nobody's way
        assert load(path, BOOT) == NEW
    assert seen == [OLD] * (CALLS - 2) + [NEW] * 3


def test_a_first_record_that_was_cut_anywhere_is_none_or_whole(path: str) -> None:
    for stop in range(len(encode(Granted(BOOT, 5.0))) + 5):
        with_lock = Record(path, BOOT, StumblingDisk(stop, Killed()))
        with pytest.raises(Killed):
            with_lock.grant_lease(5.0)
        with_lock.close()
        assert load(path, BOOT) in (Granted(BOOT), Granted(BOOT, 5.0))
        Path(path).unlink(missing_ok=True)


def test_a_disk_that_refuses_anywhere_refuses_the_grant(path: str) -> None:
    """It stays as it was here, the error names the file, and the next attempt works; the fixture counts descriptors."""
    for stop in range(CALLS):
        Path(path).write_bytes(encode(OLD))
        disk = StumblingDisk(stop, OSError(ENOSPC, os.strerror(ENOSPC)))
        record = Record(path, BOOT, disk)
        with pytest.raises(LeasesUnwritable, match="No space left") as refused:
            record.add_exit(OTHER)
        assert refused.value.path == path
        assert record.granted == OLD
        disk.heal()
        record.add_exit(OTHER)
        assert record.granted == NEW == load(path, BOOT)
        record.close()


DIE = """
import os, signal, sys
from iommubus.service.proof.leases import ExitMember
from iommubus.service.proof.record import Disk, Record

calls = int(sys.argv[3])
def dying(call):
    def die(self, *args):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *args)
    return die

for name in ("create", "write", "sync", "close", "rename", "directory"):
    setattr(Disk, name, dying(getattr(Disk, name)))
Record(sys.argv[1], sys.argv[2]).add_exit(ExitMember(4712, 123457, "vhost"))
"""


def test_a_daemon_that_is_killed_for_real_leaves_the_old_or_the_new_one(path: str) -> None:
    """SIGKILL before every system call; its lock is gone with it."""
    seen: list[Granted] = []
    for stop in range(9):
        Path(path).write_bytes(encode(OLD))
        result = subprocess.run([sys.executable, "-c", DIE, path, BOOT, str(stop)], check=False)
        assert result.returncode == (-signal.SIGKILL if stop < 8 else 0)
        seen.append(load(path, BOOT))
        Record(path, BOOT).close()
    assert seen == [OLD] * 5 + [NEW] * 4


# -- power -------------------------------------------------------------------


class PoweredDisk(Disk):
    """A disk in memory that remembers what could be on it after the power was cut.

    Of a file that was not brought to the disk, any part can be there; of a
    directory, any of the names since it was.

    Args:
        stop: Calls until the power is cut.
        content: What the file holds at first.
    """

    def __init__(self, stop: int, content: bytes) -> None:
        self._left = stop
        self._files: list[bytes] = [content]
        self._safe: list[bool] = [True]
        self._name = [0]  # which file may have the name, the oldest first

    def after_the_cut(self) -> set[bytes]:
        found: set[bytes] = set()
        for file in self._name:
            data = self._files[file]
            found |= {data} if self._safe[file] else {data[:end] for end in range(len(data) + 1)}
        return found

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def create(self, path: str) -> int:  # noqa: ARG002
        self.step()
        self._files.append(b"")
        self._safe.append(False)
        return len(self._files) - 1

    def write(self, fd: int, data: bytes) -> int:
        self.step()
        self._files[fd] += data[:7]
        self._safe[fd] = False
        return len(data[:7])

    def sync(self, fd: int) -> None:
        self.step()
        if fd < 0:
            self._name = self._name[-1:]
        else:
            self._safe[fd] = True

    def close(self, fd: int) -> None:
        pass

    def rename(self, old: str, new: str) -> None:  # noqa: ARG002
        self.step()
        self._name.append(len(self._files) - 1)

    def directory(self, path: str) -> int:  # noqa: ARG002
        self.step()
        return -1


def test_a_machine_that_lost_its_power_has_the_old_or_the_new_one() -> None:
    """At any call, whatever the disk had kept back; and once the call has returned, the new one."""
    old, new = encode(OLD), encode(NEW)
    for stop in range(1000):
        disk = PoweredDisk(stop, old)
        try:
            write(disk, "leases", new)
        except Killed:
            assert disk.after_the_cut() <= {old, new}
            continue
        assert disk.after_the_cut() == {new}
        return
    raise AssertionError("it never ended")


# -- what it says ------------------------------------------------------------


def test_without_a_file_nothing_was_granted(path: str) -> None:
    record = Record(path, BOOT)
    assert record.before == Granted(BOOT)
    record.close()
    assert not Path(path).exists()


def test_a_record_of_before_there_were_holders_is_read_and_one_without_is_written_as_then(path: str) -> None:
    """One with a holder is refused by a daemon of then, which would wait for its process alone."""
    old = b'{"boot":"%b","longest":5.0,"exits":[{"pid":4711,"start":123456,"subscription":"vfio"}],"version":1}\n'
    Path(path).write_bytes(old % BOOT.encode())
    assert load(path, BOOT) == OLD
    assert encode(OLD) == old % BOOT.encode()
    kept = Granted(BOOT, 5.0, (ExitMember(4711, 123456, "vfio", 4712, 123457),))
    Path(path).write_bytes(encode(kept))
    assert load(path, BOOT) == kept
    assert b'"holder":4712' in encode(kept)


def test_of_another_boot_nothing_is_left(path: str) -> None:
    """Its processes have ended, and nobody has a lease; what is granted now replaces it."""
    Path(path).write_bytes(encode(OLD))
    record = Record(path, "another")
    assert record.before == record.granted == Granted("another")
    record.grant_lease(1.0)
    record.close()
    assert load(path, BOOT) == Granted(BOOT)
    assert load(path, "another") == Granted("another", 1.0)


def test_what_was_granted_stays_however_often_the_daemon_is_restarted(path: str) -> None:
    for number in range(3):
        record = Record(path, BOOT)
        assert record.before == Granted(BOOT, 7.0 if number else 0.0, (MEMBER,) if number else ())
        record.grant_lease(7.0)
        record.grant_lease(2.0)
        record.add_exit(MEMBER)
        record.add_exit(MEMBER)
        record.close()


def test_what_is_over_is_taken_out(path: str) -> None:
    record = Record(path, BOOT)
    record.grant_lease(60.0)
    record.add_exit(MEMBER)
    record.add_exit(OTHER)
    record.forget([MEMBER])
    record.settle(10.0)
    record.settle(20.0)
    assert load(path, BOOT) == record.granted == Granted(BOOT, 10.0, (OTHER,))
    record.close()


def test_who_has_let_go_before_it_was_written_is_not_written(path: str) -> None:
    record = Record(path, BOOT)
    record.change(Change(add=(MEMBER, OTHER), forget=frozenset([MEMBER])))
    assert load(path, BOOT).exits == (OTHER,)
    record.close()


def test_what_changes_nothing_is_not_written(path: str) -> None:
    Path(path).write_bytes(encode(OLD))
    record = Record(path, BOOT, StumblingDisk(0, Killed()))
    record.grant_lease(5.0)
    record.add_exit(MEMBER)
    record.forget([OTHER])
    record.settle(5.0)
    with pytest.raises(Killed):
        record.settle(4.0)
    record.close()


def test_only_its_user_can_read_it(path: str) -> None:
    record = Record(path, BOOT)
    record.grant_lease(1.0)
    record.close()
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_two_daemons_do_not_share_a_record(path: str) -> None:
    record = Record(path, BOOT)
    with pytest.raises(LockTaken):
        Record(path, BOOT)
    record.close()


UNREADABLE = {
    "nothing": b"",
    "a part": encode(OLD)[:-2],
    "more": encode(OLD)[:-1] + b"x",
    "no object": b"[]",
    "no text": b"\xff",
    "another form": encode(OLD).replace(b'"version":1', b'"version":2'),
    "too much": b" " * (LIMIT + 1),
}


@pytest.mark.parametrize("data", list(UNREADABLE.values()), ids=list(UNREADABLE))
def test_what_cannot_be_understood_stops_the_daemon_and_says_how_to_go_on(path: str, data: bytes) -> None:
    """It may name a process that still uses old translations; and it is left as it is, for whoever looks."""
    Path(path).write_bytes(data)
    for _ in range(2):
        with pytest.raises(LeasesUnreadable, match="delete the file and start again"):
            Record(path, BOOT)
    assert Path(path).read_bytes() == data


def test_what_may_not_be_read_stops_the_daemon(path: str) -> None:
    Path(path).mkdir()
    with pytest.raises(LeasesUnreadable, match="directory"):
        Record(path, BOOT)


def test_a_directory_that_is_missing_is_the_disks_fault(path: str) -> None:
    with pytest.raises(LeasesUnwritable, match="No such file"):
        Record(f"{path}/missing/leases", BOOT)


def test_every_part_of_a_record_is_unreadable() -> None:
    """So a file that was cut is never taken for one that says less."""
    whole = encode(NEW)
    for end in range(len(whole) - 1):
        with pytest.raises(LeasesUnreadable):
            read_back(whole[:end])
    assert read_back(whole) == NEW


@given(st.binary(max_size=200))
def test_whatever_is_there_it_is_understood_or_refused(data: bytes) -> None:
    try:
        granted = read_back(data)
    except LeasesUnreadable:
        return
    assert read_back(encode(granted)) == granted


def read_back(data: bytes) -> Granted:
    """Return what a file of these bytes says."""
    fd = os.memfd_create("leases")
    try:
        os.write(fd, data)
        return load(f"/proc/self/fd/{fd}", BOOT)
    finally:
        os.close(fd)
