"""Names and patterns of one message: what they match, and how much of them is compiled."""

from fnmatch import fnmatchcase
from typing import Final

import pytest

from iommubus.errors import LimitReached
from iommubus.service.handlers.globs import COMPILED, Globs

NAMES: Final = ["vtd0", "vtd1", "VTD0", "vtd[0]", "v", "", "a\nb", "vtd0/00:03.0"]

PATTERNS: Final = [
    [],
    ["vtd0"],
    ["vtd*"],
    ["vtd?", "v"],
    ["vtd[0-9]"],
    ["[!v]*"],
    ["*"],
    ["vtd[[]0]"],
    ["[", "a*b"],
    ["]"],
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_they_match_what_fnmatch_says(patterns: list[str]) -> None:
    """All, if there are none."""
    globs = Globs(patterns)
    wanted = [name for name in NAMES if any(fnmatchcase(name, pattern) for pattern in patterns or ["*"])]

    assert [name for name in NAMES if globs.match(name)] == wanted


def test_names_cost_nothing_and_patterns_are_limited() -> None:
    assert Globs([f"{'x' * 200}{at}" for at in range(1024)]).match(f"{'x' * 200}7")
    assert Globs(["*" * COMPILED]).match("vtd0")
    with pytest.raises(LimitReached):
        Globs(["*" * COMPILED, "?"])
