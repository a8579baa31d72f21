"""Tables, facts and JSON, for people and for programs."""

import io
import json
from collections.abc import Callable

import pytest

from iommubus.cli.printing import (
    Column,
    plain_lines,
    print_document,
    print_facts,
    print_json_lines,
    print_table,
)

COLUMNS = (Column("name"), Column("count", number=True), Column("what"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_columns_are_aligned_and_end_without_blanks() -> None:
    assert plain_lines(COLUMNS, [["a", "1", "x"], ["long name", "12,345", ""]]) == [
        "name        count  what",
        "a               1  x",
        "long name  12,345",
    ]


def test_without_rows_there_is_the_head_alone() -> None:
    assert plain_lines(COLUMNS, []) == ["name  count  what"]


def test_a_pipe_gets_no_decoration_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["n" * 300, "1", "x"]])

    out = capsys.readouterr().out
    assert "n" * 300 in out
    assert "\033" not in out
    assert "─" not in out


def test_a_terminal_gets_lines_and_keeps_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")

    print_table(COLUMNS, [["[bold]n", "1", "0x1000..0x1fff -> 0x8000 rw"]])

    shown = screen.getvalue()
    assert "─" in shown
    assert "[bold]n" in shown
    assert "0x1000..0x1fff -> 0x8000 rw" in shown


def test_where_it_is_narrow_names_are_broken_and_numbers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "dumb")

    columns = (Column("name"), Column("last", number=True), Column("kinds", whole=True))
    print_table(columns, [["n" * 40, "0xffffffffffffffff", "unmap,map"]])

    assert "0xffffffffffffffff" in screen.getvalue()
    assert "unmap,map" in screen.getvalue()
    assert screen.getvalue().count("n") >= 40


@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_cannot_speak_to_the_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")

    print_table(COLUMNS, [["evil\033[2J\nname", "1", ""]])
    print_facts([("name", "evil\033[2J\nname")])

    assert "\033[2J" not in screen.getvalue()
    assert screen.getvalue().count(r"evil\x1b[2J\nname") == 2


def test_facts_stand_below_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("a", "1"), ("longer", "2")])

    assert capsys.readouterr().out == "a       1\nlonger  2\n"


def print_json_line(value: object) -> None:
    print_json_lines([value])


@pytest.mark.parametrize("show", [print_document, print_json_line])
def test_json_can_be_read_again(show: Callable[[object], None], capsys: pytest.CaptureFixture[str]) -> None:
    value = {"space": "vtd0\n", "last": "0xffffffffffffffff", "mapping": None}

    show(value)

    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert out.endswith("\n")


def test_json_lines_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_lines([{"a": 1}, {"b": "x\ny"}])

    assert capsys.readouterr().out == '{"a":1}\n{"b":"x\\ny"}\n'
