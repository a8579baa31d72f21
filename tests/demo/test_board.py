"""What is written on a board is what is read there, by whoever has its descriptor."""

import os
import subprocess
import sys
from collections.abc import Generator

import pytest
from hypothesis import given, settings, strategies as st

from iommubus.caps import Perm
from iommubus.demo.board import BOARD_SIZE, Board, Reader, make_board
from iommubus.demo.pages import PAGES_LIMIT, Pages, Target

PAGES = st.integers(0, 5).map(lambda number: number * 0x1000)
TARGETS = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from([Perm(0), Perm.R, Perm.W, Perm.RW]))
CHANGES = st.lists(st.tuples(PAGES, st.none() | TARGETS), max_size=30)


@pytest.fixture
def descriptor() -> Generator[int]:
    number = make_board()
    yield number
    os.close(number)


@settings(deadline=None)
@given(changes=CHANGES)
def test_whatever_is_written_is_read_and_is_what_a_dictionary_would_hold(
    changes: list[tuple[int, Target | None]],
) -> None:
    number = make_board()
    board, reader, should = Board(number), Reader(number), dict[int, Target]()
    os.close(number)

    for page, target in changes:
        if target is None:
            assert (page in board) == (page in should)
            if page in should:
                del board[page]
                del should[page]
        else:
            board[page] = should[page] = target
        assert reader.read() == should == dict(board)
        assert len(board) == len(should)


def test_a_slot_that_is_free_is_used_again(descriptor: int) -> None:
    """However long it goes on, a board is as large as the most that it had at once."""
    board, used = Board(descriptor), set[int]()

    for page in range(1000):
        board[page] = (page, Perm.R)
        used.add(os.fstat(descriptor).st_blocks)
        del board[page]

    assert len(used) == 1
    assert Reader(descriptor).read() == {}


def test_pages_that_are_kept_on_a_board_are_seen_in_another_process(descriptor: int) -> None:
    pages = Pages(0x1000)
    pages.keep_in(Board(descriptor))
    pages.map(0x1000, 0x3FFF, 0x8000, Perm.RW)
    pages.unmap(0x2000, 0x2FFF)
    program = f"from iommubus.demo.board import Reader; print(Reader({descriptor}).read())"

    seen = subprocess.run(
        [sys.executable, "-c", program],
        pass_fds=[descriptor],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )

    assert seen.stdout == "{4096: (32768, <Perm.RW: 3>), 12288: (40960, <Perm.RW: 3>)}\n"


def test_there_is_room_for_as_many_pages_as_there_may_be_and_it_costs_what_is_used(descriptor: int) -> None:
    found = os.fstat(descriptor)

    assert found.st_size == BOARD_SIZE >= 24 * PAGES_LIMIT
    assert found.st_blocks == 0
