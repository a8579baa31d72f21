"""The how-tos: what can be followed here is followed."""

import re
import socket
from pathlib import Path

import pytest

from tests.docs.blocks import Paste, Run, Screen, Typed, blocks, paste
from tests.docs.terminals import Desk

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = sorted(HOWTO.glob("*.md"))


def free_port() -> str:
    with socket.create_server(("localhost", 0)) as listening:
        return str(listening.getsockname()[1])


@pytest.mark.timeout(60)
def test_tls_is_used_as_the_page_says(tmp_path: Path) -> None:
    """
    With the port and the directory of the state put where nobody else has theirs.
    """
    page = tmp_path / "tls.md"
    text = (HOWTO / "tls.md").read_text(encoding="utf-8")
    page.write_text(text.replace("7411", free_port()).replace("/var/lib/iommubus", str(tmp_path)), encoding="utf-8")

    with Desk(tmp_path) as desk:
        for block in blocks(page):
            match block:
                case Paste():
                    paste(block, tmp_path)
                case Screen():
                    desk.follow(block.terminal, block.command, block.lines)
                case Run() | Typed():
                    raise AssertionError(block)


def test_only_what_needs_root_is_not_followed() -> None:
    """
    A service is not installed by a test; and what has a kernel's devices is followed by the field tests, in a guest.
    """
    kinds = {page.name: {type(block) for block in blocks(page)} for page in PAGES}

    assert kinds == {
        "systemd.md": {Typed},
        "tls.md": {Paste, Screen},
        "vfio.md": {Typed, Paste, Run},
        "vhost.md": {Paste, Run},
    }


def test_links_and_files_lead_somewhere() -> None:
    """
    Also those that are named in commands.
    """
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (HOWTO / link).exists()] == []
        assert [file for file in re.findall(r"packaging/[\w.]+", text) if not (HOWTO.parents[1] / file).exists()] == []
