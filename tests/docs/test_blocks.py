"""What a tutorial's blocks mean."""

from pathlib import Path

import pytest

from tests.docs.blocks import Block, Paste, Run, Screen, Typed, block, blocks, paste


@pytest.mark.parametrize(
    ("language", "text", "meaning"),
    [
        ("python", "# toy.py, new\na = 1\n", Paste("1.md", "toy.py", starts=True, code="a = 1\n")),
        ("python", "# toy.py, appended\nb = 2\n", Paste("1.md", "toy.py", starts=False, code="b = 2\n")),
        ("console", "$ python toy.py\n1\n2\n", Run("1.md", "toy.py", "1\n2\n")),
        ("console", "$ python toy.py\n", Run("1.md", "toy.py", "")),
        ("toml", "# a.toml, new\nb = 1\n", Paste("1.md", "a.toml", starts=True, code="b = 1\n")),
        ("console", "here$ ls -l\na\nb\n", Screen("1.md", "here", "ls -l", ["a", "b"])),
        ("console", "(here)\n> a\n", Screen("1.md", "here", None, ["> a"])),
        ("sh", "pip install it\n", Typed("1.md", "pip install it\n")),
    ],
)
def test_a_block_says_what_to_do_with_it(language: str, text: str, meaning: Block) -> None:
    """
    By its language and its first line.
    """
    assert block("1.md", language, text) == meaning


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "a = 1\n"),
        ("python", "# toy.py, somewhere\n"),
        ("console", "$ ls\n"),
        ("", "$ python toy.py\n"),
    ],
)
def test_a_block_that_does_not_is_refused(language: str, text: str) -> None:
    """
    Nothing on a page goes untested because of a typing error.
    """
    with pytest.raises(ValueError, match=r"^1\.md: "):
        block("1.md", language, text)


def test_the_blocks_of_a_page_come_in_order(tmp_path: Path) -> None:
    """
    With the text between them left out.
    """
    page = tmp_path / "1.md"
    page.write_text("Go.\n\n```sh\nls\n```\n\nAnd `this`:\n\n```console\n$ python a.py\n```\n", encoding="utf-8")

    assert list(blocks(page)) == [Typed("1.md", "ls\n"), Run("1.md", "a.py", "")]


def test_a_file_is_started_once_and_goes_on(tmp_path: Path) -> None:
    """
    As the pages say, and never over what the reader has.
    """
    start, more = (
        Paste("1.md", "a.py", starts=True, code="a = 1\n"),
        Paste("1.md", "a.py", starts=False, code="b = 2\n"),
    )

    with pytest.raises(FileNotFoundError):
        paste(more, tmp_path)
    paste(start, tmp_path)
    paste(more, tmp_path)
    with pytest.raises(FileExistsError):
        paste(start, tmp_path)

    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "a = 1\n\n\nb = 2\n"
