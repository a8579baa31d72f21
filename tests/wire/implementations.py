"""The compiled rows, where there are any."""

from typing import Any, Final

import pytest

from iommubus.compiled import load

BUILT: Final[Any] = load("rows")
"""The compiled one, or `None`."""

NOT_BUILT: Final = pytest.mark.skipif(BUILT is None, reason="iommubus.compiled.rows was not built, or is not wanted")
