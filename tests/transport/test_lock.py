"""A lock file: one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from iommubus.errors import LockTaken
from iommubus.transport.lock import Lock
from tests.peers import end

HOLD = """
import sys
from iommubus.transport.lock import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_who_comes_second_is_told_who_has_it(tmp_path: Path) -> None:
    """Until that process ends, however it does."""
    path = str(tmp_path / "bus.sock")
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockTaken) as taken:
            Lock(path)
        assert (taken.value.path, taken.value.pid) == (f"{path}.lock", process.pid)
        end(process)
    Lock(path).close()


def test_it_is_free_after_its_block_and_its_file_stays(tmp_path: Path) -> None:
    """A file that was removed while another opened it would be two locks."""
    path = str(tmp_path / "bus.sock")
    with Lock(path) as lock:
        with pytest.raises(LockTaken):
            Lock(path)
        lock.close()
        Lock(path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["bus.sock.lock"]


def test_a_file_that_says_no_number_still_locks(tmp_path: Path) -> None:
    path = str(tmp_path / "bus.sock")
    with Lock(path):
        Path(f"{path}.lock").write_text("who?", encoding="ascii")
        with pytest.raises(LockTaken) as taken:
            Lock(path)
    assert taken.value.pid == 0


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Else whoever may write to the directory could have any file of the daemon's cut to nothing."""
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="ascii")
    (tmp_path / "bus.sock.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        Lock(str(tmp_path / "bus.sock"))
    assert victim.read_text(encoding="ascii") == "precious"
