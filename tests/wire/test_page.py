"""The page about the protocol says what the code does."""

import re

import pytest

from iommubus.wire.failures import TRAVELLERS
from tests.wire.page import CHAPTERS, PAGE, PARTS, defined, filled
from tests.wire.vectors import VECTORS


def test_the_page_is_what_the_code_does() -> None:
    """States, messages, limits, errors and vectors; if this fails, run ``python -m tests.wire.page``."""
    page = PAGE.read_text(encoding="utf-8")

    assert filled(page) == page


@pytest.mark.parametrize("name", PARTS)
def test_the_page_has_each_part_once(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page.count(f"<!-- begin {name} -->") == page.count(f"<!-- end {name} -->") == 1


def test_the_page_has_exactly_the_golden_vectors() -> None:
    page = PAGE.read_text(encoding="utf-8")
    vectors = page.partition("<!-- begin vectors -->")[2]

    assert re.findall(r"^    ([0-9a-f]{8} [0-9a-f]+)$", vectors, re.MULTILINE) == [hexdump for _, _, hexdump in VECTORS]


def test_every_word_in_backquotes_that_looks_like_a_message_is_one() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known: set[str] = {kind.__name__ for module in CHAPTERS for kind in defined(module)}
    prose = re.sub(r"<!-- begin .*?<!-- end \w+ -->", "", page, flags=re.DOTALL)

    known |= TRAVELLERS.keys() | {"Failure"}
    assert set(re.findall(r"`([A-Z][a-z]\w+)`", prose)) <= known
