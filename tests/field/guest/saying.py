"""How a guest says what it saw: JSON lines on its console, told from the kernel's by how they begin."""

import json
import os
from typing import Any, Final

MARK: Final = "@@ "
"""What each line begins with."""


def say(what: str, **values: Any) -> None:
    """Say something that was seen."""
    line = f"\n{MARK}{json.dumps({'what': what, **values})}\n"
    os.write(1, line.encode())
