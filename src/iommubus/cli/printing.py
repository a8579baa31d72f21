"""What commands print: tables for people, plain columns for whatever else reads them, JSON if asked.

Names are other people's: what would break a line, or tell the terminal something, is
printed as an escape.

In JSON, addresses and numbers that stand for something are strings with ``0x``:
most readers take numbers for floating point, which holds 53 bits.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ..service.seen.logs import one_line

GAP: Final = "  "
"""Between plain columns."""


class Column(Struct, frozen=True):
    """A column of a table.

    Attributes:
        title: What stands above it.
        number: Whether it holds numbers, which are aligned to the right.
        style: How it looks on a terminal.
        whole: Whether it is not broken into lines on a terminal, as numbers are not, while others can be.
    """

    title: str
    number: bool = False
    style: str = ""
    whole: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a terminal with lines and colours, elsewhere with nothing but columns."""
    rows = [list(map(one_line, row)) for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, rows)
    else:
        print_lines(plain_lines(columns, rows))


def plain_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table without any decoration, none of it cut off."""
    lines = [[column.title for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return [
        GAP.join(
            cell.rjust(width) if column.number else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and what is known of each."""
    known = list(facts)
    width = max(len(name) for name, _ in known)
    print_lines(f"{name.ljust(width)}{GAP}{one_line(text)}" for name, text in known)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, and have them seen at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def print_document(document: Any) -> None:
    """Print one JSON document."""
    print_lines([msgspec.json.format(msgspec.json.encode(document), indent=2).decode()])


def print_json_lines(objects: Iterable[Any]) -> None:
    """Print JSON objects, each on a line of its own."""
    print_lines(msgspec.json.encode(each).decode() for each in objects)


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - takes a while, and pipes need none of it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            style=column.style,
            overflow="fold",
            no_wrap=column.number or column.whole,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console(markup=False, emoji=False, highlight=False).print(table)
