"""The blocks of a tutorial, as a reader pastes and runs them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE: Final = re.compile(r"# (\w+\.\w+), (new|appended)\n")
COMMAND: Final = re.compile(r"\$ python (\w+\.py)\n")
START: Final = re.compile(r"(\w+)\$ (.+)\n")
MORE: Final = re.compile(r"\((\w+)\)\n")


class Paste(Struct, frozen=True):
    """Code for a file, which it starts or goes on with.

    Attributes:
        page: Name of the page.
        file: Name of the file.
        starts: Whether it starts the file.
        code: What to paste.
    """

    page: str
    file: str
    starts: bool
    code: str


class Run(Struct, frozen=True):
    """A command and what it prints.

    Attributes:
        page: Name of the page.
        file: Name of the program.
        output: Everything that is seen in the terminal.
    """

    page: str
    file: str
    output: str


class Typed(Struct, frozen=True):
    """What is typed into a shell and not run here: it installs."""

    page: str
    text: str


class Screen(Struct, frozen=True):
    """What is typed and shown in one of several terminals.

    Attributes:
        page: Name of the page.
        terminal: Name of the terminal.
        command: What is started there; `None` if what runs there goes on.
        lines: Each line; see `terminals` for what is typed.
    """

    page: str
    terminal: str
    command: str | None
    lines: list[str]


Block = Paste | Run | Typed | Screen


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, in order.

    Raises:
        ValueError: One does not say what to do with it.
    """
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield block(page.name, language, text)


def block(page: str, language: str, text: str) -> Block:
    """Return what one block is; raises as `blocks`."""
    if language in {"python", "toml"} and (place := PLACE.match(text)):
        return Paste(page, place[1], place[2] == "new", text[place.end() :])
    if language == "console" and (command := COMMAND.match(text)):
        return Run(page, command[1], text[command.end() :])
    if language == "console" and (start := START.match(text)):
        return Screen(page, start[1], start[2], text[start.end() :].splitlines())
    if language == "console" and (more := MORE.match(text)):
        return Screen(page, more[1], None, text[more.end() :].splitlines())
    if language == "sh":
        return Typed(page, text)
    raise ValueError(f"{page}: this {language or 'nameless'} block has no place and no command: {text[:80]!r}")


def paste(part: Paste, folder: Path) -> None:
    """Write a part into its file.

    Raises:
        FileExistsError: It is to start a file that there is.
        FileNotFoundError: It is to go on with one that there is not.
    """
    path = folder / part.file
    if part.starts:
        with path.open("x", encoding="utf-8") as new:
            new.write(part.code)
    else:
        with path.open("r+", encoding="utf-8") as present:
            present.seek(0, 2)
            present.write("\n\n" + part.code)
