"""Tests that hold for the compiled rows and for those in Python, one after the other."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from iommubus.compiled import load

BUILT: Final[Any] = load("rows")
"""The compiled one, or `None`."""

NOT_BUILT: Final = pytest.mark.skipif(BUILT is None, reason="iommubus.compiled.rows was not built, or is not wanted")


@pytest.fixture(
    scope="module", autouse=True, params=[None, pytest.param(BUILT, marks=NOT_BUILT)], ids=["python", "compiled"]
)
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have each test of a module that imports this run with both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iommubus.wire.runs.COMPILED", request.param)
        yield
