"""A board says what may be in use, and until when."""

import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from iommubus.transport.credentials import start_of
from tests.peers import end
from tests.service.judged.board import Board, is_alive


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "board")


def test_what_is_put_there_is_seen_by_others(path: str) -> None:
    with Board(path) as mine, Board(path) as theirs:
        mine.begin(os.getpid())
        mine.put(3, 0x5000)
        mine.put(4, 0x6000)
        mine.put(3, 0)
        assert (theirs.standing, theirs.usable(0.0)) == ({4: 0x6000}, {})
        mine.until = 10.0
        assert (theirs.until, theirs.usable(9.9), theirs.usable(10.0)) == (10.0, {4: 0x6000}, {})


def test_a_new_owner_begins_with_nothing(path: str) -> None:
    with Board(path) as board:
        board.put(3, 0x5000)
        board.until = inf
        board.begin(os.getpid())
        assert (board.standing, board.until) == ({}, 0.0)


def test_what_a_dead_process_left_is_not_in_use(path: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process, Board(path) as board:
        board.begin(process.pid)
        board.put(3, 0x5000)
        board.until = inf
        assert board.usable(0.0) == {3: 0x5000}
        end(process)
        assert (board.usable(0.0), board.standing) == ({}, {3: 0x5000})


def test_one_that_nobody_has_waited_for_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        fd = os.pidfd_open(process.pid)
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        os.close(fd)
        assert not is_alive(process.pid, start_of(process.pid) or 0)
        process.wait()
    assert not is_alive(0, 0)
