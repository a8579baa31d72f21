"""The tutorial, followed as a reader follows it: every block pasted, every command run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, Paste, Run, Screen, Typed, blocks, paste
from tests.docs.terminals import Desk

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
PAGES = sorted(TUTORIAL.glob("[0-9]*.md"))
BLOCKS: list[Block] = [block for page in PAGES for block in blocks(page)]


def seen(program: str, folder: Path) -> str:
    """Return what a program prints, with what it complains of where it does."""
    result = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # else the two streams are not in order
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return f"{result.stdout}{f'exit status {result.returncode}' if result.returncode else ''}"


@pytest.mark.timeout(90)
def test_every_command_prints_what_its_page_shows(tmp_path: Path) -> None:
    """
    After the blocks before it, in the order of the pages.
    """
    with Desk(tmp_path) as desk:
        for block in BLOCKS:
            match block:
                case Paste():
                    paste(block, tmp_path)
                case Run():
                    assert seen(block.file, tmp_path) == block.output, f"{block.page}: python {block.file}"
                case Screen():
                    desk.follow(block.terminal, block.command, block.lines)
                case Typed():
                    pass


def test_every_page_runs_all_that_it_starts() -> None:
    """
    No code stands on a page without being run there, after it is complete.
    """
    for page in PAGES:
        unrun = list[str]()
        for block in blocks(page):
            match block:
                case Paste():
                    unrun.append(block.file)
                case Run():
                    assert block.file in unrun, f"{page.name} runs {block.file} from another page"
                    unrun = [file for file in unrun if file not in (block.file, "toy.py")]
                case Screen():
                    started = (block.command or "").split()
                    unrun = [file for file in unrun if file not in started]
                case Typed():
                    pass
        assert unrun == [], page.name


def test_only_installing_is_not_run() -> None:
    """
    What is typed into a shell and left out here installs the library, or pytest.
    """
    typed = [block.page for block in BLOCKS if isinstance(block, Typed)]
    assert typed == ["1-first-space.md", "8-testing.md", "9-daemon.md"]


def test_programs_use_public_names_alone() -> None:
    """
    A reader imports from `iommubus` and `iommubus.testing`, never from inside them.
    """
    code = "".join(block.code for block in BLOCKS if isinstance(block, Paste))

    assert "from iommubus import" in code
    assert re.findall(r"(?:from|import) iommubus\.(?!testing import)\S+", code) == []


def test_every_page_is_in_the_index_and_links_lead_somewhere() -> None:
    """
    A reader gets from each page to the next.
    """
    index, *pages = [path.read_text(encoding="utf-8") for path in (TUTORIAL / "README.md", *PAGES)]

    assert re.findall(r"\]\((\d[^)]*)\)", index) == [page.name for page in PAGES]
    for text, following in zip(pages, PAGES[1:], strict=False):
        assert f"]({following.name})" in text.splitlines()[-1]
    for text in (index, *pages):
        assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (TUTORIAL / link).exists()] == []
