"""What there is in C of what runs for every event; everything is there in Python, too."""

import os
from importlib import import_module
from typing import Any, Final

PURE: Final = "IOMMUBUS_PURE"
"""Environment variable that chooses the Python code where it is not empty and not 0."""


def load(name: str) -> Any:
    """Return a compiled module of this package, or `None` where it was not built or is not wanted."""
    if os.environ.get(PURE, "0") not in {"", "0"}:
        return None
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError:
        return None
