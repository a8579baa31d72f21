"""Parts of this package that are compiled, where they could be.

Each does the same as a part in Python, quicker, and is tested beside it.  A
package that was installed where no C compiler was has none; `PURE` in the
environment has none used.
"""

from importlib import import_module
from os import environ
from types import ModuleType
from typing import Final

PURE: Final = "IOMMUBUS_PURE"
"""The variable that, set to 1, has everything done in Python."""

PARTS: Final = ("table", "rows")
"""What can be compiled."""


def load(name: str) -> ModuleType | None:
    """Return a part, if it was compiled for this Python and may be used."""
    if environ.get(PURE) == "1":
        return None
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError:  # not compiled, or for another machine
        return None


def parts() -> list[str]:
    """Return the names of the compiled parts that are used."""
    return [name for name in PARTS if load(name) is not None]


def summary() -> str:
    """Say which compiled parts are used, as people read it."""
    return f"compiled: {', '.join(parts())}" if parts() else "all in Python"
