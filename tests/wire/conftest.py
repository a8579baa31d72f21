"""What the tests of the wire share."""

from collections.abc import Iterator

import pytest

from tests.wire.implementations import BUILT, NOT_BUILT


@pytest.fixture(scope="module", params=[None, pytest.param(BUILT, marks=NOT_BUILT)], ids=["python", "compiled"])
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have each test of a module that uses this run with the rows in Python, and with the compiled ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iommubus.wire.runs.COMPILED", request.param)
        yield
