"""The README's program, run as a newcomer pastes it."""

import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_program_in_the_readme_runs() -> None:
    """
    What the README shows is what happens.
    """
    program = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(encoding="utf-8"), re.DOTALL)

    result = subprocess.run([sys.executable, "-c", program[0]], capture_output=True, text=True, check=True)

    assert len(program) == 1
    assert result.stdout.splitlines() == ["map 0x100000 0x4000 -> 0x80000000", "unmap 0x100000 0x4000"]


def test_every_file_that_the_readme_links_to_exists() -> None:
    """
    No link leads nowhere.
    """
    links = re.findall(r"\]\(([^)#:]+)\)", (TOP / "README.md").read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (TOP / link).exists()] == []
