"""Where the command starts, even if what it needs is not installed."""

import importlib
import sys
from typing import Final

NEEDED: Final = ("typer", "rich")
"""What the extra ``cli`` installs."""


def main() -> None:
    """Run the command, or say what it needs."""
    try:
        app = importlib.import_module(".app", __package__)
    except ModuleNotFoundError as missing:
        if missing.name not in NEEDED:
            raise

        sys.exit(f"iommubus: the command needs {' and '.join(NEEDED)}; install them with: pip install 'iommubus[cli]'")

    app.run()
