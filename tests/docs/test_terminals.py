"""A terminal shows what a program prints, and somebody types into it."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.terminals import Desk, pattern

PROGRAM: Final = """
while True:
    print("got", *map(int, input("> ").split()))
"""


@pytest.fixture
def desk(tmp_path: Path) -> Generator[Desk]:
    (tmp_path / "echo.py").write_text(PROGRAM)
    with Desk(tmp_path) as desk:
        yield desk


def test_what_is_typed_is_read_and_what_is_printed_is_seen(desk: Desk) -> None:
    """
    Block by block, and one program after the other.
    """
    desk.follow("one", "python echo.py", ["> 1 2", "got 1 2"])
    desk.follow("one", None, ["> 3", "got  3", "> ^\\"])
    desk.follow("one", "echo a", ["..."])


def test_a_program_that_is_stopped_goes_on_later(desk: Desk) -> None:
    """
    And reads what was typed meanwhile.
    """
    desk.follow("one", "python echo.py", ["> 1", "got 1"])
    desk.follow("one", None, ["^Z", "fg", "> 2", "got 2"])


def test_control_c_interrupts_and_lines_can_be_left_out(desk: Desk) -> None:
    """
    A line of three dots is any lines.
    """
    desk.follow("one", "sh -c 'echo a; echo b; echo c; exec sleep 60'", ["...", "c", "^C"])
    desk.follow("one", "echo d", ["d"])


@pytest.mark.parametrize("lines", [["> 1", "got 2"], ["> 1", "got 1 1"], ["> a", "got a"], ["> a", "...", "OSError"]])
def test_what_is_not_seen_is_found(desk: Desk, lines: list[str]) -> None:
    """
    A page that shows something else fails.
    """
    with pytest.raises(AssertionError):
        desk.follow("one", "python echo.py", lines)


def test_a_program_that_shows_more_than_its_page_is_found(desk: Desk) -> None:
    """
    At the latest when the next one is started.
    """
    desk.follow("one", "echo a", [])

    with pytest.raises(AssertionError):
        desk.follow("one", "echo b", ["b"])


@pytest.mark.parametrize(
    ("line", "shown"), [("a ... b", "a 1 b"), (" ──  ──", "─ ─"), ("x   y", "x y"), ("1.5 s", "1.5 s")]
)
def test_what_differs_from_one_machine_to_another_does_not_count(line: str, shown: str) -> None:
    """
    How wide a table is, and what stands for three dots.
    """
    assert re.fullmatch(pattern(line), shown)
    assert not re.fullmatch(pattern(line), f"{shown}!")
