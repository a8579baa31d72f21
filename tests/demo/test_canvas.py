"""A picture as text, with and without colours and Unicode."""

import io

import pytest
from rich.console import Console

from iommubus.demo.canvas import ASCII, COLOURS, SHADES, legend, margin, paint, palette, ticks
from iommubus.demo.picture import Band, Picture

PICTURE = Picture(
    "s",
    "seconds",
    2.0,
    [
        Band(0x8000, 0x8FFF, 1, [0.0, 0.01, 0.1, 0.3, 0.9] + [1.0] * 15),
        None,
        Band(0x0, 0xFFF, 1, [0.0] * 20),
    ],
)


def test_a_picture_in_shades() -> None:
    assert [line.plain for line in paint(PICTURE, SHADES)] == [
        " 0x8000 │ ░▒▓████████████████",
        "        ┊",
        "    0x0 │" + " " * 20,
        "        └┴─────────┴────────┴",
        "         0         1  seconds",
        "         mapped: none ' '  ░░ to 6%  ▒▒ to 25%  ▓▓ to 56%  ██ more",
    ]


def test_a_picture_in_ascii_is_ascii() -> None:
    lines = [line.plain for line in paint(PICTURE, ASCII)]

    assert lines[0] == " 0x8000 | .:+################"
    assert all(line.isascii() for line in lines)


def test_colours_grow_with_the_share_and_keep_the_shades() -> None:
    line = paint(PICTURE, COLOURS)[0]

    assert line.plain[9:14] == " ░▒▓█"
    assert [str(span.style) for span in line.spans[2:6]] == [COLOURS.styles[level] for level in (1, 3, 5, 8)]
    assert legend(COLOURS).plain == legend(SHADES).plain


@pytest.mark.parametrize(
    ("encoding", "colours", "expected"),
    [("utf-8", "truecolor", COLOURS), ("utf-8", "standard", SHADES), ("utf-8", None, SHADES), ("ascii", "256", ASCII)],
)
def test_a_console_gets_what_it_can_show(encoding: str, colours: str | None, expected: object) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    assert palette(Console(file=file, color_system=colours)) is expected  # type: ignore[arg-type]


def test_somebody_who_wants_no_colours_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")

    assert palette(Console(file=file, color_system="truecolor")) is SHADES


def test_the_margin_holds_the_longest_address() -> None:
    assert margin(0xFFFF) == len(" 0xffff │")


@pytest.mark.parametrize(
    ("length", "width", "expected"),
    [
        (4.0, 40, {0: "0", 10: "1", 20: "2", 30: "3", 39: "4"}),
        (0.25, 20, {0: "0.0", 16: "0.2"}),
        (30_000.0, 30, {0: "0", 10: "10,000", 20: "20,000", 29: "30,000"}),
    ],
)
def test_ticks_are_at_round_moments(length: float, width: int, expected: dict[int, str]) -> None:
    assert ticks(length, width) == expected
