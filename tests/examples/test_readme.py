"""The README's program, run as a newcomer pastes it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.daemons import daemon

TOP = Path(__file__).parents[2]


PRINTED: Final = ["map 0x100000 0x4000 -> 0x80000000", "unmap 0x100000 0x4000"]


def programs() -> list[str]:
    """Return the blocks of Python: a consumer, a producer, and the two ways to start them."""
    return re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def output_of(program: str, **environ: str) -> list[str]:
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environ})
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_the_embedded_program_in_the_readme_runs() -> None:
    """
    What the README shows is what happens.
    """
    consumer, producer, embedded, _ = programs()

    assert output_of(consumer + producer + embedded) == PRINTED


def test_the_program_that_connects_in_the_readme_runs(tmp_path: Path) -> None:
    """
    The same happens through a daemon at its usual place; the end of the connection takes everything away once more.
    """
    consumer, producer, _, connected = programs()

    place = tmp_path / "iommubus"
    place.mkdir()
    with daemon(place):
        assert output_of(consumer + producer + connected, XDG_RUNTIME_DIR=str(tmp_path)) == [*PRINTED, PRINTED[1]]


def test_every_file_that_the_readme_links_to_exists() -> None:
    """
    No link leads nowhere.
    """
    links = re.findall(r"\]\(([^)#:]+)\)", (TOP / "README.md").read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (TOP / link).exists()] == []
