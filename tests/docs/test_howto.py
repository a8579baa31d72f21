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


def follow(page: Path, folder: Path) -> None:
    """Do what a page says, but for what is typed into a shell that has DPDK."""
    with Desk(folder) as desk:
        for block in blocks(page):
            match block:
                case Paste():
                    paste(block, folder)
                case Screen():
                    desk.follow(block.terminal, block.command, block.lines)
                case Typed():
                    pass
                case Run():
                    raise AssertionError(block)


@pytest.mark.timeout(60)
def test_a_back_end_is_driven_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    follow(HOWTO / "vhost-user-frontend.md", tmp_path)
    compile((tmp_path / "embedded.py").read_text(encoding="utf-8"), "embedded.py", "exec")


def test_only_what_needs_root_is_not_followed() -> None:
    """
    A service is not installed by a test.
    """
    kinds = {page.name: {type(block) for block in blocks(page)} for page in PAGES}

    assert kinds == {
        "systemd.md": {Typed},
        "tls.md": {Paste, Screen},
        "vhost-user-frontend.md": {Paste, Screen, Typed},
    }


def test_links_and_files_lead_somewhere() -> None:
    """
    Also those that are named in commands.
    """
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (HOWTO / link).exists()] == []
        assert [file for file in re.findall(r"packaging/[\w.]+", text) if not (HOWTO.parents[1] / file).exists()] == []
