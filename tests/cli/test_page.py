"""The page about the command line says what the code does."""

import re

import pytest

from tests.cli.page import PAGE, PARTS, chapters, filled


def test_the_page_is_what_the_code_does() -> None:
    """Commands, options and orders; if this fails, run ``python -m tests.cli.page``."""
    page = PAGE.read_text(encoding="utf-8")

    assert filled(page) == page


@pytest.mark.parametrize("name", PARTS)
def test_the_page_has_each_part_once(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page.count(f"<!-- begin {name} -->") == page.count(f"<!-- end {name} -->") == 1


def test_every_command_has_its_chapter() -> None:
    assert re.findall(r"^## `iommubus ([a-z -]+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == chapters()
